/** Walks the capability lists of a configuration space (PCI local bus specification 3.0, 6.7; PCI Express, 7.6.3). */
import {
  PCI_CAP_LIST_NEXT,
  PCI_CAPABILITY_LIST,
  PCI_CFG_SPACE_SIZE,
  PCI_EXT_CAP_ID,
  PCI_EXT_CAP_NEXT,
  PCI_STATUS,
  PCI_STATUS_CAP_LIST,
  PCI_STD_HEADER_SIZEOF,
} from "../abi/pci.ts";
import { load16, load32 } from "../abi/struct.ts";

export interface Capability {
  id: number;
  at: number;
  next: number;
}

/** The capabilities in the order of their list. A list that runs in a circle ends where it must have repeated. */
export function capabilities(config: Uint8Array): Capability[] {
  const found: Capability[] = [];
  if ((load16(config, PCI_STATUS) & PCI_STATUS_CAP_LIST) === 0) return found;
  let at = config[PCI_CAPABILITY_LIST] & ~3;
  for (let left = (PCI_CFG_SPACE_SIZE - PCI_STD_HEADER_SIZEOF) / 4; at !== 0 && left > 0; left--) {
    const next = config[at + PCI_CAP_LIST_NEXT] & ~3;
    found.push({ id: config[at], at, next });
    at = next;
  }
  return found;
}

/** The extended capabilities, from 0x100 on; none where the first word is empty or there is no extended space. */
export function extendedCapabilities(config: Uint8Array): Capability[] {
  const found: Capability[] = [];
  if (config.length <= PCI_CFG_SPACE_SIZE || load32(config, PCI_CFG_SPACE_SIZE) === 0) return found;
  let at = PCI_CFG_SPACE_SIZE;
  for (let left = (config.length - PCI_CFG_SPACE_SIZE) / 4; at >= PCI_CFG_SPACE_SIZE && left > 0; left--) {
    const header = load32(config, at);
    const next = PCI_EXT_CAP_NEXT(header);
    found.push({ id: PCI_EXT_CAP_ID(header), at, next });
    at = next;
  }
  return found;
}

/** Where a capability starts, 0 without it. */
export const findCapability = (config: Uint8Array, id: number): number =>
  capabilities(config).find((capability) => capability.id === id)?.at ?? 0;
