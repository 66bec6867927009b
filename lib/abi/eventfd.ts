/**
 * eventfd2() flags (include/uapi/linux/eventfd.h, 7.3).
 */
import { O_CLOEXEC, O_NONBLOCK } from "./fcntl.ts";

export const EFD_SEMAPHORE = 1 << 0;

export const EFD_CLOEXEC = O_CLOEXEC;

export const EFD_NONBLOCK = O_NONBLOCK;
