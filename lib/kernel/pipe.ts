/**
 * pipe2(2): a byte stream between two descriptions (fs/pipe.c, 6.1). It is a ring of 16 pages: a write fills the rest of
 * the last page if its odd bytes fit there, then new pages, so what fits depends on the sizes of the writes. With O_DIRECT
 * every page is a packet: a read takes one at most, and drops what it has no room for.
 *
 * Missing: F_SETPIPE_SZ, SIGPIPE (EPIPE alone), notification pipes.
 */
import { EAGAIN, EFAULT, ENOTTY, EPIPE } from "../abi/errno.ts";
import { O_NONBLOCK, O_RDONLY, O_WRONLY } from "../abi/fcntl.ts";
import { EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDNORM, EPOLLWRNORM } from "../abi/poll.ts";
import { store32 } from "../abi/struct.ts";
import type { Argument } from "./argument.ts";
import { File } from "./file.ts";
import type { Kernel } from "./kernel.ts";
import { WaitQueue } from "./wait-queue.ts";

const PAGES = 16;
const PAGE = 4096;
/** packets instead of a stream */
export const O_DIRECT = 0x4000;
const FIONREAD = 0x541b;

/** A page of the ring: the bytes from `start` to `end` wait to be read. */
interface Page {
  readonly bytes: Uint8Array;
  start: number;
  end: number;
  readonly packet: boolean;
}

class Stream {
  pages: Page[] = [];
  readers = 1;
  writers = 1;
  readonly queue = new WaitQueue();

  get waiting(): number {
    return this.pages.reduce((sum, page) => sum + page.end - page.start, 0);
  }
}

class PipeEnd extends File {
  readonly name = "pipe:";
  readonly #stream: Stream;
  readonly #reading: boolean;

  constructor(kernel: Kernel, flags: number, stream: Stream, reading: boolean) {
    super(kernel, reading ? O_RDONLY | (flags & O_NONBLOCK) : O_WRONLY | (flags & (O_NONBLOCK | O_DIRECT)));
    this.#stream = stream;
    this.#reading = reading;
  }

  override readonly async = true;
  override readonly direct = true;

  override get waitQueue(): WaitQueue {
    return this.#stream.queue;
  }

  override read(user: Argument, count: number): number {
    const stream = this.#stream;
    if (count === 0) return 0;
    if (stream.pages.length === 0) {
      if (stream.writers === 0) return 0;
      if (this.nonBlocking) return -EAGAIN;
      const ready = this.kernel.wait(
        "read of an empty pipe",
        () => stream.pages.length !== 0 || stream.writers === 0,
      );
      if (typeof ready === "number") return ready;
    }
    let done = 0;
    while (done < count && stream.pages.length !== 0) {
      const page = stream.pages[0];
      const part = Math.min(count - done, page.end - page.start);
      if (!user.writable(part, done)) return done === 0 ? -EFAULT : done;
      user.bytes.set(page.bytes.subarray(page.start, page.start + part), user.at + done);
      page.start += part;
      done += part;
      if (page.packet || page.start === page.end) stream.pages.shift();
      if (page.packet) break;
    }
    stream.queue.wake(EPOLLOUT | EPOLLWRNORM);
    return done;
  }

  override write(user: Argument, count: number): number {
    const stream = this.#stream;
    if (stream.readers === 0) return -EPIPE;
    if (count === 0) return 0;
    const done = this.#fill(user, count);
    if (done > 0) stream.queue.wake(EPOLLIN | EPOLLRDNORM);
    return done;
  }

  /** Copies into the ring until it is full: how many bytes, or why none. */
  #fill(user: Argument, count: number): number {
    const { pages } = this.#stream;
    const last = pages.at(-1);
    const odd = count % PAGE;
    let done = 0;
    if (last !== undefined && !last.packet && odd !== 0 && last.end + odd <= PAGE) {
      if (!user.readable(odd)) return -EFAULT;
      last.bytes.set(user.bytes.subarray(user.at, user.at + odd), last.end);
      last.end += odd;
      done = odd;
    }
    const packet = (this.flags & O_DIRECT) !== 0;
    while (done < count) {
      if (pages.length === PAGES) return done === 0 ? -EAGAIN : done;
      const part = Math.min(count - done, PAGE);
      if (!user.readable(part, done)) return done === 0 ? -EFAULT : done;
      const bytes = new Uint8Array(PAGE);
      bytes.set(user.bytes.subarray(user.at + done, user.at + done + part));
      pages.push({ bytes, start: 0, end: part, packet });
      done += part;
    }
    return done;
  }

  /** FIONREAD: how many bytes wait, asked at either end. */
  override ioctl(_process: unknown, request: number, user: Argument): number {
    if (request !== FIONREAD) return -ENOTTY;
    if (!user.writable(4)) return -EFAULT;
    store32(user.bytes, user.at, this.#stream.waiting);
    return 0;
  }

  override poll(): number {
    const stream = this.#stream;
    if (this.#reading)
      return (stream.pages.length !== 0 ? EPOLLIN | EPOLLRDNORM : 0) | (stream.writers === 0 ? EPOLLHUP : 0);
    return (stream.pages.length < PAGES ? EPOLLOUT | EPOLLWRNORM : 0) | (stream.readers === 0 ? EPOLLERR : 0);
  }

  override release(): void {
    if (this.#reading) this.#stream.readers--;
    else this.#stream.writers--;
    this.#stream.queue.wake(EPOLLHUP);
  }
}

/** The two ends of a new pipe: reading, writing. */
export function pipe(kernel: Kernel, flags: number): [File, File] {
  const stream = new Stream();
  return [new PipeEnd(kernel, flags, stream, true), new PipeEnd(kernel, flags, stream, false)];
}
