/**
 * The machine that random guests run on, as operations of a program: memory with descriptors, handlers and page tables in
 * it, and a vCPU in one of the modes.
 *
 * Guest physical memory: 0 RAM, 128 KiB · 0x30000 memory that can only be read, 8 KiB · nothing else. In RAM: 0 interrupt
 * vectors of real mode · 0x800 GDT · 0xc00 TSS · 0x1000 code · 0x3000 IDT · 0x4000 a handler of 32 bytes for each vector ·
 * below 0x8000 the stack · 0x8000 data · 0x10000 page tables.
 *
 * With paging the first 320 KiB are mapped one to one in pages of 4 KiB, and 4 MiB at each place where devices are.
 * Nothing else is.
 */
import { KvmIrqfd } from "../abi/kvm.ts";
import { KvmSregs } from "../abi/kvm-x86.ts";
import { toHex } from "../trace/format.ts";
import { GUEST_RAM, GUEST_ROM } from "./guest-run.ts";
import type { Edit, Operation } from "./program.ts";
import type { Random } from "./random.ts";
import { hexValue } from "./values.ts";

/** `unreal`: real mode whose data segments reach 4 GiB. `paged32`, `pae32`: 32-bit code with paging. */
export const modes = ["real", "unreal", "prot16", "prot32", "paged32", "pae32", "long"] as const;
export type Mode = (typeof modes)[number];

export const bitsOf = (mode: Mode): 16 | 32 | 64 =>
  mode === "long" ? 64 : mode === "prot32" || mode === "paged32" || mode === "pae32" ? 32 : 16;

export const ROM = 0x3_0000;
export const GDT = 0x800;
export const TSS = 0xc00;
export const CODE = 0x1000;
export const IDT = 0x3000;
export const HANDLERS = 0x4000;
export const HANDLER_SIZE = 32;
export const STACK = 0x8000;
export const DATA = 0x8000;
export const DATA_SIZE = 0x1000;
/** pages of data whose rights differ where paging is on */
export const ODD_PAGES = 0x9000;
export const ODD_PAGE_COUNT = 4;
const TABLES = 0x1_0000;
const MAPPED_PAGES = 0x50;
/** where devices may be: that of user space, IOAPIC, LAPIC */
export const DEVICE = 0xd000_0000;
export const IOAPIC = 0xfec0_0000;
export const LAPIC = 0xfee0_0000;

const PAGE = 0x1000;
const ENTRY = 7;
const LARGE = 0x87;

export const CODE32 = 0x08;
export const DATA32 = 0x10;
export const CODE64 = 0x18;
export const CODE16 = 0x20;
export const DATA16 = 0x28;
export const TSS_SELECTOR = 0x30;
/** of CPL 3 */
export const USER_CODE32 = 0x43;
export const USER_DATA = 0x4b;
export const USER_CODE64 = 0x53;
/** the selectors of the GDT are 8 · their place; 0x30 is a TSS, 0x38 nothing, then code and data of CPL 3 */
const descriptors = [
  0n,
  0x00cf_9b00_0000_ffffn,
  0x00cf_9300_0000_ffffn,
  0x00af_9b00_0000_ffffn,
  0x0000_9b00_0000_ffffn,
  0x0000_9300_0000_ffffn,
  0x0000_8900_0c00_0067n,
  0n,
  0x00cf_fb00_0000_ffffn,
  0x00cf_f300_0000_ffffn,
  0x00af_fb00_0000_ffffn,
  // not present; expands down; code that cannot be read; conforming code
  0x00cf_1300_0000_ffffn,
  0x0040_9700_0000_0fffn,
  0x00cf_9900_0000_ffffn,
  0x00cf_9f00_0000_ffffn,
];

export const poke = (at: number, bytes: string): Operation => ({ op: "poke", at, bytes });

export const vm = { kind: "vm", index: 0 } as const;

const slot = (number: number, flags: number, address: number, size: number, guest: number): Operation => ({
  op: "ioctl",
  on: vm,
  request: "KVM_SET_USER_MEMORY_REGION",
  bytes: hexValue(number, 4) + hexValue(flags, 4) + hexValue(address, 8) + hexValue(size, 8) + hexValue(0, 8),
  patches: [{ at: 24, guest }],
});

const READ_ONLY = 2;
const LOG_DIRTY_PAGES = 1;

/** The two memory slots. */
export const memorySlots = (logged: boolean): Operation[] => [
  slot(0, logged ? LOG_DIRTY_PAGES : 0, 0, GUEST_RAM, 0),
  slot(1, READ_ONLY, ROM, GUEST_ROM, GUEST_RAM),
];

// --- tables ---------------------------------------------------------------------------------------------------------

