/**
 * Every walk of page tables: kinds of paging, page sizes, the flags of two levels, and what CR0, CR4, EFER and AC say,
 * against a naive reading of the Intel SDM, volume 3, chapter "Paging" (4.3 to 4.7).
 */
import { describe, expect, test } from "vitest";
import { load32, store32 } from "../../../lib/abi/struct.ts";
import { EXECUTE, PAGE_FAULT, READ, RUNNING, WRITE } from "../../../lib/hardware/x86/memory.ts";
import { CR0, CR3, CR4, EFER, RFLAGS } from "../../../lib/hardware/x86/state.ts";
import { processor, TABLES } from "./machine.ts";

const PRESENT = 1;
const WRITABLE = 2;
const USER = 4;
const ACCESSED = 0x20;
const DIRTY = 0x40;
const LARGE = 0x80;
const WP = 0x1_0000;
const [PSE, PAE, LA57, SMEP, SMAP] = [0x10, 0x20, 0x1000, 0x10_0000, 0x20_0000];
const [LONG, NXE] = [0x500, 0x800];
const AC = 0x4_0000;
const NX = 0x8000_0000;

/** One level: where in the linear address its index stands, and how wide an entry is. */
interface Kind {
  name: string;
  cr4: number;
  efer: number;
  /** from the top; `shift` of the index, entries of `width` bytes, whether an entry here may be a page */
  levels: { shift: number; width: 4 | 8; large: boolean; rights: boolean }[];
  linear: number;
}

const level = (shift: number, width: 4 | 8, large = false, rights = true) => ({
  shift,
  width,
  large,
  rights,
});
const kinds: Kind[] = [
  {
    name: "32 bits",
    cr4: PSE,
    efer: 0,
    levels: [level(22, 4, true), level(12, 4)],
    linear: 0x8123_4567,
  },
  {
    name: "32 bits without large pages",
    cr4: 0,
    efer: 0,
    levels: [level(22, 4), level(12, 4)],
    linear: 0x8123_4567,
  },
  {
    name: "PAE",
    cr4: PAE,
    efer: 0,
    levels: [level(30, 8, false, false), level(21, 8, true), level(12, 8)],
    linear: 0x8123_4567,
  },
  {
    name: "four levels",
    cr4: PAE,
    efer: LONG,
    levels: [level(39, 8), level(30, 8, true), level(21, 8, true), level(12, 8)],
    linear: 0x7fab_8123_4567,
  },
  {
    name: "five levels",
    cr4: PAE | LA57,
    efer: LONG,
    levels: [level(48, 8), level(39, 8), level(30, 8, true), level(21, 8, true), level(12, 8)],
    linear: 0x5_7fab_8123_4567,
  },
];

interface Entry {
  at: number;
  width: 4 | 8;
  lo: number;
  hi: number;
  rights: boolean;
  /** a page of so many bytes; 0: a table */
  page: number;
}

/** Tables from TABLES on, a page each; `flags` and `upper` by level, the last one a page. */
function entries(
  kind: Kind,
  last: number,
  flags: (n: number) => number,
  upper: (n: number) => number,
): Entry[] {
  return kind.levels.slice(0, last + 1).map(({ shift, width, rights }, n) => {
    const index = Math.floor(kind.linear / 2 ** shift) % (width === 4 ? 1024 : n === 0 && !rights ? 4 : 512);
    const page = n === last ? 2 ** shift : 0;
    const frame = page === 0 ? TABLES + 0x1000 * (n + 1) : 0x4000_0000;
    return {
      at: TABLES + 0x1000 * n + width * index,
      width,
      lo: ((page === 0 || shift === 12 ? 0 : LARGE) | frame | flags(n)) >>> 0,
      hi: width === 4 ? 0 : upper(n) >>> 0,
      rights,
      page,
    };
  });
}

interface Setting {
  access: number;
  user: number;
  wp: boolean;
  smep: boolean;
  smap: boolean;
  ac: boolean;
  nxe: boolean;
}

/** A physical address, or the error code of a fault. */
function naive(kind: Kind, path: Entry[], setting: Setting): { at: number } | { code: number } {
  const { access, user, wp, smep, smap, ac, nxe } = setting;
  const pae = (kind.cr4 & PAE) !== 0;
  const instruction = access === EXECUTE && ((nxe && pae) || smep) ? 16 : 0;
  const fault = (bits: number) => ({
    code: bits | (access === WRITE ? 2 : 0) | (user ? 4 : 0) | instruction,
  });
  for (const { lo, hi, rights } of path) {
    if ((lo & PRESENT) === 0) return fault(0);
    if (rights && pae && !nxe && (hi & NX) !== 0) return fault(1 | 8);
  }
  const all = (bit: number) => path.every(({ lo, rights }) => !rights || (lo & bit) !== 0);
  const forUser = all(USER);
  const never = pae && nxe && path.some(({ hi, rights }) => rights && (hi & NX) !== 0);
  const allowed = user
    ? forUser && (access !== WRITE || all(WRITABLE)) && (access !== EXECUTE || !never)
    : access === EXECUTE
      ? !never && !(forUser && smep)
      : !(forUser && smap && !ac) && (access !== WRITE || all(WRITABLE) || !wp);
  if (!allowed) return fault(1);
  const { lo, page } = path[path.length - 1];
  return { at: lo - (lo % page) + (kind.linear % page) };
}

