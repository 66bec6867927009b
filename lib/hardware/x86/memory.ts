/**
 * From linear addresses to bytes: paging (32-bit, PAE, 4 and 5 levels; Intel SDM volume 3, chapter "Paging"), a cache
 * of translations, and accesses that no memory answers.
 *
 * Linear addresses are plain numbers: below 2^32 outside 64-bit mode; canonical ones of 64-bit mode signed, so that all
 * 57 bits of them that matter are exact.
 *
 * Nothing is thrown. What stops an instruction is written down in `stop`; every access after that does nothing and
 * reads 0, and the processor takes the instruction back. An instruction that has to wait for user space is run again
 * from its start: what it read from devices before is kept in a log, so that no device is read twice. Writes to
 * devices that nobody takes are posted: they wait in a queue until the instruction is done.
 *
 * Missing: protection keys, data breakpoints. Page directory pointers of PAE are read from memory with every walk.
 */
import { load32, store32 } from "../../abi/struct.ts";
import type { Bus } from "./bus.ts";
import {
  AC,
  type CpuState,
  CR0,
  CR0_PG,
  CR0_WP,
  CR2,
  CR3,
  CR4,
  CR4_LA57,
  CR4_PAE,
  CR4_PSE,
  CR4_SMAP,
  CR4_SMEP,
  EFER,
  EFER_LMA,
  EFER_NX,
  RFLAGS,
} from "./state.ts";

/** Why an instruction stopped. */
export const RUNNING = 0;
/** `vector`, `errorCode` */
export const EXCEPTION = 1;
/** it is outside of what the interpreter knows */
export const UNHANDLED = 2;
/** it waits for an answer of user space: `exit` says for what */
export const WAITING = 3;

/** the processor cannot go on */
export const SHUTDOWN = 4;
/** Linux's emulator needs memory where a device is, and does the instruction again, for ever */
export const RETRY = 5;
/** an event met an address that no memory answers on its way to its handler: `exitAddress`, `refusedWrite` */
export const VECTORING = 6;

export const EXIT_MMIO = 1;
export const EXIT_PORT_IN = 2;
export const EXIT_PORT_OUT = 3;
export const EXIT_RDMSR = 4;
export const EXIT_WRMSR = 5;
export const EXIT_HYPERCALL = 6;
export const EXIT_FETCH = 7;
/** memory that is to be there is not: whoever owns the processor asked for it (Bus.page) */
export const EXIT_BAD_ADDRESS = 8;
/** the file behind a page of memory is gone */
export const EXIT_MEMORY_FAULT = 9;

export const READ = 0;
export const WRITE = 1;
export const EXECUTE = 2;

export const GP = 13;
export const SS_FAULT = 12;
export const NP = 11;
export const UD = 6;
export const DE = 0;
export const DB = 1;
export const BP = 3;
export const OFLOW = 4;
export const BR = 5;
export const NM = 7;
export const DF_FAULT = 8;
export const TS = 10;
export const PAGE_FAULT = 14;
export const AC_FAULT = 17;

/** No error code. */
export const NO_CODE = -1;

const PF_PRESENT = 1;
const PF_WRITE = 2;
const PF_USER = 4;
const PF_RESERVED = 8;
const PF_FETCH = 16;

const PTE_PRESENT = 1;
const PTE_WRITABLE = 2;
const PTE_USER = 4;
const PTE_ACCESSED = 0x20;
const PTE_DIRTY = 0x40;
const PTE_LARGE = 0x80;

/** entries of the cache for each kind of access */
const CACHE = 256;
const EMPTY = new Uint8Array(0);
const LOG_ENTRIES = 64;
/** enough for what one INS takes in */
const POSTED = 160;

/** Who wants to know of accesses to some linear addresses: breakpoints on data. */
export interface Watch {
  /** whether some of them lie in a page */
  covers(page: number): boolean;
  touch(address: number, length: number, writing: boolean): void;
}

export class Memory {
  readonly state: CpuState;
  readonly bus: Bus;
  /** RUNNING, or why the present instruction stopped */
  stop = RUNNING;
  vector = 0;
  errorCode = NO_CODE;
  /** of a page fault */
  faultAddress = 0;
  /** what user space is asked for, and of what */
  exit = 0;
  exitAddress = 0;
  exitLength = 0;
  exitCount = 1;
  /** bits of a guest physical address (CPUID 0x80000008) */
  physicalBits = 52;
  /** the first table of long mode has to be memory, or the processor shuts down (arch/x86/kvm/mmu/mmu.c:mmu_check_root, 6.1) */
  rootIsMemory = false;

