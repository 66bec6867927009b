/**
 * Which bits of a function's configuration space can be written (PCI local bus specification 3.0, 6.1 to 6.8; PCI
 * Express base specification, 7.5 to 7.8): the registers of the header and of known capabilities have their own bits,
 * other capabilities none. Bytes that belong to no capability are kept as they are written, which is what the recorded
 * devices do.
 */
import {
  PCI_AF_CTRL,
  PCI_BASE_ADDRESS_0,
  PCI_BASE_ADDRESS_MEM_TYPE_64,
  PCI_BASE_ADDRESS_SPACE_IO,
  PCI_CACHE_LINE_SIZE,
  PCI_CAP_AF_SIZEOF,
  PCI_CAP_EXP_ENDPOINT_SIZEOF_V1,
  PCI_CAP_EXP_ENDPOINT_SIZEOF_V2,
  PCI_CAP_ID_AF,
  PCI_CAP_ID_EXP,
  PCI_CAP_ID_MSI,
  PCI_CAP_ID_MSIX,
  PCI_CAP_ID_PM,
  PCI_CAP_ID_VNDR,
  PCI_CAP_MSIX_SIZEOF,
  PCI_COMMAND,
  PCI_COMMAND_INTX_DISABLE,
  PCI_COMMAND_IO,
  PCI_COMMAND_MASTER,
  PCI_COMMAND_MEMORY,
  PCI_COMMAND_SERR,
  PCI_INTERRUPT_LINE,
  PCI_MSI_ADDRESS_HI,
  PCI_MSI_ADDRESS_LO,
  PCI_MSI_FLAGS,
  PCI_MSI_FLAGS_64BIT,
  PCI_MSI_FLAGS_ENABLE,
  PCI_MSI_FLAGS_MASKBIT,
  PCI_MSI_FLAGS_QMASK,
  PCI_MSI_FLAGS_QSIZE,
  PCI_MSIX_FLAGS,
  PCI_MSIX_FLAGS_ENABLE,
  PCI_MSIX_FLAGS_MASKALL,
  PCI_PM_CTRL,
  PCI_PM_CTRL_STATE_MASK,
  PCI_PM_SIZEOF,
  PCI_ROM_ADDRESS,
  PCI_ROM_ADDRESS_ENABLE,
  PCI_STD_HEADER_SIZEOF,
} from "../abi/pci.ts";
import { load16, store16, store32 } from "../abi/struct.ts";
import { type Capability, capabilities, extendedCapabilities } from "./pci-capabilities.ts";
import type { PciBar } from "./pci-device.ts";

const COMMAND_WRITABLE =
  PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_SERR | PCI_COMMAND_INTX_DISABLE;

/** A mask as long as the configuration space: 1 for each bit that keeps what is written. */
export function writableBits(
  config: Uint8Array,
  bars: readonly PciBar[],
  rom: number,
  intxDisable = true,
): Uint8Array {
  const mask = new Uint8Array(config.length).fill(0xff, PCI_STD_HEADER_SIZEOF);
  store16(mask, PCI_COMMAND, intxDisable ? COMMAND_WRITABLE : COMMAND_WRITABLE & ~PCI_COMMAND_INTX_DISABLE);
  mask[PCI_CACHE_LINE_SIZE] = 0xff;
  mask[PCI_INTERRUPT_LINE] = 0xff;
  for (const { index, size, type, wide } of bars) {
    const at = PCI_BASE_ADDRESS_0 + 4 * index;
    const low = type === "io" ? 3 : 15;
    store32(mask, at, ~(Math.min(size, 2 ** 32) - 1) & ~low);
    if (wide) store32(mask, at + 4, size > 2 ** 32 ? ~(size / 2 ** 32 - 1) : -1);
  }
  if (rom !== 0) store32(mask, PCI_ROM_ADDRESS, ~(rom - 1) | PCI_ROM_ADDRESS_ENABLE);
  for (const capability of capabilities(config)) maskCapability(config, mask, capability);
  for (const { at, next } of extendedCapabilities(config)) mask.fill(0, at, extendedEnd(at, next, config));
  return mask;
}

/** Where an extended capability ends at the latest: its length is known to few; 0x58 covers the largest common ones. */
const extendedEnd = (at: number, next: number, config: Uint8Array): number =>
  Math.min(next > at ? next : config.length, at + 0x58, config.length);

function maskCapability(config: Uint8Array, mask: Uint8Array, { id, at }: Capability): void {
  const own = (size: number): void => void mask.fill(0, at, Math.min(at + size, config.length));
  switch (id) {
    case PCI_CAP_ID_PM:
      own(PCI_PM_SIZEOF);
      store16(mask, at + PCI_PM_CTRL, PCI_PM_CTRL_STATE_MASK);
      break;
    case PCI_CAP_ID_MSI:
      maskMsi(config, mask, at);
      break;
    case PCI_CAP_ID_MSIX:
      own(PCI_CAP_MSIX_SIZEOF);
      store16(mask, at + PCI_MSIX_FLAGS, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
      break;
    case PCI_CAP_ID_EXP:
      own((config[at + 2] & 15) === 1 ? PCI_CAP_EXP_ENDPOINT_SIZEOF_V1 : PCI_CAP_EXP_ENDPOINT_SIZEOF_V2);
      break;
    case PCI_CAP_ID_AF:
      own(PCI_CAP_AF_SIZEOF);
      mask[at + PCI_AF_CTRL] = 0;
      break;
    case PCI_CAP_ID_VNDR:
      own(config[at + 2]);
      break;
    default:
      own(4);
  }
}

function maskMsi(config: Uint8Array, mask: Uint8Array, at: number): void {
  const control = load16(config, at + PCI_MSI_FLAGS);
  const wide = (control & PCI_MSI_FLAGS_64BIT) !== 0;
  const maskable = (control & PCI_MSI_FLAGS_MASKBIT) !== 0;
  const data = at + (wide ? PCI_MSI_ADDRESS_HI + 4 : PCI_MSI_ADDRESS_HI);
  mask.fill(0, at, data + (maskable ? 12 : 2));
  const several = (control & PCI_MSI_FLAGS_QMASK) !== 0;
  store16(mask, at + PCI_MSI_FLAGS, PCI_MSI_FLAGS_ENABLE | (several ? PCI_MSI_FLAGS_QSIZE : 0));
  store32(mask, at + PCI_MSI_ADDRESS_LO, ~3);
  if (wide) store32(mask, at + PCI_MSI_ADDRESS_HI, -1);
  store16(mask, data, 0xffff);
  if (maskable) {
    const vectors = 1 << ((control & PCI_MSI_FLAGS_QMASK) >> 1);
    store32(mask, data + 4, vectors === 32 ? -1 : (1 << vectors) - 1);
  }
}

/** The fixed low bits of a base address register: what kind of BAR it is. */
export const barFlags = ({ type, wide, prefetchable }: PciBar): number =>
  type === "io"
    ? PCI_BASE_ADDRESS_SPACE_IO
    : (wide ? PCI_BASE_ADDRESS_MEM_TYPE_64 : 0) | (prefetchable ? 8 : 0);
