/**
 * Gates, inner stacks and returns of protected mode and 64-bit code, where a processor runs the guest. KVM's emulator, which
 * runs it on pvm, knows neither INT n there nor returns to an outer level.
 */
import { describe, expect } from "vitest";
import { KVM_EXIT_IO } from "../../../lib/abi/kvm.ts";
import { KVM_GET_SREGS, KVM_SET_VCPU_EVENTS, KvmSregs, KvmVcpuEvents } from "../../../lib/abi/kvm-x86.ts";
import { load16, load32, store16, store32, store64 } from "../../../lib/abi/struct.ts";
import { CODE, type Guest } from "./guest.ts";
import { GP, type GuestIn, HANDLERS, HLT, outcome, rule, SS, sregs } from "./rules.ts";

const IDT = 0x3000;
const GDT = 0x800;
const TSS = 0x7000;
const VECTOR = 0x41;
const INT = [0xcd, VECTOR];
const TS = 10;

const selectorOf = (guest: Guest, segment: "cs" | "ss") =>
  KvmSregs.decode(guest.get(KVM_GET_SREGS.number, KvmSregs.size))[segment].selector;
/** A task with an inner stack at 0x8800. */
function task(guest: Guest, limit = 0x67, stack = 0x10): void {
  store32(guest.memory, TSS + 4, 0x8800);
  store16(guest.memory, TSS + 8, stack);
  sregs(guest, (bytes) => {
    const { tr } = KvmSregs.offsetOf;
    store64(bytes, tr, TSS);
    store32(bytes, tr + 8, limit);
    store16(bytes, tr + 12, 0x30);
    bytes.set([11, 1, 0, 0, 0, 0, 0, 0, 0], tr + 14);
  });
}
/** Protected mode at CPL 3. */
function outside(guest: Guest): void {
  const { cs, ds, es, fs, gs, ss } = KvmSregs.offsetOf;
  sregs(guest, (bytes) => {
    for (const at of [cs, ds, es, fs, gs, ss]) {
      store16(bytes, at + 12, at === cs ? 0x43 : 0x4b);
      bytes[at + 16] = 3;
    }
  });
}

const onProcessor = (title: string, body: (guestIn: GuestIn) => void) => rule(title, body, ["mainline"]);

describe("gates", () => {
  onProcessor("one of 16 bits pushes words", (guestIn) => {
    for (const [type, width] of [
      [0x86, 2],
      [0x87, 2],
      [0x8e, 4],
      [0x8f, 4],
    ]) {
      const guest = guestIn("prot32").code(...INT, HLT);
      guest.memory[IDT + 8 * VECTOR + 5] = type;
      expect([type, outcome(guest), guest.register("rsp")]).toEqual([
        type,
        VECTOR,
        BigInt(0x8000 - 3 * width),
      ]);
      const load = width === 2 ? load16 : load32;
      expect(load(guest.memory, 0x8000 - 3 * width)).toBe(CODE + 2);
    }
  });

  onProcessor(
    "one that leads to no code, or in 64-bit code to none of 64 bits, is #GP with the selector",
    (guestIn) => {
      for (const [mode, selector, vector] of [
        ["prot32", 0x08, VECTOR],
        ["prot32", 0x10, GP],
        ["prot32", 0x30, GP],
        ["long", 0x18, VECTOR],
        ["long", 0x08, GP],
        ["long", 0x10, GP],
      ] as const) {
        const guest = guestIn(mode).code(...INT, HLT);
        store16(guest.memory, IDT + (mode === "long" ? 16 : 8) * VECTOR + 2, selector);
        expect([mode, selector, outcome(guest)]).toEqual([mode, selector, vector]);
        if (vector === GP) expect(load32(guest.memory, Number(guest.register("rsp")))).toBe(selector);
      }
    },
  );

  onProcessor(
    "from CPL 3 the stack comes from the TSS: #TS where that is too short, or names no writable data of the new level",
    (guestIn) => {
      for (const [limit, stack, code] of [
        [0x67, 0x10, undefined],
        [9, 0x10, undefined],
        [8, 0x10, 0x30],
        [4, 0x10, 0x30],
        [0x67, 0x08, 0x08], // code
        [0x67, 0x4b, 0x48], // of another level
        [0x67, 0x48, 0x48], // of another level by its descriptor
        [0x67, 0x13, 0x10], // of another level by its selector
        [0x67, 0x30, 0x30], // a system segment
        [0x67, 0x50, 0x50], // read-only
      ] as const) {
        const guest = guestIn("prot32").code(...INT, HLT);
        const { memory } = guest;
        store64(memory, GDT + 0x50, 0x00cf_9100_0000_ffffn);
        memory[IDT + 8 * VECTOR + 5] = 0xee;
        // #TS is handled where it came from, and may leave
        store16(memory, IDT + 8 * TS + 2, 0x43);
        memory.set([0xe6, 0x80], HANDLERS + 32 * TS);
        task(guest, limit, stack);
        outside(guest);
        sregs(guest, (bytes) => store16(bytes, KvmSregs.offsetOf.gdt + 8, 0x57));
        guest.registers({ rflags: 0x3002 });
        expect(guest.enter()).toBe(0);
        const esp = Number(guest.register("rsp"));
        const at = Number(guest.register("rip"));
        if (code === undefined)
          expect([limit, stack, at]).toEqual([limit, stack, HANDLERS + 32 * VECTOR + 1]);
        else {
          expect([limit, stack, guest.exitReason, at]).toEqual([
            limit,
            stack,
            KVM_EXIT_IO,
            HANDLERS + 32 * TS,
          ]);
          // the selector, not from outside
          expect([limit, stack, load32(memory, esp)]).toEqual([limit, stack, code]);
        }
      }
    },
  );
});

