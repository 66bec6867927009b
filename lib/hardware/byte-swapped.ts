/**
 * The registers of a device whose byte order is not the bus's: PCI is little endian, an emulator may give a device the
 * order of its target processor (traces: ppc64le-kvm-6.12/vfio call 65).
 */
import type { PciModel } from "./pci-device.ts";

/** The value with its bytes in the other order. */
export function swapped(value: number | bigint, width: number): number | bigint {
  if (width === 1) return value;
  if (width === 8) {
    let result = 0n;
    for (let i = 0n; i < 64n; i += 8n) result = (result << 8n) | ((BigInt(value) >> i) & 0xffn);
    return result;
  }
  const plain = Number(value);
  if (width === 2) return ((plain & 0xff) << 8) | ((plain >>> 8) & 0xff);
  return ((plain << 24) | ((plain & 0xff00) << 8) | ((plain >>> 8) & 0xff00) | ((plain >>> 24) & 0xff)) >>> 0;
}

export class ByteSwapped implements PciModel {
  readonly #model: PciModel;

  constructor(model: PciModel) {
    this.#model = model;
  }

  read(bar: number, offset: number, width: number): number | bigint | undefined {
    const value = this.#model.read(bar, offset, width);
    return value === undefined ? undefined : swapped(value, width);
  }

  write(bar: number, offset: number, width: number, value: number | bigint): void {
    this.#model.write(bar, offset, width, swapped(value, width));
  }

  reset(): void {
    this.#model.reset?.();
  }
}
