/** Signals of a process, and what they do to KVM_RUN (the answers of the live 6.18 to a C program). */
import { describe, expect, test } from "vitest";
import { EAGAIN, EFAULT, EINTR, EINVAL } from "../../lib/abi/errno.ts";
import {
  KVM_CREATE_IRQCHIP,
  KVM_EXIT_HLT,
  KVM_EXIT_INTR,
  KVM_EXIT_IO,
  KVM_EXIT_IRQ_WINDOW_OPEN,
  KVM_GET_MP_STATE,
  KVM_INTERRUPT,
  KVM_MP_STATE_HALTED,
  KVM_SET_SIGNAL_MASK,
  KVM_SIGNAL_MSI,
  KvmMsi,
} from "../../lib/abi/kvm.ts";
import { KVM_GET_LAPIC, KVM_NMI, KVM_SET_LAPIC } from "../../lib/abi/kvm-x86.ts";
import { load32, store32, store64 } from "../../lib/abi/struct.ts";
import { SIG_BLOCK, SIG_SETMASK, SIG_UNBLOCK, signalSet } from "../../lib/kernel/signals.ts";
import { defaultProfile } from "../../lib/machine/default-profile.ts";
import { Machine } from "../../lib/machine/machine.ts";
import { CODE, Guest } from "../kvm/x86/guest.ts";
import { mainline } from "../kvm/x86/vm.ts";

const SIGKILL = 9;
const SIGUSR1 = 10;
const SIGUSR2 = 12;
const SIGSTOP = 19;
const USR1 = signalSet(SIGUSR1);
const HLT = 0xf4;

describe("a process", () => {
  const started = () => {
    const process = new Machine().process();
    const handled: number[] = [];
    const note = (signal: number) => void handled.push(signal);
    for (const signal of [SIGUSR1, SIGUSR2]) process.sigaction(signal, note);
    return { process, handled };
  };

  test("handles what is not blocked where it is sent", () => {
    const { process, handled } = started();
    expect([process.kill(SIGUSR1), process.kill(0), handled, process.sigpending()]).toEqual([
      0,
      0,
      [SIGUSR1],
      0n,
    ]);
  });

  test("keeps one of each that is blocked, and handles them in their order once they are not", () => {
    const { process, handled } = started();
    process.sigprocmask(SIG_BLOCK, USR1 | signalSet(SIGUSR2));
    for (const signal of [SIGUSR2, SIGUSR1, SIGUSR1]) process.kill(signal);
    expect([handled, process.sigpending()]).toEqual([[], USR1 | signalSet(SIGUSR2)]);
    process.sigprocmask(SIG_UNBLOCK, USR1);
    expect(handled).toEqual([SIGUSR1]);
    process.sigprocmask(SIG_SETMASK, 0n);
    expect([handled, process.sigpending()]).toEqual([[SIGUSR1, SIGUSR2], 0n]);
  });

  test("takes a waiting signal without handling it", () => {
    const { process, handled } = started();
    process.sigprocmask(SIG_BLOCK, USR1);
    process.kill(SIGUSR1);
    expect(process.sigtimedwait(signalSet(SIGUSR2))).toBe(-EAGAIN);
    expect([process.sigtimedwait(USR1), process.sigtimedwait(USR1), handled]).toEqual([SIGUSR1, -EAGAIN, []]);
  });

  test("forgets one that is ignored, unless it is blocked", () => {
    const { process } = started();
    process.sigaction(SIGUSR1, "ignored");
    process.kill(SIGUSR1);
    expect(process.sigpending()).toBe(0n);
    process.sigprocmask(SIG_BLOCK, USR1);
    process.kill(SIGUSR1);
    expect(process.sigpending()).toBe(USR1);
    process.sigaction(SIGUSR1, "ignored");
    expect(process.sigpending()).toBe(0n);
  });

  test.each([-1, 65, 1.5, Number.NaN])("%s is no signal", (signal) => {
    const { process } = started();
    expect([process.kill(signal), process.sigaction(signal, "ignored")]).toEqual([-EINVAL, -EINVAL]);
  });

  test("SIGKILL and SIGSTOP are not blocked, nor is anything done with them", () => {
    const { process } = started();
    process.sigprocmask(SIG_BLOCK, 2n ** 64n - 1n);
    process.kill(SIGKILL);
    expect([process.sigpending(), process.sigaction(SIGSTOP, "ignored")]).toEqual([0n, -EINVAL]);
    expect(process.sigprocmask(3, 0n)).toBe(-EINVAL);
  });
});

