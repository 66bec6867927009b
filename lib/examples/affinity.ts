/**
 * Thread 001, the host's side: an interrupt moves from one processor to another while its device fires. A device's
 * message is an address (the processor) and data (the vector), which cannot be written at once; an entry of the remapping
 * table can.
 *
 * What is sent stays in the processor's IRR until it takes it; a vector that nobody handles any more is spurious, and the
 * interrupt lost.
 */
import type { Program } from "../fuzz/explore/run.ts";
import { step, type Thread, until } from "../fuzz/explore/thread.ts";
import { Kernel } from "../kernel/kernel.ts";
import { byHand } from "../kernel/work-queue.ts";

export const protocols = [
  "address, then data",
  "masked meanwhile",
  "vector first, on the old processor",
  "the same, without a look at the IRR",
  "remapping",
  "remapping, old vector released at once",
] as const;
export type Protocol = (typeof protocols)[number];

const OLD = { cpu: 0, vector: 0x41 };
const NEW = { cpu: 1, vector: 0x52 };
const SHOTS = 2;

/** Two processors, and which vectors of each have a handler. */
class Processors {
  readonly irr = [new Set<number>(), new Set<number>()];
  readonly handlers = [new Set([OLD.vector]), new Set<number>()];
  /** the first one runs the kernel's code, and takes no interrupts meanwhile */
  busy = false;
  handled = 0;
  spurious = 0;

  /** A message arrives. A vector that waits already is not counted twice. */
  send(cpu: number, vector: number): void {
    this.irr[cpu].add(vector);
  }

  *run(cpu: number): Thread {
    for (;;) {
      yield* until("an interrupt", () => this.irr[cpu].size !== 0 && !(cpu === 0 && this.busy));
      yield* step(`processor ${cpu} takes its interrupt`, () => {
        const [vector] = this.irr[cpu];
        this.irr[cpu].delete(vector);
        if (this.handlers[cpu].has(vector)) this.handled++;
        else this.spurious++;
      });
    }
  }
}

/** A device with one message, mask bit and pending bit. */
class Device {
  cpu = OLD.cpu;
  vector = OLD.vector;
  masked = false;
  pending = false;
  /** where a remapping entry sends it; undefined without remapping */
  irte: { cpu: number; vector: number } | undefined;
  readonly #processors: Processors;

  constructor(processors: Processors, remapped: boolean) {
    this.#processors = processors;
    if (remapped) this.irte = { ...OLD };
  }

  fire(): void {
    if (this.masked) this.pending = true;
    else {
      const { cpu, vector } = this.irte ?? this;
      this.#processors.send(cpu, vector);
    }
  }

  unmask(): void {
    this.masked = false;
    if (this.pending) this.fire();
    this.pending = false;
  }
}

/** The host moves the interrupt. */
function* move(protocol: Protocol, device: Device, processors: Processors): Thread {
  const { handlers, irr } = processors;
  const address = step("the message's address: the new processor", () => void (device.cpu = NEW.cpu));
  const data = step("the message's data: the new vector", () => void (device.vector = NEW.vector));
  yield* step("a vector of the new processor is taken", () => void handlers[NEW.cpu].add(NEW.vector));
  switch (protocol) {
    case "address, then data":
      yield* address;
      yield* data;
      break;
    case "masked meanwhile":
      yield* step("the interrupt is masked", () => void (device.masked = true));
      yield* address;
      yield* data;
      yield* step("the interrupt is unmasked", () => device.unmask());
      break;
    case "vector first, on the old processor":
    case "the same, without a look at the IRR":
      yield* step("the old processor runs the change", () => void (processors.busy = true));
      yield* data;
      yield* address;
      yield* step("it looks at its IRR for the new vector", () => {
        if (irr[OLD.cpu].delete(NEW.vector) && protocol === "vector first, on the old processor")
          processors.send(NEW.cpu, NEW.vector);
        processors.busy = false;
      });
      break;
    default:
      yield* step("the remapping entry leads to the new place", () => void (device.irte = { ...NEW }));
  }
  if (protocol !== "remapping, old vector released at once")
    yield* until("the old vector is quiet", () => !irr[OLD.cpu].has(OLD.vector));
  yield* step("the old vector is released", () => void handlers[OLD.cpu].delete(OLD.vector));
}

/** The device fires, and waits each time until somebody has taken it. */
export const moving = (protocol: Protocol): Program => ({
  name: `affinity: ${protocol}`,
  setup() {
    const processors = new Processors();
    const device = new Device(processors, protocol.startsWith("remapping"));
    let shots = 0;
    function* fires(): Thread {
      for (; shots < SHOTS; ) {
        yield* step("the device fires", () => {
          shots++;
          device.fire();
        });
        yield* until("the interrupt is over", () => processors.handled + processors.spurious >= shots);
      }
    }
    return {
      kernel: new Kernel({ policy: byHand }),
      threads: {
        cpu0: processors.run(0),
        cpu1: processors.run(1),
        host: move(protocol, device, processors),
        device: fires(),
      },
      daemons: ["cpu0", "cpu1", "device"],
      final() {
        const { handled, spurious } = processors;
        if (handled === SHOTS && spurious === 0) return undefined;
        return `${shots} of ${SHOTS} interrupts were sent, ${handled} handled, ${spurious} spurious`;
      },
    };
  },
});