  /** 16 bytes for an access in pieces */
  readonly data = new Uint8Array(16);
  readonly log = new Uint8Array(8 * LOG_ENTRIES);
  logCount = 0;
  logAt = 0;
  /** writes that wait for user space: address, length, port or memory, and 8 bytes each */
  readonly postedAddress = new Float64Array(POSTED);
  readonly postedLength = new Uint8Array(POSTED);
  readonly postedPort = new Uint8Array(POSTED);
  readonly posted = new Uint8Array(8 * POSTED);
  postedCount = 0;
  /** set while there are breakpoints on data: their pages are not cached */
  watch: Watch | undefined;

  // the cache: the page number (doubled, plus 1 for user mode), the bytes and where the page starts in them
  readonly #tags = new Float64Array(3 * CACHE).fill(Number.NaN);
  readonly #bytes: Uint8Array[] = new Array(3 * CACHE).fill(EMPTY);
  readonly #at = new Int32Array(3 * CACHE);
  #generation = -1;
  /** changes when the cache is emptied: the processor drops what it remembers of its code page */
  epoch = 0;

  constructor(state: CpuState, bus: Bus) {
    this.state = state;
    this.bus = bus;
  }

  raise(vector: number, errorCode = NO_CODE): void {
    if (this.stop !== RUNNING) return;
    this.stop = EXCEPTION;
    this.vector = vector;
    this.errorCode = errorCode;
  }

  /** An operand was read to be written: its page fault is one of a write. */
  meantWrite(): void {
    if (this.stop === EXCEPTION && this.vector === PAGE_FAULT) this.errorCode |= PF_WRITE;
  }

  /** It is outside of what is known, whatever its prefixes. */
  unhandled(): void {
    if (this.stop === RUNNING || (this.stop === EXCEPTION && this.vector === UD)) this.stop = UNHANDLED;
  }

  shutDown(): void {
    if (this.stop === RUNNING) this.stop = SHUTDOWN;
  }

  /** The instruction has to wait for user space. */
  wait(exit: number, address: number, length: number, count = 1): void {
    if (this.stop !== RUNNING) return;
    this.stop = WAITING;
    this.exit = exit;
    this.exitAddress = address;
    this.exitLength = length;
    this.exitCount = count;
  }

  /** User space answered: the instruction finds the bytes when it is run again. */
  answer(bytes: Uint8Array, at: number, length: number): void {
    if (this.logCount < LOG_ENTRIES) this.log.set(bytes.subarray(at, at + length), 8 * this.logCount++);
  }

  /** The next answer that is there already: its place in `log`, or −1. */
  takeAnswer(): number {
    return this.logAt < this.logCount ? 8 * this.logAt++ : -1;
  }

  // what Linux's emulator read last: operands of one instruction, one behind the other
  readonly #kept = new Uint8Array(64);
  #keptAt = 0;

  /** Another instruction, or another round, begins. */
  begin(): void {
    this.#keptAt = 0;
  }

  /** An operand was read. */
  keep(width: number, value: number, upper = 0): void {
    const at = this.#keptAt;
    if (at > 40) return;
    for (let i = 0; i < width; i++) this.#kept[at + i] = (i < 4 ? value : upper) >>> (8 * (i & 3));
    this.#keptAt = at + width;
  }

  /** The same, of the bytes in `data`. */
  keepBytes(length: number): void {
    const at = this.#keptAt;
    if (at > 40) return;
    this.#kept.set(this.data.subarray(0, length), at);
    this.#keptAt = at + length;
  }

  /** The instruction is done. */
  forget(): void {
    this.logCount = 0;
    this.#whole = 0;
  }

  /** Forgets every translation. */
  flush(): void {
    this.#tags.fill(Number.NaN);
    this.#tables.clear();
    this.epoch++;
  }

  /** Before the guest runs: what was changed from outside counts. */
  refresh(): void {
    this.#generation = this.state.tlbGeneration;
    this.flush();
  }

  /** Forgets one page (INVLPG). */
  flushPage(_linear: number): void {
    this.flush();
  }