const quad = (value: bigint | number): string => hexValue(value, 8);

/** Gates for every vector, and the vectors of real mode. */
function vectors(mode: Mode): Operation[] {
  let table = "";
  for (let vector = 0; vector < 256; vector++) {
    const handler = HANDLERS + HANDLER_SIZE * vector;
    if (mode === "real" || mode === "unreal") table += hexValue(handler, 4);
    else if (mode === "long")
      table += quad(BigInt(handler) | (BigInt(CODE64) << 16n) | (0x8e00n << 32n)) + quad(0);
    else
      table += quad(
        BigInt(handler) | (BigInt(mode === "prot16" ? CODE16 : CODE32) << 16n) | (0x8e00n << 32n),
      );
  }
  return [poke(mode === "real" || mode === "unreal" ? 0 : IDT, table)];
}

/** What a page of ODD_PAGES may be: absent, read-only, of the supervisor, accessed and dirty already. */
const oddEntries: readonly number[] = [0, 1, 3, 5, 7, 0x67, 0x65];
/** the same, but that no read finds a page that only a write is refused and leaves it accessed */
export const oddForWriters: readonly number[] = [0, 1, 3, 7, 0x67, 0x65];

function pageTables(mode: Mode, random: Random, entries: readonly number[]): Operation[] {
  const width = mode === "paged32" ? 4 : 8;
  let pages = "";
  for (let page = 0; page < MAPPED_PAGES; page++) {
    const odd = page * PAGE >= ODD_PAGES && page * PAGE < ODD_PAGES + ODD_PAGE_COUNT * PAGE;
    pages += hexValue(page * PAGE + (odd ? random.pick(entries) : ENTRY), width);
  }
  const deepest = TABLES + 4 * PAGE;
  const devices = [DEVICE, IOAPIC, LAPIC];
  if (mode === "paged32")
    return [
      poke(TABLES, hexValue(deepest + ENTRY, 4)),
      ...devices.map((device) =>
        poke(TABLES + 4 * (device >>> 22), hexValue((device & 0xffc0_0000) + LARGE, 4)),
      ),
      poke(deepest, pages),
    ];
  const directory = TABLES + 2 * PAGE;
  const high = TABLES + 3 * PAGE;
  const pointers = mode === "long" ? TABLES + PAGE : TABLES;
  const rights = mode === "long" ? ENTRY : 1;
  return [
    ...(mode === "long" ? [poke(TABLES, quad(pointers + ENTRY))] : []),
    poke(pointers, quad(directory + rights)),
    poke(pointers + 8 * 3, quad(high + rights)),
    poke(directory, quad(deepest + ENTRY)),
    ...devices.map((device) =>
      poke(high + 8 * ((device >>> 21) & 511), quad(((device & 0xffe0_0000) >>> 0) + LARGE)),
    ),
    poke(deepest, pages),
  ];
}

/** Everything in memory but code, handlers and data. */
export const tables = (mode: Mode, random: Random, entries = oddEntries): Operation[] => [
  ...(mode === "real" || mode === "unreal" ? [] : [poke(GDT, descriptors.map(quad).join(""))]),
  ...vectors(mode),
  ...(mode === "paged32" || mode === "pae32" || mode === "long" ? pageTables(mode, random, entries) : []),
];

// --- registers ------------------------------------------------------------------------------------------------------

const { gdt, idt, cr0, cr3, cr4, efer } = KvmSregs.offsetOf;
const SEGMENT = 24;
const PE_MP_ET_NE = 0x33;
const PG = 0x8000_0000;
const PSE = 0x10;
const PAE = 0x20;
const OSFXSR = 0x200;
const LME_LMA_SCE = 0x501;

interface Flat {
  base?: number;
  limit: number;
  selector: number;
  type: number;
  db: number;
  l: number;
  g: number;
}

const segment = (index: number, { base = 0, limit, selector, type, db, l, g }: Flat): Edit => ({
  at: SEGMENT * index,
  bytes:
    quad(base) +
    hexValue(limit, 4) +
    hexValue(selector, 2) +
    toHex(Uint8Array.of(type, 1, 0, db, 1, l, g, 0, 0, 0)),
});

/** `ds`, `es`: where the data segments of real mode start. */
export interface Bases {
  ds: number;
  es: number;
}

