/**
 * pipe2(2): a byte stream between two descriptions (fs/pipe.c, 6.1), as far as a VMM uses one to wake an event loop.
 * 64 KiB deep. Missing: packet mode, F_SETPIPE_SZ, SIGPIPE (EPIPE alone), the page granularity of the real ring.
 */
import { EAGAIN, EFAULT, EPIPE } from "../abi/errno.ts";
import type { Argument } from "./argument.ts";
import {
  EPOLLERR,
  EPOLLHUP,
  EPOLLIN,
  EPOLLOUT,
  EPOLLRDNORM,
  EPOLLWRNORM,
  File,
  O_NONBLOCK,
  O_RDONLY,
  O_WRONLY,
} from "./file.ts";
import type { Kernel } from "./kernel.ts";
import { WaitQueue } from "./wait-queue.ts";

const CAPACITY = 65536;

class Stream {
  data: number[] = [];
  readers = 1;
  writers = 1;
  readonly queue = new WaitQueue();
}

class PipeEnd extends File {
  readonly name = "pipe:";
  readonly #stream: Stream;
  readonly #reading: boolean;

  constructor(kernel: Kernel, flags: number, stream: Stream, reading: boolean) {
    super(kernel, (reading ? O_RDONLY : O_WRONLY) | (flags & O_NONBLOCK));
    this.#stream = stream;
    this.#reading = reading;
  }

  override get waitQueue(): WaitQueue {
    return this.#stream.queue;
  }

  override read(user: Argument, count: number): number {
    const stream = this.#stream;
    if (count === 0) return 0;
    if (stream.data.length === 0) {
      if (stream.writers === 0) return 0;
      if (this.nonBlocking) return -EAGAIN;
      const ready = this.kernel.wait(
        "read of an empty pipe",
        () => stream.data.length !== 0 || stream.writers === 0,
      );
      if (typeof ready === "number") return ready;
    }
    const part = Math.min(count, stream.data.length);
    if (!user.writable(part)) return -EFAULT;
    user.bytes.set(stream.data.splice(0, part), user.at);
    stream.queue.wake(EPOLLOUT | EPOLLWRNORM);
    return part;
  }

  override write(user: Argument, count: number): number {
    const stream = this.#stream;
    if (stream.readers === 0) return -EPIPE;
    if (count === 0) return 0;
    const room = CAPACITY - stream.data.length;
    const part = count <= 4096 && count > room ? 0 : Math.min(count, room);
    if (part === 0) return -EAGAIN;
    if (!user.readable(part)) return -EFAULT;
    for (let i = 0; i < part; i++) stream.data.push(user.bytes[user.at + i]);
    stream.queue.wake(EPOLLIN | EPOLLRDNORM);
    return part;
  }

  override poll(): number {
    const stream = this.#stream;
    if (this.#reading)
      return (stream.data.length !== 0 ? EPOLLIN | EPOLLRDNORM : 0) | (stream.writers === 0 ? EPOLLHUP : 0);
    return (
      (stream.data.length < CAPACITY ? EPOLLOUT | EPOLLWRNORM : 0) | (stream.readers === 0 ? EPOLLERR : 0)
    );
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
