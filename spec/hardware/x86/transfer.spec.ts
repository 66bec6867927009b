/** Interrupts, exceptions and returns, on a processor that does all of it. */
import { describe, expect, test } from "vitest";
import { load64, store32, store64 } from "../../../lib/abi/struct.ts";
import { EXCEPTION, RUNNING, UNHANDLED } from "../../../lib/hardware/x86/memory.ts";
import {
  CS,
  IF,
  RFLAGS,
  RIP,
  RSP,
  SHADOW_MOV_SS,
  SHADOW_STI,
  SS,
  TF,
} from "../../../lib/hardware/x86/state.ts";
import { gate, processor, TSS, word } from "./machine.ts";

const HANDLER = 0x4000;

describe("protected mode", () => {
  test("INT n and IRET on the same level", () => {
    const { cpu, run, state, memory } = processor();
    gate(memory, 0x30, 8, HANDLER, false);
    state.r32[2 * RFLAGS] = 0x246;
    expect(run(0xcd, 0x30)).toBe(RUNNING);
    expect([state.r64[RIP], state.r64[RSP], state.r32[2 * RFLAGS]]).toEqual([BigInt(HANDLER), 0x7ff4n, 0x46]);
    expect([word(memory, 0x7ff4), word(memory, 0x7ff8), word(memory, 0x7ffc)]).toEqual([0x1002, 8, 0x246]);
    expect(run(0xcf)).toBe(RUNNING);
    expect([state.r64[RIP], state.r64[RSP], state.r32[2 * RFLAGS]]).toEqual([0x1002n, 0x8000n, 0x246]);
    expect(cpu.stopped).toBe(false);
  });

  test("from CPL 3 the stack comes from the TSS, and IRET goes back out", () => {
    const { run, state, memory, cpu } = processor({ cpl: 3 });
    gate(memory, 0x80, 8, HANDLER, false, 3);
    store32(memory, TSS + 4, 0x9000);
    store32(memory, TSS + 8, 0x10);
    expect(run(0xcd, 0x80)).toBe(RUNNING);
    expect([state.cpl, state.segments[CS].selector, state.segments[SS].selector]).toEqual([0, 8, 0x10]);
    expect(state.r64[RSP]).toBe(0x9000n - 20n);
    expect([word(memory, 0x8ffc), word(memory, 0x8ff8), word(memory, 0x8ff0)]).toEqual([0x2b, 0x8000, 0x23]);
    expect(run(0xcf)).toBe(RUNNING);
    expect([state.cpl, state.segments[CS].selector, state.segments[SS].selector, state.r64[RSP]]).toEqual([
      3,
      0x23,
      0x2b,
      0x8000n,
    ]);
    expect(cpu.stopped).toBe(false);
  });

  test("INT n through a gate of a higher level is #GP with the gate", () => {
    const { run, cpu, memory, state } = processor({ cpl: 3 });
    gate(memory, 0x80, 8, HANDLER, false, 0);
    expect(run(0xcd, 0x80)).toBe(EXCEPTION);
    expect([cpu.memory.vector, cpu.memory.errorCode, state.r64[RSP]]).toEqual([13, 0x80 * 8 + 2, 0x8000n]);
  });

  test("what a device raises says so in the error code; an IDT that is too short", () => {
    const { cpu, state } = processor();
    state.idt.limit = 8 * 0x20 - 1;
    expect(cpu.deliver(0x20, "external", -1)).toBe(EXCEPTION);
    expect([cpu.memory.vector, cpu.memory.errorCode]).toEqual([13, 0x20 * 8 + 3]);
  });

  test.each([
    ["external", 0x11],
    ["software", 0x10],
  ] as const)(
    "a frame that does not fit an inner stack is #SS with its selector, and SS stays (%s)",
    (source, code) => {
      const { cpu, memory, state } = processor({ cpl: 3 });
      gate(memory, 0x80, 8, HANDLER, false, 3);
      store64(memory, 0x810, 0x0040_9300_0000_0fffn);
      store32(memory, TSS + 4, 0x9000);
      store32(memory, TSS + 8, 0x10);
      const before = { ...state.segments[SS] };
      if (source === "software") {
        memory.set([0xcd, 0x80], 0x1000);
        expect(cpu.step()).toBe(EXCEPTION);
      } else expect(cpu.deliver(0x80, source, -1)).toBe(EXCEPTION);
      expect([cpu.memory.vector, cpu.memory.errorCode, state.r64[RSP]]).toEqual([12, code, 0x8000n]);
      expect(state.segments[SS]).toEqual(before);
    },
  );

  test("an exception pushes its error code", () => {
    const { cpu, memory, state } = processor();
    gate(memory, 13, 8, HANDLER, false);
    expect(cpu.deliver(13, "exception", 0x18)).toBe(RUNNING);
    expect([word(memory, 0x7ff0), word(memory, 0x7ff4), state.r64[RSP]]).toEqual([0x18, 0x1000, 0x7ff0n]);
  });

  test.each([
    ["not present", 0x00cf_1b00_0000_ffffn, 11],
    ["data", 0x00cf_9300_0000_ffffn, 13],
    ["of CPL 3", 0x00cf_fb00_0000_ffffn, 13],
  ])("a far jump to a segment that is %s", (_what, descriptor, vector) => {
    const { run, cpu, memory, state } = processor();
    store64(memory, 0x808, descriptor);
    expect(run(0xea, 0, 0x20, 0, 0, 8, 0)).toBe(EXCEPTION);
    expect([cpu.memory.vector, cpu.memory.errorCode, state.r64[RIP]]).toEqual([vector, 8, 0x1000n]);
  });

  test("a gate as the target of a jump is outside of the subset", () => {
    const { run, memory } = processor();
    store64(memory, 0x808, 0x0000_8c00_0008_0000n);
    expect(run(0xea, 0, 0, 0, 0, 8, 0)).toBe(UNHANDLED);
  });
});