/** The special registers of a mode, set on a vCPU. */
export function enterMode(mode: Mode, index: number, bases: Bases): Operation {
  const edits: Edit[] = [];
  const real = mode === "real" || mode === "unreal";
  const flat = { limit: 0xffff_ffff, type: 11, db: 1, l: 0, g: 1 };
  const small = { limit: 0xffff, type: 3, db: 0, l: 0, g: 0 };
  if (real) {
    const data = mode === "unreal" ? { ...small, limit: 0xffff_ffff, g: 1 } : small;
    edits.push(segment(0, { ...small, type: 11, selector: 0 }));
    for (let i = 1; i < 6; i++) {
      const base = i === 1 ? bases.ds : i === 2 ? bases.es : 0;
      edits.push(segment(i, { ...data, base, selector: base >>> 4 }));
    }
    edits.push({ at: idt, bytes: quad(0) + hexValue(0x3ff, 2) });
  } else {
    const code =
      mode === "prot16"
        ? { ...small, type: 11, selector: CODE16 }
        : mode === "long"
          ? { ...flat, db: 0, l: 1, selector: CODE64 }
          : { ...flat, selector: CODE32 };
    const data = mode === "prot16" ? { ...small, selector: DATA16 } : { ...flat, type: 3, selector: DATA32 };
    edits.push(segment(0, code));
    for (let i = 1; i < 6; i++) edits.push(segment(i, data));
    edits.push({ at: gdt, bytes: quad(GDT) + hexValue(8 * descriptors.length - 1, 2) });
    edits.push({ at: idt, bytes: quad(IDT) + hexValue(mode === "long" ? 0xfff : 0x7ff, 2) });
  }
  const paging = mode === "paged32" || mode === "pae32" || mode === "long";
  if (!real) edits.push({ at: cr0, bytes: quad((PE_MP_ET_NE | (paging ? PG : 0)) >>> 0) });
  if (paging) edits.push({ at: cr3, bytes: quad(TABLES) });
  edits.push({ at: cr4, bytes: quad(OSFXSR | (mode === "paged32" ? PSE : paging ? PAE : 0)) });
  if (mode === "long") edits.push({ at: efer, bytes: quad(LME_LMA_SCE) });
  return modifySregs(index, edits);
}

/** How a guest has several rings: where it begins, and how far its task state reaches. */
export interface Rings {
  /** the code segment of CPL 3 that it begins in; 0 leaves it on CPL 0 */
  code: number;
  /** up to where ports are allowed or not: 0x67 ends before the map of ports */
  tssLimit: number;
}

/** The task register, system calls, and segments of CPL 3. */
export function enterRings(index: number, { code, tssLimit }: Rings): Operation {
  const selector = (at: number, value: number): Edit => ({
    at: SEGMENT * at + 12,
    bytes: hexValue(value, 2),
  });
  const level: Edit[] = [];
  if (code !== 0) {
    for (let i = 0; i < 6; i++) {
      level.push(selector(i, i === 0 ? code : USER_DATA));
      level.push({ at: SEGMENT * i + 16, bytes: "03" });
    }
    const long = code === USER_CODE64;
    level.push({ at: 17, bytes: long ? "00" : "01" }, { at: 19, bytes: long ? "01" : "00" });
  }
  return modifySregs(index, [
    ...level,
    {
      at: SEGMENT * 6,
      bytes: `${quad(TSS)}${hexValue(tssLimit, 4)}${hexValue(TSS_SELECTOR, 2)}0b010000000000000000`,
    },
  ]);
}

/** General registers in the order of struct kvm_regs, RIP and RFLAGS last. */
export const setRegisters = (index: number, values: readonly (number | bigint)[]): Operation => ({
  op: "ioctl",
  on: { kind: "vcpu", index },
  request: "KVM_SET_REGS",
  bytes: values.map(quad).join(""),
});

/** the eventfd that resampling irqfds signal */
export const RESAMPLED = 3;

/** irqfds on some lines, so many in a hundred of them resampling. */
export function irqfds(random: Random, lines: readonly number[], resampling: number): Operation[] {
  const operations: Operation[] = [];
  for (let i = random.below(4); i > 0; i--)
    operations.push({
      op: "ioctl",
      on: vm,
      request: "KVM_IRQFD",
      bytes: toHex(KvmIrqfd.encode({ gsi: random.pick(lines), flags: random.chance(resampling) ? 2 : 0 })),
      patches: [
        { at: KvmIrqfd.offsetOf.fd, file: { kind: "eventfd", index: i - 1 } },
        { at: KvmIrqfd.offsetOf.resamplefd, file: { kind: "eventfd", index: RESAMPLED } },
      ],
    });
  return operations;
}

/** Changes some of what KVM_GET_SREGS tells of a vCPU. */
const modifySregs = (index: number, edits: Edit[]): Operation => ({
  op: "modify",
  on: { kind: "vcpu", index },
  get: "KVM_GET_SREGS",
  set: "KVM_SET_SREGS",
  size: KvmSregs.size,
  head: "",
  edits,
});
