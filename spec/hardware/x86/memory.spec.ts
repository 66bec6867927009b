/** Paging, accesses that cross pages, and instructions that have to be run again. */
import { describe, expect, test } from "vitest";
import { load32, store32, store64 } from "../../../lib/abi/struct.ts";
import { EXCEPTION, EXIT_MMIO, PAGE_FAULT, RUNNING, WAITING } from "../../../lib/hardware/x86/memory.ts";
import {
  CR0,
  CR0_WP,
  CR3,
  CR4,
  EFER,
  RAX,
  RBX,
  RCX,
  RDI,
  RFLAGS,
  RIP,
  RSI,
  RSP,
} from "../../../lib/hardware/x86/state.ts";
import { processor, TABLES } from "./machine.ts";

const PRESENT = 1;
const WRITABLE = 2;
const USER = 4;
const ACCESSED = 0x20;
const DIRTY = 0x40;

describe("32-bit paging", () => {
  /** 0x400000 + n · 4 KiB leads to 0x10000 + n · 4 KiB with these rights */
  function paged(rights: number, cpl = 0) {
    const made = processor({ cpl });
    const { memory, state } = made;
    store32(memory, TABLES, 0x83 | USER);
    store32(memory, TABLES + 4, (TABLES + 0x1000) | PRESENT | WRITABLE | USER);
    for (let i = 0; i < 16; i++) store32(memory, TABLES + 0x1000 + 4 * i, (0x10000 + 0x1000 * i) | rights);
    state.c32[2 * CR3] = TABLES;
    state.c32[2 * CR4] = 0x10;
    state.c32[2 * CR0] |= 0x8000_0000;
    return made;
  }

  test("a read sets the accessed bit, a write the dirty bit too", () => {
    const { run, memory, state } = paged(PRESENT | WRITABLE | USER);
    store32(memory, 0x10010, 0x1234_5678);
    expect(run(0xa1, 0x10, 0x00, 0x40, 0x00)).toBe(RUNNING);
    expect(state.r32[2 * RAX]).toBe(0x1234_5678);
    expect(load32(memory, TABLES + 0x1000) & (ACCESSED | DIRTY)).toBe(ACCESSED);
    expect(run(0xa3, 0x14, 0x00, 0x40, 0x00)).toBe(RUNNING);
    expect(load32(memory, 0x10014)).toBe(0x1234_5678);
    expect(load32(memory, TABLES + 0x1000) & (ACCESSED | DIRTY)).toBe(ACCESSED | DIRTY);
    expect(load32(memory, TABLES + 4) & (ACCESSED | DIRTY)).toBe(ACCESSED);
  });

  // rights of the page, CPL, WP, write → error code, or −1 where it works
  const cases: [rights: number, cpl: number, wp: boolean, write: boolean, code: number][] = [];
  for (const rights of [0, PRESENT, PRESENT | WRITABLE, PRESENT | USER, PRESENT | WRITABLE | USER])
    for (const cpl of [0, 3])
      for (const wp of [false, true])
        for (const write of [false, true]) {
          const present = (rights & PRESENT) !== 0;
          const allowed =
            present &&
            (cpl === 0
              ? !write || !wp || (rights & WRITABLE) !== 0
              : (rights & USER) !== 0 && (!write || (rights & WRITABLE) !== 0));
          cases.push([
            rights,
            cpl,
            wp,
            write,
            allowed ? -1 : (present ? 1 : 0) | (write ? 2 : 0) | (cpl === 3 ? 4 : 0),
          ]);
        }
  test("40 combinations of rights, privilege, WP and access", () => expect(cases.length).toBe(40));
  test.each(cases)("rights %i, CPL %i, WP %s, write %s: %i", (rights, cpl, wp, write, code) => {
    const { run, cpu, state } = paged(rights, cpl);
    if (wp) state.c32[2 * CR0] |= CR0_WP;
    const stop = run(write ? 0xa3 : 0xa1, 0x10, 0x00, 0x40, 0x00);
    expect(stop).toBe(code < 0 ? RUNNING : EXCEPTION);
    if (code < 0) return;
    expect([cpu.memory.vector, cpu.memory.errorCode, cpu.memory.faultAddress]).toEqual([
      PAGE_FAULT,
      code,
      0x40_0010,
    ]);
    expect(state.r64[RIP]).toBe(0x1000n);
  });
});

