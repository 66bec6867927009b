/**
 * Room for bytes that the kernel is pointed to, in front of a page that nobody may touch. A program hands over a
 * Uint8Array; it is copied so that its last byte is the last one before the guard page. A kernel that reads or writes
 * more than the program gave then answers EFAULT at the exact byte, as the fake does, instead of reaching into the
 * heap of the host program.
 */
import type { Libc } from "./libc.ts";

const PAGE = 4096;
const PROT_READ_WRITE = 3;
const MAP_PRIVATE_ANONYMOUS = 0x22;

export class Guard {
  readonly #libc: Libc;
  #start = 0;
  #room = 0;
  #bytes = new Uint8Array(0);

  constructor(libc: Libc) {
    this.#libc = libc;
  }

  /** Copies the bytes in front of the guard page: their address. They stay until the next `place`. */
  place(bytes: Uint8Array): number {
    if (bytes.length > this.#room || this.#room === 0) this.#grow(bytes.length);
    this.#bytes.set(bytes, this.#room - bytes.length);
    return this.#start + this.#room - bytes.length;
  }

  /** Copies the bytes of the last `place` back: what the kernel wrote. */
  fetch(bytes: Uint8Array): void {
    const at = this.#room - bytes.length;
    bytes.set(at === 0 ? this.#bytes : this.#bytes.subarray(at));
  }

  /** The memory goes back to the kernel. */
  release(): void {
    if (this.#room !== 0) this.#libc.munmap(this.#start, this.#room + PAGE);
    this.#start = this.#room = 0;
    this.#bytes = new Uint8Array(0);
  }

  #grow(length: number): void {
    this.release();
    const room = Math.max(4 * PAGE, Math.ceil(length / PAGE) * PAGE);
    const start = this.#libc.mmap(0, room + PAGE, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS, -1, 0);
    if (start < 0) throw new Error(`no memory for a buffer of ${length} bytes`);
    this.#libc.mprotect(start + room, PAGE, 0);
    this.#start = start;
    this.#room = room;
    this.#bytes = new Uint8Array(this.#libc.koffi.view(BigInt(start), room));
  }
}
