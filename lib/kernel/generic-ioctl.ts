/**
 * The requests that Linux answers itself, for every kind of file, before the file is asked
 * (fs/ioctl.c:do_vfs_ioctl, 6.1). Files here are anonymous inodes, device nodes and pipes: none is a regular file.
 *
 * Missing: FICLONE, FICLONERANGE, FIDEDUPERANGE (they reach the file and end as an unknown request).
 */
import { EFAULT, ENOTTY, EOPNOTSUPP } from "../abi/errno.ts";
import { load32, store32 } from "../abi/struct.ts";
import type { Argument } from "./argument.ts";
import { type File, O_NONBLOCK } from "./file.ts";

export const FIONCLEX = 0x5450;
export const FIOCLEX = 0x5451;
export const FIONBIO = 0x5421;
export const FIOASYNC = 0x5452;
export const FIOQSIZE = 0x5460;
export const FIGETBSZ = 2;
export const FIFREEZE = 0xc0045877;
export const FITHAW = 0xc0045878;
export const FS_IOC_FIEMAP = 0xc020660b;

const O_ASYNC = 0x2000;
const BLOCK_SIZE = 4096;

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
      return (load32(user.bytes, user.at) !== 0) === ((file.flags & O_ASYNC) !== 0) ? 0 : -ENOTTY;
    case FIOQSIZE:
      return -ENOTTY;
    case FIGETBSZ:
      if (!user.writable(4)) return -EFAULT;
      store32(user.bytes, user.at, BLOCK_SIZE);
      return 0;
    case FIFREEZE:
    case FITHAW:
      return -EOPNOTSUPP;
    case FS_IOC_FIEMAP:
      return -EOPNOTSUPP;
    default:
      return undefined;
  }
}

/** Whether the number may be a generic one: the cheap test before `genericIoctl`. */
export const maybeGeneric = (request: number): boolean =>
  (request & 0xff00) === 0x5400 ||
  request === FIGETBSZ ||
  request === FIFREEZE ||
  request === FITHAW ||
  request === FS_IOC_FIEMAP;
