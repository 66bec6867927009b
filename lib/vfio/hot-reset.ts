/**
 * Hot reset: all functions on a bus are reset together (drivers/vfio/pci/vfio_pci_core.c:vfio_pci_ioctl_pci_hot_reset,
 * 6.1 and 6.12). Whoever asks shows the groups of all of them. Functions of the root bus cannot be reset so: ENODEV.
 *
 * `struct vfio_pci_hot_reset_info`, 12 bytes: argsz, flags, count u32; then entries of 8 bytes: group u32, segment u16,
 * bus u8, devfn u8. `struct vfio_pci_hot_reset`, 12 bytes: argsz, flags, count u32; then group descriptors s32.
 *
 * Missing: device ids instead of groups for devices that are bound to an iommufd, slots of hot-plug bridges.
 */
import { EBADF, EFAULT, EINVAL, ENODEV, ENOMEM, ENOSPC, ENOTTY, EPERM } from "../abi/errno.ts";
import { load32, store16, store32 } from "../abi/struct.ts";
import { VfioPciDependentDevice, VfioPciHotReset, VfioPciHotResetInfo } from "../abi/vfio.ts";
import type { Argument } from "../kernel/argument.ts";
import type { Process } from "../kernel/process.ts";
import type { PciVfioDevice } from "./device.ts";
import { GroupFile, type VfioGroup } from "./group.ts";
import type { PciFunction } from "./host.ts";

const ENTRY_SIZE = VfioPciDependentDevice.size;

/** A function's place: "0000:05:01.0" → segment 0, bus 5, devfn 8. */
function placeOf(address: string): { segment: number; bus: number; devfn: number } {
  const [segment, bus, slot] = address.split(":");
  const [device, pciFunction] = slot.split(".");
  return {
    segment: Number.parseInt(segment, 16),
    bus: Number.parseInt(bus, 16),
    devfn: (Number.parseInt(device, 16) << 3) | Number.parseInt(pciFunction, 16),
  };
}

/** The functions that are reset with a device; undefined on a root bus. */
function affected(device: PciVfioDevice): PciFunction[] | undefined {
  const { segment, bus } = placeOf(device.name);
  if (bus === 0) return undefined;
  return [...device.host.functions.values()]
    .filter(({ address }) => {
      const place = placeOf(address);
      return place.segment === segment && place.bus === bus;
    })
    .sort((a, b) => placeOf(a.address).devfn - placeOf(b.address).devfn);
}

/** ENOSPC with the number where argsz is too small for all, EPERM where one has no group. */
export function hotResetInfo(device: PciVfioDevice, user: Argument): number {
  const { size } = VfioPciHotResetInfo;
  if (!user.readable(size)) return -EFAULT;
  const argsz = load32(user.bytes, user.at);
  if (argsz < size) return -EINVAL;
  const functions = affected(device);
  if (functions === undefined) return -ENODEV;
  const fits = argsz >= size + functions.length * ENTRY_SIZE;
  if (fits && functions.some(({ group }) => group === undefined)) return -EPERM;
  if (!user.writable(fits ? size + functions.length * ENTRY_SIZE : size)) return -EFAULT;
  const { bytes, at } = user;
  store32(bytes, at + VfioPciHotResetInfo.offsetOf.flags, 0);
  store32(bytes, at + VfioPciHotResetInfo.offsetOf.count, functions.length);
  if (!fits) return -ENOSPC;
  functions.forEach((each, i) => {
    const { segment, bus, devfn } = placeOf(each.address);
    const entry = at + size + i * ENTRY_SIZE;
    store32(bytes, entry, each.group!.id);
    store16(bytes, entry + 4, segment);
    bytes[entry + 6] = bus;
    bytes[entry + 7] = devfn;
  });
  return 0;
}

/** EINVAL: no or too many groups, a file that is none, a function whose group was not shown; EBADF; ENOTTY. */
export function hotReset(device: PciVfioDevice, process: Process, user: Argument): number {
  const { size } = VfioPciHotReset;
  if (!user.readable(size)) return -EFAULT;
  const { argsz, flags, count } = VfioPciHotReset.at(user.bytes, user.at);
  if (argsz < size || flags !== 0) return -EINVAL;
  const byCharacterDevice = device.group.openedFile === undefined;
  if ((count === 0) !== byCharacterDevice && device.host.behaviour.vfioHotResetCountFirst) return -EINVAL;
  const functions = affected(device);
  if (functions === undefined) return -ENODEV;
  if (count === 0 || count > functions.length) return -EINVAL;
  if (device.host.kernel.faults.allocation("hot reset groups")) return -ENOMEM;
  if (!user.readable(4 * count, size)) return -EFAULT;
  const groups = new Set<VfioGroup>();
  for (let i = 0; i < count; i++) {
    const file = process.fds.get(load32(user.bytes, user.at + size + 4 * i) | 0);
    if (file === undefined) return -EBADF;
    if (!(file instanceof GroupFile)) return -EINVAL;
    groups.add(file.group);
  }
  for (const { vfio } of functions) if (vfio === undefined || !groups.has(vfio.group)) return -EINVAL;
  for (const { vfio } of functions) (vfio as PciVfioDevice).resetWithBus();
  return device.hardware.busReturns(device.name) ? 0 : -ENOTTY;
}
