/**
 * The "edu" device (QEMU docs/specs/edu.rst): BAR 0 holds an identification, a liveness check, a factorial, and two
 * registers that raise and acknowledge its interrupt: MSI while it is on, INTx else.
 *
 * Registers below 0x80 take accesses of 4 bytes; accesses of 1 and 2 bytes read as zero, others as ones.
 *
 *     0x00 identification (RO)    0x04 liveness: reads as the complement of what was written
 *     0x08 factorial              0x20 status: bit 0 computing, bit 7 interrupt when the factorial is done
 *     0x24 interrupt status (RO)  0x60 raise: ORs into the interrupt status   0x64 acknowledge: clears bits
 *     0x80 DMA source  0x88 destination  0x90 count  0x98 command: 64 bits each, accesses of 4 and 8 bytes
 *
 * Missing: transfers (the DMA registers are kept, and nothing moves), the time that a factorial takes.
 */
import type { PciDevice, PciModel } from "./pci-device.ts";

const FACTORIAL_DONE = 1;
const STATUS_INTERRUPT = 0x80;
const DMA = 0x80;
const DMA_END = 0xa0;

export class Edu implements PciModel {
  readonly #device: PciDevice;
  #liveness = 0;
  #factorial = 0;
  #status = 0;
  #interrupts = 0;
  /** source, destination, count, command */
  readonly #dma = [0n, 0n, 0n, 0n];

  constructor(device: PciDevice) {
    this.#device = device;
  }

  read(bar: number, offset: number, width: number): number | bigint | undefined {
    if (bar !== 0) return undefined;
    if (width < 4) return 0;
    if (offset >= DMA && offset < DMA_END && offset % 8 === 0) {
      const value = this.#dma[(offset - DMA) / 8];
      return width === 8 ? value : Number(value & 0xffff_ffffn);
    }
    if (width === 8) return 0xffff_ffff_ffff_ffffn;
    switch (offset) {
      case 0x00:
        return 0x0100_00ed;
      case 0x04:
        return this.#liveness;
      case 0x08:
        return this.#factorial;
      case 0x20:
        return this.#status;
      case 0x24:
        return this.#interrupts;
      default:
        return 0xffff_ffff;
    }
  }

  write(bar: number, offset: number, width: number, written: number | bigint): void {
    if (bar !== 0 || width < 4) return;
    if (offset >= DMA && offset < DMA_END && offset % 8 === 0) {
      this.#dma[(offset - DMA) / 8] = BigInt(written);
      return;
    }
    if (width !== 4) return;
    const value = Number(written);
    switch (offset) {
      case 0x04:
        this.#liveness = ~value >>> 0;
        break;
      case 0x08:
        this.#compute(value);
        break;
      case 0x20:
        this.#status = (this.#status & ~STATUS_INTERRUPT) | (value & STATUS_INTERRUPT);
        break;
      case 0x60:
        this.raise(value);
        break;
      case 0x64:
        this.#lower(value);
        break;
    }
  }

  #compute(value: number): void {
    let result = 1;
    for (let factor = value; factor > 0; factor--) {
      result = Math.imul(result, factor);
      if (result === 0) break;
    }
    this.#factorial = result >>> 0;
    if ((this.#status & STATUS_INTERRUPT) !== 0) this.raise(FACTORIAL_DONE);
  }

  /** Sets bits of the interrupt status: with any set, an interrupt. */
  raise(bits: number): void {
    this.#interrupts = (this.#interrupts | bits) >>> 0;
    if (this.#interrupts === 0) return;
    if (this.#device.msi?.enabled) this.#device.msi.raise(0);
    else this.#device.setIntx(true);
  }

  #lower(bits: number): void {
    this.#interrupts = (this.#interrupts & ~bits) >>> 0;
    if (this.#interrupts === 0 && !this.#device.msi?.enabled) this.#device.setIntx(false);
  }
}
