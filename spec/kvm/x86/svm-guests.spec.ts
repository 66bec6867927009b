/** What user space sees of AMD's module while a processor runs the guest: nested page faults, and events behind events. */
import { describe, expect, test } from "vitest";
import {
  KVM_CREATE_IRQCHIP,
  KVM_EXIT_INTERNAL_ERROR,
  KVM_EXIT_IO,
  KVM_GET_DIRTY_LOG,
  KVM_INTERRUPT,
  KVM_MEM_LOG_DIRTY_PAGES,
  KVM_SET_USER_MEMORY_REGION,
  KvmDirtyLog,
  KvmUserspaceMemoryRegion,
} from "../../../lib/abi/kvm.ts";
import { KVM_NMI, KVM_SET_VCPU_EVENTS, KvmSregs, KvmVcpuEvents } from "../../../lib/abi/kvm-x86.ts";
import { load32, store16, store32 } from "../../../lib/abi/struct.ts";
import { Machine } from "../../../lib/machine/machine.ts";
import { CODE, enableLapic, Guest, handlerAt, type Mode, moveDword } from "./guest.ts";
import { GP, le, sregs, UD } from "./rules.ts";
import { mainline } from "./vm.ts";

const NOP = 0x90;
const IRET = 0xcf;
/** out 0x80, al */
const LEAVE = [0xe6, 0x80];
const { exception, interrupt, nmi } = KvmVcpuEvents.offsetOf;

function guestIn(
  mode: Mode,
  prepare: (vm: number, process: ReturnType<Machine["process"]>) => void = () => {},
) {
  const process = new Machine(mainline).process();
  return new Guest(process, mode, (vm) => prepare(vm, process));
}

/** What KVM_GET_VCPU_EVENTS keeps: the last exception, with its code, and the last interrupt. */
function kept(guest: Guest) {
  const { events } = guest;
  return {
    vector: events[exception + 1],
    code: events[exception + 2] === 0 ? undefined : load32(events, exception + 4),
    interrupt: events[interrupt + 1],
  };
}

describe("an event that meets a page which the processor does not find by itself comes back to KVM", () => {
  /** mov es, selector: #GP with it as the code; the handler runs the rest */
  const fault = (selector: number) => [0xb8, ...le(selector, 4), 0x8e, 0xc0];

  test("an exception is seen, and one that meets none is not", () => {
    const guest = guestIn("prot32").code(...fault(0x78));
    // the handler divides by zero, on a stack that is there by now
    guest.memory.set([0x31, 0xc9, 0xf7, 0xf1], handlerAt(GP));
    guest.memory.set(LEAVE, handlerAt(0));
    expect([guest.enter(), guest.exitReason]).toEqual([0, KVM_EXIT_IO]);
    expect(Number(guest.register("rip"))).toBe(handlerAt(0));
    expect(kept(guest)).toEqual({ vector: GP, code: 0x78, interrupt: 0 });
  });

  test("nothing is seen where the stack was used before", () => {
    // push eax; pop eax; the table and the handlers are read by an INT before
    const guest = guestIn("prot32").code(0xcd, 0x30, ...fault(0x78));
    guest.memory[handlerAt(0x30)] = IRET;
    guest.memory.set(LEAVE, handlerAt(GP));
    expect([guest.enter(), guest.exitReason]).toEqual([0, KVM_EXIT_IO]);
    expect(kept(guest)).toEqual({ vector: 0, code: undefined, interrupt: 0x30 });
  });

  test("in real mode there is no code; INT3 and INTO are exceptions", () => {
    for (const [code, vector] of [
      [[0xcc], 3],
      [[0xb0, 0x7f, 0x04, 0x01, 0xce], 4],
    ] as const) {
      const guest = guestIn("real").code(...code);
      store16(guest.memory, 4 * vector, handlerAt(vector));
      guest.memory.set(LEAVE, handlerAt(vector));
      expect([guest.enter(), guest.exitReason]).toEqual([0, KVM_EXIT_IO]);
      expect(kept(guest)).toEqual({ vector, code: undefined, interrupt: 0 });
    }
  });
});

