/**
 * Programs whose guest has two or three processors. Their KVM_RUNs take turns: what one does is what the next finds, so
 * every interrupt between them is sent while its target is not in the guest.
 *
 * The first processor starts the others, by INIT and startup IPIs of its local APIC, or user space does; then each of them
 * sends IPIs in every delivery mode to every sort of destination, changes its identity, reads what others wrote, rewrites
 * their code, and sleeps. User space sends interrupts, sets pins and changes MP states meanwhile.
 *
 * Guest physical memory, beside what guest-machine.ts says of it: 0x1000, 0xd000, 0xe000 the code of each processor, which
 * ends in a loop that sleeps at +0xe00 · 0x15000 what a processor runs that nobody meant to start · 0x16000 handlers of real
 * mode.
 *
 * Left out: timers (LAPIC, PIT), because when they fire is a matter of speed, and a processor that starts itself, because it
 * does so for ever. SIPI_RECEIVED as an MP state: with no startup IPI before it leads to where no code is.
 */
import { KVM_IRQ_ROUTING_MSI, KvmIrqRoutingEntry, KvmMsi } from "../abi/kvm.ts";
import { KvmSregs } from "../abi/kvm-x86.ts";
import type { StructType } from "../abi/struct.ts";
import type { Access } from "../hardware/guest-script.ts";
import { toHex } from "../trace/format.ts";
import { assembleEach, type Bits } from "./guest-code.ts";
import {
  bitsOf,
  CODE32,
  DATA,
  DATA32,
  enterMode,
  GDT,
  HANDLER_SIZE,
  HANDLERS,
  IDT,
  IOAPIC,
  irqfds,
  LAPIC,
  type Mode,
  memorySlots,
  poke,
  STACK,
  setRegisters,
  tables,
  vm,
} from "./guest-machine.ts";
import { opensKvm } from "./interpreter.ts";
import type { Operation, Part, Program } from "./program.ts";
import { onVm, splitIrqchip } from "./programs.ts";
import type { Random } from "./random.ts";
import { hexValue } from "./values.ts";

/** How a processor other than the first comes to run: by user space, by a startup IPI, or by one and on to 32 bits. */
type Start = "set" | "startup" | "trampoline";

interface Processor {
  readonly index: number;
  readonly id: number;
  readonly start: Start;
  readonly bits: Bits;
  readonly x2apic: boolean;
  /** its local APIC can be reached */
  readonly reaches: boolean;
  readonly code: number;
}

interface Plan {
  readonly random: Random;
  readonly controllers: "kernel" | "split";
  readonly processors: readonly Processor[];
  readonly cluster: boolean;
}

const CODES = [0x1000, 0xd000, 0xe000];
const LOOP = 0xe00;
const STRAY = 0x1_5000;
const REAL_HANDLERS = 0x1_6000;
const RESULTS = 0xf000;
const GDT_POINTER = 0xbe0;
const IDT_POINTER = 0xbe8;
const TSS_ADDRESS = 0xfffb_d000;
const X2APIC_MSRS = 0x800;
const IA32_APIC_BASE = 0x1b;

const vectors = [0x31, 0x32, 0x41, 0x51, 0x61, 0x62, 0x81, 0xf1];
const lines = [0, 1, 4, 5, 8, 9, 10, 12, 16, 23];
const LEVEL = 0x8000;
const MASKED = 0x1_0000;
const LOGICAL = 0x800;
const ASSERT = 0x4000;
const INIT = 0x500;
const STARTUP = 0x600;

const struct = (type: StructType, values: object): string => toHex(type.encode(values as never));
const bytesOf = (random: Random, count: number): string =>
  toHex(Uint8Array.from({ length: count }, () => random.below(256)));

// --- code ---------------------------------------------------------------------------------------------------------------

/** Writes the code of one processor, piece by piece. */
class Writer {
  readonly pieces: string[] = [];
  readonly #processor: Processor;
  #results: number;

  constructor(processor: Processor) {
    this.#processor = processor;
    this.#results = RESULTS + 0x400 * processor.index;
  }

  raw(...pieces: string[]): void {
    this.pieces.push(pieces.join(""));
  }

