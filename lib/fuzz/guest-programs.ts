/**
 * Programs that run guests, of five kinds:
 *
 * - `code`: random machine code in every mode, with exits answered at random;
 * - `accesses`: plain accesses, made machine code, to everything that answers them: memory of every sort, ioeventfds,
 *   coalesced zones, interrupt controllers;
 * - `interrupts`: a guest that programs its interrupt controllers and handles interrupts, and a VMM that sends them
 *   between the KVM_RUNs in every way there is;
 * - `processors`: two or three processors that start and interrupt each other (guest-processors.ts);
 * - `rings`: a guest of two rings (guest-rings.ts);
 * - `bytes`: bytes by chance as machine code. It is no part of a campaign unless it is asked for: what is outside of the
 *   documented subset comes up in it.
 */
import fc from "fast-check";
import { KvmCoalescedMmioZone, KvmIoeventfd, KvmMsi } from "../abi/kvm.ts";
import type { StructType } from "../abi/struct.ts";
import type { Access } from "../hardware/guest-script.ts";
import { toHex } from "../trace/format.ts";
import { assembleEach, type Bits } from "./guest-code.ts";
import { Instructions, topics } from "./guest-instructions.ts";
import {
  bitsOf,
  CODE,
  DATA,
  DATA_SIZE,
  DEVICE,
  enterMode,
  HANDLER_SIZE,
  HANDLERS,
  IOAPIC,
  irqfds,
  LAPIC,
  type Mode,
  memorySlots,
  ODD_PAGES,
  poke,
  RESAMPLED,
  ROM,
  STACK,
  setRegisters,
  tables,
  vm,
} from "./guest-machine.ts";
import { processorProgram } from "./guest-processors.ts";
import { ringProgram } from "./guest-rings.ts";
import { GUEST_RAM, GUEST_ROM } from "./guest-run.ts";
import { opensKvm } from "./interpreter.ts";
import type { Operation, Part, Program } from "./program.ts";
import { onVm, pit, splitIrqchip } from "./programs.ts";
import { Random } from "./random.ts";
import { hexValue } from "./values.ts";

export const guestKinds = ["code", "accesses", "interrupts", "processors", "rings", "bytes"] as const;
/** The kinds of a campaign that names none. */
export const usualGuests = ["code", "accesses", "interrupts", "processors", "rings"] as const;
export type GuestKind = (typeof guestKinds)[number];

type Controllers = "kernel" | "split" | "none";

const HLT = "f4";
/** enough for every exit of a program, and few enough that one which exits for ever ends */
const RUNS = 40;
const RESULTS = 0xf000;
const TSS_ADDRESS = 0xfffb_d000;

/** Programs of these kinds. */
export const guestPrograms = (kinds: readonly GuestKind[]): fc.Arbitrary<Program> =>
  fc.noBias(fc.integer()).map((seed) => guestProgram(new Random(seed), kinds));

/** A program from chance. */
export function guestProgram(random: Random, kinds: readonly GuestKind[]): Program {
  const kind = random.pick(kinds);
  switch (kind) {
    case "code":
    case "bytes":
      return codeProgram(random, kind);
    case "accesses":
      return accessProgram(random);
    case "interrupts":
      return interruptProgram(random);
    case "rings":
      return ringProgram(random);
    case "processors":
      return processorProgram(random);
  }
}

// --- what every program begins with -----------------------------------------------------------------------------------

const bytesOf = (random: Random, count: number): string =>
  toHex(Uint8Array.from({ length: count }, () => random.below(256)));

interface Host {
  readonly controllers: Controllers;
  readonly withPit: boolean;
  readonly vcpus: number;
  readonly eventfds: number;
  readonly cpuid: boolean;
  readonly logged: boolean;
}

function begin({ controllers, withPit, vcpus, eventfds, cpuid, logged }: Host): Operation[] {
  const operations: Operation[] = [
    opensKvm,
    { op: "ioctl", on: { kind: "system", index: 0 }, request: "KVM_CREATE_VM", value: "0x0" },
    onVm("KVM_SET_TSS_ADDR", TSS_ADDRESS),
  ];
  if (controllers === "kernel") operations.push(onVm("KVM_CREATE_IRQCHIP", 0));
  if (controllers === "split") operations.push(splitIrqchip);
  if (withPit) operations.push(pit);
  operations.push(...memorySlots(logged));
  for (let id = 0; id < vcpus; id++) operations.push(onVm("KVM_CREATE_VCPU", id));
  if (cpuid)
    for (let index = 0; index < vcpus; index++)
      operations.push({ op: "cpuid", on: { kind: "vcpu", index }, edits: [] });
  for (let i = 0; i < eventfds; i++) operations.push({ op: "eventfd2", initval: 0, flags: 0x80800 });
  return operations;
}

