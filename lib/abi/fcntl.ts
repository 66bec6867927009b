/**
 * open() flags and fcntl() commands (include/uapi/asm-generic/fcntl.h, 7.3), those that are the same number on every architecture here.
 * Missing: O_DIRECT, O_DIRECTORY, O_NOFOLLOW, O_LARGEFILE (they differ), locks, owners and signals.
 */

export const O_ACCMODE = 3;

export const O_RDONLY = 0;

export const O_WRONLY = 1 << 0;

export const O_RDWR = 1 << 1;

export const O_CREAT = 1 << 6;

export const O_EXCL = 1 << 7;

export const O_TRUNC = 1 << 9;

export const O_APPEND = 1 << 10;

export const O_NONBLOCK = 1 << 11;

export const O_CLOEXEC = 1 << 19;

export const F_DUPFD = 0;

export const F_GETFD = 1;

export const F_SETFD = 2;

export const F_GETFL = 3;

export const F_SETFL = 4;

export const FD_CLOEXEC = 1;

export const F_LINUX_SPECIFIC_BASE = 1024;

export const F_DUPFD_CLOEXEC = F_LINUX_SPECIFIC_BASE + 6;
