/**
 * The mappings that one native process made: which addresses are its own, and the bytes there, as array buffers over
 * the real memory. Addresses outside of them are never touched: a load there is a SIGSEGV by name, not a dead host.
 *
 * A page that exists in the table and not in reality (behind the end of a file, a vCPU's third page on a kernel that has
 * two) would kill the host by SIGBUS. So every page of a file mapping is first read by process_vm_readv, which answers
 * EFAULT there. Device memory cannot be read that way; it is recognised by its file (VFIO) and accessed directly.
 *
 * A view that is kept after munmap is a dangling pointer, and touching it ends the host program, as it does in C.
 */
import { EFAULT } from "../abi/errno.ts";
import { PROT_READ, PROT_WRITE } from "../abi/mman.ts";
import { SIGBUS, SIGSEGV } from "../kernel/address-space.ts";
import type { Libc } from "./libc.ts";

const PAGE = 4096;

interface Mapping {
  readonly start: number;
  readonly end: number;
  readonly prot: number;
  /** `buffer`: bytes of the program whose address was given away; the view keeps them, so the address stays theirs */
  readonly kind: "anonymous" | "file" | "device" | "buffer";
}

export class Memory {
  readonly #libc: Libc;
  #mappings: Mapping[] = [];
  /** one view a mapping, by address */
  #views = new Map<number, Uint8Array>();

  constructor(libc: Libc) {
    this.#libc = libc;
  }

  add(start: number, length: number, prot: number, kind: Mapping["kind"]): void {
    this.remove(start, length);
    this.#mappings.push({ start, end: start + pages(length), prot, kind });
  }

  /** Unmaps what is this process's own in a range, nothing of the host program: 0, or −errno. */
  unmap(address: number, length: number): number {
    const end = address + pages(length);
    let result = 0;
    for (const mapping of this.#mappings) {
      const from = Math.max(address, mapping.start);
      const to = Math.min(end, mapping.end);
      if (mapping.kind !== "buffer" && from < to && result === 0) result = this.#libc.munmap(from, to - from);
    }
    if (result === 0) this.remove(address, length);
    return result;
  }

  /** Whether every page of a range is a mapping of this process. */
  owns(address: number, length: number): boolean {
    const end = address + pages(length);
    for (let at = address; at < end; ) {
      const mapping = this.#find(at, 1);
      if (mapping === undefined || mapping.kind === "buffer") return false;
      at = mapping.end;
    }
    return true;
  }

  /** Forgets a range; what is partly inside keeps the rest. */
  remove(start: number, length: number): void {
    const end = start + pages(length);
    this.#mappings = this.#mappings.flatMap((mapping) => {
      if (mapping.kind === "buffer" || mapping.end <= start || mapping.start >= end) return [mapping];
      this.#views.delete(mapping.start);
      const pieces: Mapping[] = [];
      if (mapping.start < start) pieces.push({ ...mapping, end: start });
      if (mapping.end > end) pieces.push({ ...mapping, start: end });
      return pieces;
    });
  }

  /** The address of bytes of the program. Its own mappings are real memory already. */
  addressOf(buffer: Uint8Array): number {
    const whole = new Uint8Array(buffer.buffer);
    const start = Number(this.#libc.koffi.address(whole));
    if (this.#views.get(start)?.buffer !== whole.buffer) {
      const end = start + whole.length;
      this.#mappings.push({ start, end, prot: PROT_READ | PROT_WRITE, kind: "buffer" });
      this.#views.set(start, whole);
    }
    return start + buffer.byteOffset;
  }

  /** Unmaps everything. */
  clear(): void {
    for (const { start, end, kind } of this.#mappings)
      if (kind !== "buffer") this.#libc.munmap(start, end - start);
    this.#mappings = [];
    this.#views.clear();
  }

  /** The bytes, or undefined where they are not (all) plain readable memory of this process. */
  bytes(address: number, length: number): Uint8Array | undefined {
    const mapping = this.#find(address, length);
    if (mapping === undefined || mapping.kind === "device" || (mapping.prot & PROT_READ) === 0)
      return undefined;
    if (mapping.kind === "file" && !this.#backed(address, length)) return undefined;
    const at = address - mapping.start;
    return this.#view(mapping).subarray(at, at + length);
  }

  load(address: number, width: number): number | bigint | typeof SIGBUS | typeof SIGSEGV {
    const mapping = this.#find(address, width);
    if (mapping === undefined || (mapping.prot & PROT_READ) === 0) return SIGSEGV;
    if (mapping.kind === "file" && !this.#backed(address, width)) return SIGBUS;
    const view = dataView(this.#view(mapping));
    const at = address - mapping.start;
    if (width === 1) return view.getUint8(at);
    if (width === 2) return view.getUint16(at, true);
    if (width === 4) return view.getUint32(at, true);
    return view.getBigUint64(at, true);
  }

  store(address: number, width: number, value: number | bigint): 0 | typeof SIGBUS | typeof SIGSEGV {
    const mapping = this.#find(address, width);
    if (mapping === undefined || (mapping.prot & PROT_WRITE) === 0) return SIGSEGV;
    if (mapping.kind === "file" && !this.#backed(address, width)) return SIGBUS;
    const view = dataView(this.#view(mapping));
    const at = address - mapping.start;
    if (width === 1) view.setUint8(at, Number(value));
    else if (width === 2) view.setUint16(at, Number(value), true);
    else if (width === 4) view.setUint32(at, Number(value), true);
    else view.setBigUint64(at, BigInt.asUintN(64, BigInt(value)), true);
    return 0;
  }

  #find(address: number, length: number): Mapping | undefined {
    return this.#mappings.find((m) => address >= m.start && address + length <= m.end);
  }

  #view(mapping: Mapping): Uint8Array {
    let view = this.#views.get(mapping.start);
    if (view === undefined || view.length < mapping.end - mapping.start) {
      const length = mapping.end - mapping.start;
      view = new Uint8Array(this.#libc.koffi.view(BigInt(mapping.start), length));
      this.#views.set(mapping.start, view);
    }
    return view;
  }

  /** Whether every page of the range is there: one byte of each is copied by the kernel. */
  #backed(address: number, length: number): boolean {
    const first = Math.floor(address / PAGE) * PAGE;
    for (let page = first; page < address + length; page += PAGE) {
      remote.setBigUint64(0, BigInt(page), true);
      remote.setBigUint64(8, 1n, true);
      local.setBigUint64(0, this.#libc.koffi.address(landing), true);
      local.setBigUint64(8, 1n, true);
      const [here, there] = [this.#libc.koffi.address(local), this.#libc.koffi.address(remote)];
      if (this.#libc.processVmReadv(process.pid, here, 1, there, 1, 0) === -EFAULT) return false;
    }
    return true;
  }
}

/** struct iovec: the address, the length. */
const local = new DataView(new ArrayBuffer(16));
const remote = new DataView(new ArrayBuffer(16));
const landing = new Uint8Array(new ArrayBuffer(1));

const pages = (length: number): number => Math.ceil(length / PAGE) * PAGE;
const dataView = (bytes: Uint8Array): DataView =>
  new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
