/**
 * From one ring to another: what returns and events check before they change anything. On pvm, on AMD's module, and where
 * it can be asked (pvm, live 6.18) on the real kernel.
 */
import { expect, onTestFinished, test } from "vitest";
import { KVM_GET_SREGS, KVM_SET_MSRS, KVM_SET_SREGS, KvmSregs } from "../../../lib/abi/kvm-x86.ts";
import { load16, load32, load64, store16, store32, store64 } from "../../../lib/abi/struct.ts";
import type { Syscalls } from "../../../lib/kernel/syscalls.ts";
import { Machine } from "../../../lib/machine/machine.ts";
import { nativeKernel } from "../../../lib/native/native.ts";
import { Guest } from "./guest.ts";
import { mainline } from "./vm.ts";

const native = nativeKernel();
const NOT_CANONICAL = 0x8000_0000_0000n;
const HANDLERS = 0x4000;
const STACK = 0x8000;
const TSS = 0x7000;
const GDT = 0x800;

/** 0x50 code of 64 bits for CPL 3, 0x58 data that is not present, 0x60 data of 4 KiB, 0x68 code of 4 KiB, 0x70 data of CPL 0, 4 KiB */
const more = [
  0x00af_fb00_0000_ffffn,
  0x00cf_7300_0000_ffffn,
  0x0040_f300_0000_0fffn,
  0x0040_fb00_0000_0fffn,
  0x0040_9300_0000_0fffn,
];
const CODE64 = 0x53;
const DATA = 0x4b;
const ABSENT = 0x5b;
const SMALL = 0x63;
const SMALL_CODE = 0x6b;

interface Scene {
  mode: "prot32" | "long";
  cpl: 0 | 3;
  code: number[];
  /** what the stack holds, words of the mode */
  stack?: (number | bigint)[];
  /** the stack of ring 0 in the TSS: RSP, or ESP and SS */
  inner?: [number | bigint, number?];
  registers?: Parameters<Guest["registers"]>[0];
  msrs?: [number, bigint][];
}

/** Plays a scene until a handler halts: its vector, its frame, and DS afterwards. */
function play(kernel: Syscalls, { mode, cpl, code, stack = [], inner, registers = {}, msrs = [] }: Scene) {
  const guest = new Guest(kernel, mode);
  const { memory } = guest;
  const long = mode === "long";
  const width = long ? 8 : 4;
  const store = long
    ? store64
    : (bytes: Uint8Array, at: number, v: number | bigint) => store32(bytes, at, Number(v));
  more.forEach((descriptor, i) => {
    store64(memory, GDT + 0x50 + 8 * i, descriptor);
  });
  const sregs = guest.get(KVM_GET_SREGS.number, KvmSregs.size);
  store16(sregs, KvmSregs.offsetOf.gdt + 8, 0x50 + 8 * more.length - 1);
  store32(sregs, KvmSregs.offsetOf.efer, load32(sregs, KvmSregs.offsetOf.efer) | (long ? 1 : 0));
  for (let i = 0; cpl === 3 && i < 6; i++) {
    store16(sregs, 24 * i + 12, i !== 0 ? DATA : long ? CODE64 : 0x43);
    sregs[24 * i + 16] = 3;
  }
  store64(sregs, 24 * 6, TSS);
  store32(sregs, 24 * 6 + 8, 0x67);
  sregs.set([0x30, 0, 11, 1, 0, 0, 0, 0, 0, 0, 0], 24 * 6 + 12);
  kernel.ioctl(guest.vcpu, KVM_SET_SREGS, sregs);
  const [pointer, selector = 0x10] = inner ?? [0x7e00];
  store(memory, TSS + 4, pointer);
  if (!long) store32(memory, TSS + 8, selector);
  const table = new Uint8Array(8 + 16 * msrs.length);
  store32(table, 0, msrs.length);
  msrs.forEach(([index, value], i) => {
    store32(table, 8 + 16 * i, index);
    store64(table, 16 + 16 * i, value);
  });
  expect(kernel.ioctl(guest.vcpu, KVM_SET_MSRS, table)).toBe(msrs.length);
  stack.forEach((value, i) => {
    store(memory, STACK + width * i, value);
  });
  // where those who get there go on: UD2
  memory.set([0x0f, 0x0b], 0x1100);
  guest.code(...code).registers({ rsp: STACK, ...registers });
  expect(guest.enter()).toBe(0);
  if (guest.exitReason !== 5) return guest.exitReason;
  const vector = Number((guest.register("rip") - 1n - BigInt(HANDLERS)) / 32n);
  const withCode = [8, 10, 11, 12, 13, 14].includes(vector);
  const top = Number(guest.register("rsp"));
  const word = (i: number) => (long ? Number(load64(memory, top + 8 * i)) : load32(memory, top + 4 * i));
  const [ip, cs, , sp, ss] = [0, 1, 2, 3, 4].map((i) => word(i + (withCode ? 1 : 0)));
  const ds = load16(guest.get(KVM_GET_SREGS.number, KvmSregs.size), 24 + 12);
  return { vector, ...(withCode && { code: word(0) }), ip, cs, sp, ss, ds };
}