/** What is looked at after each KVM_RUN. */
const partsOf = (controllers: Controllers, eventfds: number): Part[] => [
  "registers",
  "mp-state",
  ...(controllers === "none" ? [] : (["lapic"] as const)),
  ...(controllers === "kernel" ? (["chips"] as const) : []),
  ...(eventfds > 0 ? (["counters"] as const) : []),
];

const last: Operation = {
  op: "readback",
  parts: ["chips", "lapic", "mp-state", "dirty-log", "counters", "registers", "fpu"],
};

const struct = (type: StructType, values: object): string => toHex(type.encode(values as never));

// --- handlers -----------------------------------------------------------------------------------------------------------

const out = (port: number, value: number): string => `b0${hexValue(value, 1)}e6${hexValue(port, 1)}`;

/** mov dword [address], value */
const store = (bits: Bits, address: number, value: number): string =>
  toHex(assembleEach([{ does: "store", address, width: 4, value }], 0, bits)[0]);

/** How a handler goes back: IRET is none for KVM's emulator in protected mode, so RETF does it there. */
const back = (mode: Mode): string =>
  bitsOf(mode) === 64 ? "48cf" : mode === "real" || mode === "unreal" ? "cf" : "fbca0400";

/** Which ends of interrupt a handler sends. */
type Ends = readonly ("lapic" | "pic")[];

/** A handler of 32 bytes at most: it tells its vector at a port, ends the interrupt, and goes back. */
function handler(mode: Mode, vector: number, ends: Ends, told: boolean): string {
  if (vector < 32 && vector !== 1 && vector !== 2 && vector !== 3 && vector !== 4)
    return out(0xee, vector) + HLT;
  const bits = bitsOf(mode);
  return (
    (told ? out(0xee, vector) : "") +
    (ends.includes("lapic") && mode !== "real" && mode !== "prot16" ? store(bits, LAPIC + 0xb0, 0) : "") +
    (ends.includes("pic") ? `b020${vector >= 0x38 ? "e6a0" : ""}e620` : "") +
    back(mode)
  );
}

function handlers(mode: Mode, random: Random, ends: () => Ends): Operation {
  let bytes = "";
  for (let vector = 0; vector < 256; vector++)
    bytes += handler(mode, vector, ends(), random.chance(85)).padEnd(2 * HANDLER_SIZE, "0");
  return poke(HANDLERS, bytes);
}

// --- machine code -------------------------------------------------------------------------------------------------------

/** A value that is interesting for arithmetic. */
function edgeValue(random: Random, wide: boolean): bigint {
  const bits = wide ? 64n : 32n;
  const any = (BigInt(random.next()) << 32n) | BigInt(random.next());
  const value = random.pick([
    0n,
    1n,
    -1n,
    1n << (bits - 1n),
    0x7fn,
    0x80n,
    0xffffn,
    0x8000n,
    any,
    any,
    any & 0xffffn,
  ]);
  return BigInt.asUintN(Number(bits), value);
}

const codeModes: readonly Mode[] = [
  "real",
  "real",
  "unreal",
  "prot32",
  "prot32",
  "long",
  "long",
  "prot16",
  "paged32",
  "pae32",
];