describe.each(kinds)("$name", (kind) => {
  const pages = kind.levels.flatMap(({ large }, n) => (large || n === kind.levels.length - 1 ? [n] : []));

  test.each(pages)("every right and every setting; the page in level %i from the top", (last) => {
    const made = processor({ long: false });
    const { state, memory, cpu } = made;
    const wrong: string[] = [];
    const upperFlags = kind.levels[0].width === 8 ? [0, NX] : [0];
    // the level above the page is the other one whose flags vary; where it has no rights, the page's alone
    const other = last === 0 ? 0 : last - 1;
    for (let first = 0; first < 8; first++)
      for (let second = 0; second < 8; second++)
        for (const upper of upperFlags)
          for (const where of last === 0 ? [last] : [other, last]) {
            if (!kind.levels[where].rights) continue;
            if (!kind.levels[other].rights && (first & 6) !== 6) continue;
            for (let settings = 0; settings < 2 * 3 * 32; settings++) {
              const bit = (n: number) => (Math.floor(settings / 6) >> n) & 1;
              const setting: Setting = {
                access: [READ, WRITE, EXECUTE][settings % 3],
                user: Math.floor(settings / 3) % 2,
                wp: bit(0) === 1,
                smep: bit(1) === 1,
                smap: bit(2) === 1,
                ac: bit(3) === 1,
                nxe: bit(4) === 1,
              };
              const flags = (n: number) =>
                n === last ? second : n === other ? first : kind.levels[n].rights ? 7 : PRESENT;
              const path = entries(kind, last, flags, (n) => (n === where ? upper : 0));
              for (const { at, width, lo, hi, rights } of path) {
                store32(memory, at, rights ? lo : lo & ~6);
                if (width === 8) store32(memory, at + 4, hi);
              }
              state.c32[2 * CR3] = TABLES;
              state.c32[2 * CR4] = kind.cr4 | (setting.smep ? SMEP : 0) | (setting.smap ? SMAP : 0);
              state.c32[2 * EFER] = kind.efer | (setting.nxe ? NXE : 0);
              state.c32[2 * CR0] = (0x8000_0001 | (setting.wp ? WP : 0)) >>> 0;
              state.r32[2 * RFLAGS] = 2 | (setting.ac ? AC : 0);
              cpu.memory.flush();
              cpu.memory.stop = RUNNING;
              const expected = naive(kind, path, setting);
              const at = cpu.memory.translate(kind.linear, setting.access, setting.user);
              const name = `${first} ${second} ${upper >>> 31} at ${where}, ${JSON.stringify(setting)}`;
              if ("at" in expected) {
                if (at !== expected.at) wrong.push(`${name}: ${at}, expected ${expected.at}`);
                const marked = path.every(({ at: entry, page, rights }) => {
                  const bits = load32(memory, entry) & (ACCESSED | DIRTY);
                  const dirty = page !== 0 && setting.access === WRITE ? DIRTY : 0;
                  return bits === (rights ? ACCESSED | dirty : 0);
                });
                if (!marked) wrong.push(`${name}: marks`);
              } else if (
                at !== -1 ||
                cpu.memory.vector !== PAGE_FAULT ||
                cpu.memory.errorCode !== expected.code ||
                cpu.memory.faultAddress !== kind.linear
              )
                wrong.push(`${name}: ${at}, ${cpu.memory.errorCode}, expected ${expected.code}`);
              else if (path.some(({ at: entry }) => (load32(memory, entry) & (ACCESSED | DIRTY)) !== 0))
                wrong.push(`${name}: marks in spite of a fault`);
            }
          }
    expect(wrong.slice(0, 5)).toEqual([]);
  });

  if (kind.levels[0].width === 4) return;
  test("every bit of every entry: which are reserved, with addresses of 40 bits", () => {
    const { state, memory, cpu } = processor({ long: false });
    cpu.memory.physicalBits = 40;
    state.c32[2 * CR3] = TABLES;
    state.c32[2 * CR4] = kind.cr4;
    state.c32[2 * EFER] = kind.efer | NXE;
    state.c32[2 * CR0] = 0x8000_0001;
    const wrong: string[] = [];
    for (const last of pages)
      for (let n = kind.levels[0].rights ? 0 : 1; n <= last; n++)
        for (let bit = 7; bit < 52; bit++) {
          const { shift } = kind.levels[n];
          // another table or page is an address like any other, but for the size of pages; bits 8 to 11 are ignored
          const reserved =
            bit >= 40 || (n === last && bit > 12 && bit < shift) || (bit === 7 && n !== last && shift >= 39);
          if (!reserved && n !== last && (bit === 7 || bit > 11)) continue;
          const path = entries(
            kind,
            last,
            (m) => (m === n && bit < 32 ? 7 | (2 ** bit) : 7),
            (m) => (m === n && bit >= 32 ? 2 ** (bit - 32) : 0),
          );
          for (const { at, lo, hi, rights } of path) {
            store32(memory, at, rights ? lo : lo & ~6);
            store32(memory, at + 4, hi);
          }
          cpu.memory.flush();
          cpu.memory.stop = RUNNING;
          const at = cpu.memory.translate(kind.linear, READ, 0);
          const { lo, hi, page } = path[last];
          const frame = hi * 2 ** 32 + lo;
          const expected = reserved ? -1 : frame - (frame % page) + (kind.linear % page);
          if (at !== expected || (reserved && cpu.memory.errorCode !== 9))
            wrong.push(
              `bit ${bit} of level ${n} of ${last}: ${at}, ${cpu.memory.errorCode}, expected ${expected}`,
            );
        }
    expect(wrong).toEqual([]);
  });
});