  // ---- reading and writing -----------------------------------------------------------------------------------------

  /** 1, 2 or 4 bytes as an unsigned number. */
  read(linear: number, width: number, user: number): number {
    const offset = linear & 4095;
    if (offset + width <= 4096 && this.stop === RUNNING && !this.keepsAll) {
      const page = Math.floor(linear / 4096);
      const slot = page & (CACHE - 1);
      if (this.#tags[slot] === 2 * page + user) {
        const bytes = this.#bytes[slot];
        const at = this.#at[slot] + offset;
        if (width === 4)
          return (bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16) | (bytes[at + 3] << 24)) >>> 0;
        return width === 2 ? bytes[at] | (bytes[at + 1] << 8) : bytes[at];
      }
    }
    if (!this.readBytes(linear, width, user)) return 0;
    const { data } = this;
    return width === 4 ? load32(data, 0) : width === 2 ? data[0] | (data[1] << 8) : data[0];
  }

  write(linear: number, width: number, value: number, user: number): void {
    const offset = linear & 4095;
    if (offset + width <= 4096 && this.stop === RUNNING) {
      const page = Math.floor(linear / 4096);
      const slot = CACHE + (page & (CACHE - 1));
      if (this.#tags[slot] === 2 * page + user) {
        const bytes = this.#bytes[slot];
        const at = this.#at[slot] + offset;
        bytes[at] = value;
        if (width === 1) return;
        bytes[at + 1] = value >>> 8;
        if (width === 2) return;
        bytes[at + 2] = value >>> 16;
        bytes[at + 3] = value >>> 24;
        return;
      }
    }
    store32(this.data, 0, value);
    this.#freshAccess = true;
    this.#writeParts(linear, width, user);
  }

  /** 8 bytes. */
  read64(linear: number, user: number): bigint {
    if (!this.readBytes(linear, 8, user)) return 0n;
    return (BigInt(load32(this.data, 4)) << 32n) | BigInt(load32(this.data, 0));
  }

  write64(linear: number, value: bigint, user: number): void {
    store32(this.data, 0, Number(value & 0xffff_ffffn));
    store32(this.data, 4, Number((value >> 32n) & 0xffff_ffffn));
    this.#freshAccess = true;
    this.#writeParts(linear, 8, user);
  }

  /** Up to 16 bytes into `data`, page by page, each part at once; false where the instruction stopped. */
  readBytes(linear: number, length: number, user: number): boolean {
    const first = this.logAt;
    if (first < this.#whole && this.stop === RUNNING) {
      const answer = this.takeAnswer();
      for (let i = 0; i < length; i++) this.data[i] = this.log[answer + i];
      return true;
    }
    // an answer is for the access that waits for it, even if run again it would go elsewhere
    if (this.keepsAll && first < this.logCount) linear = this.#waitingAt;
    this.#waitingAt = linear;
    for (let done = 0; done < length; ) {
      if (this.stop !== RUNNING) return false;
      const at = this.#wrapped(linear + done);
      const part = Math.min(length - done, 4096 - (at & 4095));
      const physical = this.translate(at, READ, user);
      if (physical < 0) return false;
      this.watch?.touch(at, part, false);
      if (this.bus.page(Math.floor(physical / 4096), false)) {
        const from = this.bus.at + (physical & 4095);
        for (let i = 0; i < part; i++) this.data[done + i] = this.bus.bytes[from + i];
        this.#remember(READ, at, user);
      } else if (!this.#readDevice(physical, part, done)) {
        if (done + part < length) this.#touch(this.#wrapped(linear + done + part), user);
        return false;
      }
      done += part;
    }
    if (this.keepsAll) {
      this.logCount = first;
      this.answer(this.data, 0, length);
      this.#whole = this.logAt = this.logCount;
    }
    return true;
  }

  /** The rest of an access that waits lies in another page: a fault there comes first. */
  #touch(linear: number, user: number): void {
    const { stop } = this;
    this.stop = RUNNING;
    if (this.translate(linear, READ, user) >= 0) this.stop = stop;
  }

  /** what is read from memory is kept like what is read from devices: the instruction may move its stack and be run again */
  keepsAll = false;
  /** so many answers are of accesses as a whole, not of their parts */
  #whole = 0;
  /** where the access is that waits */
  #waitingAt = 0;
  /** what stops an access that no memory answers, where a device may not: SHUTDOWN, RETRY or VECTORING */
  refuses: number = RUNNING;
  /** the access that was stopped was a write */
  refusedWrite = false;

  #refuse(physical: number, writing: boolean): void {
    if (this.stop !== RUNNING) return;
    this.stop = this.refuses;
    this.exitAddress = physical;
    this.refusedWrite = writing;
  }

  /** Outside of long mode an access beyond the last address goes on at 0. */
  #wrapped(linear: number): number {
    return linear >= 2 ** 32 && !this.state.longMode ? linear - 2 ** 32 : linear;
  }

  /** A device sees 8 bytes at once, at most. */
  #readDevice(physical: number, length: number, at: number): boolean {
    if (length > 8) {
      return this.#readDevice(physical, 8, at) && this.#readDevice(physical + 8, length - 8, at + 8);
    }
    if (this.refuses !== RUNNING) {
      this.#refuse(physical, false);
      return false;
    }
    const answer = this.takeAnswer();
    if (answer >= 0) {
      for (let i = 0; i < length; i++) this.data[at + i] = this.log[answer + i];
      this.#keepDevice(length, at);
      return true;
    }
    // a device that does not answer leaves what the buffer held
    for (let i = 0; i < length; i++) this.data[at + i] = this.#kept[this.#keptAt + at + i];
    if (!this.bus.readMmio(physical, length, this.data, at)) {
      this.wait(EXIT_MMIO, physical, length);
      return false;
    }
    this.answer(this.data, at, length);
    this.logAt++;
    this.#keepDevice(length, at);
    return true;
  }

  /** a processor runs the guest: what devices answer is all that Linux's emulator reads */
  keepsDevices = false;

  #keepDevice(length: number, at: number): void {
    if (!this.keepsDevices) return;
    for (let i = 0; i < length; i++) this.#kept[this.#keptAt + at + i] = this.data[at + i];
  }

  /** Up to 16 bytes from elsewhere. */
  writeBytes(linear: number, from: Uint8Array, at: number, length: number, user: number): void {
    this.#freshAccess = true;
    for (let i = 0; i < length; i++) this.data[i] = from[at + i];
    this.#writeParts(linear, length, user);
  }

  #writeParts(linear: number, length: number, user: number): void {
    for (let done = 0; done < length; ) {
      if (this.stop !== RUNNING) return;
      const at = this.#wrapped(linear + done);
      const part = Math.min(length - done, 4096 - (at & 4095));
      const physical = this.translate(at, WRITE, user);
      if (physical < 0) return;
      this.watch?.touch(at, part, true);
      if (this.bus.page(Math.floor(physical / 4096), true)) {
        const to = this.bus.at + (physical & 4095);
        for (let i = 0; i < part; i++) this.bus.bytes[to + i] = this.data[done + i];
        // what a table says counts at once, as where KVM shadows it
        if (this.#tables.has(Math.floor(physical / 4096))) this.flush();
        else if (!this.bus.eachWrite) this.#remember(WRITE, at, user);
      } else this.#writeDevice(physical, part, done);
      done += part;
    }
  }

  /** Any number of bytes, page by page, each part at once: a table among them counts from the next page on. */
  writeBlock(linear: number, from: Uint8Array, at: number, length: number, user: number): void {
    this.#freshAccess = true;
    for (let done = 0; done < length && this.stop === RUNNING; ) {
      const start = this.#wrapped(linear + done);
      const part = Math.min(length - done, 4096 - (start & 4095));
      const physical = this.translate(start, WRITE, user);
      if (physical < 0) return;
      this.watch?.touch(start, part, true);
      if (this.bus.page(Math.floor(physical / 4096), true)) {
        const to = this.bus.at + (physical & 4095);
        this.bus.bytes.set(from.subarray(at + done, at + done + part), to);
        if (this.#tables.has(Math.floor(physical / 4096))) this.flush();
      } else
        for (let i = 0; i < part; i += 8) {
          const piece = Math.min(part - i, 8);
          for (let k = 0; k < piece; k++) this.data[k] = from[at + done + i + k];
          this.#writeDevice(physical + i, piece, 0);
        }
      done += part;
    }
  }

  #writeDevice(physical: number, length: number, at: number): void {
    if (this.refuses !== RUNNING) return this.#refuse(physical, true);
    const first = Math.min(length, 8);
    if (!this.bus.writeMmio(physical, first, this.data, at)) this.post(physical, first, at, false);
    if (length > first) this.#writeDevice(physical + first, length - first, at + first);
  }

  /** Of an instruction that writes more than once, user space sees only the last access that no memory took. */
  #freshAccess = false;

  /** Queues a write for user space, of bytes of `data`. */
  post(address: number, length: number, at: number, port: boolean): void {
    if (this.#freshAccess && !port) this.postedCount = 0;
    this.#freshAccess = false;
    const index = this.postedCount;
    if (index === POSTED) return;
    this.postedCount = index + 1;
    this.postedAddress[index] = address;
    this.postedLength[index] = length;
    this.postedPort[index] = port ? 1 : 0;
    for (let i = 0; i < length; i++) this.posted[8 * index + i] = this.data[at + i];
  }

  /** Puts what the bus has just found into the cache. */
  #remember(kind: number, linear: number, user: number): void {
    if (this.#uncached) return;
    const page = Math.floor(linear / 4096);
    if (this.watch?.covers(page) === true && kind !== EXECUTE) return;
    const slot = kind * CACHE + (page & (CACHE - 1));
    this.#tags[slot] = 2 * page + user;
    this.#bytes[slot] = this.bus.bytes;
    this.#at[slot] = this.bus.at;
  }

  /** The bytes of a code page, through `codeBytes` and `codeAt`; false where the instruction stopped. */
  codeBytes: Uint8Array = EMPTY;
  codeAt = 0;
  findCode(linear: number, user: number): boolean {
    const page = Math.floor(linear / 4096);
    const slot = EXECUTE * CACHE + (page & (CACHE - 1));
    if (this.#tags[slot] !== 2 * page + user) {
      const physical = this.translate(linear, EXECUTE, user);
      if (physical < 0) return false;
      if (!this.bus.page(Math.floor(physical / 4096), false)) {
        // code that is not in memory cannot be run
        this.unhandled();
        return false;
      }
      this.#remember(EXECUTE, linear, user);
      this.codeBytes = this.bus.bytes;
      this.codeAt = this.bus.at;
      return true;
    }
    this.codeBytes = this.#bytes[slot];
    this.codeAt = this.#at[slot];
    return true;
  }

  // ---- paging ------------------------------------------------------------------------------------------------------

  /** the last translation depends on more than the page tables */
  #uncached = false;

  /** The physical address of a linear one, or −1 with a page fault raised. `user` 1: an access of CPL 3. */
  translate(linear: number, access: number, user: number): number {
    const { c32 } = this.state;
    this.#uncached = false;
    if ((c32[2 * CR0] & CR0_PG) === 0) return linear >>> 0;
    if (this.#generation !== this.state.tlbGeneration) this.refresh();
    if ((c32[2 * EFER] & EFER_LMA) !== 0) return this.#walk64(linear, access, user);
    return (c32[2 * CR4] & CR4_PAE) !== 0
      ? this.#walkPae(linear >>> 0, access, user)
      : this.#walk32(linear >>> 0, access, user);
  }

  #fault(linear: number, access: number, user: number, bits: number): -1 {
    const { c32 } = this.state;
    const fetchBit =
      access === EXECUTE &&
      ((c32[2 * EFER] & EFER_NX) !== 0 || (c32[2 * CR4] & CR4_SMEP) !== 0) &&
      ((c32[2 * CR4] & CR4_PAE) !== 0 || (c32[2 * CR4] & CR4_SMEP) !== 0);
    this.faultAddress = linear;
    this.raise(
      PAGE_FAULT,
      bits | (access === WRITE ? PF_WRITE : 0) | (user !== 0 ? PF_USER : 0) | (fetchBit ? PF_FETCH : 0),
    );
    return -1;
  }

  /** Whether the rights of a page, and-ed over the levels, allow an access. */
  #allowed(access: number, user: number, writable: boolean, forUser: boolean, noExecute: boolean): boolean {
    const { c32, r32 } = this.state;
    if (user !== 0) {
      if (!forUser || (access === WRITE && !writable)) return false;
    } else {
      if (access === WRITE && !writable && (c32[2 * CR0] & CR0_WP) !== 0) return false;
      if (forUser && access === EXECUTE && (c32[2 * CR4] & CR4_SMEP) !== 0) return false;
      if (forUser && access !== EXECUTE && (c32[2 * CR4] & CR4_SMAP) !== 0) {
        this.#uncached = true;
        if ((r32[2 * RFLAGS] & AC) === 0) return false;
      }
    }
    return !(access === EXECUTE && noExecute);
  }

  /** the walk of a guest's tables counts as writing them: the rule of nested paging on AMD's processors (APM volume 2, 15.25.5) */
  walksWrite = false;
  /** frames that hold tables whose entries are remembered */
  readonly #tables = new Set<number>();

  /** The bytes of an entry of a table: false where there is no memory. */
  #entry(address: number): boolean {
    const frame = Math.floor(address / 4096);
    if (!this.#tables.has(frame)) {
      this.#tables.add(frame);
      this.#tags.fill(Number.NaN, WRITE * CACHE, (WRITE + 1) * CACHE);
    }
    return (this.walksWrite && this.bus.page(frame, true)) || this.bus.page(frame, false);
  }

  /** Sets bits of an entry. */
  #mark(address: number, lo: number, bits: number): void {
    if ((lo & bits) === bits || !this.bus.page(Math.floor(address / 4096), true)) return;
    this.bus.bytes[this.bus.at + (address & 4095)] |= bits;
  }

  #walk32(linear: number, access: number, user: number): number {
    const { c32 } = this.state;
    const directory = (c32[2 * CR3] & ~0xfff) >>> 0;
    const pdeAt = directory + 4 * (linear >>> 22);
    if (!this.#entry(pdeAt)) return this.#fault(linear, access, user, 0);
    const pde = load32(this.bus.bytes, this.bus.at + (pdeAt & 4095));
    if ((pde & PTE_PRESENT) === 0) return this.#fault(linear, access, user, 0);
    if ((pde & PTE_LARGE) !== 0 && (c32[2 * CR4] & CR4_PSE) !== 0) {
      if ((pde & (1 << 21)) !== 0) return this.#fault(linear, access, user, PF_PRESENT | PF_RESERVED);
      if (!this.#allowed(access, user, (pde & PTE_WRITABLE) !== 0, (pde & PTE_USER) !== 0, false))
        return this.#fault(linear, access, user, PF_PRESENT);
      this.#mark(pdeAt, pde, PTE_ACCESSED | (access === WRITE ? PTE_DIRTY : 0));
      return ((pde >>> 13) & 0xff) * 2 ** 32 + ((pde & 0xffc0_0000) >>> 0) + (linear & 0x3f_ffff);
    }
    const pteAt = ((pde & ~0xfff) >>> 0) + 4 * ((linear >>> 12) & 0x3ff);
    if (!this.#entry(pteAt)) return this.#fault(linear, access, user, 0);
    const pte = load32(this.bus.bytes, this.bus.at + (pteAt & 4095));
    if ((pte & PTE_PRESENT) === 0) return this.#fault(linear, access, user, 0);
    const both = pde & pte;
    if (!this.#allowed(access, user, (both & PTE_WRITABLE) !== 0, (both & PTE_USER) !== 0, false))
      return this.#fault(linear, access, user, PF_PRESENT);
    this.#mark(pdeAt, pde, PTE_ACCESSED);
    this.#mark(pteAt, pte, PTE_ACCESSED | (access === WRITE ? PTE_DIRTY : 0));
    return ((pte & ~0xfff) >>> 0) + (linear & 0xfff);
  }

  #walkPae(linear: number, access: number, user: number): number {
    const pointerAt = ((this.state.c32[2 * CR3] & ~31) >>> 0) + 8 * (linear >>> 30);
    if (!this.#entry(pointerAt)) return this.#fault(linear, access, user, 0);
    const { bytes, at } = this.bus;
    const lo = load32(bytes, at + (pointerAt & 4095));
    const hi = load32(bytes, at + (pointerAt & 4095) + 4);
    if ((lo & PTE_PRESENT) === 0) return this.#fault(linear, access, user, 0);
    return this.#walkDown(linear, access, user, frameOf(lo, hi), 2, 0, PTE_WRITABLE | PTE_USER);
  }

  #walk64(linear: number, access: number, user: number): number {
    const { c32 } = this.state;
    const levels = (c32[2 * CR4] & CR4_LA57) !== 0 ? 5 : 4;
    const root = frameOf(c32[2 * CR3], c32[2 * CR3 + 1]);
    return this.#walkDown(
      linear,
      access,
      user,
      root,
      levels,
      Math.floor(linear / 2 ** 32),
      PTE_WRITABLE | PTE_USER,
    );
  }

  // the entries of the present walk: where they are, and their lower halves
  readonly #pathAt = new Float64Array(6);
  readonly #pathLo = new Uint32Array(6);

  /**
   * Tables of 512 entries of 8 bytes, from `level` down to 1. Entries are marked as accessed once the walk has succeeded,
   * all of them (arch/x86/kvm/mmu/paging_tmpl.h:update_accessed_dirty_bits, 6.1).
   */
  #walkDown(
    linear: number,
    access: number,
    user: number,
    root: number,
    levels: number,
    linearHi: number,
    rights: number,
  ): number {
    const { c32 } = this.state;
    const nx = (c32[2 * EFER] & EFER_NX) !== 0;
    const lo = linear >>> 0;
    let table = root;
    let noExecute = false;
    for (let level = levels; ; level--) {
      const index =
        level === 1
          ? (lo >>> 12) & 511
          : level === 2
            ? (lo >>> 21) & 511
            : level === 3
              ? ((lo >>> 30) | (linearHi << 2)) & 511
              : level === 4
                ? (linearHi >>> 7) & 511
                : (linearHi >>> 16) & 511;
      const entryAt = table + 8 * index;
      if (!this.#entry(entryAt)) {
        if (this.rootIsMemory && level === levels && levels > 2) this.shutDown();
        return this.#fault(linear, access, user, 0);
      }
      const { bytes, at } = this.bus;
      const entryLo = load32(bytes, at + (entryAt & 4095));
      const entryHi = load32(bytes, at + (entryAt & 4095) + 4);
      if ((entryLo & PTE_PRESENT) === 0) return this.#fault(linear, access, user, 0);
      const large = level > 1 && (entryLo & PTE_LARGE) !== 0;
      if (this.#reserved(entryLo, entryHi, level, nx, large))
        return this.#fault(linear, access, user, PF_PRESENT | PF_RESERVED);
      rights &= entryLo;
      if (nx && entryHi >>> 31 !== 0) noExecute = true;
      this.#pathAt[level] = entryAt;
      this.#pathLo[level] = entryLo;
      if (level > 1 && !large) {
        table = frameOf(entryLo, entryHi);
        continue;
      }
      if (!this.#allowed(access, user, (rights & PTE_WRITABLE) !== 0, (rights & PTE_USER) !== 0, noExecute))
        return this.#fault(linear, access, user, PF_PRESENT);
      for (let above = levels; above > level; above--)
        this.#mark(this.#pathAt[above], this.#pathLo[above], PTE_ACCESSED);
      this.#mark(entryAt, entryLo, PTE_ACCESSED | (access === WRITE ? PTE_DIRTY : 0));
      const size = level === 1 ? 0x1000 : level === 2 ? 0x20_0000 : 0x4000_0000;
      const frame = frameOf(entryLo, entryHi);
      return frame - (frame % size) + (lo & (size - 1));
    }
  }

  #reserved(lo: number, hi: number, level: number, nx: boolean, large: boolean): boolean {
    if (!nx && hi >>> 31 !== 0) return true;
    const bits = this.physicalBits;
    if (bits < 52 && (hi & 0xf_ffff) >>> Math.max(bits - 32, 0) !== 0) return true;
    if (level >= 4) return (lo & PTE_LARGE) !== 0;
    if (!large) return false;
    return level === 2 ? (lo & 0x1f_e000) !== 0 : (lo & 0x3fff_e000) !== 0;
  }

  /** CR2 of the fault that was raised. */
  storeFaultAddress(): void {
    const { c32 } = this.state;
    c32[2 * CR2] = this.faultAddress >>> 0;
    c32[2 * CR2 + 1] = this.state.longMode ? Math.floor(this.faultAddress / 2 ** 32) >>> 0 : 0;
  }
}

/** The address in an entry: bits 51:12. */
const frameOf = (lo: number, hi: number): number => (hi & 0xf_ffff) * 2 ** 32 + ((lo & ~0xfff) >>> 0);