function codeProgram(random: Random, kind: "code" | "bytes"): Program {
  const mode = random.pick(codeModes);
  const controllers = random.pick<Controllers>(["none", "none", "kernel", "split"]);
  const host = {
    controllers,
    withPit: false,
    vcpus: 1,
    eventfds: 0,
    cpuid: random.chance(40),
    logged: random.chance(25),
  };
  const instructions: string[] = [];
  if (kind === "bytes")
    for (let i = random.between(1, 4); i > 0; i--) instructions.push(bytesOf(random, random.between(1, 6)));
  else {
    const generator = new Instructions(random, mode, controllers !== "none");
    const weights = topics.map(() => random.pick([0, 0, 0, 1, 1, 3, 8]));
    weights[0] += 1;
    for (let i = random.between(2, 14); i > 0; i--)
      instructions.push(generator.piece(topics[random.weighted(weights)]));
  }
  const wide = mode === "long";
  const pointer = (): number => DATA + 0x100 + random.below(DATA_SIZE - 0x300);
  const value = () => edgeValue(random, wide);
  const counts = () => (random.chance(60) ? BigInt(random.below(20)) : value());
  const flags = random.pick([2, 0x8d7, 2 | (random.next() & 0x8d5), 0x202]);
  const registers = [
    value(),
    pointer(),
    counts(),
    value(),
    pointer(),
    pointer(),
    random.chance(95) ? STACK - 0x100 : random.pick([2, STACK, GUEST_RAM + 4, DATA + 1]),
    pointer(),
    ...Array.from({ length: 8 }, () => (wide ? value() : 0)),
    CODE,
    flags,
  ];
  const bases = {
    ds: random.pick([0, 0, 0x1_8000, 0x2_8000, 0x8000]),
    es: random.pick([0, 0, 0x1_8000, 0x2_8000]),
  };
  return [
    ...begin(host),
    ...tables(mode, random),
    handlers(mode, random, () => []),
    poke(DATA, bytesOf(random, DATA_SIZE)),
    { op: "code", at: CODE, instructions: [...instructions, HLT] },
    enterMode(mode, 0, bases),
    setRegisters(0, registers),
    {
      op: "run",
      on: { kind: "vcpu", index: 0 },
      times: RUNS,
      page: [],
      answers: bytesOf(random, 16),
      parts: partsOf(controllers, 0),
    },
    last,
  ];
}

// --- accesses -----------------------------------------------------------------------------------------------------------

const widths = [1, 2, 4] as const;
const portsOfDevices = [0x80, 0x3f8, 0x500, 0x501, 0x502, 0x7e];
const portsOfChips = [0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1];
/** of the PIT: channels 1 and 2 and the control word; channel 0 would tick */
const portsOfPit = [0x41, 0x42];
const lapicRegisters = [
  0x20, 0x30, 0x80, 0x90, 0xa0, 0xb0, 0xd0, 0xe0, 0xf0, 0x100, 0x170, 0x200, 0x270, 0x280, 0x300, 0x310,
  0x320, 0x330, 0x340, 0x350, 0x360, 0x370, 0x3e0,
];

const ICR = 0x300;

/** An interrupt command that is no INIT: a processor that resets itself while user space has to answer is left out. */
const withoutInit = (command: number): number => ((command & 0x700) === 0x500 ? command ^ 0x100 : command);

/** Addresses that devices share with nobody: in the hole behind RAM, and far away. */
const deviceAddress = (random: Random): number =>
  random.pick([GUEST_RAM + 0x100, DEVICE, DEVICE + 0x100]) + random.pick([0, 0, 0, 1, 2, 4, 8]);

function accessValue(random: Random): number {
  return random.pick([0, 1, 2, 0xff, 0x1234, 0x8000, 0xffff_ffff, random.next(), random.next() & 0xff]);
}

/** One access of a random guest. */
function someAccess(random: Random, chips: boolean): Access {
  const width = random.pick(widths);
  const value = accessValue(random);
  const move = (address: number): Access => {
    if (random.chance(45)) return { does: "load", address, width };
    return random.chance(8)
      ? { does: "store", address, width: 8, value: BigInt(value) | (BigInt(random.next()) << 32n) }
      : { does: "store", address, width, value };
  };
  switch (random.below(chips ? 10 : 6)) {
    case 0:
    case 1:
      return move(deviceAddress(random));
    case 2:
      return move(
        random.pick([
          GUEST_RAM - random.below(8),
          ROM - random.below(8),
          ROM + random.below(64),
          ROM + GUEST_ROM - random.below(8),
          DATA + random.below(DATA_SIZE),
          ODD_PAGES + random.below(0x4000),
        ]),
      );
    case 3:
    case 4: {
      const port = random.pick(portsOfDevices);
      return random.chance(40) ? { does: "in", port, width } : { does: "out", port, width, value };
    }
    case 5:
      return random.chance(25) ? { does: "halt" } : move(deviceAddress(random));
    case 6:
    case 7: {
      const register = random.pick(lapicRegisters);
      const address = LAPIC + register + (random.chance(5) ? random.below(16) : 0);
      const wide = random.chance(90) ? 4 : width;
      if (random.chance(45)) return { does: "load", address, width: wide };
      return { does: "store", address, width: wide, value: register === ICR ? withoutInit(value) : value };
    }
    case 8: {
      const address = IOAPIC + random.pick([0, 0x10, 0x10, 0x40, 4]);
      const wide = random.chance(85) ? 4 : width;
      if (random.chance(40)) return { does: "load", address, width: wide };
      const index = address === IOAPIC ? random.pick([0, 1, 2, 0x10 + random.below(50)]) : value;
      return { does: "store", address, width: wide, value: index };
    }
    default: {
      const byte = random.chance(90) ? 1 : width;
      if (random.chance(25))
        return random.chance(50)
          ? {
              does: "out",
              port: 0x43,
              width: 1,
              value: random.pick([0x40, 0x80]) | random.between(0x10, 0x3f),
            }
          : { does: "out", port: random.pick(portsOfPit), width: byte, value };
      const port = random.pick(portsOfChips);
      if (random.chance(40)) return { does: "in", port, width: byte };
      return {
        does: "out",
        port,
        width: byte,
        value: random.chance(50) ? value : random.pick([0x11, 0x20, 0x60, 0x0a, 0x0b, 0x0c, 0x68, 0x48]),
      };
    }
  }
}

