/** What is delivered on the way into a guest, what user space is told when it leaves, and what of it is KVM's own. */
import { describe, expect, test } from "vitest";
import { errnoName } from "../../../lib/abi/errno.ts";
import {
  KVM_CAP_DISABLE_QUIRKS2,
  KVM_CAP_EXIT_ON_EMULATION_FAILURE,
  KVM_CAP_SPLIT_IRQCHIP,
  KVM_CAP_X86_USER_SPACE_MSR,
  KVM_CREATE_IRQCHIP,
  KVM_CREATE_VCPU,
  KVM_ENABLE_CAP,
  KVM_EXIT_DEBUG,
  KVM_EXIT_INTERNAL_ERROR,
  KVM_EXIT_IO,
  KVM_EXIT_MMIO,
  KVM_EXIT_X86_RDMSR,
  KVM_GET_MP_STATE,
  KVM_GUESTDBG_ENABLE,
  KVM_GUESTDBG_SINGLESTEP,
  KVM_INTERRUPT,
  KVM_IRQFD,
  KVM_IRQFD_FLAG_RESAMPLE,
  KVM_MSR_EXIT_REASON_INVAL,
  KVM_MSR_EXIT_REASON_UNKNOWN,
  KVM_RUN,
  KVM_SET_MP_STATE,
  KVM_SIGNAL_MSI,
  KvmEnableCap,
  KvmIrqfd,
  KvmMsi,
} from "../../../lib/abi/kvm.ts";
import {
  KVM_GET_IRQCHIP,
  KVM_GET_LAPIC,
  KVM_NMI,
  KVM_SET_GUEST_DEBUG,
  KVM_SET_LAPIC,
  KVM_SET_VCPU_EVENTS,
  KVM_X86_QUIRK_OUT_7E_INC_RIP,
  KVM_X86_SETUP_MCE,
  KvmGuestDebug,
  KvmIrqchip,
  KvmLapicState,
  KvmSregs,
  KvmVcpuEvents,
} from "../../../lib/abi/kvm-x86.ts";
import { load32, load64, store16, store32, store64 } from "../../../lib/abi/struct.ts";
import type { Syscalls } from "../../../lib/kernel/syscalls.ts";
import { Machine } from "../../../lib/machine/machine.ts";
import { CODE, Guest } from "./guest.ts";
import { HANDLERS, HLT, le, outcome, rule, sregs, UD } from "./rules.ts";
import { mainline } from "./vm.ts";

const NOP = 0x90;
/** out 0x80, al: an exit where HLT would sleep */
const LEAVE = [0xe6, 0x80];
const READY = 12;
const IF = 0x200;
const named = (result: number) => (result < 0 ? errnoName(-result) : result);

const withIrqchip = (vm: number, process: Syscalls) => void process.ioctl(vm, KVM_CREATE_IRQCHIP, 0);

function enable(guest: Guest, cap: number, value: number | bigint): void {
  const argument = KvmEnableCap.encode({ cap, args: [BigInt(value), 0n, 0n, 0n] });
  expect(guest.kernel.ioctl(guest.vm, KVM_ENABLE_CAP, argument)).toBe(0);
}

function setEvents(guest: Guest, change: (bytes: Uint8Array) => void): void {
  const { events } = guest;
  change(events);
  expect(guest.kernel.ioctl(guest.vcpu, KVM_SET_VCPU_EVENTS, events)).toBe(0);
}

/** A register of the local APIC, as user space sees it. */
const apic = (guest: Guest, register: number) =>
  load32(guest.get(KVM_GET_LAPIC.number, KvmLapicState.size), register);
function setApic(guest: Guest, values: Record<number, number>): void {
  const bytes = guest.get(KVM_GET_LAPIC.number, KvmLapicState.size);
  for (const [register, value] of Object.entries(values)) store32(bytes, Number(register), value);
  expect(guest.kernel.ioctl(guest.vcpu, KVM_SET_LAPIC, bytes)).toBe(0);
}
const [TPR, SPIV, LVT0] = [0x80, 0xf0, 0x350];