const encode = (set: bigint, length = 8) => {
  const bytes = new Uint8Array(12);
  store32(bytes, 0, length);
  store64(bytes, 4, set);
  return bytes;
};

/** A signal that is blocked waits. */
function waiting({ irqchip = false, profile = mainline } = {}) {
  const process = new Machine(profile).process();
  const guest = new Guest(process, "prot32", (vm) => irqchip && process.ioctl(vm, KVM_CREATE_IRQCHIP, 0));
  process.sigprocmask(SIG_BLOCK, USR1);
  process.kill(SIGUSR1);
  /** the mask of KVM_RUN, or none */
  const mask = (set: bigint | null) =>
    process.ioctl(guest.vcpu, KVM_SET_SIGNAL_MASK, set === null ? 0 : encode(set));
  return { process, guest, mask };
}

/** exception (injected, nr), interrupt (injected, nr), NMI (injected, pending, masked) */
const events = (guest: Guest) => [0, 1, 8, 9, 12, 13, 14].map((at) => guest.events[at]);

describe("KVM_SET_SIGNAL_MASK", () => {
  test.each([0, 4, 7, 9, 16, 128])("a set of %i bytes is EINVAL", (length) => {
    const { process, guest } = waiting();
    expect(process.ioctl(guest.vcpu, KVM_SET_SIGNAL_MASK, encode(0n, length))).toBe(-EINVAL);
  });

  test("EFAULT for a set that is not there, and the mask stays", () => {
    const { process, guest, mask } = waiting();
    guest.code(HLT);
    mask(0n);
    const bytes = encode(USR1);
    expect(process.ioctl(guest.vcpu, KVM_SET_SIGNAL_MASK, bytes.subarray(0, 3))).toBe(-EFAULT);
    expect(process.ioctl(guest.vcpu, KVM_SET_SIGNAL_MASK, bytes.subarray(0, 11))).toBe(-EFAULT);
    expect(guest.enter()).toBe(-EINTR);
  });

  test("without one the process's counts: a blocked signal does not end KVM_RUN", () => {
    const { guest } = waiting();
    guest.code(HLT);
    expect([guest.enter(), guest.exitReason]).toEqual([0, KVM_EXIT_HLT]);
  });

  test("what it lets through ends KVM_RUN, each time, and goes on waiting; the last exit is finished before", () => {
    const { process, guest, mask } = waiting();
    guest.code(0xe4, 0x80, 0x40, HLT);
    mask(USR1);
    expect([guest.enter(), guest.exitReason]).toEqual([0, KVM_EXIT_IO]);
    mask(0n);
    guest.run[4096] = 0x21;
    for (let i = 0; i < 2; i++) {
      expect([guest.enter(), guest.exitReason]).toEqual([-EINTR, KVM_EXIT_INTR]);
      expect([guest.register("rip"), guest.register("rax")]).toEqual([BigInt(CODE + 2), 0x21n]);
      expect(process.sigpending()).toBe(USR1);
    }
    expect(process.sigtimedwait(USR1)).toBe(SIGUSR1);
    expect([guest.enter(), guest.exitReason, guest.register("rax")]).toEqual([0, KVM_EXIT_HLT, 0x22n]);
  });

  test("a null pointer takes it away", () => {
    const { guest, mask } = waiting();
    guest.code(HLT);
    mask(0n);
    expect(guest.enter()).toBe(-EINTR);
    expect(mask(null)).toBe(0);
    expect(guest.enter()).toBe(0);
  });

  test("it is the vCPU's: it blocks what the process does not, only while KVM_RUN runs", () => {
    const { process, guest, mask } = waiting();
    const handled: number[] = [];
    process.sigaction(SIGUSR1, (signal) => void handled.push(signal));
    guest.code(0xe6, 0x80, HLT);
    mask(USR1);
    expect(guest.enter()).toBe(0);
    expect(handled).toEqual([]);
    process.sigprocmask(SIG_SETMASK, 0n);
    expect(handled).toEqual([SIGUSR1]);
  });

  test("immediate_exit comes first, and leaves the exit reason alone", () => {
    const { guest, mask } = waiting();
    mask(0n);
    guest.run[1] = 1;
    store32(guest.run, 8, 77);
    expect([guest.enter(), guest.exitReason]).toEqual([-EINTR, 77]);
  });

  test("an interrupt window is told before a signal", () => {
    const { guest, mask } = waiting();
    mask(0n);
    guest.run[0] = 1;
    guest.registers({ rflags: 0x202 });
    expect([guest.enter(), guest.exitReason]).toEqual([0, KVM_EXIT_IRQ_WINDOW_OPEN]);
    guest.registers({ rflags: 2 });
    expect([guest.enter(), guest.exitReason]).toEqual([-EINTR, KVM_EXIT_INTR]);
  });

  test("a vCPU that is halted stays so", () => {
    const { process, guest, mask } = waiting({ irqchip: true });
    guest.code(0xfa, HLT);
    expect(guest.enter()).toBe(-EINTR);
    mask(0n);
    expect([guest.enter(), guest.exitReason]).toEqual([-EINTR, KVM_EXIT_INTR]);
    const state = new Uint8Array(4);
    process.ioctl(guest.vcpu, KVM_GET_MP_STATE, state);
    expect([load32(state, 0), guest.register("rip")]).toEqual([KVM_MP_STATE_HALTED, BigInt(CODE + 2)]);
  });
});

