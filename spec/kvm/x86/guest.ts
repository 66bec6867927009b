/**
 * A VM with one vCPU in a mode of the processor, ready to run code at 0x1000: 128 KiB of memory at 0, a handler that
 * halts for each vector, at 0x4000 + 32 · vector. On the fake, or on a real kernel.
 */
import { KVM_CREATE_VCPU, KVM_CREATE_VM, KVM_RUN, KVM_SET_USER_MEMORY_REGION } from "../../../lib/abi/kvm.ts";
import {
  KVM_GET_REGS,
  KVM_GET_SREGS,
  KVM_GET_VCPU_EVENTS,
  KVM_SET_REGS,
  KVM_SET_SREGS,
  KvmRegs,
  KvmSregs,
  KvmVcpuEvents,
} from "../../../lib/abi/kvm-x86.ts";
import { load32, load64, store16, store32, store64 } from "../../../lib/abi/struct.ts";
import type { Syscalls } from "../../../lib/kernel/syscalls.ts";

export type Mode = "real" | "prot16" | "prot32" | "long";

const HLT = 0xf4;
export const CODE = 0x1000;
const GDT = 0x800;
const IDT = 0x3000;
const HANDLERS = 0x4000;
/** where the handler of a vector stands */
export const handlerAt = (vector: number): number => HANDLERS + 32 * vector;
const TABLES = 0x10000;
const SIZE = 0x20000;
const VCPU_PAGES = 0x3000;
const SEGMENT = 24;

/** null, code and data of 32 bits, code of 64, code and data of 16 bits, a TSS, null, code and data for CPL 3 */
const descriptors = [
  0n,
  0x00cf_9b00_0000_ffffn,
  0x00cf_9300_0000_ffffn,
  0x00af_9b00_0000_ffffn,
  0x0000_9b00_0000_ffffn,
  0x0000_9300_0000_ffffn,
  0x0000_8900_7000_0067n,
  0n,
  0x00cf_fb00_0000_ffffn,
  0x00cf_f300_0000_ffffn,
];

/** 32-bit code: mov dword [address], value */
export function moveDword(address: number, value: number): number[] {
  const operands = new Uint8Array(8);
  store32(operands, 0, address);
  store32(operands, 4, value);
  return [0xc7, 0x05, ...operands];
}

/** 32-bit code: the LAPIC is switched on, its spurious vector is 0xff */
export const enableLapic = moveDword(0xfee0_00f0, 0x1ff);

interface SegmentValue {
  limit: number;
  selector: number;
  type: number;
  db: number;
  l: number;
  g: number;
}

const { gdt, idt, cr0, cr3, cr4, efer } = KvmSregs.offsetOf;

export class Guest {
  readonly kernel: Syscalls;
  readonly vm: number;
  readonly vcpu: number;
  readonly memory: Uint8Array;
  /** struct kvm_run and what follows it */
  readonly run: Uint8Array;

  /** `prepare` runs before the vCPU is created. */
  constructor(kernel: Syscalls, mode: Mode, prepare: (vm: number) => void = () => {}) {
    this.kernel = kernel;
    this.vm = kernel.ioctl(kernel.open("/dev/kvm", 2), KVM_CREATE_VM, 0);
    const address = kernel.mmap(0, SIZE, 3, 0x22, -1, 0);
    this.memory = kernel.memory(address, SIZE)!;
    const region = new Uint8Array(32);
    store64(region, 16, SIZE);
    store64(region, 24, address);
    kernel.ioctl(this.vm, KVM_SET_USER_MEMORY_REGION, region);
    prepare(this.vm);
    this.vcpu = kernel.ioctl(this.vm, KVM_CREATE_VCPU, 0);
    this.run = kernel.memory(kernel.mmap(0, VCPU_PAGES, 3, 1, this.vcpu, 0), VCPU_PAGES)!;
    this.#enter(mode);
    for (let vector = 0; vector < 256; vector++) this.memory[handlerAt(vector)] = HLT;
    this.registers({});
  }