const IRETQ = [0x48, 0xcf];
const RETFQ = [0x48, 0xcb];
const frame = (ip: number | bigint, cs: number, ss: number) => [ip, cs, 0x246, 0x7900, ss];
const shutDown = 8;
const failure = 17;
const here = { ip: 0x1000, sp: STACK };
const ring0 = { ...here, cs: 0x18, ss: 0x10, ds: 0x10 };
const ring3 = { ...here, cs: CODE64, ss: DATA, ds: DATA };
const arrived = { vector: 6, ip: 0x1100, cs: CODE64, sp: 0x7900, ss: DATA };
const high = Number(NOT_CANONICAL);
const star: [number, bigint] = [0xc000_0081, (0x43n << 48n) | (0x18n << 32n)];

/** What it is, the scene, and what comes of it under pvm and under AMD's module. */
const scenes: [string, Scene, object | number, object | number][] = [
  [
    "IRETQ to ring 3; pvm leaves the data segments",
    { mode: "long", cpl: 0, code: IRETQ, stack: frame(0x1100, CODE64, DATA) },
    { ...arrived, ds: 0x10 },
    { ...arrived, ds: 0 },
  ],
  [
    "IRETQ to where nothing can be: refused as a whole, or for pvm a fault there",
    { mode: "long", cpl: 0, code: IRETQ, stack: frame(NOT_CANONICAL, CODE64, SMALL) },
    { vector: 13, code: 0, ip: high, cs: CODE64, sp: 0x7900, ss: SMALL, ds: 0x10 },
    { vector: 13, code: 0, ...ring0 },
  ],
  [
    "the same from ring 3 to ring 3",
    { mode: "long", cpl: 3, code: IRETQ, stack: frame(NOT_CANONICAL, CODE64, SMALL) },
    { vector: 13, code: 0, ip: high, cs: CODE64, sp: 0x7900, ss: SMALL, ds: DATA },
    { vector: 13, code: 0, ...ring3 },
  ],
  [
    "IRETQ with a stack that is not present",
    { mode: "long", cpl: 0, code: IRETQ, stack: frame(0x1100, CODE64, ABSENT) },
    { vector: 12, code: ABSENT & ~3, ...ring0 },
    { vector: 12, code: ABSENT & ~3, ...ring0 },
  ],
  [
    "IRETQ to code that ends before its target",
    { mode: "long", cpl: 0, code: IRETQ, stack: frame(0x2000, SMALL_CODE, DATA) },
    { vector: 13, code: 0, ip: 0x2000, cs: SMALL_CODE, sp: 0x7900, ss: DATA, ds: 0x10 },
    { vector: 13, code: 0, ...ring0 },
  ],
  [
    "RETF to ring 3 at where nothing can be; Linux's emulator has no RETF to another ring",
    { mode: "long", cpl: 0, code: RETFQ, stack: [NOT_CANONICAL, CODE64, 0x7900, SMALL] },
    failure,
    { vector: 13, code: 0, ...ring0 },
  ],
  [
    "RETF to code of ring 3 that ends before its target: the frame of ring 0 has no stack, what lies behind it is RETF's",
    { mode: "prot32", cpl: 0, code: [0xcb], stack: [0x2000, SMALL_CODE, 0x7900, DATA] },
    failure,
    { vector: 13, code: 0, ...here, sp: 0x2000, cs: 8, ss: SMALL_CODE, ds: 0x10 },
  ],
  [
    "an exception of ring 3 whose inner stack is nowhere",
    { mode: "long", cpl: 3, code: [0x0f, 0x0b], inner: [NOT_CANONICAL] },
    shutDown,
    shutDown,
  ],
  [
    "an exception of ring 3 whose frame does not fit: #SS with the inner stack, again and again",
    { mode: "prot32", cpl: 3, code: [0x0f, 0x0b], inner: [0x7e00, 0x70] },
    { vector: 6, ip: 0x1000, cs: 0x43, sp: STACK, ss: DATA, ds: DATA },
    shutDown,
  ],
  [
    "SYSRET to where nothing can be, on AMD's processors and under pvm",
    {
      mode: "long",
      cpl: 0,
      code: [0x48, 0x0f, 0x07],
      registers: { rcx: NOT_CANONICAL, r11: 2 },
      msrs: [star],
    },
    { vector: 13, code: 0, ip: high, cs: CODE64, sp: STACK, ss: DATA, ds: 0x10 },
    { vector: 13, code: 0, ip: high, cs: CODE64, sp: STACK, ss: DATA, ds: 0x10 },
  ],
  [
    "SYSEXIT to where nothing can be",
    {
      mode: "long",
      cpl: 0,
      code: [0x48, 0x0f, 0x35],
      registers: { rdx: NOT_CANONICAL, rcx: 0x7900 },
      msrs: [[0x174, 0x30n]],
    },
    { vector: 13, code: 0, ...ring0 },
    { vector: 13, code: 0, ...ring0 },
  ],
  [
    "SYSEXIT to a stack that is nowhere",
    {
      mode: "long",
      cpl: 0,
      code: [0x48, 0x0f, 0x35],
      registers: { rdx: 0x1100, rcx: NOT_CANONICAL },
      msrs: [[0x174, 0x30n]],
    },
    { vector: 13, code: 0, ...ring0 },
    { vector: 13, code: 0, ...ring0 },
  ],
  [
    "SYSEXIT cuts its selectors to 16 bits",
    {
      mode: "long",
      cpl: 0,
      code: [0x48, 0x0f, 0x35],
      registers: { rdx: 0x1100, rcx: 0x7900 },
      msrs: [[0x174, 0xfff8n]],
    },
    { vector: 6, ip: 0x1100, cs: 0x1b, sp: 0x7900, ss: 0x23, ds: 0x10 },
    { vector: 6, ip: 0x1100, cs: 0x1b, sp: 0x7900, ss: 0x23, ds: 0x10 },
  ],
  [
    "SYSCALL out of ring 3 stays there under pvm",
    { mode: "long", cpl: 3, code: [0x0f, 0x05], msrs: [star, [0xc000_0082, 0x1100n]] },
    { vector: 6, ip: 0x1100, cs: CODE64, sp: STACK, ss: DATA, ds: DATA },
    { vector: 6, ip: 0x1100, cs: 0x18, sp: STACK, ss: 0x20, ds: DATA },
  ],
  [
    "INT3 of 64-bit code in ring 3: pvm does not ask its gate",
    { mode: "long", cpl: 3, code: [0xcc] },
    { vector: 3, ...ring3, ip: 0x1001 },
    { vector: 13, code: 8 * 3 + 2, ...ring3 },
  ],
  [
    "other software interrupts there are #UD under pvm",
    { mode: "long", cpl: 3, code: [0xcd, 0x80] },
    { vector: 6, ...ring3 },
    { vector: 13, code: 8 * 0x80 + 2, ...ring3 },
  ],
  [
    "VMCALL in ring 3 is refused with −EPERM, and the guest goes on",
    { mode: "long", cpl: 3, code: [0x0f, 0x01, 0xc1, 0x0f, 0x0b] },
    { vector: 6, ...ring3, ip: 0x1003 },
    { vector: 6, ...ring3, ip: 0x1003 },
  ],
  [
    "HLT in ring 3",
    { mode: "long", cpl: 3, code: [0xf4] },
    { vector: 13, code: 0, ...ring3 },
    { vector: 13, code: 0, ...ring3 },
  ],
];

const kernels: [string, (() => Syscalls) | undefined, 2 | 3][] = [
  ["pvm", () => new Machine().process(), 2],
  ["mainline", () => new Machine(mainline).process(), 3],
  [
    native.available ? "the real kernel" : `the real kernel: skipped, ${native.reason}`,
    native.available ? () => native.process() : undefined,
    2,
  ],
];

for (const [name, start, column] of kernels)
  test.skipIf(start === undefined).each(scenes)(`${name}: %s`, (...scene) => {
    const process = start!();
    onTestFinished(() => process.exit());
    expect(play(process, scene[1])).toEqual(scene[column]);
  });