describe("what is delivered", () => {
  rule("an NMI that user space injected brings no error code", (guestIn) => {
    const guest = guestIn("prot32").code(NOP, HLT);
    setEvents(guest, (bytes) => {
      bytes[KvmVcpuEvents.offsetOf.nmi] = 1;
    });
    expect(outcome(guest)).toBe(2);
    expect(guest.register("rsp")).toBe(BigInt(0x8000 - 12));
    expect([load32(guest.memory, 0x8000 - 12), load32(guest.memory, 0x8000 - 8)]).toEqual([CODE, 8]);
  });

  rule(
    "one whose gate is not there is #NP, of an event from outside but for KVM's emulator",
    (guestIn, kernel) => {
      const guest = guestIn("prot32").code(NOP, HLT);
      store32(guest.memory, 0x3000 + 8 * 2 + 4, 0x0e00);
      setEvents(guest, (bytes) => {
        bytes[KvmVcpuEvents.offsetOf.nmi] = 1;
      });
      expect(outcome(guest)).toBe(11);
      // the gate's number, in the IDT, from outside
      const external = kernel === "mainline" ? 1 : 0;
      expect(load32(guest.memory, 0x8000 - 16)).toBe(0x12 | external);
    },
  );

  rule(
    "an interrupt that waits comes behind the instruction after STI",
    (guestIn) => {
      const guest = guestIn("prot32", withIrqchip);
      setApic(guest, { [SPIV]: 0x1ff });
      const message = { address_lo: 0xfee0_0000, data: 0x41 };
      expect(guest.kernel.ioctl(guest.vm, KVM_SIGNAL_MSI, KvmMsi.encode(message))).toBe(1);
      guest.memory.set(LEAVE, HANDLERS + 32 * 0x41);
      // sti; inc eax; inc eax; out
      guest.code(0xfb, 0x40, 0x40, ...LEAVE);
      guest.registers({});
      expect([guest.enter(), guest.exitReason, guest.register("rax")]).toEqual([0, KVM_EXIT_IO, 1n]);
      expect(load32(guest.memory, 0x8000 - 12)).toBe(CODE + 2);
    },
    ["mainline"],
  );

  rule("breakpoints of the guest's own: each of four addresses stops there, if it is on", (guestIn) => {
    for (let register = 0; register < 4; register++)
      for (const on of [true, false]) {
        const guest = guestIn("prot32");
        const setUp = [0xb8, ...le(CODE + 19, 4), 0x0f, 0x23, 0xc0 | (register << 3)];
        // mov dr, at; mov dr7, local; nop; nop; nop; at: inc ecx; hlt
        guest.code(
          ...setUp,
          0xb8,
          ...le(on ? 2 << (2 * register) : 0, 4),
          0x0f,
          0x23,
          0xf8,
          NOP,
          NOP,
          NOP,
          0x41,
          HLT,
        );
        guest.registers({});
        expect([register, on, outcome(guest)]).toEqual([register, on, on ? 1 : "done"]);
        expect(guest.register("rcx")).toBe(on ? 0n : 1n);
        if (on) expect(load32(guest.memory, 0x8000 - 12)).toBe(CODE + 19);
      }
  });
});

describe("whether user space may inject an interrupt", () => {
  const ready = (guest: Guest, rflags = IF | 2) => {
    guest.registers({ rflags });
    guest.run[1] = 1; // immediate_exit
    expect(named(guest.enter())).toBe("EINTR");
    return guest.run[READY];
  };
  const split = (vm: number, process: Syscalls) => {
    const argument = KvmEnableCap.encode({ cap: KVM_CAP_SPLIT_IRQCHIP, args: [24n, 0n, 0n, 0n] });
    expect(process.ioctl(vm, KVM_ENABLE_CAP, argument)).toBe(0);
  };

  rule("not with interrupts off, nor while something else is on its way in", (guestIn) => {
    const { exception, interrupt, nmi } = KvmVcpuEvents.offsetOf;
    for (const prepare of [undefined, split]) {
      const made = () => guestIn("prot32", prepare).code(HLT);
      expect([ready(made()), ready(made(), 2)]).toEqual([1, 0]);
      for (const [at, values] of [
        [exception, [1, 6, 0, 0]],
        [interrupt, [1, 0x41, 0, 0]],
        [nmi, [1, 0, 0, 0]],
      ] as const) {
        const guest = made();
        guest.registers({ rflags: IF | 2 });
        setEvents(guest, (bytes) => bytes.set(values, at));
        guest.run[1] = 1;
        expect(named(guest.enter())).toBe("EINTR");
        expect([at, guest.run[READY]]).toEqual([at, 0]);
      }
    }
  });

  rule("with a split irqchip not while LINT0 is masked, nor while one waits already", (guestIn) => {
    const masked = guestIn("prot32", split);
    setApic(masked, { [LVT0]: 0x1_0000 });
    expect(ready(masked)).toBe(0);
    const waiting = guestIn("prot32", split);
    expect(ready(waiting)).toBe(1);
    const argument = new Uint8Array(4);
    argument[0] = 0x41;
    expect(waiting.kernel.ioctl(waiting.vcpu, KVM_INTERRUPT, argument)).toBe(0);
    expect(ready(waiting)).toBe(0);
  });
});

