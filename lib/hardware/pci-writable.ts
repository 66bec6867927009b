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
  PCI_CAP_ID_AF,
  PCI_CAP_ID_EXP,
  PCI_CAP_ID_MSI,
  PCI_CAP_ID_MSIX,
  PCI_CAP_ID_PM,
  PCI_CAP_ID_VNDR,
  PCI_CAP_MSIX_SIZEOF,
  PCI_CFG_SPACE_SIZE,
  PCI_COMMAND,
  PCI_COMMAND_INTX_DISABLE,
  PCI_COMMAND_IO,
  PCI_COMMAND_MASTER,
  PCI_COMMAND_MEMORY,
  PCI_COMMAND_SERR,
  PCI_EXP_DEVCTL2,
  PCI_EXT_CAP_ID_ACS,
  PCI_EXT_CAP_ID_ARI,
  PCI_EXT_CAP_ID_ATS,
  PCI_EXT_CAP_ID_DSN,
  PCI_EXT_CAP_ID_ERR,
  PCI_EXT_CAP_ID_LTR,
  PCI_EXT_CAP_ID_PRI,
  PCI_EXT_CAP_ID_SRIOV,
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
  PCI_PM_CTRL_DATA_SCALE_MASK,
  PCI_PM_CTRL_DATA_SEL_MASK,
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
  if (config.length > PCI_CFG_SPACE_SIZE) mask.fill(0, PCI_CFG_SPACE_SIZE, PCI_CFG_SPACE_SIZE + 4);
  for (const { id, at } of extendedCapabilities(config)) {
    mask.fill(0, at, Math.min(at + (EXTENDED_SIZE.get(id) ?? 4), config.length));
    if (id === PCI_EXT_CAP_ID_ERR) maskErrors(config, mask, at);
  }
  return mask;
}

/** Bytes of extended capabilities whose registers are not simply kept. */
const EXTENDED_SIZE = new Map<number, number>([
  [PCI_EXT_CAP_ID_ERR, 0x48],
  [PCI_EXT_CAP_ID_DSN, 12],
  [PCI_EXT_CAP_ID_ARI, 8],
  [PCI_EXT_CAP_ID_ATS, 8],
  [PCI_EXT_CAP_ID_PRI, 16],
  [PCI_EXT_CAP_ID_SRIOV, 0x40],
  [PCI_EXT_CAP_ID_LTR, 8],
  [PCI_EXT_CAP_ID_ACS, 8],
]);

/** Severity, correctable mask, and the enable bits of end-to-end checks that the function can do. */
function maskErrors(config: Uint8Array, mask: Uint8Array, at: number): void {
  store32(mask, at + 12, 0x03ff_f030);
  store32(mask, at + 20, 0x0000_f1c1);
  const can = config[at + 24];
  store32(mask, at + 24, ((can & 0x20) << 1) | ((can & 0x80) << 1));
}

function maskCapability(config: Uint8Array, mask: Uint8Array, { id, at }: Capability): void {
  const own = (size: number): void => void mask.fill(0, at, Math.min(at + size, config.length));
  switch (id) {
    case PCI_CAP_ID_PM:
      own(PCI_PM_SIZEOF);
      store16(mask, at + PCI_PM_CTRL, PCI_PM_CTRL_STATE_MASK | dataSelect(config, at));
      break;
    case PCI_CAP_ID_MSI:
      maskMsi(config, mask, at);
      break;
    case PCI_CAP_ID_MSIX:
      own(PCI_CAP_MSIX_SIZEOF);
      store16(mask, at + PCI_MSIX_FLAGS, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
      break;
    case PCI_CAP_ID_EXP:
      own((config[at + 2] & 15) === 1 ? PCI_CAP_EXP_ENDPOINT_SIZEOF_V1 : EXP_SIZE_V2);
      if ((config[at + 2] & 15) !== 1) store16(mask, at + PCI_EXP_DEVCTL2, EXP_DEVCTL2_PREFIX_BLOCKING);
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

/** The selector of the data register, where the scale says that there is one. */
const dataSelect = (config: Uint8Array, at: number): number =>
  (load16(config, at + PCI_PM_CTRL) & PCI_PM_CTRL_DATA_SCALE_MASK) !== 0 ? PCI_PM_CTRL_DATA_SEL_MASK : 0;

/** The capability with all its slot and root registers (PCI Express base specification, 7.5.3). */
const EXP_SIZE_V2 = 0x3c;
const EXP_DEVCTL2_PREFIX_BLOCKING = 0x8000;

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
