/**
 * The signals of a process: which wait, which are blocked, what is done with those that are not (kernel/signal.c, 6.1). A
 * set of signals is a number of 64 bits, signal n at bit n − 1.
 *
 * A signal that is not blocked is handled where it is sent; one that is waits, and ends a sleep only under a mask that
 * lets it through: KVM_RUN has a mask of its own (KVM_SET_SIGNAL_MASK).
 *
 * Missing: default actions: a signal without a handler does nothing but interrupt, as in a VMM that kicks its vCPUs;
 * what comes with a signal, queues of one signal (real-time signals), signals of a single thread.
 */
import { EAGAIN, EINVAL } from "../abi/errno.ts";

export const SIG_BLOCK = 0;
export const SIG_UNBLOCK = 1;
export const SIG_SETMASK = 2;
const LAST_SIGNAL = 64;

/** The set that holds one signal. */
export const signalSet = (signal: number): bigint => 1n << BigInt(signal - 1);

/** SIGKILL and SIGSTOP, which nobody blocks. */
const UNBLOCKABLE = signalSet(9) | signalSet(19);

/** A set without those that cannot be blocked. */
export const blockable = (set: bigint): bigint => BigInt.asUintN(64, set) & ~UNBLOCKABLE;

/** What a program does about a signal: a function that is told its number, or nothing. */
export type SignalHandler = ((signal: number) => void) | "ignored";

/** Signals of a process: which wait, which are blocked, who handles them. */
export class Signals {
  /** that were sent and are not handled yet */
  waiting = 0n;
  blocked = 0n;
  readonly #handlers = new Map<number, SignalHandler>();
  readonly #sent: () => void;

  /** `sent` is called after a signal that waits came. */
  constructor(sent: () => void) {
    this.#sent = sent;
  }

  /** Whether a signal waits that `mask` does not block. */
  interrupts(mask = this.blocked): boolean {
    return this.waiting !== 0n && (this.waiting & ~mask) !== 0n;
  }

  /** kill(2) of the process itself: 0, or −EINVAL for what is no signal. Signal 0 is none. */
  send(signal: number): number {
    if (signal === 0) return 0;
    if (!isSignal(signal)) return -EINVAL;
    const set = signalSet(signal);
    if ((this.blocked & set) === 0n && this.#handlers.get(signal) === "ignored") return 0;
    this.waiting |= set;
    this.#sent();
    this.handle();
    return 0;
  }

  /** Runs the handlers of what waits and is not blocked: the way back to user space. */
  handle(): void {
    while (this.interrupts()) {
      const signal = lowest(this.waiting & ~this.blocked);
      this.waiting &= ~signalSet(signal);
      const handler = this.#handlers.get(signal);
      if (typeof handler === "function") handler(signal);
    }
  }

  /** What is done with a signal. */
  action(signal: number, handler: SignalHandler): number {
    if (!isSignal(signal) || (signalSet(signal) & UNBLOCKABLE) !== 0n) return -EINVAL;
    this.#handlers.set(signal, handler);
    if (handler === "ignored") this.waiting &= ~signalSet(signal);
    return 0;
  }

  /** sigprocmask(2). */
  mask(how: number, set: bigint): number {
    const given = blockable(set);
    if (how === SIG_BLOCK) this.blocked |= given;
    else if (how === SIG_UNBLOCK) this.blocked &= ~given;
    else if (how === SIG_SETMASK) this.blocked = given;
    else return -EINVAL;
    this.handle();
    return 0;
  }

  /** sigtimedwait(2) with no time to wait: takes the lowest of `set` that waits, or −EAGAIN. */
  take(set: bigint): number {
    const found = this.waiting & set;
    if (found === 0n) return -EAGAIN;
    const signal = lowest(found);
    this.waiting &= ~signalSet(signal);
    return signal;
  }
}

const isSignal = (signal: number): boolean =>
  Number.isInteger(signal) && signal >= 1 && signal <= LAST_SIGNAL;

function lowest(set: bigint): number {
  let signal = 1;
  for (let rest = set; (rest & 1n) === 0n; rest >>= 1n) signal++;
  return signal;
}