/** ioeventfds and coalesced zones where accesses go. */
function registrations(random: Random, eventfds: readonly number[]): Operation[] {
  const operations: Operation[] = [];
  for (let i = random.below(5); i > 0; i--) {
    const port = random.chance(35);
    const len = random.pick([0, 1, 2, 4, 4, 8]);
    const value = random.pick([0, 1, 2, 0xff, 0x1234]);
    operations.push({
      op: "ioctl",
      on: vm,
      request: "KVM_IOEVENTFD",
      bytes: struct(KvmIoeventfd, {
        datamatch: random.chance(40) ? value : 0,
        addr: port ? random.pick([0x500, 0x501, 0x80]) : deviceAddress(random),
        len,
        flags: (port ? 2 : 0) | (random.chance(40) && len !== 0 ? 1 : 0),
      }),
      patches: [{ at: KvmIoeventfd.offsetOf.fd, file: { kind: "eventfd", index: random.pick(eventfds) } }],
    });
  }
  for (let i = random.below(4); i > 0; i--) {
    const port = random.chance(35);
    operations.push({
      op: "ioctl",
      on: vm,
      request: "KVM_REGISTER_COALESCED_MMIO",
      bytes: struct(KvmCoalescedMmioZone, {
        addr: port ? random.pick([0x500, 0x502]) : deviceAddress(random),
        size: random.pick([1, 2, 4, 8, 0x10, 0x100]),
        pio: port ? 1 : 0,
      }),
    });
  }
  return operations;
}

const accessModes: readonly Mode[] = ["prot32", "prot32", "long", "unreal"];

function accessProgram(random: Random): Program {
  const mode = random.pick(accessModes);
  const controllers = random.pick<Controllers>(["none", "kernel", "kernel", "split"]);
  const eventfds = 3;
  const withPit = controllers === "kernel" && random.chance(40);
  const host = {
    controllers,
    withPit,
    vcpus: 1,
    eventfds,
    cpuid: random.chance(30),
    logged: random.chance(40),
  };
  const accesses = Array.from({ length: random.between(3, 20) }, () =>
    someAccess(random, controllers === "kernel"),
  );
  const pieces = assembleEach(accesses, RESULTS, bitsOf(mode)).map(toHex);
  return [
    ...begin(host),
    ...registrations(random, [0, 1, 2]),
    ...tables(mode, random),
    handlers(mode, random, () => []),
    poke(DATA, bytesOf(random, 0x100)),
    { op: "code", at: CODE, instructions: [...pieces, HLT] },
    enterMode(mode, 0, { ds: 0, es: 0 }),
    setRegisters(0, [...new Array<number>(6).fill(0), STACK, ...new Array<number>(9).fill(0), CODE, 2]),
    {
      op: "run",
      on: { kind: "vcpu", index: 0 },
      times: RUNS,
      page: [],
      answers: bytesOf(random, 16),
      parts: partsOf(controllers, eventfds),
    },
    last,
  ];
}

// --- interrupts ---------------------------------------------------------------------------------------------------------

/** vectors of pins and messages */
const interruptVectors = [0x31, 0x32, 0x41, 0x51, 0x61, 0x62, 0x81, 0xf1];
const lines = [0, 1, 3, 4, 5, 7, 8, 9, 10, 11, 12, 16, 20, 23];

const LEVEL = 0x8000;
const MASKED = 0x1_0000;

