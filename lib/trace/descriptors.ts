/**
 * Which calls make descriptors, and where they write them: a replay has to keep the recorded numbers and its own in
 * step even where a call failed.
 *
 * Missing: the descriptors that IOMMU_FAULT_QUEUE_ALLOC and VFIO_DEVICE_FEATURE (DMA-BUF, migration) answer.
 */
import { F_DUPFD, F_DUPFD_CLOEXEC } from "../abi/fcntl.ts";
import { load32 } from "../abi/struct.ts";
import { fromHex, type IoctlLine, type TraceHeader, type TraceLine } from "./format.ts";
import { requestOf } from "./requests.ts";

const typeAndNr = (request: number): number => request & 0xffff;
const KVM_CREATE_DEVICE = 0xaee0;
const KVM_CREATE_DEVICE_TEST = 1;

/** Whether a result ≥ 0 of this call is a new descriptor. */
export function returnsDescriptor(header: TraceHeader, line: TraceLine): boolean {
  switch (line.call) {
    case "open":
    case "dup":
    case "eventfd2":
      return true;
    case "fcntl":
      return line.cmd === F_DUPFD || line.cmd === F_DUPFD_CLOEXEC;
    case "ioctl":
      return requestOf(header, line).request?.returns !== undefined;
    default:
      return false;
  }
}

/** Where the argument of an ioctl has a descriptor that the call wrote: KVM_CREATE_DEVICE's `fd`. */
export function descriptorInAnswer(line: IoctlLine): number | undefined {
  if (typeAndNr(Number(line.request)) !== KVM_CREATE_DEVICE || line.in?.length !== 24) return undefined;
  const create = fromHex(line.in);
  return (load32(create, 8) & KVM_CREATE_DEVICE_TEST) === 0 ? 4 : undefined;
}
