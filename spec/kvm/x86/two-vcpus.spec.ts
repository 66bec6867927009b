/** Two vCPUs on threads of their own (`Process.run`): what one does wakes the other, in the same order every time. */
import { describe, expect, test } from "vitest";
import { EAGAIN, EINTR } from "../../../lib/abi/errno.ts";
import {
  KVM_CAP_ENFORCE_PV_FEATURE_CPUID,
  KVM_CREATE_IRQCHIP,
  KVM_CREATE_VCPU,
  KVM_ENABLE_CAP,
  KVM_EXIT_INTR,
  KVM_EXIT_IO,
  KVM_MP_STATE_RUNNABLE,
  KVM_RUN,
  KVM_SET_MP_STATE,
  KvmEnableCap,
} from "../../../lib/abi/kvm.ts";
import { KVM_HC_KICK_CPU, KVM_HC_SCHED_YIELD, KVM_HC_SEND_IPI } from "../../../lib/abi/kvm-para.ts";
import {
  KVM_GET_REGS,
  KVM_GET_SREGS,
  KVM_SET_REGS,
  KVM_SET_SREGS,
  KvmRegs,
  KvmSregs,
} from "../../../lib/abi/kvm-x86.ts";
import { load32, store32 } from "../../../lib/abi/struct.ts";
import type { Process } from "../../../lib/kernel/process.ts";
import { defaultProfile } from "../../../lib/machine/default-profile.ts";
import { Machine, type MachineOptions } from "../../../lib/machine/machine.ts";
import { settled } from "../settled.ts";
import { enableLapic, Guest, handlerAt, moveDword } from "./guest.ts";
import { mainline } from "./vm.ts";

const [STI, CLI, HLT, IRET] = [0xfb, 0xfa, 0xf4, 0xcf];
const SECOND_CODE = 0x2000;
const SECOND_STACK = 0x9000;
const COUNT = 0x6000;
const VECTOR = 0x45;
/** out port, al */
const out = (port: number) => [0xe6, port];
/** a fixed IPI of VECTOR to a LAPIC */
const ipi = (to: number, command = 0x4000 | VECTOR) => [
  ...moveDword(0xfee0_0310, to << 24),
  ...moveDword(0xfee0_0300, command),
];

/** Two vCPUs in 32-bit protected mode; the handler of VECTOR counts at COUNT and ends the interrupt. */
function pair(options: MachineOptions = {}, profile = mainline) {
  const machine = new Machine(profile, options);
  const process = machine.process();
  const guest = new Guest(process, "prot32", (vm) => process.ioctl(vm, KVM_CREATE_IRQCHIP, 0));
  const second = process.ioctl(guest.vm, KVM_CREATE_VCPU, 1);
  const sregs = new Uint8Array(KvmSregs.size);
  process.ioctl(guest.vcpu, KVM_GET_SREGS, sregs);
  store32(sregs, KvmSregs.offsetOf.apic_base, 0xfee0_0800);
  expect(process.ioctl(second, KVM_SET_SREGS, sregs)).toBe(0);
  const runnable = new Uint8Array(4);
  store32(runnable, 0, KVM_MP_STATE_RUNNABLE);
  expect(process.ioctl(second, KVM_SET_MP_STATE, runnable)).toBe(0);
  const regs = KvmRegs.encode({ rip: BigInt(SECOND_CODE), rsp: BigInt(SECOND_STACK), rflags: 2n });
  expect(process.ioctl(second, KVM_SET_REGS, regs)).toBe(0);
  const page = process.memory(process.mmap(0, 0x3000, 3, 1, second, 0), 0x3000)!;
  const handler = [0xff, 0x05, 0x00, 0x60, 0, 0, ...moveDword(0xfee0_00b0, 0), IRET];
  guest.memory.set(handler, handlerAt(VECTOR));
  return {
    machine,
    process,
    guest,
    second,
    page,
    secondCode: (...code: number[]) => guest.memory.set(code, SECOND_CODE),
    count: () => load32(guest.memory, COUNT),
  };
}

