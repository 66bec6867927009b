/**
 * ivshmem-doorbell (QEMU docs/specs/ivshmem-spec.rst, revision 1): BAR 0 holds registers, BAR 2 shared memory. A peer
 * that rings a doorbell raises an MSI-X vector of another; without MSI-X on, a ring is lost.
 *
 *     0x00 interrupt mask   0x04 interrupt status (cleared by reading)   0x08 IV position: own peer number (RO)
 *     0x0c doorbell (WO): peer in bits 31:16, vector in 15:0
 *
 * Registers take accesses of 4 bytes. Missing: INTx of revision 0, peers that come and go.
 */
import type { PciDevice, PciModel } from "./pci-device.ts";

export class Ivshmem implements PciModel {
  readonly #device: PciDevice;
  readonly peer: number;
  /** shared memory, as long as BAR 2 */
  readonly memory: Uint8Array;
  /** other devices on the same memory, by their peer number */
  readonly peers = new Map<number, Ivshmem>();
  #mask = 0;
  #status = 0;

  constructor(device: PciDevice, peer = 0, memory = new Uint8Array(device.bars[2]?.size ?? 0)) {
    this.#device = device;
    this.peer = peer;
    this.memory = memory;
    this.peers.set(peer, this);
  }

  read(bar: number, offset: number, width: number): number | bigint | undefined {
    if (bar === 2) return load(this.memory, offset, width);
    if (bar !== 0) return 0; // beside the MSI-X table there is nothing
    if (width !== 4) return 0;
    switch (offset) {
      case 0x00:
        return this.#mask;
      case 0x04: {
        const status = this.#status;
        this.#status = 0;
        return status;
      }
      case 0x08:
        return this.peer;
      default:
        return 0;
    }
  }

  write(bar: number, offset: number, width: number, written: number | bigint): void {
    if (bar === 2) {
      for (let i = 0; i < width; i++)
        this.memory[offset + i] = Number((BigInt(written) >> BigInt(8 * i)) & 0xffn);
      return;
    }
    if (bar !== 0 || width !== 4) return;
    const value = Number(written);
    if (offset === 0x00) this.#mask = value;
    else if (offset === 0x04) this.#status = value;
    else if (offset === 0x0c) this.peers.get(value >>> 16)?.ring(value & 0xffff);
  }

  /** A peer rang. */
  ring(vector: number): void {
    if (this.#device.msix?.enabled) this.#device.msix.raise(vector);
  }

  reset(): void {
    this.#mask = 0;
    this.#status = 0;
  }
}

function load(bytes: Uint8Array, offset: number, width: number): number | bigint {
  let value = 0n;
  for (let i = width - 1; i >= 0; i--) value = (value << 8n) | BigInt(bytes[offset + i] ?? 0);
  return width === 8 ? value : Number(value);
}