describe("what was about to be injected stays injected", () => {
  test("an interrupt of user space", () => {
    const { process, guest, mask } = waiting();
    mask(0n);
    guest.registers({ rflags: 0x202 });
    const vector = new Uint8Array(4);
    vector[0] = 0x20;
    process.ioctl(guest.vcpu, KVM_INTERRUPT, vector);
    process.ioctl(guest.vcpu, KVM_NMI, 0);
    expect(guest.enter()).toBe(-EINTR);
    expect(events(guest)).toEqual([0, 0, 1, 0x20, 0, 1, 0]);
  });

  test("an NMI", () => {
    const { process, guest, mask } = waiting();
    mask(0n);
    process.ioctl(guest.vcpu, KVM_NMI, 0);
    for (let i = 0; i < 2; i++) {
      expect(guest.enter()).toBe(-EINTR);
      expect(events(guest)).toEqual([0, 0, 0, 0, 1, 0, 1]);
    }
    mask(null);
    guest.enter();
    expect(guest.register("rip")).toBe(0x4041n);
  });

  test.each([mainline, defaultProfile])("one of the local APIC: it is in service", (profile) => {
    const { process, guest, mask } = waiting({ irqchip: true, profile });
    const lapic = () => guest.get(KVM_GET_LAPIC.number, 1024);
    const enabled = lapic();
    store32(enabled, 0xf0, 0x1ff);
    process.ioctl(guest.vcpu, KVM_SET_LAPIC, enabled);
    process.ioctl(guest.vm, KVM_SIGNAL_MSI, KvmMsi.encode({ address_lo: 0xfee0_0000, data: 0x45 }));
    mask(0n);
    guest.registers({ rflags: 0x202 });
    expect(guest.enter()).toBe(-EINTR);
    expect(events(guest)).toEqual([0, 0, 1, 0x45, 0, 0, 0]);
    expect([load32(lapic(), 0x220), load32(lapic(), 0x120)]).toEqual([0, 1 << 5]);
    // pvm ends it where it is delivered
    mask(null);
    guest.memory.set([0xe6, 0x80, HLT], 0x4000 + 32 * 0x45);
    guest.enter();
    expect([guest.exitReason, guest.register("rip")]).toEqual([
      KVM_EXIT_IO,
      BigInt(0x4000 + 32 * 0x45 + (profile === mainline ? 0 : 2)),
    ]);
    expect(load32(lapic(), 0x120)).toBe(profile === mainline ? 1 << 5 : 0);
  });
});