/** How the guest sets its controllers up. */
function setUpControllers(random: Random, mode: Mode, controllers: Controllers): Access[] {
  const accesses: Access[] = [];
  const write = (address: number, value: number): void => {
    accesses.push({ does: "store", address, width: 4, value });
  };
  const outb = (port: number, value: number): void => {
    accesses.push({ does: "out", port, width: 1, value });
  };
  const mapped = mode !== "real" && mode !== "prot16";
  if (controllers !== "none" && mapped) {
    if (random.chance(85)) write(LAPIC + 0xf0, random.pick([0x1ff, 0x1ff, 0x100, 0x1ef, 0x11ff]));
    if (random.chance(20)) write(LAPIC + 0x80, random.pick([0, 0x20, 0x40, 0x60]));
    if (random.chance(20)) write(LAPIC + 0x350, random.pick([0x700, 0x1_0700, 0x500, 0x31, 0x8400]));
    if (random.chance(20)) write(LAPIC + 0x360, random.pick([0x400, 0x1_0400, 0x41]));
    if (random.chance(15)) write(LAPIC + 0xd0, random.pick([0x0100_0000, 0x0200_0000, 0]));
    if (random.chance(10)) write(LAPIC + 0xe0, random.pick([0xffff_ffff, 0x0fff_ffff]));
  }
  if (controllers === "kernel") {
    if (mapped)
      for (let i = random.between(0, 5); i > 0; i--) {
        const pin = random.pick(lines);
        const entry =
          random.pick(interruptVectors) |
          (random.chance(50) ? LEVEL : 0) |
          (random.chance(15) ? MASKED : 0) |
          (random.chance(10) ? random.pick([0x100, 0x400, 0x700, 0x800, 0x2000]) : 0);
        if (random.chance(30)) {
          write(IOAPIC, 0x11 + 2 * pin);
          write(IOAPIC + 0x10, random.pick([0, 0x0100_0000, 0xff00_0000]));
        }
        write(IOAPIC, 0x10 + 2 * pin);
        write(IOAPIC + 0x10, entry);
      }
    if (random.chance(60)) {
      outb(0x20, 0x11);
      outb(0x21, 0x30);
      outb(0x21, 4);
      outb(0x21, random.pick([1, 1, 3]));
      outb(0xa0, 0x11);
      outb(0xa1, 0x38);
      outb(0xa1, 2);
      outb(0xa1, random.pick([1, 1, 3]));
      if (random.chance(60)) outb(0x21, random.pick([0, 0xfb, 0xfe, 0x10]));
      if (random.chance(60)) outb(0xa1, random.pick([0, 0xef]));
      if (random.chance(30)) outb(0x4d0, random.pick([0x08, 0x20, 0xf8]));
    } else if (random.chance(70)) {
      outb(0x21, 0xff);
      outb(0xa1, 0xff);
    }
  }
  return accesses;
}

/** What the guest does between interrupts. */
function duties(random: Random, mode: Mode, controllers: Controllers): Access[] {
  const accesses: Access[] = [];
  const mapped = mode !== "real" && mode !== "prot16";
  for (let i = random.between(3, 12); i > 0; i--) {
    const choice = random.below(12);
    if (choice < 4) accesses.push({ does: "out", port: 0x80, width: 1, value: random.below(256) });
    else if (choice < 6) accesses.push({ does: "interrupts", on: random.chance(70) });
    else if (choice < 7) accesses.push({ does: "halt" });
    else if (!mapped || controllers === "none") accesses.push({ does: "in", port: 0x3f8, width: 1 });
    else if (choice < 8) accesses.push({ does: "eoi" });
    else if (choice < 9)
      accesses.push({
        does: "store",
        address: LAPIC + 0x80,
        width: 4,
        value: random.pick([0, 0x10, 0x30, 0x50, 0x70, 0xf0]),
      });
    else if (choice < 10)
      // an interrupt to itself
      accesses.push({
        does: "store",
        address: LAPIC + 0x300,
        width: 4,
        value:
          random.pick([0x4_0000, 0x8_0000, 0x4_0000]) |
          random.pick(interruptVectors) |
          (random.chance(15) ? random.pick([0x400, 0x800, 0xc000]) : 0),
      });
    else if (choice < 11 && controllers === "kernel") {
      const pin = random.pick(lines);
      accesses.push({ does: "store", address: IOAPIC, width: 4, value: 0x10 + 2 * pin });
      accesses.push({
        does: "store",
        address: IOAPIC + 0x10,
        width: 4,
        value:
          random.pick(interruptVectors) | (random.chance(50) ? LEVEL : 0) | (random.chance(30) ? MASKED : 0),
      });
    } else if (controllers === "kernel")
      accesses.push({
        does: "out",
        port: random.pick([0x20, 0xa0, 0x21, 0xa1]),
        width: 1,
        value: random.pick([0x20, 0x60, 0x0a, 0x0b, 0, 0xff, 0xef]),
      });
    else
      accesses.push({
        does: "load",
        address: LAPIC + random.pick([0x100, 0x110, 0x200, 0x210, 0xa0]),
        width: 4,
      });
  }
  return accesses;
}