  access(...accesses: Access[]): void {
    const { bits } = this.#processor;
    for (const access of accesses) {
      this.pieces.push(toHex(assembleEach([access], this.#results, bits)[0]));
      if (access.does === "load" || access.does === "in") this.#results += 4;
    }
  }

  store(address: number, value: number): void {
    this.access({ does: "store", address, width: 4, value });
  }

  #immediate(opcode: string, value: number): string {
    return (this.#processor.bits === 16 ? "66" : "") + opcode + hexValue(value >>> 0, 4);
  }

  /** mov ecx, eax, edx; WRMSR */
  wrmsr(msr: number, lo: number, hi = 0): void {
    this.raw(this.#immediate("b9", msr), this.#immediate("b8", lo), this.#immediate("ba", hi), "0f30");
  }

  /** RDMSR, and what it read goes to a port */
  rdmsr(msr: number): void {
    this.raw(this.#immediate("b9", msr), "0f32", "e680");
  }

  /** Writes a register of the local APIC. */
  lapic(register: number, value: number): void {
    if (this.#processor.x2apic) this.wrmsr(X2APIC_MSRS + (register >>> 4), value);
    else this.store(LAPIC + register, value);
  }

  readLapic(register: number): void {
    if (this.#processor.x2apic) this.rdmsr(X2APIC_MSRS + (register >>> 4));
    else this.access({ does: "load", address: LAPIC + register, width: 4 });
  }

  /** Sends an IPI; `destination` is 8 bits wide, or 32. */
  ipi(command: number, destination: number): void {
    if (this.#processor.x2apic) this.wrmsr(X2APIC_MSRS + 0x30, command, destination);
    else {
      this.store(LAPIC + 0x310, destination << 24);
      this.store(LAPIC + 0x300, command);
    }
  }
}

/** From real mode to 32 bits, flat. */
function trampoline(at: number, stack: number): string {
  const first = `fa0f0116${hexValue(GDT_POINTER, 2)}0f20c00c010f22c0`;
  const jump = (to: number) => `66ea${hexValue(to, 4)}${hexValue(CODE32, 2)}`;
  const length = (first.length + jump(0).length) / 2;
  return `${first}${jump(at + length)}66b8${hexValue(DATA32, 2)}8ed88ec08ed0bc${hexValue(stack, 4)}0f011d${hexValue(IDT_POINTER, 4)}`;
}

/** sleep; tell it; again */
const sleepLoop = (told: number): string[] => ["f4", `b0${hexValue(told, 1)}e680`, "ebf9"];

const stackOf = (index: number): number => STACK - 0x600 * index;

// --- handlers -----------------------------------------------------------------------------------------------------------

type Ends = "lapic" | "x2apic" | "nobody";

/** A handler of 32 bytes: it tells its vector at a port, ends the interrupt, and goes back. */
function handler(bits: Bits, vector: number, ends: Ends): string {
  const tells = `b0${hexValue(vector, 1)}e6ee`;
  if (vector < 32 && vector !== 2) return `${tells}f4ebfd`;
  const wide = bits === 16 ? "66" : "";
  const back = bits === 64 ? "48cf" : bits === 16 ? "cf" : "fbca0400";
  if (ends === "x2apic")
    return `${tells}${wide}50${wide}51${wide}52${wide}b90b080000${wide}31c0${wide}31d20f30${wide}5a${wide}59${wide}58${back}`;
  const eoi = `${toHex(assembleEach([{ does: "store", address: LAPIC + 0xb0, width: 4, value: 0 }], 0, bits)[0])}`;
  return tells + (ends === "lapic" ? eoi : "") + back;
}

function handlers(at: number, bits: Bits, ends: () => Ends): Operation {
  let bytes = "";
  for (let vector = 0; vector < 256; vector++)
    bytes += handler(bits, vector, ends()).padEnd(2 * HANDLER_SIZE, "0");
  return poke(at, bytes);
}

/** The vectors of real mode. */
function realVectors(): Operation {
  let table = "";
  for (let vector = 0; vector < 256; vector++)
    table += hexValue(HANDLER_SIZE * vector, 2) + hexValue(REAL_HANDLERS >>> 4, 2);
  return poke(0, table);
}

// --- what processors do -------------------------------------------------------------------------------------------------

/** A destination as a processor's local APIC spells it: physical, or logical. */
function destination({ random, processors, cluster }: Plan, logical: boolean, x2apic: boolean): number {
  if (random.chance(8)) return random.pick([0xff, 0, 9, x2apic ? 0xffff_ffff : 0x0f]);
  const someone = random.pick(processors);
  if (!logical) return someone.id;
  const others = processors.filter((other) => other === someone || random.chance(50));
  if (x2apic) {
    let bits = ((someone.id >>> 4) << 16) >>> 0;
    for (const { id } of others) bits |= 1 << (id & 15);
    return bits >>> 0;
  }
  let bits = cluster ? 0x10 : 0;
  for (const { index } of others) bits |= 1 << index;
  return bits;
}

/** The page that a startup IPI to a processor names. */
const startPage = ({ start, code }: Processor): number => (start === "set" ? STRAY : code) >>> 12;

/** INIT, and two startup IPIs; sometimes not all of them. */
function starts(plan: Plan, writer: Writer, { x2apic }: Processor, target: Processor): void {
  const { random } = plan;
  const everybody = random.chance(10) ? 0xc_0000 : 0;
  const send = (command: number) => {
    if (random.chance(92)) writer.ipi(command | everybody, target.id);
  };
  send(random.pick([0xc500, 0x4500, 0x4500]));
  if (random.chance(30)) send(0x8500);
  send((x2apic || random.chance(50) ? 0x4600 : 0x600) | startPage(target));
  if (random.chance(60)) send(0x600 | startPage(target));
}

function randomIpi(plan: Plan, writer: Writer, from: Processor): void {
  const { random, processors } = plan;
  const mode = random.pick([0, 0, 0, 0, 0x100, 0x100, 0x200, 0x300, 0x400, 0x400, INIT, STARTUP, 0x700]);
  const logical = random.chance(45);
  const shorthand = random.chance(30) ? random.pick([0x4_0000, 0x8_0000, 0xc_0000]) : 0;
  const vector = mode === STARTUP ? startPage(random.pick(processors)) : random.pick(vectors);
  const command =
    mode |
    vector |
    shorthand |
    (logical ? LOGICAL : 0) |
    (random.chance(85) ? ASSERT : 0) |
    (random.chance(12) ? LEVEL : 0);
  writer.ipi(command, destination(plan, logical, from.x2apic));
}

/** Sets a pin of the IOAPIC. */
function setPin(plan: Plan, writer: Writer): void {
  const { random } = plan;
  const pin = random.pick(lines);
  const logical = random.chance(40);
  if (random.chance(75)) {
    writer.store(IOAPIC, 0x11 + 2 * pin);
    writer.store(IOAPIC + 0x10, destination(plan, logical, false) << 24);
  }
  writer.store(IOAPIC, 0x10 + 2 * pin);
  writer.store(
    IOAPIC + 0x10,
    random.pick(vectors) |
      (logical ? LOGICAL : 0) |
      (random.chance(55) ? LEVEL : 0) |
      (random.chance(12) ? MASKED : 0) |
      (random.chance(25) ? random.pick([0x100, 0x100, 0x400, INIT, 0x700]) : 0),
  );
}

/** How a processor sets its local APIC up. */
function setUp(plan: Plan, writer: Writer, { index, x2apic }: Processor): void {
  const { random, cluster } = plan;
  if (random.chance(90)) writer.lapic(0xf0, random.pick([0x1ff, 0x1ff, 0x1ff, 0x11ff, 0xff]));
  if (!x2apic && (cluster || random.chance(5))) writer.store(LAPIC + 0xe0, 0x0fff_ffff);
  if (!x2apic && random.chance(75))
    writer.store(LAPIC + 0xd0, (((cluster ? 0x10 : 0) | (1 << index)) << 24) >>> 0);
  if (random.chance(10)) writer.lapic(0x80, random.pick([0x10, 0x40, 0x60]));
  if (random.chance(15)) writer.lapic(0x350, random.pick([0x700, 0x1_0700, 0x400]));
  if (random.chance(15)) writer.lapic(0x360, random.pick([0x400, 0x1_0400]));
}

function duty(plan: Plan, writer: Writer, self: Processor): void {
  const { random, processors, controllers } = plan;
  const other = random.pick(processors);
  const shared = DATA + 4 * random.below(4);
  switch (random.weighted(self.reaches ? everyDuty : dutiesWithoutLapic)) {
    case 0:
      writer.access({ does: "out", port: 0x80, width: 1, value: random.below(256) });
      break;
    case 1:
      writer.access({ does: "interrupts", on: random.chance(75) });
      break;
    case 2:
      writer.access({ does: "halt" });
      break;
    case 3:
      writer.store(shared, random.next());
      break;
    case 4:
      writer.access({ does: "load", address: shared, width: 4 });
      break;
    case 5:
      // the code that another one sleeps in: mov al; out 0x81
      writer.store(other.code + LOOP + 1, (0x81e6_00b0 | (random.below(256) << 8)) >>> 0);
      break;
    case 6:
      randomIpi(plan, writer, self);
      break;
    case 7:
      writer.lapic(0xb0, 0);
      break;
    case 8:
      // one that starts itself does so for ever
      if (other !== self) starts(plan, writer, self, other);
      break;
    case 9:
      writer.lapic(0x80, random.pick([0, 0x10, 0x30, 0x50, 0xf0]));
      break;
    case 10:
      writer.readLapic(random.pick([0x20, 0xd0, 0xa0, 0x100, 0x110, 0x200, 0x210, 0x300]));
      break;
    case 11:
      identity(plan, writer, self);
      break;
    default:
      if (controllers === "kernel" && self.bits !== 16) setPin(plan, writer);
      else randomIpi(plan, writer, self);
  }
}

/** How often each of the duties is drawn. */
const dutiesWithoutLapic = [2, 2, 2, 1, 1, 1];
const everyDuty = [2, 2, 2, 1, 1, 1, 7, 1, 1, 1, 1, 1, 2];

/** Who a processor is, and whether it is there at all, changes. */
function identity({ random }: Plan, writer: Writer, { x2apic, id }: Processor): void {
  switch (random.below(5)) {
    case 0:
      writer.lapic(0xf0, random.pick([0x1ff, 0xff]));
      break;
    case 1:
      writer.lapic(0xd0, ((1 << random.below(3)) << 24) >>> 0);
      break;
    case 2:
      writer.lapic(0x20, (random.below(4) << 24) >>> 0);
      break;
    case 3:
      writer.lapic(0xe0, random.pick([0xffff_ffff, 0x0fff_ffff]));
      break;
    default: {
      const bsp = id === 0 ? 0x100 : 0;
      const mode = random.pick([0x800, 0xc00, 0, x2apic ? 0xc00 : 0x800]);
      writer.wrmsr(IA32_APIC_BASE, (0xfee0_0000 | mode | bsp) >>> 0);
    }
  }
}

// --- the program --------------------------------------------------------------------------------------------------------

function codeOf(plan: Plan, self: Processor): Operation[] {
  const { random, processors } = plan;
  const writer = new Writer(self);
  if (self.start === "startup") writer.raw(`bc${hexValue(stackOf(self.index), 2)}`);
  if (self.start === "trampoline") writer.raw(trampoline(self.code, stackOf(self.index)));
  if (self.reaches) setUp(plan, writer, self);
  if (random.chance(80)) writer.access({ does: "interrupts", on: true });
  if (self.index === 0) {
    if (plan.controllers === "kernel" && self.bits !== 16)
      for (let i = random.below(5); i > 0; i--) setPin(plan, writer);
    if (self.reaches)
      for (const other of processors)
        if (other.start !== "set" && random.chance(85)) starts(plan, writer, self, other);
  }
  for (let i = random.between(2, 9); i > 0; i--) duty(plan, writer, self);
  const loop = self.code + LOOP;
  // push; RET: real mode that was started has its segment at the code
  const jump = `68${hexValue(self.start === "startup" ? LOOP : loop, self.bits === 16 ? 2 : 4)}c3`;
  return [
    { op: "code", at: self.code, instructions: [...writer.pieces, jump] },
    { op: "code", at: loop, instructions: sleepLoop(random.below(256)) },
  ];
}

const APIC_BASE_AT = KvmSregs.offsetOf.apic_base;

/** The registers of a processor before anything runs. */
function registersOf(self: Processor, mode: Mode): Operation[] {
  const on = { kind: "vcpu", index: self.index } as const;
  const base = (0xfee0_0800 | (self.x2apic ? 0x400 : 0) | (self.id === 0 ? 0x100 : 0)) >>> 0;
  const edit = { at: APIC_BASE_AT, bytes: hexValue(base, 8) };
  if (self.start !== "set")
    return self.x2apic
      ? [
          {
            op: "modify",
            on,
            get: "KVM_GET_SREGS",
            set: "KVM_SET_SREGS",
            size: KvmSregs.size,
            head: "",
            edits: [edit],
          },
        ]
      : [];
  const entered = enterMode(mode, self.index, { ds: 0, es: 0 });
  if (entered.op !== "modify") return [];
  const registers = new Array<number>(18).fill(0);
  registers[6] = stackOf(self.index);
  registers[16] = self.code;
  registers[17] = 2;
  return [
    { ...entered, edits: self.x2apic ? [...entered.edits, edit] : entered.edits },
    setRegisters(self.index, registers),
    ...(self.index === 0 ? [] : [setMpState(self.index, 0)]),
  ];
}

const setMpState = (index: number, state: number): Operation => ({
  op: "ioctl",
  on: { kind: "vcpu", index },
  request: "KVM_SET_MP_STATE",
  bytes: hexValue(state, 4),
});

/** Messages, most of them level-triggered, on the pins of an IOAPIC in user space. */
function routes(plan: Plan): Operation {
  const { random } = plan;
  const count = random.between(1, 4);
  let bytes = hexValue(count, 4) + hexValue(0, 4);
  for (let gsi = 0; gsi < count; gsi++)
    bytes += struct(KvmIrqRoutingEntry, { gsi, type: KVM_IRQ_ROUTING_MSI, u: { msi: message(plan) } });
  return { op: "ioctl", on: vm, request: "KVM_SET_GSI_ROUTING", bytes };
}

/** Address and data of a message to some processor. */
function message(plan: Plan): { address_lo: number; data: number } {
  const { random } = plan;
  const logical = random.chance(40);
  const id = destination(plan, logical, false) & 0xff;
  return {
    address_lo: (0xfee0_0000 | (id << 12) | (logical ? 4 : 0) | (random.chance(15) ? 8 : 0)) >>> 0,
    data: random.pick(vectors) | random.pick([0x8000, 0xc000, 0xc000, 0, 0x100, 0x8100]),
  };
}

const capability = (cap: number, first: number): Operation => ({
  op: "ioctl",
  on: vm,
  request: "KVM_ENABLE_CAP",
  bytes: (hexValue(cap, 4) + hexValue(0, 4) + hexValue(first, 8)).padEnd(208, "0"),
});
const KVM_CAP_X2APIC_API = 129;

/** What user space does between two KVM_RUNs. */
function injection(plan: Plan): Operation {
  const { random, processors, controllers } = plan;
  const { index } = random.pick(processors);
  const on = { kind: "vcpu", index } as const;
  switch (random.below(10)) {
    case 0:
      return { op: "ioctl", on, request: "KVM_NMI", value: "0x0" };
    case 1:
      return random.chance(50)
        ? setMpState(index, random.pick([0, 0, 1, 2, 3]))
        : { op: "ioctl", on, request: "KVM_INTERRUPT", bytes: hexValue(random.pick(vectors), 4) };
    case 2:
    case 3:
    case 4:
    case 5: {
      const logical = random.chance(40);
      const id = destination(plan, logical, false) & 0xff;
      return {
        op: "ioctl",
        on: vm,
        request: "KVM_SIGNAL_MSI",
        bytes: struct(KvmMsi, {
          address_lo: (0xfee0_0000 | (id << 12) | (logical ? 4 : 0) | (random.chance(15) ? 8 : 0)) >>> 0,
          data: random.chance(7)
            ? STARTUP | startPage(random.pick(processors))
            : random.pick(vectors) | random.pick([0, 0, 0, 0x100, 0x400, INIT, 0xc000, 0x8000]),
        }),
      };
    }
    case 6:
    case 7:
      if (controllers === "split" && random.chance(30)) return routes(plan);
      return { op: "write", on: { kind: "eventfd", index: random.below(3) }, bytes: hexValue(1, 8) };
    default:
      return {
        op: "ioctl",
        on: vm,
        request: random.pick(["KVM_IRQ_LINE", "KVM_IRQ_LINE_STATUS"]),
        bytes:
          hexValue(controllers === "split" ? random.below(5) : random.pick(lines), 4) +
          hexValue(random.below(2), 4),
      };
  }
}

const partsOf = (random: Random, controllers: "kernel" | "split"): Part[] =>
  random.chance(35)
    ? []
    : random.chance(40)
      ? ["lapic", ...(controllers === "kernel" ? (["chips"] as const) : []), "counters"]
      : [
          "registers",
          "mp-state",
          "lapic",
          ...(controllers === "kernel" ? (["chips"] as const) : []),
          "counters",
        ];

/** A program of processors that interrupt each other. */
export function processorProgram(random: Random): Program {
  const mode = random.pick<Mode>(["prot32", "prot32", "prot32", "long", "long", "real"]);
  const controllers = random.chance(75) ? "kernel" : "split";
  const count = random.pick([2, 2, 3]);
  const ids = random.pick([
    [0, 1, 2],
    [0, 1, 2],
    [0, 1, 2],
    [0, 5, 17],
    [0, 4, 8],
  ]);
  const x2apics = mode === "real" || random.chance(35);
  const processors = Array.from({ length: count }, (_, index): Processor => {
    const start =
      index === 0 || random.chance(30)
        ? "set"
        : mode === "prot32" && random.chance(65)
          ? "trampoline"
          : "startup";
    const bits = start === "startup" ? 16 : bitsOf(mode);
    const x2apic = x2apics !== random.chance(10);
    return {
      index,
      id: ids[index],
      start,
      bits,
      x2apic,
      reaches: x2apic || bits !== 16,
      code: CODES[index],
    };
  });
  const plan: Plan = { random, controllers, processors, cluster: random.chance(25) };
  const real = mode === "real" || processors.some(({ start }) => start !== "set");
  const ends = (): Ends =>
    random.chance(15) ? "nobody" : x2apics !== random.chance(10) ? "x2apic" : "lapic";
  const realEnds = (): Ends => (random.chance(15) || !x2apics ? "nobody" : "x2apic");
  const operations: Operation[] = [
    opensKvm,
    { op: "ioctl", on: { kind: "system", index: 0 }, request: "KVM_CREATE_VM", value: "0x0" },
    onVm("KVM_SET_TSS_ADDR", TSS_ADDRESS),
    controllers === "kernel" ? onVm("KVM_CREATE_IRQCHIP", 0) : splitIrqchip,
    ...(random.chance(20) ? [capability(KVM_CAP_X2APIC_API, random.between(1, 3))] : []),
    ...memorySlots(random.chance(25)),
  ];
  for (const { id } of processors) operations.push(onVm("KVM_CREATE_VCPU", id));
  for (const { index, x2apic } of processors)
    if (x2apic || random.chance(60)) operations.push({ op: "cpuid", on: { kind: "vcpu", index }, edits: [] });
  for (let i = 0; i < 4; i++) operations.push({ op: "eventfd2", initval: 0, flags: 0x80800 });
  if (controllers === "kernel") operations.push(...irqfds(random, lines, 50));
  else operations.push(routes(plan));
  operations.push(...tables(mode, random));
  if (mode !== "real") operations.push(handlers(HANDLERS, bitsOf(mode), ends));
  if (real) operations.push(realVectors(), handlers(REAL_HANDLERS, 16, realEnds));
  operations.push(
    poke(GDT_POINTER, hexValue(0x77, 2) + hexValue(GDT, 4)),
    poke(IDT_POINTER, hexValue(0x7ff, 2) + hexValue(IDT, 4)),
    { op: "code", at: STRAY, instructions: ["bc0070", "fb", ...sleepLoop(0x55)] },
  );
  for (const processor of processors)
    operations.push(...codeOf(plan, processor), ...registersOf(processor, mode));
  for (let i = random.between(4, 14); i > 0; i--) {
    for (let n = random.below(3); n > 0; n--) operations.push(injection(plan));
    operations.push({
      op: "run",
      on: { kind: "vcpu", index: random.below(count) },
      times: random.between(1, 5),
      page: [],
      answers: bytesOf(random, 4),
      parts: partsOf(random, controllers),
    });
  }
  operations.push({
    op: "readback",
    parts: ["chips", "lapic", "mp-state", "dirty-log", "counters", "registers", "fpu"],
  });
  return operations;
}
