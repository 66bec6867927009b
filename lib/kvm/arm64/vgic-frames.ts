/** The controller's register frames on the memory bus, where a guest's accesses arrive. */
import type { GicCpu } from "../../hardware/gic.ts";
import { type Region, readFrame, writeFrame } from "../../hardware/gic-registers.ts";
import { GITS_FRAMES, GITS_TRANSLATER, type Its } from "../../hardware/its.ts";
import type { IoDevice } from "../io-bus.ts";
import type { Vgic } from "./vgic.ts";

/** Reads up to 8 bytes, little endian. */
function loadValue(data: Uint8Array, at: number, length: number): bigint {
  let value = 0n;
  for (let i = length - 1; i >= 0; i--) value = (value << 8n) | BigInt(data[at + i]);
  return value;
}

function storeValue(data: Uint8Array, at: number, length: number, value: bigint): void {
  for (let i = 0; i < length; i++) data[at + i] = Number((value >> BigInt(8 * i)) & 0xffn);
}

/** A distributor or a redistributor: every access in its frames is taken. */
export class RegisterFrame implements IoDevice {
  readonly isIoeventfd = false;
  readonly address: number;
  readonly length: number;
  readonly #vgic: Vgic;
  readonly #regions: readonly Region[];
  /** whose registers these are: the accessing processor's in the distributor */
  readonly #cpu: () => GicCpu | undefined;

  constructor(
    vgic: Vgic,
    regions: readonly Region[],
    address: number,
    length: number,
    cpu: () => GicCpu | undefined,
  ) {
    this.#vgic = vgic;
    this.#regions = regions;
    this.address = address;
    this.length = length;
    this.#cpu = cpu;
  }

  read(address: number, length: number, data: Uint8Array, at: number): boolean {
    const cpu = this.#cpu();
    if (cpu === undefined) return false;
    const value = readFrame(this.#regions, this.#vgic.gic, cpu, address - this.address, length);
    storeValue(data, at, length, value);
    return true;
  }

  write(address: number, length: number, data: Uint8Array, at: number): boolean {
    const cpu = this.#cpu();
    if (cpu === undefined) return false;
    const value = loadValue(data, at, length);
    writeFrame(this.#regions, this.#vgic.gic, cpu, address - this.address, length, value);
    return true;
  }
}

/** An ITS: its registers and, in the second frame, the doorbell, which a processor's write does not ring. */
export class ItsFrames implements IoDevice {
  readonly isIoeventfd = false;
  readonly address: number;
  readonly length = GITS_FRAMES;
  readonly its: Its;

  constructor(its: Its, address: number) {
    this.its = its;
    this.address = address;
  }

  read(address: number, length: number, data: Uint8Array, at: number): boolean {
    storeValue(data, at, length, this.its.read(address - this.address, length));
    return true;
  }

  write(address: number, length: number, data: Uint8Array, at: number): boolean {
    const offset = address - this.address;
    if (offset !== GITS_TRANSLATER) this.its.write(offset, length, loadValue(data, at, length));
    return true;
  }
}