describe("what stays", () => {
  rule("under AMD's module the task priority loses its lower bits in KVM_RUN", (guestIn, flavour) => {
    for (const tpr of [0x35, 0x0f, 0xff, 0x10]) {
      const guest = guestIn("prot32", withIrqchip).code(...LEAVE);
      setApic(guest, { [SPIV]: 0x1ff, [TPR]: tpr });
      const left = flavour === "mainline" ? tpr & 0xf0 : tpr;
      expect([guest.enter(), guest.exitReason, apic(guest, TPR)]).toEqual([0, KVM_EXIT_IO, left]);
    }
  });

  test("a vCPU that waits for its SIPI sleeps on, whatever else comes", () => {
    const process = new Machine(mainline).process();
    const guest = new Guest(process, "prot32", (vm) => withIrqchip(vm, process)).code(NOP, ...LEAVE);
    const second = process.ioctl(guest.vm, KVM_CREATE_VCPU, 1);
    const state = new Uint8Array(4);
    state[0] = 2; // KVM_MP_STATE_INIT_RECEIVED
    expect(process.ioctl(second, KVM_SET_MP_STATE, state)).toBe(0);
    expect(process.ioctl(second, KVM_NMI, 0)).toBe(0);
    expect(named(process.ioctl(second, KVM_RUN, 0))).toBe("EINTR");
    const after = new Uint8Array(KvmVcpuEvents.size);
    expect(process.ioctl(second, 0x8040_ae9f, after)).toBe(0);
    expect(after[KvmVcpuEvents.offsetOf.nmi]).toBe(0);
  });
});

describe("KVM's own", () => {
  rule(
    "hypercall 1 is known and does nothing, others are unknown",
    (guestIn) => {
      for (const [number, result] of [
        [1, 0n],
        [2, 0xffff_fc18n],
        [99, 0xffff_fc18n],
      ] as const) {
        const guest = guestIn("prot32").code(0x0f, 0x01, 0xd9, HLT);
        guest.registers({ rax: number });
        expect([number, outcome(guest), guest.register("rax")]).toEqual([number, "done", result]);
      }
    },
    ["mainline"],
  );

  rule(
    "an MSR of a bank that is not there is told as invalid, one that nobody knows as unknown",
    (guestIn) => {
      for (const [msr, reason] of [
        [0x408, KVM_MSR_EXIT_REASON_INVAL],
        [0x40b, KVM_MSR_EXIT_REASON_INVAL],
        [0x4000_0fff, KVM_MSR_EXIT_REASON_UNKNOWN],
      ]) {
        const guest = guestIn("prot32");
        enable(guest, KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_UNKNOWN);
        const banks = new Uint8Array(8);
        banks[0] = 2;
        expect(guest.kernel.ioctl(guest.vcpu, KVM_X86_SETUP_MCE, banks)).toBe(0);
        guest.code(0x0f, 0x32, HLT);
        guest.registers({ rcx: msr });
        expect([msr, guest.enter(), guest.exitReason]).toEqual([msr, 0, KVM_EXIT_X86_RDMSR]);
        expect([load32(guest.run, 40), load32(guest.run, 44)]).toEqual([reason, msr]);
      }
    },
  );

  rule(
    "OUT to port 0x7e: RIP has moved on before the exit, unless that quirk is disabled where a processor runs",
    (guestIn, kernel) => {
      for (const quirk of [true, false]) {
        const guest = guestIn("prot32");
        if (!quirk) enable(guest, KVM_CAP_DISABLE_QUIRKS2, KVM_X86_QUIRK_OUT_7E_INC_RIP);
        guest.code(0xe6, 0x7e, HLT);
        expect([guest.enter(), guest.exitReason]).toEqual([0, KVM_EXIT_IO]);
        const moved = quirk || kernel !== "mainline";
        expect([quirk, guest.register("rip")]).toEqual([quirk, BigInt(CODE + (moved ? 2 : 0))]);
      }
    },
  );

  /** struct emulation_failure: flags, and as many bytes of the instruction as there are, the rest of 15 NOPs */
  const failure = (run: Uint8Array) => ({
    suberror: load32(run, 32),
    words: load32(run, 36),
    flags: load64(run, 40),
    instruction: [...run.subarray(48, 64)],
    data: Array.from({ length: 5 }, (_, i) => load64(run, 64 + 8 * i)),
  });
  const daa = [15, 0x27, HLT, ...Array(13).fill(0)];

  rule(
    "an exit for what the emulator does not know leaves nothing of what stood there in the page",
    (guestIn) => {
      const guest = guestIn("prot32").code(0x27, HLT);
      guest.registers({});
      guest.run.fill(0xff, 32, 256);
      expect([guest.enter(), guest.exitReason]).toEqual([0, KVM_EXIT_INTERNAL_ERROR]);
      expect(failure(guest.run)).toEqual({
        suberror: 1,
        words: 8,
        flags: 1n,
        instruction: daa,
        data: [0x1000n, 0n, 0n, 0n, 0n],
      });
    },
    ["pvm", "the real kernel"],
  );

  rule(
    "at CPL 3 it is #UD, and the page shows the failure beside it unless KVM_CAP_EXIT_ON_EMULATION_FAILURE is 0",
    (guestIn) => {
      const TSS = 0x7000;
      for (const wanted of [undefined, 0, 1]) {
        const guest = guestIn("prot32").code(0x27, HLT);
        if (wanted !== undefined) enable(guest, KVM_CAP_EXIT_ON_EMULATION_FAILURE, wanted);
        store32(guest.memory, TSS + 4, 0x8800);
        store16(guest.memory, TSS + 8, 0x10);
        const { cs, ds, es, fs, gs, ss, tr } = KvmSregs.offsetOf;
        sregs(guest, (bytes) => {
          for (const at of [cs, ds, es, fs, gs, ss]) {
            store16(bytes, at + 12, at === cs ? 0x43 : 0x4b);
            bytes[at + 16] = 3;
          }
          store64(bytes, tr, TSS);
          store32(bytes, tr + 8, 0x67);
          store16(bytes, tr + 12, 0x30);
          bytes.set([11, 1, 0, 0, 0, 0, 0, 0, 0], tr + 14);
        });
        guest.registers({});
        guest.run.fill(0xff, 32, 256);
        expect(outcome(guest)).toBe(UD);
        const { suberror, instruction } = failure(guest.run);
        expect([suberror, instruction]).toEqual(
          wanted !== 0 ? [1, daa] : [0xffff_ffff, Array(16).fill(0xff)],
        );
      }
    },
    ["pvm", "the real kernel"],
  );
});

