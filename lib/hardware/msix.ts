/**
 * The MSI-X table and the pending bit array of a PCI function, as register files in one of its BARs (PCI Express base
 * specification, 6.1.4.2 and 7.7.2).
 *
 * Table entry, 16 bytes: address u32 @0 (bits 1:0 zero), upper address u32 @4, data u32 @8, vector control u32 @12
 * (bit 0: mask). Pending bits: one a vector, in 64-bit words, read only. Both take aligned accesses of 4 and 8 bytes;
 * others read as zero and write nothing.
 *
 * A vector that is masked, by its own bit or by the function mask, or while MSI-X is off, latches its pending bit
 * instead of sending; the bit is cleared and the message sent when the mask goes.
 */
import { load32, store32 } from "../abi/struct.ts";
import type { MsiMessage } from "./interrupt-remapping.ts";

export const MSIX_ENTRY_SIZE = 16;
const VECTOR_CONTROL = 12;
const MASK = 1;

/** The MSI-X capability of a function: its table and pending bits. */
export class Msix {
  /** vectors, 1..2048 */
  readonly vectors: number;
  readonly table: Uint8Array;
  readonly pending: Uint8Array;
  enabled = false;
  functionMask = false;
  readonly #send: (message: MsiMessage) => void;
  readonly #message: MsiMessage = { addressLo: 0, addressHi: 0, data: 0 };

  /** `send` puts a message on the bus. */
  constructor(vectors: number, send: (message: MsiMessage) => void) {
    this.vectors = vectors;
    this.table = new Uint8Array(vectors * MSIX_ENTRY_SIZE);
    this.pending = new Uint8Array(Math.ceil(vectors / 64) * 8);
    this.#send = send;
    this.reset();
  }

  /** After reset MSI-X is off, every vector masked, nothing pending. */
  reset(): void {
    this.enabled = false;
    this.functionMask = false;
    this.table.fill(0);
    this.pending.fill(0);
    for (let vector = 0; vector < this.vectors; vector++)
      this.table[vector * MSIX_ENTRY_SIZE + VECTOR_CONTROL] = MASK;
  }

  /** Whether a vector is held back. */
  masked(vector: number): boolean {
    if (!this.enabled || this.functionMask) return true;
    return (this.table[vector * MSIX_ENTRY_SIZE + VECTOR_CONTROL] & MASK) !== 0;
  }

  isPending(vector: number): boolean {
    return (this.pending[vector >>> 3] & (1 << (vector & 7))) !== 0;
  }

  /** The device wants a vector: sent, or latched. */
  raise(vector: number): void {
    if (vector < 0 || vector >= this.vectors) return;
    if (this.masked(vector)) this.pending[vector >>> 3] |= 1 << (vector & 7);
    else this.#sendVector(vector);
  }

  /** The control register was written: what was latched and is free now is sent. */
  control(enabled: boolean, functionMask: boolean): void {
    const wasHeld = !this.enabled || this.functionMask;
    this.enabled = enabled;
    this.functionMask = functionMask;
    if (wasHeld && enabled && !functionMask)
      for (let vector = 0; vector < this.vectors; vector++) this.#sendPending(vector);
  }

  readTable(offset: number, width: number): number | bigint {
    return read(this.table, offset, width);
  }

  writeTable(offset: number, width: number, value: number | bigint): void {
    if ((width !== 4 && width !== 8) || offset % width !== 0 || offset + width > this.table.length) return;
    if (width === 4) this.#write32(offset, Number(value));
    else {
      const wide = BigInt(value);
      this.#write32(offset, Number(wide & 0xffff_ffffn));
      this.#write32(offset + 4, Number((wide >> 32n) & 0xffff_ffffn));
    }
  }

  #write32(offset: number, value: number): void {
    store32(this.table, offset, value);
    if (offset % MSIX_ENTRY_SIZE === VECTOR_CONTROL) this.#sendPending(Math.floor(offset / MSIX_ENTRY_SIZE));
  }

  readPending(offset: number, width: number): number | bigint {
    return read(this.pending, offset, width);
  }

  #sendPending(vector: number): void {
    if (!this.isPending(vector) || this.masked(vector)) return;
    this.pending[vector >>> 3] &= ~(1 << (vector & 7));
    this.#sendVector(vector);
  }

  #sendVector(vector: number): void {
    const at = vector * MSIX_ENTRY_SIZE;
    this.#message.addressLo = load32(this.table, at);
    this.#message.addressHi = load32(this.table, at + 4);
    this.#message.data = load32(this.table, at + 8);
    this.#send(this.#message);
  }
}

function read(bytes: Uint8Array, offset: number, width: number): number | bigint {
  if ((width !== 4 && width !== 8) || offset % width !== 0 || offset + width > bytes.length) return 0;
  if (width === 4) return load32(bytes, offset);
  return (BigInt(load32(bytes, offset + 4)) << 32n) | BigInt(load32(bytes, offset));
}