describe("four levels", () => {
  test("both halves of the address space; what is not canonical is #GP, on the stack #SS", () => {
    const { run, state, memory, cpu } = processor({ long: true });
    store64(memory, TABLES + 8 * 256, TABLES + 0x1007);
    store32(memory, 0x6000, 77);
    state.r64[RBX] = 0xffff_8000_0000_6000n;
    expect(run(0x8b, 0x03)).toBe(RUNNING);
    expect(state.r32[2 * RAX]).toBe(77);
    state.r64[RBX] = 0x0000_8000_0000_0000n;
    expect(run(0x8b, 0x03)).toBe(EXCEPTION);
    expect([cpu.memory.vector, cpu.memory.errorCode]).toEqual([13, 0]);
    state.r64[RSP] = 0x0000_8000_0000_0008n;
    expect(run(0x50)).toBe(EXCEPTION);
    expect([cpu.memory.vector, cpu.memory.errorCode]).toEqual([12, 0]);
    expect(state.r64[RSP]).toBe(0x0000_8000_0000_0008n);
  });

  test("NX: with EFER.NX no code, without it a reserved bit", () => {
    for (const [efer, code] of [
      [0xd00, 0x11],
      [0x500, 0x9],
    ]) {
      const { cpu, state, memory, run } = processor({ long: true });
      state.c32[2 * EFER] = efer;
      store32(memory, TABLES + 0x2004, 0x8000_0000);
      expect(run(0x90)).toBe(EXCEPTION);
      expect([cpu.memory.vector, cpu.memory.errorCode]).toEqual([PAGE_FAULT, code]);
    }
  });

  test("a table that is written counts at once", () => {
    const { run, state, memory } = processor({ long: true });
    store64(memory, TABLES + 0x2008, 0x87);
    store32(memory, 0x6000, 1);
    state.r64[RBX] = 0x20_6000n;
    run(0x8b, 0x03);
    state.r64[RDI] = BigInt(TABLES + 0x2008);
    state.r64[RAX] = 0n;
    expect(run(0x48, 0x89, 0x07)).toBe(RUNNING);
    expect(run(0x8b, 0x03)).toBe(EXCEPTION);
  });
});

describe("devices", () => {
  test("an instruction that waits leaves everything as it was, and reads no device twice", () => {
    const { run, cpu, state, bus, memory } = processor();
    // movsd from a device to a device: read, exit, again; the write is posted
    state.r32[2 * RSI] = 0xd000_0000;
    state.r32[2 * RDI] = 0xd000_1000;
    expect(run(0xa5)).toBe(WAITING);
    expect([cpu.memory.exit, cpu.memory.exitAddress, cpu.memory.exitLength]).toEqual([
      EXIT_MMIO,
      0xd000_0000,
      4,
    ]);
    expect([state.r32[2 * RSI], state.r64[RIP]]).toEqual([0xd000_0000, 0x1000n]);
    cpu.memory.answer(Uint8Array.of(1, 2, 3, 4), 0, 4);
    expect(cpu.step()).toBe(RUNNING);
    expect(bus.seen).toEqual(["read d0000000 4", "write d0001000 1,2,3,4"]);
    expect([cpu.memory.postedCount, cpu.memory.postedAddress[0], cpu.memory.postedLength[0]]).toEqual([
      1, 0xd000_1000, 4,
    ]);
    expect([state.r32[2 * RSI], state.r64[RIP]]).toEqual([0xd000_0004, 0x1001n]);
    expect(memory[0x1000]).toBe(0xa5);
  });

  test("an access across the end of memory: memory, then the device", () => {
    const { run, cpu, bus, state, memory } = processor();
    memory.set([0xaa, 0xbb], 0x3fffe);
    bus.answers.set(0x40000, 0xddcc);
    state.r32[2 * RBX] = 0x3fffe;
    expect(run(0x8b, 0x03)).toBe(RUNNING);
    expect(state.r32[2 * RAX]).toBe(0xddcc_bbaa);
    expect(run(0x89, 0x03)).toBe(RUNNING);
    expect(bus.seen).toEqual(["read 40000 2", "write 40000 204,221"]);
    expect(cpu.memory.postedCount).toBe(0);
  });

  test("read-modify-write: flags are not changed before the answer", () => {
    const { run, cpu, state } = processor();
    state.r32[2 * RBX] = 0xd000_0000;
    state.r32[2 * RFLAGS] = 0x8d7;
    expect(run(0xff, 0x03)).toBe(WAITING);
    expect(state.r32[2 * RFLAGS]).toBe(0x8d7);
    cpu.memory.answer(Uint8Array.of(0xff, 0, 0, 0), 0, 4);
    expect(cpu.step()).toBe(RUNNING);
    expect(Array.from(cpu.memory.posted.subarray(0, 4))).toEqual([0, 1, 0, 0]);
  });

  test("REP goes on where it stopped", () => {
    const { run, cpu, state, memory } = processor();
    memory.set([1, 2, 3, 4, 5, 6], 0x3fffa);
    state.r32[2 * RSI] = 0x3fffa;
    state.r32[2 * RDI] = 0x6000;
    state.r32[2 * RCX] = 8;
    expect(run(0xf3, 0xa4)).toBe(WAITING);
    expect([state.r32[2 * RCX], cpu.memory.exitAddress]).toEqual([2, 0x40000]);
    cpu.memory.answer(Uint8Array.of(7), 0, 1);
    expect(cpu.step()).toBe(WAITING);
    expect([state.r32[2 * RCX], cpu.memory.exitAddress]).toEqual([1, 0x40001]);
    cpu.memory.answer(Uint8Array.of(8), 0, 1);
    while (state.r64[RIP] === 0x1000n) expect(cpu.step()).toBe(RUNNING);
    expect(Array.from(memory.subarray(0x6000, 0x6008))).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
  });
});
