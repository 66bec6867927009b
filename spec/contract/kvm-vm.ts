/** A VM on whichever kernel is asked, for contract bodies. */
import {
  KVM_CAP_SPLIT_IRQCHIP,
  KVM_CREATE_IRQCHIP,
  KVM_CREATE_VCPU,
  KVM_CREATE_VM,
  KVM_ENABLE_CAP,
  KvmEnableCap,
} from "../../lib/abi/kvm.ts";
import {
  KVM_GET_IRQCHIP,
  KVM_GET_LAPIC,
  KVM_SET_IRQCHIP,
  KVM_SET_LAPIC,
  KvmIrqchip,
  KvmLapicState,
} from "../../lib/abi/kvm-x86.ts";
import { load32, store32 } from "../../lib/abi/struct.ts";
import type { Syscalls } from "../../lib/kernel/syscalls.ts";

export type IrqchipMode = "none" | "kernel" | "split";
export const modes: readonly IrqchipMode[] = ["none", "kernel", "split"];

export const PIC_MASTER = 0;
export const PIC_SLAVE = 1;
export const IOAPIC = 2;
const IRR = 0x200;
const ISR = 0x100;
const TMR = 0x180;
const SPIV = 0xf0;
const LDR = 0xd0;
const DFR = 0xe0;

export interface Vm {
  kvm: number;
  vm: number;
  vcpus: number[];
}

/** A VM with an irqchip of some mode and vCPUs whose LAPICs, where they are in the kernel, are enabled. */
export function makeVm(process: Syscalls, mode: IrqchipMode, vcpus = 1): Vm {
  const kvm = process.open("/dev/kvm", 0x80002);
  const vm = process.ioctl(kvm, KVM_CREATE_VM, 0);
  if (mode === "kernel") process.ioctl(vm, KVM_CREATE_IRQCHIP, 0);
  if (mode === "split")
    process.ioctl(vm, KVM_ENABLE_CAP, KvmEnableCap.encode({ cap: KVM_CAP_SPLIT_IRQCHIP, args: [24n] }));
  const made = Array.from({ length: vcpus }, (_, id) => process.ioctl(vm, KVM_CREATE_VCPU, id));
  if (mode !== "none")
    for (const [id, vcpu] of made.entries())
      setLapic(process, vcpu, { [SPIV]: 0x1ff, [LDR]: (1 << (24 + id)) >>> 0, [DFR]: 0xffffffff });
  return { kvm, vm, vcpus: made };
}

/** Sets some registers of a LAPIC and leaves the others. */
export function setLapic(process: Syscalls, vcpu: number, registers: Record<number, number>): number {
  const state = new Uint8Array(KvmLapicState.size);
  process.ioctl(vcpu, KVM_GET_LAPIC, state);
  for (const [offset, value] of Object.entries(registers)) store32(state, Number(offset), value);
  return process.ioctl(vcpu, KVM_SET_LAPIC, state);
}

/** The vectors whose bits are set in IRR, ISR and TMR. */
export function lapicVectors(
  process: Syscalls,
  vcpu: number,
): { irr: number[]; isr: number[]; tmr: number[] } {
  const state = new Uint8Array(KvmLapicState.size);
  process.ioctl(vcpu, KVM_GET_LAPIC, state);
  const bits = (base: number): number[] =>
    Array.from({ length: 256 }, (_, vector) => vector).filter(
      (vector) => (load32(state, base + (vector >> 5) * 0x10) >>> (vector & 31)) & 1,
    );
  return { irr: bits(IRR), isr: bits(ISR), tmr: bits(TMR) };
}

/** Takes everything out of IRR, ISR and TMR. */
export function clearLapic(process: Syscalls, vcpu: number): void {
  const registers: Record<number, number> = {};
  for (const base of [IRR, ISR, TMR]) for (let i = 0; i < 8; i++) registers[base + i * 0x10] = 0;
  setLapic(process, vcpu, registers);
}

/** The state of all three chips as hex: PICs 16 bytes, IOAPIC 216. */
export function chips(process: Syscalls, vm: number): string[] {
  return [PIC_MASTER, PIC_SLAVE, IOAPIC].map((chip_id) => {
    const chip = KvmIrqchip.encode({ chip_id });
    const result = process.ioctl(vm, KVM_GET_IRQCHIP, chip);
    return result < 0
      ? String(result)
      : Buffer.from(chip.subarray(8, chip_id === IOAPIC ? 224 : 24)).toString("hex");
  });
}

/** Sets redirection entries of the IOAPIC: pin → 64 bits. */
export function redirect(process: Syscalls, vm: number, entries: Record<number, bigint>): number {
  const chip = KvmIrqchip.encode({ chip_id: IOAPIC });
  process.ioctl(vm, KVM_GET_IRQCHIP, chip);
  const view = new DataView(chip.buffer);
  for (const [pin, entry] of Object.entries(entries))
    view.setBigUint64(8 + 24 + Number(pin) * 8, entry, true);
  return process.ioctl(vm, KVM_SET_IRQCHIP, chip);
}
