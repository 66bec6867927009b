/**
 * A device whose registers a test defines: each with what it reads as and what a write does. Registers are 4 bytes wide;
 * an access of 8 bytes is two of them, narrower ones see a part. Two registers that many devices have are ready made:
 * one that raises an MSI-X (or MSI) vector, one that holds the level of INTx.
 */
import type { PciDevice, PciModel } from "./pci-device.ts";

/** A register of 4 bytes: what a read answers, what a write does. */
export interface Register {
  /** missing: reads as what was last written */
  read?(device: PciDevice): number;
  write?(value: number, device: PciDevice): void;
  /** what it holds after reset */
  initial?: number;
}

/** A write of v raises vector v. */
export const doorbell: Register = {
  read: () => 0,
  write(vector, device) {
    if (device.msix?.enabled) device.msix.raise(vector);
    else device.msi?.raise(vector);
  },
};

/** Bit 0 is the level of INTx. */
export const intxLevel: Register = {
  write: (value, device) => device.setIntx((value & 1) !== 0),
};

export class RegisterDevice implements PciModel {
  readonly #device: PciDevice;
  readonly #registers: ReadonlyMap<number, Register>;
  readonly #bar: number;
  readonly #held = new Map<number, number>();

  /** `registers` by their offset in BAR `bar`. */
  constructor(device: PciDevice, registers: Readonly<Record<number, Register>>, bar = 0) {
    this.#device = device;
    this.#bar = bar;
    this.#registers = new Map(Object.entries(registers).map(([offset, each]) => [Number(offset), each]));
    this.reset();
  }

  reset(): void {
    for (const [offset, { initial }] of this.#registers) this.#held.set(offset, initial ?? 0);
  }

  #word(offset: number): number | undefined {
    const register = this.#registers.get(offset);
    if (register === undefined) return undefined;
    return (register.read?.(this.#device) ?? this.#held.get(offset)!) >>> 0;
  }

  read(bar: number, offset: number, width: number): number | bigint | undefined {
    if (bar !== this.#bar) return undefined;
    const low = this.#word(offset & ~3);
    if (width === 8) {
      const high = this.#word(offset + 4);
      if (low === undefined && high === undefined) return undefined;
      return (BigInt(high ?? 0) << 32n) | BigInt(low ?? 0);
    }
    if (low === undefined || width === 4) return low;
    return (low >>> (8 * (offset & 3))) & (2 ** (8 * width) - 1);
  }

  write(bar: number, offset: number, width: number, value: number | bigint): void {
    if (bar !== this.#bar) return;
    if (width === 8) {
      this.#store(offset, Number(BigInt(value) & 0xffff_ffffn));
      this.#store(offset + 4, Number(BigInt(value) >> 32n));
    } else if (width === 4) this.#store(offset, Number(value));
    else {
      const shift = 8 * (offset & 3);
      const mask = (2 ** (8 * width) - 1) << shift;
      const held = this.#held.get(offset & ~3) ?? 0;
      this.#store(offset & ~3, ((held & ~mask) | ((Number(value) << shift) & mask)) >>> 0);
    }
  }

  #store(offset: number, value: number): void {
    const register = this.#registers.get(offset);
    if (register === undefined) return;
    this.#held.set(offset, value >>> 0);
    register.write?.(value >>> 0, this.#device);
  }
}
