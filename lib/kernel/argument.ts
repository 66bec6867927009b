/**
 * The argument of an ioctl, or the buffer of a read or write: a plain value, bytes the program handed over directly,
 * or an address in its memory. A handler asks for what it needs, in the order Linux copies:
 *
 *     if (!user.readable(KvmIrqfd.size)) return -EFAULT;     // copy_from_user
 *     const irqfd = KvmIrqfd.at(user.bytes, user.at);
 *
 * No copy is made where the bytes lie in one mapping. Where they span several, `readable` gathers them and
 * `writable` scatters them when the call ends (`finish`).
 */
import { PROT_READ, PROT_WRITE } from "../abi/mman.ts";
import type { AddressSpace } from "./address-space.ts";

/** What a caller may pass where Linux takes `unsigned long`. */
export type UserArgument = number | bigint | Uint8Array;

/** The value that a buffer handed over directly shows where a plain value is expected: some address on the stack. */
export const STACK_ADDRESS = 0x7ffd_0000_0000;

export class Argument {
  /** the value, unsigned; exact below 2^53 */
  value = 0;
  /** low 32 bits of the value, unsigned: what a `u32` or `int` parameter keeps */
  low = 0;
  /** the bytes that the last `readable` or `writable` found, and where they start */
  bytes: Uint8Array = none;
  at = 0;
  #direct: Uint8Array | undefined;
  #memory: AddressSpace | undefined;
  #scatter: { address: number; bytes: Uint8Array }[] = [];

  /** Points the argument at what the program passed. */
  point(memory: AddressSpace, argument: UserArgument): this {
    this.#memory = memory;
    this.#direct = undefined;
    if (typeof argument === "number") {
      this.value = argument >= 0 ? argument : argument + 2 ** 64;
      this.low = argument >>> 0;
      if (!Number.isInteger(argument)) this.value = this.low = 0;
    } else if (typeof argument === "bigint") {
      const unsigned = BigInt.asUintN(64, argument);
      this.value = Number(unsigned);
      this.low = Number(unsigned & 0xffff_ffffn);
    } else {
      this.#direct = argument;
      this.value = STACK_ADDRESS;
      this.low = STACK_ADDRESS >>> 0;
    }
    return this;
  }

  /** Whether `size` bytes from `skip` on can be read; `bytes` and `at` are then the start of the argument. */
  readable(size: number, skip = 0): boolean {
    return this.#locate(size, skip, PROT_READ);
  }

  /** Whether `size` bytes from `skip` on can be written; they are written through `bytes` and `at`. */
  writable(size: number, skip = 0): boolean {
    return this.#locate(size, skip, PROT_WRITE);
  }

  /** Copies bytes out; false for EFAULT, with every byte before the fault written (copy_to_user). */
  copyOut(source: Uint8Array): boolean {
    const direct = this.#direct;
    if (direct === undefined)
      return this.value < this.#memory!.taskSize && this.#memory!.copyOut(this.value, source);
    const fits = Math.min(source.length, direct.length);
    direct.set(fits === source.length ? source : source.subarray(0, fits));
    return fits === source.length;
  }

  /** Writes back what was gathered from several mappings: the end of the call. */
  finish(): void {
    if (this.#scatter.length === 0) return;
    for (const { address, bytes } of this.#scatter) this.#memory!.copyOut(address, bytes);
    this.#scatter.length = 0;
  }

  /** Another pointer of the same call, found inside a struct. */
  pointer(address: number): Argument {
    return new Argument().point(this.#memory!, address);
  }

  /** The memory of the calling process. */
  get memory(): AddressSpace {
    return this.#memory!;
  }

  #locate(size: number, skip: number, access: number): boolean {
    const direct = this.#direct;
    if (direct !== undefined) {
      this.bytes = direct;
      this.at = 0;
      return skip + size <= direct.length;
    }
    if (size === 0 && skip === 0) return true;
    const memory = this.#memory!;
    const address = this.value;
    if (address + skip + size > memory.taskSize) return false;
    if (memory.locate(address, skip + size, access)) {
      this.bytes = memory.bytes;
      this.at = memory.at;
      return true;
    }
    if (!memory.accessible(address + skip, size, access)) return false;
    const gathered = memory.copyIn(address, skip + size) ?? new Uint8Array(skip + size);
    if (access === PROT_WRITE)
      this.#scatter.push({ address: address + skip, bytes: gathered.subarray(skip) });
    this.bytes = gathered;
    this.at = 0;
    return true;
  }
}

const none = new Uint8Array(0);
