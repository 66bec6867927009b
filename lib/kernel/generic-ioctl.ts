/**
 * The requests that Linux answers itself, for every kind of file, before the file is asked
 * (fs/ioctl.c:do_vfs_ioctl, 6.1). Files here are anonymous inodes, device nodes and pipes: none is a regular file.
 *
 * Missing: FICLONE, FICLONERANGE, and since 6.9 FS_IOC_GETUUID, FS_IOC_GETFSSYSFSPATH (they reach the file and end as
 * an unknown request). The caller is taken for root: FIFREEZE and FITHAW are not refused with EPERM.
 */
import { EFAULT, EINVAL, ENOMEM, ENOTTY, EOPNOTSUPP } from "../abi/errno.ts";
import { O_NONBLOCK } from "../abi/fcntl.ts";
import { load16, load32, store32 } from "../abi/struct.ts";
import type { Argument } from "./argument.ts";
import { type File, O_ASYNC } from "./file.ts";

export const FIONCLEX = 0x5450;
export const FIOCLEX = 0x5451;
export const FIONBIO = 0x5421;
export const FIOASYNC = 0x5452;
export const FIOQSIZE = 0x5460;
export const FIGETBSZ = 2;
export const FIFREEZE = 0xc0045877;
export const FITHAW = 0xc0045878;
export const FS_IOC_FIEMAP = 0xc020660b;
export const FIDEDUPERANGE = 0xc0189436;
export const FS_IOC_SETFLAGS = 0x40086602;
export const FS_IOC_FSSETXATTR = 0x401c5820;

const BLOCK_SIZE = 4096;
const FSXATTR_SIZE = 28;
/** struct file_dedupe_range: `dest_count` at 16, then records of 32 bytes from 24 on (include/uapi/linux/fs.h, 6.1) */
const DEDUPE_COUNT_AT = 16;
const DEDUPE_HEAD = 24;
const DEDUPE_INFO = 32;

/** Answers a generic request, or undefined: then the file is asked. */
export function genericIoctl(
  file: File,
  request: number,
  user: Argument,
  setCloseOnExec: (on: boolean) => void,
): number | undefined {
  switch (request) {
    case FIOCLEX:
    case FIONCLEX:
      setCloseOnExec(request === FIOCLEX);
      return 0;
    case FIONBIO:
      if (!user.readable(4)) return -EFAULT;
      file.flags = load32(user.bytes, user.at) !== 0 ? file.flags | O_NONBLOCK : file.flags & ~O_NONBLOCK;
      return 0;
    case FIOASYNC:
      if (!user.readable(4)) return -EFAULT;
      return setAsync(file, load32(user.bytes, user.at) !== 0);
    case FIOQSIZE:
      return -ENOTTY;
    case FIGETBSZ:
      if (!user.writable(4)) return -EFAULT;
      store32(user.bytes, user.at, BLOCK_SIZE);
      return 0;
    case FIFREEZE:
    case FS_IOC_FIEMAP:
      return -EOPNOTSUPP;
    case FITHAW:
      return -EINVAL;
    case FIDEDUPERANGE:
      return dedupe(user);
    // the attributes are read before the file is found to have none; then the request is the file's
    case FS_IOC_SETFLAGS:
      return user.readable(4) ? undefined : -EFAULT;
    case FS_IOC_FSSETXATTR:
      return user.readable(FSXATTR_SIZE) ? undefined : -EFAULT;
    default:
      return undefined;
  }
}

/** Signals on readiness: only some kinds of file can, and none is sent here. */
function setAsync(file: File, on: boolean): number {
  if (on === ((file.flags & O_ASYNC) !== 0)) return 0;
  if (!file.async) return -ENOTTY;
  file.flags ^= O_ASYNC;
  return 0;
}

/** The ranges are read whole, a page of them at most; then a file that is no regular one has nothing to share. */
function dedupe(user: Argument): number {
  if (!user.readable(2, DEDUPE_COUNT_AT)) return -EFAULT;
  const size = DEDUPE_HEAD + load16(user.bytes, user.at + DEDUPE_COUNT_AT) * DEDUPE_INFO;
  if (size > BLOCK_SIZE) return -ENOMEM;
  return user.readable(size) ? -EINVAL : -EFAULT;
}

const others = new Set([
  FIGETBSZ,
  FIFREEZE,
  FITHAW,
  FS_IOC_FIEMAP,
  FIDEDUPERANGE,
  FS_IOC_SETFLAGS,
  FS_IOC_FSSETXATTR,
]);

/** Whether the number may be a generic one: the cheap test before `genericIoctl`. */
export const maybeGeneric = (request: number): boolean =>
  (request & 0xff00) === 0x5400 || ((request & 0xff00) !== 0xae00 && others.has(request));