describe("dirty pages", () => {
  const PAGES = 32;
  const log = (guest: Guest, address: number) => {
    const bytes = guest.kernel.memory(address, 8)!;
    const ask = KvmDirtyLog.encode({ slot: 0, dirty_bitmap: BigInt(address) });
    expect(guest.kernel.ioctl(guest.vm, KVM_GET_DIRTY_LOG, ask)).toBe(0);
    return load32(bytes, 0);
  };

  test("a page that is read is mapped for writes, where it was ever written; once the log is read, writes alone count", () => {
    const guest = guestIn("prot32");
    const { kernel } = guest;
    const buffer = kernel.mmap(0, 0x1000, 3, 0x22, -1, 0);
    const region = KvmUserspaceMemoryRegion.encode({
      slot: 0,
      flags: KVM_MEM_LOG_DIRTY_PAGES,
      guest_phys_addr: 0n,
      memory_size: BigInt(PAGES * 4096),
      userspace_addr: BigInt(kernel.addressOf(guest.memory)),
    });
    expect(kernel.ioctl(guest.vm, KVM_SET_USER_MEMORY_REGION, region)).toBe(0);
    guest.memory[0x9000] = 1;
    const read = (address: number) => [0xa1, ...le(address, 4)];
    const code = [...read(0x9000), ...read(0xa000), ...moveDword(0xb000, 0), ...LEAVE];
    guest.code(...code);
    expect([guest.enter(), guest.exitReason]).toEqual([0, KVM_EXIT_IO]);
    expect(log(guest, buffer)).toBe((1 << 1) | (1 << 9) | (1 << 0xb));
    guest.registers({});
    expect([guest.enter(), guest.exitReason]).toEqual([0, KVM_EXIT_IO]);
    expect(log(guest, buffer)).toBe(1 << 0xb);
  });
});

describe("events behind events", () => {
  test("an NMI comes before the first instruction of the handler of an interrupt that user space gave", () => {
    const guest = guestIn("prot32").code(NOP);
    guest.memory.set([NOP, ...LEAVE], handlerAt(0x40));
    guest.memory.set([NOP, ...LEAVE], handlerAt(2));
    guest.registers({ rflags: 0x202 });
    expect(guest.kernel.ioctl(guest.vcpu, KVM_INTERRUPT, Uint8Array.of(0x40, 0, 0, 0))).toBe(0);
    expect(guest.kernel.ioctl(guest.vcpu, KVM_NMI, 0)).toBe(0);
    expect([guest.enter(), Number(guest.register("rip"))]).toEqual([0, handlerAt(2) + 1]);
    expect(load32(guest.memory, 0x8000 - 24)).toBe(handlerAt(0x40));
    expect(load32(guest.memory, 0x8000 - 12)).toBe(CODE);
  });

  test("an NMI that a guest sends itself comes with the next instruction", () => {
    const guest = guestIn("prot32", (vm, process) => process.ioctl(vm, KVM_CREATE_IRQCHIP, 0));
    const send = [...enableLapic, ...moveDword(0xfee0_0300, 0x4_0400)];
    guest.code(...send, NOP, NOP, ...LEAVE);
    guest.memory.set(LEAVE, handlerAt(2));
    expect([guest.enter(), Number(guest.register("rip"))]).toEqual([0, handlerAt(2)]);
    expect(load32(guest.memory, 0x8000 - 12)).toBe(CODE + send.length);
  });

  test("an IRET that returns to itself leaves NMIs masked: KVM looks whether RIP has moved", () => {
    const after = handlerAt(0x21);
    for (const [back, frame, interrupted] of [
      [CODE, 0x8000 - 12, after],
      [CODE + 1, 0x8000 - 24, CODE + 1],
    ]) {
      const guest = guestIn("prot32").code(IRET, IRET);
      guest.memory.set([...le(back, 4), ...le(8, 4), ...le(2, 4)], 0x8000 - 24);
      guest.memory.set([...le(after, 4), ...le(8, 4), ...le(2, 4)], 0x8000 - 12);
      guest.memory.set(LEAVE, after);
      guest.memory.set(LEAVE, handlerAt(2));
      const { events } = guest;
      events[nmi + 1] = events[nmi + 2] = 1;
      expect(guest.kernel.ioctl(guest.vcpu, KVM_SET_VCPU_EVENTS, events)).toBe(0);
      guest.registers({ rsp: 0x8000 - 24 });
      expect([guest.enter(), Number(guest.register("rip"))]).toEqual([0, handlerAt(2)]);
      expect([back, load32(guest.memory, frame)]).toEqual([back, interrupted]);
    }
  });
});