describe("an IPI", () => {
  test("of one wakes the other that sleeps: exactly one interrupt", async () => {
    const { process, guest, second, secondCode, count, page } = pair();
    secondCode(...enableLapic, STI, HLT, ...out(0x81));
    guest.code(...enableLapic, ...ipi(1), ...out(0x80));
    const sleeps = process.run(second);
    expect(await settled(sleeps)).toBe(false);
    expect([await process.run(guest.vcpu), guest.exitReason]).toEqual([0, KVM_EXIT_IO]);
    expect([await sleeps, load32(page, 8), count()]).toEqual([0, KVM_EXIT_IO, 1]);
  });

  test("to all but self, of each in turn: they wake one another until both have had enough", async () => {
    const { process, guest, second, secondCode, count } = pair();
    const rounds = 5;
    const volley = (first: boolean, port: number) => [
      ...enableLapic,
      ...(first ? ipi(0, 0xc_4000 | VECTOR) : []),
      ...Array.from({ length: rounds }, () => [STI, HLT, CLI, ...ipi(0, 0xc_4000 | VECTOR)]).flat(),
      ...out(port),
    ];
    secondCode(...volley(false, 0x81));
    guest.code(...volley(true, 0x80));
    const other = process.run(second);
    const one = process.run(guest.vcpu);
    expect(await Promise.all([one, other])).toEqual([0, 0]);
    // the last one of the second vCPU finds the first with interrupts off
    expect(count()).toBe(2 * rounds);
  });

  test("in a synchronous KVM_RUN wakes one that sleeps beside it", async () => {
    const { process, guest, second, secondCode, count } = pair();
    secondCode(...enableLapic, STI, HLT, ...out(0x81));
    guest.code(...enableLapic, ...ipi(1), ...out(0x80));
    const sleeps = process.run(second);
    await settled(sleeps);
    expect(process.ioctl(guest.vcpu, KVM_RUN, 0)).toBe(0);
    expect([await sleeps, count()]).toEqual([0, 1]);
  });

  test("INIT throws one that sleeps back to waiting for its start, and a startup IPI starts it", async () => {
    const { machine, process, guest, second, secondCode } = pair();
    secondCode(CLI, HLT);
    guest.memory.set([...out(0x82)], 0x8000);
    guest.code(...enableLapic, ...ipi(1, 0x4500), ...out(0x80), ...ipi(1, 0x4608), ...out(0x81));
    const sleeps = process.run(second);
    await settled(sleeps);
    expect(machine.kernel.naps.reports).toEqual(["vCPU 1 halted, interrupts off"]);
    await process.run(guest.vcpu);
    expect(await settled(sleeps)).toBe(false);
    expect(machine.kernel.naps.reports).toEqual(["vCPU 1 waits for a SIPI"]);
    await process.run(guest.vcpu);
    expect(await sleeps).toBe(0);
  });

  test("an NMI that waits makes a vCPU that waits for its start answer EAGAIN", async () => {
    const { process, guest } = pair();
    const third = process.ioctl(guest.vm, KVM_CREATE_VCPU, 2);
    guest.code(...enableLapic, ...ipi(2, 0x4400), ...out(0x80));
    const waits = process.run(third);
    expect(await settled(waits)).toBe(false);
    await process.run(guest.vcpu);
    expect(await waits).toBe(-EAGAIN);
  });
});

