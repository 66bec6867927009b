/**
 * The virtual clock of a host: nanoseconds since boot as a plain number (exact for 104 days). It stands still until
 * the test moves it; timers fire in the order of their time, those of one moment in the order they were armed.
 */
export interface Timer {
  /** when it fires, in nanoseconds of the clock; Infinity while it is not armed */
  expiry: number;
  fire(now: number): void;
}

/** The virtual clock of a host, in nanoseconds since boot. */
export class Clock {
  /** nanoseconds since boot (CLOCK_MONOTONIC) */
  now: number;
  /** what CLOCK_REALTIME showed at boot, in nanoseconds since 1970 */
  readonly bootTime: number;
  #timers: Timer[] = [];
  /** called after time has passed */
  passed: (() => void) | undefined;

  constructor(now = 1_000_000_000, bootTime = 1_767_225_600_000_000_000) {
    this.now = now;
    this.bootTime = bootTime;
  }

  /** Arms a timer (again): it fires once the clock has come to `expiry`. */
  arm(timer: Timer, expiry: number): void {
    this.cancel(timer);
    timer.expiry = expiry;
    let index = this.#timers.length;
    while (index > 0 && this.#timers[index - 1].expiry > expiry) index--;
    this.#timers.splice(index, 0, timer);
  }

  cancel(timer: Timer): void {
    const index = this.#timers.indexOf(timer);
    if (index >= 0) this.#timers.splice(index, 1);
    timer.expiry = Number.POSITIVE_INFINITY;
  }

  /** When the next timer fires; Infinity if none is armed. */
  get next(): number {
    return this.#timers.length === 0 ? Number.POSITIVE_INFINITY : this.#timers[0].expiry;
  }

  /** Moves the clock to `time` and fires what is due on the way, each at its own moment. */
  advanceTo(time: number): void {
    while (this.#timers.length !== 0 && this.#timers[0].expiry <= time) {
      const timer = this.#timers.shift()!;
      this.now = Math.max(this.now, timer.expiry);
      timer.expiry = Number.POSITIVE_INFINITY;
      timer.fire(this.now);
    }
    this.now = Math.max(this.now, time);
    this.passed?.();
  }

  /** Moves the clock by so many nanoseconds. */
  advance(nanoseconds: number): void {
    this.advanceTo(this.now + nanoseconds);
  }
}