describe("MOVSS and MOVSD, which the processor knows and KVM's emulator does not", () => {
  const start = () => {
    const guest = guestIn("prot32");
    // CR4.OSFXSR
    const cr4 = KvmSregs.offsetOf.cr4;
    expect(sregs(guest, (bytes) => store32(bytes, cr4, load32(bytes, cr4) | 0x200))).toBe(0);
    return guest;
  };
  const load = (prefix: number, address: number) => [prefix, 0x0f, 0x10, 0x05, ...le(address, 4)];
  const store = (prefix: number, address: number) => [prefix, 0x0f, 0x11, 0x05, ...le(address, 4)];

  test("memory clears what is above it; so many bytes are stored", () => {
    for (const [prefix, width] of [
      [0xf3, 4],
      [0xf2, 8],
    ]) {
      const guest = start();
      guest.memory.fill(0xaa, 0x9000, 0x9020);
      // movups [0x9010], xmm0 shows all of the register
      guest.code(
        ...load(prefix, 0x9000),
        ...store(prefix, 0x9030),
        ...[0x0f, 0x11, 0x05, ...le(0x9010, 4)],
        ...LEAVE,
      );
      expect([guest.enter(), guest.exitReason]).toEqual([0, KVM_EXIT_IO]);
      const shown = Array.from({ length: 16 }, (_, i) => (i < width ? 0xaa : 0));
      expect([...guest.memory.subarray(0x9010, 0x9020)]).toEqual(shown);
      expect([...guest.memory.subarray(0x9030, 0x9040)]).toEqual(shown);
    }
  });

  test("from register to register the rest stays", () => {
    const guest = start();
    guest.memory.fill(0xaa, 0x9000, 0x9010);
    guest.memory.fill(0xbb, 0x9010, 0x9020);
    const movups = (register: number, address: number) => [
      0x0f,
      0x10,
      0x05 | (register << 3),
      ...le(address, 4),
    ];
    // movss xmm0, xmm1
    const code = [...movups(0, 0x9000), ...movups(1, 0x9010), 0xf3, 0x0f, 0x10, 0xc1];
    guest.code(...code, ...[0x0f, 0x11, 0x05, ...le(0x9020, 4)], ...LEAVE);
    expect([guest.enter(), guest.exitReason]).toEqual([0, KVM_EXIT_IO]);
    const shown = Array.from({ length: 16 }, (_, i) => (i < 4 ? 0xbb : 0xaa));
    expect([...guest.memory.subarray(0x9020, 0x9030)]).toEqual(shown);
  });

  test("at a device it is an internal error; MOVAPS with such a prefix is no instruction", () => {
    for (const code of [load(0xf3, 0xd000_0000), store(0xf2, 0xd000_0000)]) {
      const guest = start().code(...code);
      expect([guest.enter(), guest.exitReason]).toEqual([0, KVM_EXIT_INTERNAL_ERROR]);
    }
    for (const prefix of [0xf2, 0xf3]) {
      const guest = start().code(prefix, 0x0f, 0x28, 0xc1);
      guest.memory.set(LEAVE, handlerAt(UD));
      expect([guest.enter(), Number(guest.register("rip"))]).toEqual([0, handlerAt(UD)]);
    }
  });
});
