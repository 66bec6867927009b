/**
 * A full read-back: every chip of every VM, every vCPU's state, the dirty logs of the slots, the eventfds. What a call
 * broke silently shows here.
 */

import type { Request } from "../abi/ioctl.ts";
import {
  KVM_CAP_MAX_VCPU_ID,
  KVM_CAP_MAX_VCPUS,
  KVM_CAP_NR_MEMSLOTS,
  KVM_CAP_SPLIT_IRQCHIP,
  KVM_CAP_X2APIC_API,
  KVM_CAP_X86_DISABLE_EXITS,
  KVM_CHECK_EXTENSION,
  KVM_GET_DIRTY_LOG,
  KVM_GET_MP_STATE,
  KvmDirtyLog,
} from "../abi/kvm.ts";
import {
  KVM_GET_CPUID2,
  KVM_GET_DEBUGREGS,
  KVM_GET_FPU,
  KVM_GET_IRQCHIP,
  KVM_GET_LAPIC,
  KVM_GET_PIT2,
  KVM_GET_REGS,
  KVM_GET_SREGS,
  KVM_GET_VCPU_EVENTS,
  KVM_GET_XCRS,
  KVM_GET_XSAVE,
  KvmDebugregs,
  KvmFpu,
  KvmIrqchip,
  KvmPitState2,
  KvmRegs,
  KvmSregs,
  KvmVcpuEvents,
  KvmXcrs,
} from "../abi/kvm-x86.ts";
import { POLLIN } from "../abi/poll.ts";
import { store32 } from "../abi/struct.ts";
import { mayRead, type Run, read, type Step } from "./interpreter.ts";
import type { Part } from "./program.ts";

type Answer = Omit<Step, "operation">;

const LAPIC_STATE = 0x400;
const XSAVE_STATE = 0x1000;
/** room for the bitmap of the largest slot */
const BITMAP = 0x2000;
const CPUID_ROOM = 8 + 40 * 100;

/** Capabilities whose answer may follow what the VM has become. */
const capabilities = [
  KVM_CAP_X2APIC_API,
  KVM_CAP_MAX_VCPU_ID,
  KVM_CAP_MAX_VCPUS,
  KVM_CAP_NR_MEMSLOTS,
  KVM_CAP_X86_DISABLE_EXITS,
  KVM_CAP_SPLIT_IRQCHIP,
];

/** What a vCPU tells of itself: the request, and how many bytes. */
const registers: readonly (readonly [string, Request, number])[] = [
  ["KVM_GET_REGS", KVM_GET_REGS, KvmRegs.size],
  ["KVM_GET_SREGS", KVM_GET_SREGS, KvmSregs.size],
  ["KVM_GET_VCPU_EVENTS", KVM_GET_VCPU_EVENTS, KvmVcpuEvents.size],
  ["KVM_GET_DEBUGREGS", KVM_GET_DEBUGREGS, KvmDebugregs.size],
];
const fpu: readonly (readonly [string, Request, number])[] = [
  ["KVM_GET_FPU", KVM_GET_FPU, KvmFpu.size],
  ["KVM_GET_XCRS", KVM_GET_XCRS, KvmXcrs.size],
];

/** Reads back the parts, in a fixed order. */
export function* readBack(run: Run, parts: readonly Part[]): Generator<Answer, void, void> {
  const has = (part: Part): boolean => parts.includes(part);
  for (const vm of run.all("vm")) {
    if (has("chips")) {
      for (let chip = 0; chip < 3; chip++)
        yield get(run, vm, "KVM_GET_IRQCHIP", KVM_GET_IRQCHIP, KvmIrqchip.size, chip);
      yield get(run, vm, "KVM_GET_PIT2", KVM_GET_PIT2, KvmPitState2.size);
    }
    if (has("extensions"))
      for (const capability of capabilities) {
        const result = run.process.ioctl(vm, KVM_CHECK_EXTENSION.number, capability);
        yield { call: "KVM_CHECK_EXTENSION", request: KVM_CHECK_EXTENSION.number, result, bytes: [] };
      }
    if (has("dirty-log")) for (const slot of run.slots.get(vm) ?? []) yield dirtyLog(run, vm, slot);
  }
  for (const vcpu of run.all("vcpu")) {
    if (has("lapic")) yield get(run, vcpu, "KVM_GET_LAPIC", KVM_GET_LAPIC, LAPIC_STATE);
    if (has("mp-state")) yield get(run, vcpu, "KVM_GET_MP_STATE", KVM_GET_MP_STATE, 4);
    if (has("registers"))
      for (const [call, request, size] of registers) yield get(run, vcpu, call, request, size);
    if (has("fpu") || has("processor"))
      for (const [call, request, size] of fpu) yield get(run, vcpu, call, request, size);
    if (has("processor")) {
      yield get(run, vcpu, "KVM_GET_XSAVE", KVM_GET_XSAVE, XSAVE_STATE);
      yield get(run, vcpu, "KVM_GET_CPUID2", KVM_GET_CPUID2, CPUID_ROOM, 100);
    }
  }
  if (has("counters"))
    for (const fd of run.all("eventfd")) {
      const entry = { fd, events: 0xffff, revents: 0 };
      const result = run.process.poll([entry], 0);
      yield { call: "poll", result, bytes: [Uint8Array.of(entry.revents & 0xff, entry.revents >> 8)] };
      if ((entry.revents & POLLIN) !== 0 && mayRead(run, fd)) yield read(run, fd, 8);
    }
}

function get(run: Run, fd: number, call: string, request: Request, size: number, head = 0): Answer {
  const bytes = new Uint8Array(size);
  store32(bytes, 0, head);
  return {
    call,
    request: request.number,
    result: run.process.ioctl(fd, request.number, bytes),
    bytes: [bytes],
  };
}

function dirtyLog(run: Run, vm: number, slot: number): Answer {
  const bitmap = new Uint8Array(BITMAP);
  const bytes = KvmDirtyLog.encode({ slot, dirty_bitmap: run.process.addressOf(bitmap) } as never);
  const result = run.process.ioctl(vm, KVM_GET_DIRTY_LOG.number, bytes);
  return { call: "KVM_GET_DIRTY_LOG", request: KVM_GET_DIRTY_LOG.number, result, bytes: [bitmap] };
}
