/**
 * A call that a signal ends: while it is made, a timer sends this thread a signal whose handler does nothing, once after
 * so many milliseconds and then again and again, so that a call which sleeps, or a guest that never leaves, answers
 * −EINTR. The timer is of the thread (SIGEV_THREAD_ID): no other thread of the host program sees the signal.
 *
 * struct sigevent: value u64 @0, signal i32 @8, notify i32 @12, thread i32 @16, 64 bytes. struct itimerspec: interval
 * {s, ns} @0, value {s, ns} @16, each i64.
 */
import type { Libc } from "./libc.ts";
import { kickSignal } from "./run.ts";

const CLOCK_MONOTONIC = 1;
const SIGEV_THREAD_ID = 4;
const NANOSECONDS = 1_000_000;
const SECOND = 1000;

interface TimerCalls {
  create(clock: number, event: Uint8Array, id: BigUint64Array): number;
  set(id: bigint, flags: number, time: BigInt64Array, old: null): number;
  delete(id: bigint): number;
  thread(): number;
}

let calls: TimerCalls | undefined;

function bind({ koffi }: Libc): TimerCalls {
  const library = koffi.load(null);
  const func = (name: string, ...parameters: string[]) => library.func(name, "int", parameters) as never;
  return {
    create: func("timer_create", "int", "void *", "void *"),
    set: func("timer_settime", "uint64_t", "int", "void *", "void *"),
    delete: func("timer_delete", "uint64_t"),
    thread: func("gettid"),
  };
}

/** Makes a call in this thread that −EINTR ends after `milliseconds`, if nothing else does. */
export function interrupted(libc: Libc, milliseconds: number, call: () => number): number {
  calls ??= bind(libc);
  const event = new Uint8Array(64);
  const view = new DataView(event.buffer);
  view.setInt32(8, kickSignal(libc), true);
  view.setInt32(12, SIGEV_THREAD_ID, true);
  view.setInt32(16, calls.thread(), true);
  const id = new BigUint64Array(1);
  if (calls.create(CLOCK_MONOTONIC, event, id) !== 0) throw new Error("no timer can be made");
  const seconds = BigInt(Math.floor(milliseconds / SECOND));
  const rest = BigInt((milliseconds % SECOND) * NANOSECONDS);
  calls.set(id[0], 0, BigInt64Array.of(seconds, rest, seconds, rest), null);
  try {
    return call();
  } finally {
    calls.delete(id[0]);
  }
}
