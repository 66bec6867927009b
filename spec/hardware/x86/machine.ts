/** A processor with memory of its own and nothing around it: what is not memory is written down. */
import { load32, store64 } from "../../../lib/abi/struct.ts";
import { type Bus, MSR_FAULT } from "../../../lib/hardware/x86/bus.ts";
import { Cpu, type CpuOptions } from "../../../lib/hardware/x86/cpu.ts";
import {
  CpuState,
  CR0,
  CR3,
  CR4,
  CS,
  EFER,
  RIP,
  RSP,
  type Segment,
  TR,
} from "../../../lib/hardware/x86/state.ts";

export const SIZE = 0x40000;
export const CODE = 0x1000;
export const TABLES = 0x20000;

export class TestBus implements Bus {
  readonly eachWrite = false;
  readonly memory = new Uint8Array(SIZE);
  bytes: Uint8Array = this.memory;
  at = 0;
  /** accesses that reached the bus: "read d0000000 4", … */
  readonly seen: string[] = [];
  readonly writable = new Set<number>();
  /** devices answer these, else the access is for user space */
  answers = new Map<number, number>();

  page(frame: number): boolean {
    this.at = frame * 4096;
    return this.at < SIZE;
  }
  readMmio(address: number, length: number, data: Uint8Array, at: number): boolean {
    this.seen.push(`read ${address.toString(16)} ${length}`);
    const answer = this.answers.get(address);
    if (answer === undefined) return false;
    for (let i = 0; i < length; i++) data[at + i] = answer >>> (8 * i);
    return true;
  }
  writeMmio(address: number, length: number, data: Uint8Array, at: number): boolean {
    this.seen.push(`write ${address.toString(16)} ${Array.from(data.subarray(at, at + length))}`);
    return this.answers.has(address);
  }
  readPort(): boolean {
    return false;
  }
  writePort(): boolean {
    return false;
  }
  cpuid(): void {}
  readMsr(): undefined {
    return undefined;
  }
  writeMsr(): number {
    return MSR_FAULT;
  }
  readTsc(): bigint {
    return 0n;
  }
  readPmc(): undefined {
    return undefined;
  }
  fpuArea(): Uint8Array {
    return new Uint8Array(4096);
  }
  readCr8(): number {
    return 0;
  }
  writeCr8(): void {}
  allowedCr4(): number {
    return 0x0077_1fff;
  }

  fixesHypercalls(): boolean {
    return true;
  }

  hypercall(): bigint {
    return 0n;
  }
}

const flat = (segment: Segment, selector: number, type: number, dpl: number, long: boolean): void => {
  Object.assign(segment, { selector, baseLo: 0, baseHi: 0, limit: 0xffff_ffff, type, dpl, g: 1, s: 1 });
  Object.assign(segment, { l: type > 8 && long ? 1 : 0, db: type > 8 && long ? 0 : 1 });
};

/** GDT at 0x800: 8 code and 0x10 data of 32 bits, 0x18 code of 64, 0x20 and 0x28 code and data of CPL 3, 0x30 code of 64 of CPL 3. */
const descriptors = [
  0n,
  0x00cf_9b00_0000_ffffn,
  0x00cf_9300_0000_ffffn,
  0x00af_9b00_0000_ffffn,
  0x00cf_fb00_0000_ffffn,
  0x00cf_f300_0000_ffffn,
  0x00af_fb00_0000_ffffn,
];
export const IDT = 0x3000;
export const TSS = 0x7000;

/** A processor in flat protected mode (`long`: 64-bit mode, the first 2 MiB mapped for everybody), at CODE. */
export function processor({ long = false, cpl = 0, options = {} as Partial<CpuOptions> } = {}) {
  const state = new CpuState();
  const bus = new TestBus();
  const cpu = new Cpu(state, bus, options);
  const { segments, c32 } = state;
  descriptors.forEach((value, i) => {
    store64(bus.memory, 0x800 + 8 * i, value);
  });
  Object.assign(state.gdt, { baseLo: 0x800, limit: 8 * descriptors.length - 1 });
  Object.assign(state.idt, { baseLo: IDT, limit: 0xfff });
  const code = cpl === 3 ? (long ? 0x33 : 0x23) : long ? 0x18 : 8;
  flat(segments[CS], code, 11, cpl, long);
  for (const index of [0, 2, 3, 4, 5]) flat(segments[index], cpl === 3 ? 0x2b : 0x10, 3, cpl, long);
  Object.assign(segments[TR], { baseLo: TSS, limit: 0x67, selector: 0x38, type: 11, s: 0 });
  c32[2 * CR0] |= 1;
  if (long) {
    store64(bus.memory, TABLES, TABLES + 0x1007);
    store64(bus.memory, TABLES + 0x1000, TABLES + 0x2007);
    store64(bus.memory, TABLES + 0x2000, 0x87);
    c32[2 * CR3] = TABLES;
    c32[2 * CR4] = 0x20;
    c32[2 * EFER] = 0x500;
    c32[2 * CR0] |= 0x8000_0000;
  }
  state.r64[RSP] = 0x8000n;
  state.r64[RIP] = BigInt(CODE);
  const run = (...bytes: number[]): number => {
    bus.memory.set(bytes, Number(state.r64[RIP]));
    return cpu.step();
  };
  return { cpu, state, bus, memory: bus.memory, run };
}

export const word = (memory: Uint8Array, at: number): number => load32(memory, at);

/** An interrupt gate, 16 bytes in long mode. */
export function gate(
  memory: Uint8Array,
  vector: number,
  selector: number,
  offset: number,
  long: boolean,
  dpl = 0,
): void {
  const at = IDT + (long ? 16 : 8) * vector;
  store64(
    memory,
    at,
    BigInt(offset & 0xffff) |
      (BigInt(selector) << 16n) |
      (BigInt(0x8e00 | (dpl << 13)) << 32n) |
      (BigInt(offset >>> 16) << 48n),
  );
}
