/**
 * mmap() (include/uapi/asm-generic/mman-common.h, linux/mman.h, 7.3), what a VMM uses and what is the same on every architecture here.
 */

export const PROT_READ = 0x1;

export const PROT_WRITE = 0x2;

export const PROT_EXEC = 0x4;

export const PROT_NONE = 0x0;

export const MAP_TYPE = 0x0f;

export const MAP_FIXED = 0x10;

export const MAP_ANONYMOUS = 0x20;

export const MAP_POPULATE = 0x008000;

export const MAP_HUGETLB = 0x040000;

export const MAP_FIXED_NOREPLACE = 0x100000;

export const MADV_DONTNEED = 4;

export const MADV_DONTFORK = 10;

export const MADV_HUGEPAGE = 14;

export const MAP_FILE = 0;

export const MAP_SHARED = 0x01;

export const MAP_PRIVATE = 0x02;

export const MAP_SHARED_VALIDATE = 0x03;