/** What user space does between two KVM_RUNs. */
function injection(random: Random, controllers: Controllers): Operation {
  const vcpu = { kind: "vcpu", index: 0 } as const;
  const choice = random.below(controllers === "none" ? 2 : 10);
  switch (choice) {
    case 0:
      return {
        op: "ioctl",
        on: vcpu,
        request: "KVM_INTERRUPT",
        bytes: hexValue(random.pick(interruptVectors), 4),
      };
    case 1:
      return { op: "ioctl", on: vcpu, request: "KVM_NMI", value: "0x0" };
    case 2:
    case 3:
    case 4:
      return {
        op: "ioctl",
        on: vm,
        request: random.pick(["KVM_IRQ_LINE", "KVM_IRQ_LINE_STATUS"]),
        bytes: hexValue(random.pick(lines), 4) + hexValue(random.below(2), 4),
      };
    case 5:
    case 6:
      return { op: "write", on: { kind: "eventfd", index: random.below(3) }, bytes: hexValue(1, 8) };
    default:
      return {
        op: "ioctl",
        on: vm,
        request: "KVM_SIGNAL_MSI",
        bytes: struct(KvmMsi, {
          address_lo: 0xfee0_0000 | random.pick([0, 0, 0, 0xf_f000, 0x1000, 4, 8, 12]),
          data: random.pick(interruptVectors) | random.pick([0, 0, 0, 0, 0x100, 0x400, 0xc000, 0x8000]),
        }),
      };
  }
}

const interruptModes: readonly Mode[] = ["prot32", "long", "long", "unreal", "unreal", "real"];

function interruptProgram(random: Random): Program {
  const mode = random.pick(interruptModes);
  const controllers = random.pick<Controllers>(["kernel", "kernel", "kernel", "kernel", "split", "none"]);
  const eventfds = 4;
  const host = { controllers, withPit: false, vcpus: 1, eventfds, cpuid: random.chance(30), logged: false };
  const bits = bitsOf(mode);
  const first = setUpControllers(random, mode, controllers);
  const accesses: Access[] = [
    ...first,
    { does: "interrupts", on: random.chance(85) },
    ...duties(random, mode, controllers),
  ];
  const usable = mode === "real" ? accesses.filter(({ does }) => does !== "in") : accesses;
  const pieces = assembleEach(usable, RESULTS, bits).map(toHex);
  const rest: Operation[] = [];
  for (let i = random.between(3, 9); i > 0; i--) {
    for (let n = random.below(3); n > 0; n--) rest.push(injection(random, controllers));
    rest.push({
      op: "run",
      on: { kind: "vcpu", index: 0 },
      times: random.between(1, 6),
      page: controllers === "kernel" ? [] : [{ at: 0, bytes: hexValue(random.below(2), 1) }],
      answers: bytesOf(random, 16),
      parts: partsOf(controllers, eventfds),
    });
  }
  const ends = (): Ends => random.pick<Ends>([["lapic"], ["lapic"], ["lapic", "pic"], ["pic"], []]);
  // at its end the guest sleeps, and sleeps again after each interrupt
  return [
    ...begin(host),
    ...irqfds(random, lines, 45),
    // of an eventfd that is an irqfd too, it is a matter of threads when its interrupt comes
    ...(random.chance(15) ? registrations(random, [RESAMPLED]) : []),
    ...tables(mode, random),
    handlers(mode, random, ends),
    { op: "code", at: CODE, instructions: [...pieces, "f4", "ebfd"] },
    enterMode(mode, 0, { ds: 0, es: 0 }),
    setRegisters(0, [...new Array<number>(6).fill(0), STACK, ...new Array<number>(9).fill(0), CODE, 2]),
    ...rest,
    last,
  ];
}
