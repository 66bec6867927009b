/**
 * The MSI capability of a PCI function (PCI local bus specification 3.0, 6.8.1), over the bytes of its configuration
 * space. Offsets from the capability:
 *
 *     +2 control u16: enable bit 0, vectors it can 3:1, vectors in use 6:4 (both as powers of two), 64-bit bit 7,
 *        per-vector masking bit 8
 *     +4 address u32, and with 64-bit addresses +8 upper address; then data u16, and with masking, from the next
 *        multiple of 4 on, mask u32 and pending u32
 *
 * Vector v of several is the data with v in its lowest bits. A vector whose mask bit is set latches its pending bit and
 * is sent when the mask bit goes.
 */
import {
  PCI_MSI_ADDRESS_HI,
  PCI_MSI_ADDRESS_LO,
  PCI_MSI_DATA_32,
  PCI_MSI_DATA_64,
  PCI_MSI_FLAGS,
  PCI_MSI_FLAGS_64BIT,
  PCI_MSI_FLAGS_ENABLE,
  PCI_MSI_FLAGS_MASKBIT,
  PCI_MSI_FLAGS_QMASK,
  PCI_MSI_FLAGS_QSIZE,
  PCI_MSI_MASK_32,
  PCI_MSI_MASK_64,
  PCI_MSI_PENDING_32,
  PCI_MSI_PENDING_64,
} from "../abi/pci.ts";
import { load16, load32, store16, store32 } from "../abi/struct.ts";
import type { MsiMessage } from "./interrupt-remapping.ts";

/** The MSI capability of a function: what is programmed, masked, pending. */
export class Msi {
  readonly capability: number;
  readonly wide: boolean;
  readonly maskable: boolean;
  readonly #config: Uint8Array;
  readonly #send: (message: MsiMessage) => void;
  readonly #message: MsiMessage = { addressLo: 0, addressHi: 0, data: 0 };

  /** `config` is the function's configuration space, `capability` where the capability starts in it. */
  constructor(config: Uint8Array, capability: number, send: (message: MsiMessage) => void) {
    this.#config = config;
    this.capability = capability;
    this.#send = send;
    const control = load16(config, capability + PCI_MSI_FLAGS);
    this.wide = (control & PCI_MSI_FLAGS_64BIT) !== 0;
    this.maskable = (control & PCI_MSI_FLAGS_MASKBIT) !== 0;
  }

  get control(): number {
    return load16(this.#config, this.capability + PCI_MSI_FLAGS);
  }
  get enabled(): boolean {
    return (this.control & PCI_MSI_FLAGS_ENABLE) !== 0;
  }
  /** vectors the function can have, 1..32 */
  get vectors(): number {
    return 1 << ((this.control & PCI_MSI_FLAGS_QMASK) >> 1);
  }
  /** vectors it was given */
  get inUse(): number {
    return 1 << ((this.control & PCI_MSI_FLAGS_QSIZE) >> 4);
  }
  get dataAt(): number {
    return this.capability + (this.wide ? PCI_MSI_DATA_64 : PCI_MSI_DATA_32);
  }
  get maskAt(): number {
    return this.capability + (this.wide ? PCI_MSI_MASK_64 : PCI_MSI_MASK_32);
  }
  get pendingAt(): number {
    return this.capability + (this.wide ? PCI_MSI_PENDING_64 : PCI_MSI_PENDING_32);
  }

  /** What the host's interrupt code programs: address and data. */
  program(message: MsiMessage): void {
    store32(this.#config, this.capability + PCI_MSI_ADDRESS_LO, message.addressLo);
    if (this.wide) store32(this.#config, this.capability + PCI_MSI_ADDRESS_HI, message.addressHi);
    store16(this.#config, this.dataAt, message.data);
  }

  /** Turns MSI on with so many vectors (a power of two), or off. */
  setEnabled(on: boolean, vectors = 1): void {
    const kept = this.control & ~(PCI_MSI_FLAGS_ENABLE | (on ? PCI_MSI_FLAGS_QSIZE : 0));
    const flags = on ? PCI_MSI_FLAGS_ENABLE | (Math.log2(vectors) << 4) : 0;
    store16(this.#config, this.capability + PCI_MSI_FLAGS, kept | flags);
  }

  /** Sets or clears the mask bit of a vector, where there is one. */
  setMask(vector: number, masked: boolean): void {
    if (!this.maskable) return;
    const bits = load32(this.#config, this.maskAt);
    store32(this.#config, this.maskAt, masked ? bits | (1 << vector) : bits & ~(1 << vector));
    if (!masked) this.changed();
  }

  /** The device wants a vector: sent, latched, or without effect while MSI is off. */
  raise(vector: number): void {
    if (!this.enabled || vector < 0 || vector >= this.vectors) return;
    if (this.maskable && (load32(this.#config, this.maskAt) & (1 << vector)) !== 0) {
      store32(this.#config, this.pendingAt, load32(this.#config, this.pendingAt) | (1 << vector));
      return;
    }
    this.#message.addressLo = load32(this.#config, this.capability + PCI_MSI_ADDRESS_LO);
    this.#message.addressHi = this.wide ? load32(this.#config, this.capability + PCI_MSI_ADDRESS_HI) : 0;
    const data = load16(this.#config, this.dataAt);
    this.#message.data = this.inUse > 1 ? (data & ~(this.inUse - 1)) | (vector & (this.inUse - 1)) : data;
    this.#send(this.#message);
  }

  /** Control or mask bits were written: what was latched and is free now is sent. */
  changed(): void {
    if (!this.maskable || !this.enabled) return;
    const free = load32(this.#config, this.pendingAt) & ~load32(this.#config, this.maskAt);
    if (free === 0) return;
    store32(this.#config, this.pendingAt, load32(this.#config, this.pendingAt) & ~free);
    for (let vector = 0; vector < this.vectors; vector++)
      if ((free & (1 << vector)) !== 0) this.raise(vector);
  }
}
