/**
 * Error numbers of Linux (include/uapi/asm-generic/errno*.h). Inside the kernel an error travels as `-EINVAL`;
 * nothing throws. x86, arm64, riscv and powerpc agree on every number used here; powerpc's EDEADLOCK is the
 * only one that differs and is not used.
 */
export const EPERM = 1;
export const ENOENT = 2;
export const ESRCH = 3;
export const EINTR = 4;
export const EIO = 5;
export const ENXIO = 6;
export const E2BIG = 7;
export const ENOEXEC = 8;
export const EBADF = 9;
export const ECHILD = 10;
export const EAGAIN = 11;
export const ENOMEM = 12;
export const EACCES = 13;
export const EFAULT = 14;
export const EBUSY = 16;
export const EEXIST = 17;
export const EXDEV = 18;
export const ENODEV = 19;
export const ENOTDIR = 20;
export const EISDIR = 21;
export const EINVAL = 22;
export const ENFILE = 23;
export const EMFILE = 24;
export const ENOTTY = 25;
export const EFBIG = 27;
export const ENOSPC = 28;
export const ESPIPE = 29;
export const EROFS = 30;
export const EPIPE = 32;
export const EDOM = 33;
export const ERANGE = 34;
export const EDEADLK = 35;
export const ENAMETOOLONG = 36;
export const ENOSYS = 38;
export const ELOOP = 40;
export const ENODATA = 61;
export const EBADFD = 77;
export const EOVERFLOW = 75;
export const EMSGSIZE = 90;
export const EOPNOTSUPP = 95;
export const EADDRINUSE = 98;
export const ENOBUFS = 105;
export const ETIMEDOUT = 110;
export const EALREADY = 114;
export const EHWPOISON = 133;

const names = new Map<number, string>();

/** The name of an error number: `errnoName(22)` is `"EINVAL"`; a number without a name is printed as `errno 999`. */
export function errnoName(errno: number): string {
  if (names.size === 0) for (const [name, value] of Object.entries(errnoNumbers)) names.set(value, name);
  return names.get(errno) ?? `errno ${errno}`;
}

/** The number of a name: `errnoNumbers.EINVAL` is 22. */
export const errnoNumbers = {
  EPERM,
  ENOENT,
  ESRCH,
  EINTR,
  EIO,
  ENXIO,
  E2BIG,
  ENOEXEC,
  EBADF,
  ECHILD,
  EAGAIN,
  ENOMEM,
  EACCES,
  EFAULT,
  EBUSY,
  EEXIST,
  EXDEV,
  ENODEV,
  ENOTDIR,
  EISDIR,
  EINVAL,
  ENFILE,
  EMFILE,
  ENOTTY,
  EFBIG,
  ENOSPC,
  ESPIPE,
  EROFS,
  EPIPE,
  EDOM,
  ERANGE,
  EDEADLK,
  ENAMETOOLONG,
  ENOSYS,
  ELOOP,
  ENODATA,
  EBADFD,
  EOVERFLOW,
  EMSGSIZE,
  EOPNOTSUPP,
  EADDRINUSE,
  ENOBUFS,
  ETIMEDOUT,
  EALREADY,
  EHWPOISON,
} as const;
