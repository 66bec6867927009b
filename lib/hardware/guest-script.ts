/**
 * A guest as a JavaScript generator: it yields the accesses it makes and gets back what they read. For tests that think
 * in accesses, on every architecture.
 *
 *     function* main(): Script {
 *       yield store32(0xfee000f0, 0x1ff);
 *       yield enableInterrupts();
 *       const status = yield in8(0x3fd);
 *       yield halt();
 *     }
 *
 * Interrupt handlers are generators too: a handler runs with interrupts off, to its end, and then what it interrupted goes
 * on. A script that has come to its end sleeps, and takes interrupts as it left them.
 *
 * Accesses are plain data, so that a list of them can be printed, kept, and turned into machine code.
 */
export type Access =
  | { readonly does: "load"; readonly address: number; readonly width: 1 | 2 | 4 }
  | {
      readonly does: "store";
      readonly address: number;
      readonly width: 1 | 2 | 4 | 8;
      readonly value: number | bigint;
    }
  | { readonly does: "in"; readonly port: number; readonly width: 1 | 2 | 4 }
  | { readonly does: "out"; readonly port: number; readonly width: 1 | 2 | 4; readonly value: number }
  | { readonly does: "halt" }
  | { readonly does: "interrupts"; readonly on: boolean }
  | { readonly does: "eoi" };

/** What is yielded is an access, what comes back is the value that it read, 0 where it reads nothing. */
export type Script = Generator<Access, void, number>;
/** Interrupt handlers by vector. */
export type Handlers = ReadonlyMap<number, () => Script>;

const load =
  (width: 1 | 2 | 4) =>
  (address: number): Access => ({ does: "load", address, width });
const store =
  (width: 1 | 2 | 4) =>
  (address: number, value: number): Access => ({ does: "store", address, width, value });
const input =
  (width: 1 | 2 | 4) =>
  (port: number): Access => ({ does: "in", port, width });
const output =
  (width: 1 | 2 | 4) =>
  (port: number, value: number): Access => ({ does: "out", port, width, value });

/** Loads a byte of physical memory, or of a device. */
export const load8 = load(1);
/** Loads 2 bytes. */
export const load16 = load(2);
/** Loads 4 bytes. */
export const load32 = load(4);
/** Stores a byte. */
export const store8 = store(1);
/** Stores 2 bytes. */
export const store16 = store(2);
/** Stores 4 bytes. */
export const store32 = store(4);
/** Stores 8 bytes. */
export const store64 = (address: number, value: bigint): Access => ({
  does: "store",
  address,
  width: 8,
  value,
});
/** Reads a byte of a port. */
export const in8 = input(1);
/** Reads 2 bytes of a port. */
export const in16 = input(2);
/** Reads 4 bytes of a port. */
export const in32 = input(4);
/** Writes a byte to a port. */
export const out8 = output(1);
/** Writes 2 bytes to a port. */
export const out16 = output(2);
/** Writes 4 bytes to a port. */
export const out32 = output(4);
/** Sleeps until an interrupt. */
export const halt = (): Access => ({ does: "halt" });
export const enableInterrupts = (): Access => ({ does: "interrupts", on: true });
export const disableInterrupts = (): Access => ({ does: "interrupts", on: false });
/** Ends the interrupt that is in service. */
export const eoi = (): Access => ({ does: "eoi" });

interface Level {
  readonly script: Script;
  /** whether interrupts are on again once it is over */
  readonly interrupts: boolean;
}

/** The scripts of a guest that are under way: the main one, and on top of it the handlers that interrupted it. */
export class ScriptStack {
  readonly #levels: Level[] = [];
  readonly #handlers: Handlers;
  /** the access under way, if it has to be made again */
  pending: Access | undefined;
  /** what the last one read */
  answer = 0;

  constructor(main: Script, handlers: Handlers) {
    this.#levels.push({ script: main, interrupts: false });
    this.#handlers = handlers;
  }

  /**
   * The next access. `leave` is called when a handler ends, with whether interrupts were on before it. A main script that
   * has ended halts.
   */
  next(leave: (interrupts: boolean) => void): Access {
    for (;;) {
      const level = this.#levels[this.#levels.length - 1];
      const result = level.script.next(this.answer);
      this.answer = 0;
      if (result.done !== true) return result.value;
      if (this.#levels.length === 1) return { does: "halt" };
      this.#levels.pop();
      leave(level.interrupts);
    }
  }

  /** Starts the handler of a vector: false if there is none. */
  interrupt(vector: number, interrupts: boolean): boolean {
    const handler = this.#handlers.get(vector);
    if (handler === undefined) return false;
    this.#levels.push({ script: handler(), interrupts });
    return true;
  }
}