describe("64-bit mode", () => {
  test("INT n aligns the stack and pushes SS and RSP always; IRETQ takes them back", () => {
    const { run, state, memory } = processor({ long: true });
    gate(memory, 0x30, 0x18, HANDLER, true);
    state.r64[RSP] = 0x8005n;
    expect(run(0xcd, 0x30)).toBe(RUNNING);
    expect([state.r64[RIP], state.r64[RSP]]).toEqual([BigInt(HANDLER), 0x8000n - 40n]);
    expect([
      load64(memory, 0x7fd8),
      load64(memory, 0x7fe0),
      load64(memory, 0x7ff0),
      load64(memory, 0x7ff8),
    ]).toEqual([0x1002n, 0x18n, 0x8005n, 0x10n]);
    expect(run(0x48, 0xcf)).toBe(RUNNING);
    expect([state.r64[RIP], state.r64[RSP]]).toEqual([0x1002n, 0x8005n]);
  });

  test("an interrupt stack of the TSS, and from CPL 3 a null SS", () => {
    const { cpu, state, memory } = processor({ long: true, cpl: 3 });
    gate(memory, 2, 0x18, HANDLER, true);
    memory[0x3000 + 32 + 4] = 1;
    store64(memory, TSS + 36, 0x9000);
    expect(cpu.deliver(2, "external", -1)).toBe(RUNNING);
    expect([state.r64[RSP], state.segments[SS].selector, state.cpl, state.segments[CS].selector]).toEqual([
      0x9000n - 40n,
      0,
      0,
      0x18,
    ]);
  });
});

describe("interrupt shadow", () => {
  test("STI shadows one instruction, only if interrupts were off; MOV SS always", () => {
    const { run, state } = processor();
    run(0xfb);
    expect([state.shadow, state.r32[2 * RFLAGS] & IF]).toEqual([SHADOW_STI, IF]);
    run(0x90);
    expect(state.shadow).toBe(0);
    run(0xfb);
    expect(state.shadow).toBe(0);
    state.r32[0] = 0x10;
    run(0x8e, 0xd0);
    expect(state.shadow).toBe(SHADOW_MOV_SS);
  });

  test("IRET lets NMIs in again; a fault in it does not", () => {
    const { run, state, memory } = processor();
    state.nmiMasked = true;
    expect(run(0xcf)).toBe(EXCEPTION);
    expect(state.nmiMasked).toBe(true);
    [0x1100, 8, 0x2 | TF].forEach((value, i) => {
      store32(memory, 0x8000 + 4 * i, value);
    });
    expect(run(0xcf)).toBe(RUNNING);
    expect([state.nmiMasked, state.r32[2 * RFLAGS]]).toEqual([false, 0x2 | TF]);
  });
});