  #enter(mode: Mode): void {
    const { memory } = this;
    const sregs = this.get(KVM_GET_SREGS.number, KvmSregs.size);
    let newCr0 = load32(sregs, cr0);
    if (mode === "real") {
      store64(sregs, 0, 0);
      store16(sregs, 12, 0);
    } else {
      descriptors.forEach((descriptor, i) => {
        store64(memory, GDT + 8 * i, descriptor);
      });
      store64(sregs, gdt, GDT);
      store16(sregs, gdt + 8, 8 * descriptors.length - 1);
      store64(sregs, idt, IDT);
      store16(sregs, idt + 8, mode === "long" ? 0xfff : 0x7ff);
      newCr0 |= 1;
      const flat = { limit: 0xffff_ffff, type: 11, db: 1, l: 0, g: 1 };
      let code: SegmentValue = { ...flat, selector: 8 };
      let data: SegmentValue = { ...flat, selector: 0x10, type: 3 };
      if (mode === "prot16") {
        code = { ...flat, db: 0, g: 0, limit: 0xffff, selector: 0x20 };
        data = { ...code, type: 3, selector: 0x28 };
      } else if (mode === "long") code = { ...flat, db: 0, l: 1, selector: 0x18 };
      setSegment(sregs, 0, code);
      for (let i = 1; i < 6; i++) setSegment(sregs, i, data);
      for (let vector = 0; vector < 256; vector++) this.#gate(mode, vector);
      if (mode === "long") {
        this.#longTables();
        store64(sregs, cr3, TABLES);
        store32(sregs, cr4, load32(sregs, cr4) | 0x20);
        store32(sregs, efer, load32(sregs, efer) | 0x500);
        newCr0 |= 0x8000_0000;
      }
    }
    store32(sregs, cr0, newCr0);
    const result = this.kernel.ioctl(this.vcpu, KVM_SET_SREGS, sregs);
    if (result < 0) throw new Error(`KVM_SET_SREGS answers ${result}`);
  }

  #gate(mode: Mode, vector: number): void {
    const handler = handlerAt(vector);
    const at = IDT + (mode === "long" ? 16 : 8) * vector;
    store32(this.memory, at, handler | ((mode === "long" ? 0x18 : 8) << 16));
    store32(this.memory, at + 4, 0x8e00);
  }

  /** The first GiB in pages of 2 MiB, for every privilege. */
  #longTables(): void {
    const { memory } = this;
    store64(memory, TABLES, TABLES + 0x1007);
    store64(memory, TABLES + 0x1000, TABLES + 0x2007);
    for (let i = 0; i < 512; i++) store64(memory, TABLES + 0x2000 + 8 * i, i * 0x20_0000 + 0x87);
  }

  get(request: number, size: number): Uint8Array {
    const bytes = new Uint8Array(size);
    this.kernel.ioctl(this.vcpu, request, bytes);
    return bytes;
  }

  /** Sets registers; those not named are 0, RIP stands at the code, RSP at 0x8000. */
  registers(values: Partial<Record<keyof typeof KvmRegs.offsetOf, number | bigint>>): void {
    const bytes = new Uint8Array(KvmRegs.size);
    const all = { rip: CODE, rsp: 0x8000, rflags: 2, ...values };
    for (const [name, value] of Object.entries(all))
      store64(bytes, KvmRegs.offsetOf[name as keyof typeof KvmRegs.offsetOf], value);
    this.kernel.ioctl(this.vcpu, KVM_SET_REGS, bytes);
  }

  setRegisters(bytes: Uint8Array): void {
    this.kernel.ioctl(this.vcpu, KVM_SET_REGS, bytes);
  }

  /** One of the general registers, RIP or RFLAGS. */
  register(name: keyof typeof KvmRegs.offsetOf): bigint {
    return load64(this.get(KVM_GET_REGS.number, KvmRegs.size), KvmRegs.offsetOf[name]);
  }

  get regs(): Uint8Array {
    return this.get(KVM_GET_REGS.number, KvmRegs.size);
  }

  get events(): Uint8Array {
    return this.get(KVM_GET_VCPU_EVENTS.number, KvmVcpuEvents.size);
  }

  code(...bytes: number[]): this {
    this.memory.set(bytes, CODE);
    return this;
  }

  /** KVM_RUN: what it answered. */
  enter(): number {
    return this.kernel.ioctl(this.vcpu, KVM_RUN, 0);
  }

  get exitReason(): number {
    return load32(this.run, 8);
  }
}

function setSegment(sregs: Uint8Array, index: number, value: SegmentValue): void {
  const at = SEGMENT * index;
  store64(sregs, at, 0);
  store32(sregs, at + 8, value.limit);
  store16(sregs, at + 12, value.selector);
  sregs.set([value.type, 1, 0, value.db, 1, value.l, value.g, 0, 0, 0], at + 14);
}