describe("a kick", () => {
  test("ends the run of the vCPU that it is for, and no other", async () => {
    const { process, guest, second, secondCode, page } = pair();
    secondCode(CLI, HLT);
    guest.code(CLI, HLT);
    const [one, other] = [process.run(guest.vcpu), process.run(second)];
    process.kick(second);
    expect([await other, load32(page, 8)]).toEqual([-EINTR, KVM_EXIT_INTR]);
    expect(await settled(one)).toBe(false);
    process.kick(guest.vcpu);
    expect(await one).toBe(-EINTR);
  });

  test("before a synchronous KVM_RUN is for that one alone", () => {
    const { process, guest } = pair();
    guest.code(...out(0x80));
    process.kick(guest.vcpu);
    expect([process.ioctl(guest.vcpu, KVM_RUN, 0), guest.exitReason]).toEqual([-EINTR, KVM_EXIT_INTR]);
    expect([process.ioctl(guest.vcpu, KVM_RUN, 0), guest.exitReason]).toEqual([0, KVM_EXIT_IO]);
  });
});

describe("a hypercall", () => {
  /** mov eax, number; mov ebx, ecx, edx, esi; VMMCALL; out */
  const call = (number: number, rbx = 0, rcx = 0, rdx = 0, rsi = 0) => {
    const bytes = [
      [0xb8, number],
      [0xbb, rbx],
      [0xb9, rcx],
      [0xba, rdx],
      [0xbe, rsi],
    ].flatMap(([opcode, value]) => {
      const operand = new Uint8Array(4);
      store32(operand, 0, value);
      return [opcode, ...operand];
    });
    return [...bytes, 0x0f, 0x01, 0xd9, ...out(0x80)];
  };
  const result = (process: Process, vcpu: number) => {
    const regs = new Uint8Array(KvmRegs.size);
    process.ioctl(vcpu, KVM_GET_REGS, regs);
    return load32(regs, 0) | 0;
  };

  test("KVM_HC_KICK_CPU takes a vCPU out of its halt, interrupts off: without an interrupt", async () => {
    const { process, guest, second, secondCode, count } = pair();
    secondCode(...enableLapic, CLI, HLT, ...out(0x81));
    guest.code(...call(KVM_HC_KICK_CPU, 0, 1));
    const sleeps = process.run(second);
    await settled(sleeps);
    expect([await process.run(guest.vcpu), result(process, guest.vcpu)]).toEqual([0, 0]);
    expect([await sleeps, count()]).toEqual([0, 0]);
  });

  test.each([
    ["the other", 0b10, 0, 0, 1, 1],
    ["both", 0b11, 0, 0, 2, 1],
    ["the other, counted from its id", 0b1, 0, 1, 1, 1],
    ["nobody is there", 0b1100, 0, 0, 0, 0],
    ["beyond the last id", 1, 1, 0x4000_0000, 0, 0],
  ])("KVM_HC_SEND_IPI to a set: %s", async (_name, low, high, from, taken, other) => {
    const { process, guest, second, secondCode, count } = pair();
    secondCode(...enableLapic, STI, HLT, ...out(0x81));
    guest.code(...enableLapic, ...call(KVM_HC_SEND_IPI, low, high, from, 0x4000 | VECTOR));
    const sleeps = process.run(second);
    await settled(sleeps);
    expect([await process.run(guest.vcpu), result(process, guest.vcpu)]).toEqual([0, taken]);
    expect([await settled(sleeps), count()]).toEqual([other === 1, other]);
    process.kick(second);
    await sleeps;
  });

  test("KVM_HC_SEND_IPI knows no logical destination and no shorthand", async () => {
    for (const icr of [0x800, 0x4_0000, 0x8_0000, 0xc_0000]) {
      const { process, guest } = pair();
      guest.code(...enableLapic, ...call(KVM_HC_SEND_IPI, 2, 0, 0, icr | VECTOR));
      expect([await process.run(guest.vcpu), result(process, guest.vcpu)]).toEqual([0, -22]);
    }
  });

  test("one that CPUID does not offer is unknown where CPUID is enforced", async () => {
    for (const number of [KVM_HC_KICK_CPU, KVM_HC_SEND_IPI, KVM_HC_SCHED_YIELD])
      for (const enforced of [false, true]) {
        const { process, guest } = pair();
        const enable = KvmEnableCap.encode({
          cap: KVM_CAP_ENFORCE_PV_FEATURE_CPUID,
          args: [enforced ? 1n : 0n, 0n, 0n, 0n],
        });
        expect(process.ioctl(guest.vcpu, KVM_ENABLE_CAP, enable)).toBe(0);
        guest.code(...call(number));
        await process.run(guest.vcpu);
        expect([number, result(process, guest.vcpu)]).toEqual([number, enforced ? -1000 : 0]);
      }
  });
});

