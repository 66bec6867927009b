/**
 * Makes the configuration space of a PCI function from what is in it: ids, BARs, pin, capabilities. For tests and for
 * hosts that are described by hand; a recorded device brings its own image.
 *
 * Capabilities lie one behind the other from 0x40 on, in the order in which they are given, extended ones from 0x100 on.
 *
 * Missing: contents of the device status registers, capabilities beyond those listed (give them as `raw`).
 */
import {
  PCI_BASE_ADDRESS_0,
  PCI_CAP_ID_AF,
  PCI_CAP_ID_EXP,
  PCI_CAP_ID_MSI,
  PCI_CAP_ID_MSIX,
  PCI_CAP_ID_PM,
  PCI_CAP_ID_VNDR,
  PCI_CAPABILITY_LIST,
  PCI_CFG_SPACE_EXP_SIZE,
  PCI_CFG_SPACE_SIZE,
  PCI_CLASS_REVISION,
  PCI_DEVICE_ID,
  PCI_EXP_DEVCAP_FLR,
  PCI_INTERRUPT_PIN,
  PCI_MSI_FLAGS_64BIT,
  PCI_MSI_FLAGS_MASKBIT,
  PCI_PM_CTRL_NO_SOFT_RESET,
  PCI_STATUS,
  PCI_STATUS_CAP_LIST,
  PCI_STD_HEADER_SIZEOF,
  PCI_VENDOR_ID,
} from "../abi/pci.ts";
import { load16, store16, store32 } from "../abi/struct.ts";
import type { PciBar } from "./pci-device.ts";
import { barFlags } from "./pci-writable.ts";

/** A capability, by its kind. */
export type CapabilityImage =
  | { kind: "pm"; d1?: boolean; d2?: boolean; noSoftReset?: boolean }
  | { kind: "msi"; vectors: number; wide?: boolean; maskable?: boolean }
  | {
      kind: "msix";
      vectors: number;
      table: [bar: number, offset: number];
      pending: [bar: number, offset: number];
    }
  | { kind: "exp"; version?: 1 | 2; flr?: boolean }
  | { kind: "af"; flr?: boolean }
  | { kind: "vendor"; bytes: readonly number[] }
  /** any other: its id, and the bytes behind id and next pointer */
  | { kind: "raw"; id: number; bytes: readonly number[] };

/** A capability in the extended configuration space, from 0x100 on. */
export interface ExtendedImage {
  id: number;
  version?: number;
  /** bytes behind the header of four */
  bytes: readonly number[];
}

/** What a configuration space is made of. */
export interface PciImage {
  vendor?: number;
  device?: number;
  /** 24 bits */
  class?: number;
  bars?: readonly PciBar[];
  /** addresses by BAR; others are given out in order */
  addresses?: Readonly<Record<number, number>>;
  /** INTx pin, 1 (A) to 4 */
  pin?: number;
  capabilities?: readonly CapabilityImage[];
  extended?: readonly ExtendedImage[];
}

const FIRST_ADDRESS = 0xe000_0000;

/** The bytes: 256 of them, or 4096 with PCI Express. */
export function pciImage(image: PciImage): Uint8Array {
  const { capabilities = [], extended = [] } = image;
  const express = capabilities.some(({ kind }) => kind === "exp");
  const config = new Uint8Array(express ? PCI_CFG_SPACE_EXP_SIZE : PCI_CFG_SPACE_SIZE);
  store16(config, PCI_VENDOR_ID, image.vendor ?? 0x1af4);
  store16(config, PCI_DEVICE_ID, image.device ?? 0x10ff);
  store32(config, PCI_CLASS_REVISION, (image.class ?? 0x00ff00) << 8);
  config[PCI_INTERRUPT_PIN] = image.pin ?? 0;
  putBars(config, image);
  let at = PCI_STD_HEADER_SIZEOF;
  let link = PCI_CAPABILITY_LIST;
  for (const capability of capabilities) {
    config[link] = at;
    link = at + 1;
    at = (at + putCapability(config, at, capability) + 3) & ~3;
  }
  if (capabilities.length !== 0)
    store16(config, PCI_STATUS, load16(config, PCI_STATUS) | PCI_STATUS_CAP_LIST);
  if (express) putExtended(config, extended);
  return config;
}

function putBars(config: Uint8Array, { bars = [], addresses = {} }: PciImage): void {
  let next = FIRST_ADDRESS;
  for (const bar of bars) {
    const size = Math.max(bar.size, 4096);
    const address = addresses[bar.index] ?? (next = Math.ceil(next / size) * size);
    if (addresses[bar.index] === undefined) next += size;
    store32(config, PCI_BASE_ADDRESS_0 + 4 * bar.index, ((address % 2 ** 32) | barFlags(bar)) >>> 0);
    if (bar.wide) store32(config, PCI_BASE_ADDRESS_0 + 4 * bar.index + 4, Math.floor(address / 2 ** 32));
  }
}

/** Writes one and answers its length. */
function putCapability(config: Uint8Array, at: number, capability: CapabilityImage): number {
  switch (capability.kind) {
    case "pm":
      config[at] = PCI_CAP_ID_PM;
      store16(config, at + 2, 3 | (capability.d1 ? 0x200 : 0) | (capability.d2 ? 0x400 : 0));
      store16(config, at + 4, capability.noSoftReset ? PCI_PM_CTRL_NO_SOFT_RESET : 0);
      return 8;
    case "msi": {
      const { vectors, wide = false, maskable = false } = capability;
      config[at] = PCI_CAP_ID_MSI;
      const flags = (wide ? PCI_MSI_FLAGS_64BIT : 0) | (maskable ? PCI_MSI_FLAGS_MASKBIT : 0);
      store16(config, at + 2, flags | (Math.log2(vectors) << 1));
      return 10 + (wide ? 4 : 0) + (maskable ? 10 : 0);
    }
    case "msix":
      config[at] = PCI_CAP_ID_MSIX;
      store16(config, at + 2, capability.vectors - 1);
      store32(config, at + 4, capability.table[1] | capability.table[0]);
      store32(config, at + 8, capability.pending[1] | capability.pending[0]);
      return 12;
    case "exp":
      config[at] = PCI_CAP_ID_EXP;
      store16(config, at + 2, capability.version ?? 2);
      store32(config, at + 4, capability.flr ? PCI_EXP_DEVCAP_FLR : 0);
      return capability.version === 1 ? 0x14 : 0x3c;
    case "af":
      config[at] = PCI_CAP_ID_AF;
      config[at + 2] = 6;
      config[at + 3] = capability.flr ? 3 : 0;
      return 6;
    case "vendor":
      config[at] = PCI_CAP_ID_VNDR;
      config[at + 2] = capability.bytes.length + 3;
      config.set(capability.bytes, at + 3);
      return capability.bytes.length + 3;
    case "raw":
      config[at] = capability.id;
      config.set(capability.bytes, at + 2);
      return capability.bytes.length + 2;
  }
}

function putExtended(config: Uint8Array, extended: readonly ExtendedImage[]): void {
  let at = PCI_CFG_SPACE_SIZE;
  extended.forEach(({ id, version = 1, bytes }, index) => {
    const end = (at + 4 + bytes.length + 3) & ~3;
    store32(config, at, id | (version << 16) | (index === extended.length - 1 ? 0 : end << 20));
    config.set(bytes, at + 4);
    at = end;
  });
}