describe("chips by their addresses", () => {
  rule("the IOAPIC answers in all of its 256 bytes, and nowhere behind them", (guestIn) => {
    for (const [address, bytes] of [
      [0xfec0_00fc, [0x8b, 0x05]],
      [0xfec0_00fe, [0x66, 0x8b, 0x05]],
      [0xfec0_00ff, [0x8a, 0x05]],
      [0xfec0_00fe, [0x8b, 0x05]],
      [0xfec0_0100, [0x8a, 0x05]],
    ] as const) {
      const guest = guestIn("prot32", withIrqchip);
      guest.code(...bytes, ...le(address, 4), ...LEAVE);
      guest.registers({ rax: 0x1234_5678 });
      const inside = address === 0xfec0_00fe ? bytes.length === 3 : address < 0xfec0_0100;
      expect([address, bytes, guest.enter(), guest.exitReason]).toEqual([
        address,
        bytes,
        0,
        inside ? KVM_EXIT_IO : KVM_EXIT_MMIO,
      ]);
    }
  });

  rule("a read of eight bytes finds zeros above the IOAPIC's four", (guestIn) => {
    for (const register of [0, 0x10]) {
      const guest = guestIn("long", withIrqchip);
      // 0xfec00000 in a page of 2 MiB
      store64(guest.memory, 0x11000 + 8 * 3, 0x13007);
      store64(guest.memory, 0x13000 + 8 * 502, 0xfec0_0087);
      // mov byte [rbx], 1; mov rax, [rbx + register]
      guest.code(0xc6, 0x03, 1, 0x48, 0x8b, 0x43, register, ...LEAVE);
      guest.registers({ rbx: 0xfec0_0000, rax: 2n ** 64n - 1n });
      expect([guest.enter(), guest.exitReason]).toEqual([0, KVM_EXIT_IO]);
      // the selector, and the version: 24 pins
      expect(guest.register("rax")).toBe(register === 0 ? 1n : 0x17_0011n);
    }
  });

  rule(
    "a register of the local APIC that cannot be read leaves what the emulator read last, or zeros",
    (guestIn, kernel) => {
      // 0x40 is reserved; the bytes before come from memory, in 1 to 8 of them
      const reads = { 1: [0x8a, 0x01], 2: [0x66, 0x8b, 0x01], 4: [0x8b, 0x01], 8: [0x48, 0x8b, 0x01] };
      const kept = [0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11];
      const newer = kept.map((byte) => byte ^ 0xff);
      for (const first of [1, 2, 4, 8] as const)
        for (const second of [1, 2, 4] as const) {
          const guest = guestIn("long", withIrqchip);
          // 0xfee00000 in a page of 2 MiB
          store64(guest.memory, 0x11000 + 8 * 3, 0x13007);
          store64(guest.memory, 0x13000 + 8 * 503, 0xfee0_0087);
          guest.memory.set(kept, 0x2000);
          guest.memory.set(newer, 0x2100);
          // eight bytes at [rcx], some at [rsi], then those at [rdi]; out
          const at = (bytes: number[], modrm: number) => [...bytes.slice(0, -1), modrm];
          guest.code(...reads[8], ...at(reads[first], 0x06), ...at(reads[second], 0x07), ...LEAVE);
          guest.registers({ rcx: 0x2000, rsi: 0x2100, rdi: 0xfee0_0040 });
          expect([guest.enter(), guest.exitReason]).toEqual([0, KVM_EXIT_IO]);
          const low = le(Number(guest.register("rax") & 0xffff_ffffn), second);
          const left = kept.map((byte, i) => (kernel === "mainline" ? 0 : i < first ? newer[i] : byte));
          expect([first, second, low]).toEqual([first, second, left.slice(0, second)]);
        }
    },
  );

  rule("a new start of the PIC counts as the acknowledgement of an edge that waits", (guestIn) => {
    const guest = guestIn("prot32", withIrqchip);
    const { kernel } = guest;
    const [fd, resamplefd] = [0, 1].map(() => kernel.eventfd2(0, 0x800));
    const irqfd = KvmIrqfd.encode({ fd, gsi: 5, flags: KVM_IRQFD_FLAG_RESAMPLE, resamplefd });
    expect(kernel.ioctl(guest.vm, KVM_IRQFD, irqfd)).toBe(0);
    const told = () => {
      const count = new Uint8Array(8);
      return kernel.read(resamplefd, count) < 0 ? 0n : load64(count, 0);
    };
    guest.code(0xb0, 0x11, 0xe6, 0x20, ...LEAVE);
    kernel.write(fd, Uint8Array.of(1, 0, 0, 0, 0, 0, 0, 0));
    // on the real kernel the line goes up some time later
    const chip = new Uint8Array(KvmIrqchip.size);
    for (let i = 0; i < 100_000 && (chip[9] & (1 << 5)) === 0; i++)
      expect(kernel.ioctl(guest.vm, KVM_GET_IRQCHIP, chip)).toBe(0);
    expect(told()).toBe(0n);
    expect([guest.enter(), guest.exitReason]).toEqual([0, KVM_EXIT_IO]);
    expect(told()).toBe(1n);
  });
});

rule(
  "a step over HLT does not lay a vCPU down that has an interrupt waiting",
  (guestIn) => {
    for (const waits of [true, false]) {
      const guest = guestIn("prot32", withIrqchip);
      setApic(guest, { [SPIV]: 0x1ff });
      const { kernel, vm, vcpu } = guest;
      if (waits) kernel.ioctl(vm, KVM_SIGNAL_MSI, KvmMsi.encode({ address_lo: 0xfee0_0000, data: 0x41 }));
      // sti; hlt
      guest.code(0xfb, HLT, NOP);
      const debug = KvmGuestDebug.encode({ control: KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP });
      expect(kernel.ioctl(vcpu, KVM_SET_GUEST_DEBUG, debug)).toBe(0);
      for (const at of [1, 2]) {
        expect([guest.enter(), guest.exitReason]).toEqual([0, KVM_EXIT_DEBUG]);
        expect(guest.register("rip")).toBe(BigInt(CODE + at));
      }
      const state = new Uint8Array(4);
      expect(kernel.ioctl(vcpu, KVM_GET_MP_STATE, state)).toBe(0);
      // runnable, or halted
      expect([waits, state[0]]).toEqual([waits, waits ? 0 : 3]);
    }
  },
  ["mainline"],
);
