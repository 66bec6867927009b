/**
 * VFIO's and iommufd's requests have no direction and no size, so POWER's number differs from the others' by one bit:
 * its "none" is 1 at bit 29 (arch/powerpc/include/uapi/asm/ioctl.h, 6.1). The files of this floor compare generic ones.
 */
import type { Process } from "../kernel/process.ts";

const POWERPC_NONE = 0x2000_0000;

/** The number of the generic encoding that a process of its architecture means. */
export const genericNumber = (process: Process, request: number): number =>
  process.encoding === "powerpc" ? (request ^ POWERPC_NONE) >>> 0 : request;
