/**
 * The regions of a PCI device's file: BARs, expansion ROM, configuration space (drivers/vfio/pci/vfio_pci_rdwr.c,
 * vfio_pci_core.c, 6.1 and 6.12). Region i starts at offset i × 2^40 of the file.
 *
 * Reads and writes of a BAR are cut at its end, and into aligned accesses of the device. They see 0xff, and write
 * nothing, in the MSI-X table; everything else takes EIO while memory is off, or the device in D3. A mapping shows the
 * real table, and takes SIGBUS.
 *
 * Missing: VGA, device specific regions, contents of expansion ROMs.
 */
import { EFAULT, EINVAL, EIO } from "../abi/errno.ts";
import { PCI_BASE_ADDRESS_0 } from "../abi/pci.ts";
import { load32 } from "../abi/struct.ts";
import { VFIO_PCI_ROM_REGION_INDEX } from "../abi/vfio.ts";
import type { PciBar, PciDevice } from "../hardware/pci-device.ts";
import { type Backing, PAGE_SIZE, SIGBUS } from "../kernel/address-space.ts";
import type { Argument } from "../kernel/argument.ts";

/** Bytes of the file from one region to the next. */
export const REGION_STRIDE = 2 ** 40;

export interface RegionOwner {
  readonly pci: PciDevice;
  /** whether memory is on for the program, and the device awake */
  readonly memoryOn: boolean;
  /** whether a mapping can be used: memory is on, and the device not in low power */
  readonly mapped: boolean;
  /** accesses of 8 bytes are made as such; before, as two of 4 */
  readonly wideAccess: boolean;
  /** a register was read that no model of the device knows */
  unmodelled(offset: number, length: number): void;
}

/** Whether a program can map a BAR: whole pages, or alone in its page. */
export function canMap(pci: PciDevice, bar: PciBar | undefined): boolean {
  if (bar === undefined || bar.type !== "mem") return false;
  if (bar.size >= PAGE_SIZE) return true;
  return (load32(pci.config, PCI_BASE_ADDRESS_0 + 4 * bar.index) & ~15) % PAGE_SIZE === 0;
}

/** Reads or writes `count` bytes of a BAR or the ROM. */
export function accessBar(
  owner: RegionOwner,
  user: Argument,
  count: number,
  index: number,
  at: number,
  writing: boolean,
): number {
  const { pci } = owner;
  const rom = index === VFIO_PCI_ROM_REGION_INDEX;
  const bar = rom ? undefined : pci.bars[index];
  const end = rom ? pci.rom : (bar?.size ?? 0);
  if (at >= end) return -EINVAL;
  const total = Math.min(count, end - at);
  if (!(writing ? user.readable(total) : user.writable(total))) return -EFAULT;
  const memory = rom || bar!.type === "mem";
  const table = pci.msixTable?.bar === index ? pci.msixTable : undefined;
  for (let done = 0; done < total; ) {
    const offset = at + done;
    const left = total - done;
    const room = table === undefined || offset >= table.offset + table.size ? left : table.offset - offset;
    if (room <= 0) {
      const filled = Math.min(left, table!.offset + table!.size - offset);
      if (!writing) user.bytes.fill(0xff, user.at + done, user.at + done + filled);
      done += filled;
      continue;
    }
    const width = widest(offset, Math.min(left, room), owner.wideAccess);
    if (memory && !owner.memoryOn) return -EIO;
    if (writing) pci.writeBar(index, offset, width, fetch(user, done, width));
    else {
      put(user, done, width, pci.readBar(index, offset, width));
      if (pci.unmodelled) owner.unmodelled(index * REGION_STRIDE + offset, width);
    }
    done += width;
  }
  return total;
}

function widest(offset: number, room: number, wide: boolean): number {
  if (wide && room >= 8 && offset % 8 === 0) return 8;
  if (room >= 4 && offset % 4 === 0) return 4;
  return room >= 2 && offset % 2 === 0 ? 2 : 1;
}

function put(user: Argument, done: number, width: number, value: number | bigint): void {
  const at = user.at + done;
  if (typeof value === "bigint") {
    for (let i = 0; i < width; i++) user.bytes[at + i] = Number((value >> BigInt(8 * i)) & 0xffn);
    return;
  }
  for (let i = 0; i < width && i < 4; i++) user.bytes[at + i] = value >>> (8 * i);
  if (width === 8) user.bytes.fill(0, at + 4, at + 8);
}

function fetch(user: Argument, done: number, width: number): number | bigint {
  const at = user.at + done;
  if (width === 8) return (BigInt(load32(user.bytes, at + 4)) << 32n) | BigInt(load32(user.bytes, at));
  let value = 0;
  for (let i = 0; i < width; i++) value |= user.bytes[at + i] << (8 * i);
  return value >>> 0;
}

/** A mapping of a BAR: EINVAL for a private one, beyond its end, or of a region that has none. */
export function mapBar(
  owner: RegionOwner,
  index: number,
  at: number,
  length: number,
  shared: boolean,
): Backing | number {
  const { pci } = owner;
  const bar = pci.bars[index];
  if (!shared || !canMap(pci, bar)) return -EINVAL;
  const size = Math.ceil(bar!.size / PAGE_SIZE) * PAGE_SIZE;
  if (at + Math.ceil(length / PAGE_SIZE) * PAGE_SIZE > size) return -EINVAL;
  return {
    device: {
      load(offset, width) {
        if (!owner.mapped) return SIGBUS;
        const value = pci.readBar(index, at + offset, width);
        if (pci.unmodelled) owner.unmodelled(index * REGION_STRIDE + at + offset, width);
        return value;
      },
      store(offset, width, value) {
        if (!owner.mapped) return SIGBUS;
        pci.writeBar(index, at + offset, width, value);
        return 0;
      },
    },
  };
}