describe("where both sleep", () => {
  test("the program is told what each waits for, once, and may still wake one", async () => {
    const told: (readonly string[])[] = [];
    const { process, guest, second, secondCode } = pair({ onAsleep: (reports) => told.push(reports) });
    secondCode(...enableLapic, STI, HLT, ...out(0x81));
    guest.code(CLI, HLT);
    const [one, other] = [process.run(guest.vcpu), process.run(second)];
    expect([await settled(one), await settled(other)]).toEqual([false, false]);
    expect(told.map((reports) => reports.toSorted())).toEqual([
      ["vCPU 0 halted, interrupts off", "vCPU 1 halted, interrupts on"],
    ]);
    process.kick(guest.vcpu);
    process.kick(second);
    expect(await Promise.all([one, other])).toEqual([-EINTR, -EINTR]);
    expect(told.length).toBe(1);
  });

  test("with a timer on the way nobody is told", async () => {
    const told: (readonly string[])[] = [];
    const { process, guest, second, secondCode, count } = pair({ onAsleep: (reports) => told.push(reports) });
    secondCode(CLI, HLT);
    guest.code(
      ...enableLapic,
      ...moveDword(0xfee0_0320, VECTOR),
      ...moveDword(0xfee0_0380, 1_000_000),
      ...[STI, HLT, ...out(0x80)],
    );
    const [one, other] = [process.run(guest.vcpu), process.run(second)];
    expect([await one, count()]).toEqual([0, 1]);
    expect(told).toEqual([]);
    process.kick(second);
    await other;
  });
});

describe("the order", () => {
  /** Each waits until the other has counted on, and counts on: `rounds` numbers written in turn. */
  const turn = (parity: number, port: number) => [
    // again: mov eax, [COUNT]; cmp eax, 10; jae done; and eax, 1; cmp eax, parity; jne again
    ...[0xa1, 0x00, 0x60, 0, 0, 0x83, 0xf8, 10, 0x73, 0x10, 0x83, 0xe0, 1, 0x83, 0xf8, parity, 0x75, 0xee],
    // inc dword [COUNT]; jmp again; done: out
    ...[0xff, 0x05, 0x00, 0x60, 0, 0, 0xeb, 0xe6],
    ...out(port),
  ];

  test.each([
    ["mainline", mainline],
    ["pvm", defaultProfile],
  ])("vCPUs that wait for each other in shared memory alternate (%s)", async (_name, profile) => {
    const { process, guest, second, secondCode, count } = pair({}, profile);
    guest.code(...turn(0, 0x80));
    secondCode(...turn(1, 0x81));
    expect(await Promise.all([process.run(guest.vcpu), process.run(second)])).toEqual([0, 0]);
    expect(count()).toBe(10);
  });

  test("is the same each time", async () => {
    const once = async () => {
      const order: string[] = [];
      const { process, guest, second, secondCode } = pair();
      secondCode(...enableLapic, STI, HLT, ...out(0x81), ...ipi(0), HLT, ...out(0x83));
      guest.code(...enableLapic, STI, ...ipi(1), HLT, ...out(0x80), ...ipi(1), ...out(0x82));
      const drive = async (name: string, fd: number, times: number) => {
        for (let i = 0; i < times; i++) order.push(`${name} ${await process.run(fd)}`);
      };
      await Promise.all([drive("second", second, 2), drive("first", guest.vcpu, 2)]);
      return order;
    };
    const first = await once();
    expect(first).toEqual(["second 0", "first 0", "first 0", "second 0"]);
    for (let i = 0; i < 5; i++) expect(await once()).toEqual(first);
  });
});