describe("returns", () => {
  onProcessor(
    "to CPL 3 the stack is a writable data segment of that privilege, by RPL and DPL: else #GP with the selector",
    (guestIn) => {
      for (const opcode of [0xcb, 0xcf])
        for (const [selector, descriptor] of [
          [0x4b, undefined],
          [0x48, undefined], // RPL 0
          [0x49, undefined],
          [0x13, undefined], // DPL 0
          [0x43, undefined], // code
          [0x4b, 0x00cf_f100_0000_ffffn], // read-only
          [0x4b, 0x0000_e900_0000_ffffn], // a system segment
        ] as const) {
          const guest = guestIn("prot32").code(opcode);
          if (descriptor !== undefined) store64(guest.memory, GDT + 0x48, descriptor);
          task(guest);
          // eip, cs, [eflags,] esp, ss; there: hlt, which is #GP with 0
          const frame = [0x1100, 0x43, ...(opcode === 0xcf ? [2] : []), 0x9000, selector];
          guest.memory[0x1100] = HLT;
          frame.forEach((value, i) => {
            store32(guest.memory, 0x7f00 + 4 * i, value);
          });
          guest.registers({ rsp: 0x7f00 });
          expect(outcome(guest)).toBe(GP);
          const good = selector === 0x4b && descriptor === undefined;
          const code = load32(guest.memory, Number(guest.register("rsp")));
          expect([opcode, selector, code]).toEqual([opcode, selector, good ? 0 : selector & ~3]);
        }
    },
  );

  onProcessor("of 64-bit code to code of 32 bits: 32 bits of RIP and RSP", (guestIn) => {
    for (const [bytes, frame] of [
      [
        [0x48, 0xcf],
        [0x1_0000_1100, 8, 2, 0x1_0000_9000, 0x10],
      ],
      [
        [0x48, 0xcb],
        [0x1_0000_1100, 8],
      ],
    ] as const) {
      const guest = guestIn("long").code(...bytes);
      frame.forEach((value, i) => {
        store64(guest.memory, 0x7f00 + 8 * i, value);
      });
      // dec eax, which is a prefix in 64-bit code; push eax; hlt
      guest.memory.set([0x48, 0x50, HLT], 0x1100);
      guest.registers({ rsp: 0x7f00, rax: 0x1234 });
      expect(outcome(guest)).toBe("done");
      expect([guest.register("rip"), selectorOf(guest, "cs")]).toEqual([0x1103n, 8]);
      expect(load32(guest.memory, bytes[1] === 0xcf ? 0x8ffc : 0x7f0c)).toBe(0x1233);
    }
  });

  onProcessor("RETF of real mode whose stack faults changes nothing before the fault", (guestIn) => {
    const guest = guestIn("real").code(0xcb);
    sregs(guest, (bytes) => {
      const { cs } = KvmSregs.offsetOf;
      store64(bytes, cs, 0x1000);
      store16(bytes, cs + 12, 0x100);
    });
    guest.registers({ rip: 0, rsp: 0xffff });
    expect(outcome(guest)).toBe(SS);
    const sp = Number(guest.register("rsp"));
    expect([sp, load16(guest.memory, sp), load16(guest.memory, sp + 2)]).toEqual([0xfff9, 0, 0x100]);
  });
});

rule(
  "an event of real mode leaves nothing above ESP on pvm, a processor what was there",
  (guestIn, kernel) => {
    const guest = guestIn("real").code(HLT);
    guest.registers({ rsp: 0x5_0000_8000n });
    const { events } = guest;
    events[KvmVcpuEvents.offsetOf.nmi] = 1;
    expect(guest.kernel.ioctl(guest.vcpu, KVM_SET_VCPU_EVENTS, events)).toBe(0);
    expect([outcome(guest), guest.register("rsp")]).toEqual([
      2,
      kernel === "mainline" ? 0x5_0000_7ffan : 0x7ffan,
    ]);
  },
);

rule(
  "an NMI switches alignment checks off on pvm, and leaves them where a processor takes it",
  (guestIn, kernel) => {
    const AC = 0x4_0000n;
    const guest = guestIn("prot32").code(HLT);
    guest.registers({ rflags: AC | 2n });
    const { events } = guest;
    events[KvmVcpuEvents.offsetOf.nmi] = 1;
    expect(guest.kernel.ioctl(guest.vcpu, KVM_SET_VCPU_EVENTS, events)).toBe(0);
    expect([outcome(guest), guest.register("rflags") & AC]).toEqual([2, kernel === "mainline" ? AC : 0n]);
  },
);

rule(
  "IRET of 64-bit code to code that is not there is #GP with the selector, but with 0 on pvm unless it has REX.W",
  (guestIn, kernel) => {
    for (const [bytes, width] of [
      [[0xcf], 4],
      [[0x48, 0xcf], 8],
    ] as const) {
      const guest = guestIn("long").code(...bytes);
      [0x1100, 0x58, 2, 0x9000, 0x10].forEach((value, i) => {
        store32(guest.memory, 0x7f00 + width * i, value);
      });
      guest.registers({ rsp: 0x7f00 });
      expect(outcome(guest)).toBe(GP);
      const code = load32(guest.memory, Number(guest.register("rsp")));
      expect([width, code]).toEqual([width, kernel === "mainline" || width === 8 ? 0x58 : 0]);
    }
  },
);
