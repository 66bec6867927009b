/**
 * irqfd × route × mask × order, enumerated: every program of up to six steps over one eventfd, one GSI, three routes,
 * the pin's mask and the kernel's deferred work, against a twin that is a handful of variables. Every delivery is
 * counted: the twin says exactly which vectors arrive at which step.
 */
import { expect, test } from "vitest";
import { KVM_IRQFD, KVM_IRQFD_FLAG_DEASSIGN, KVM_SET_GSI_ROUTING, KvmIrqfd } from "../../lib/abi/kvm.ts";
import { KVM_GET_IRQCHIP, KVM_SET_IRQCHIP, KvmIrqchip } from "../../lib/abi/kvm-x86.ts";
import { store32 } from "../../lib/abi/struct.ts";
import { byHand } from "../../lib/kernel/work-queue.ts";
import { IOAPIC, IrqWorld, routingTable } from "./world.ts";

const GSI = 20;
const PIN = 20;
const MESSAGE_VECTOR = 0x41;
const PIN_VECTOR = 0x52;
const one = Uint8Array.of(1, 0, 0, 0, 0, 0, 0, 0);

const steps = [
  "signal",
  "assign",
  "deassign",
  "read",
  "to message",
  "to pin",
  "to nothing",
  "mask",
  "unmask",
  "work",
] as const;
type Step = (typeof steps)[number];

/** The system: what it answers to a step, and what was delivered meanwhile. */
class System {
  readonly world = new IrqWorld({ policy: byHand });
  readonly fd: number;

  constructor() {
    this.fd = this.world.process.eventfd2(0, 0x800);
    this.step("to nothing");
    this.step("unmask");
  }

  step(step: Step): number {
    const { process, vm } = this.world;
    const irqfd = (flags: number) =>
      process.ioctl(vm, KVM_IRQFD, KvmIrqfd.encode({ fd: this.fd, gsi: GSI, flags }));
    const route = (routes: Parameters<typeof routingTable>[0]) =>
      process.ioctl(vm, KVM_SET_GSI_ROUTING, routingTable(routes));
    switch (step) {
      case "signal":
        return process.write(this.fd, one);
      case "assign":
        return irqfd(0);
      case "deassign":
        return irqfd(KVM_IRQFD_FLAG_DEASSIGN);
      case "read":
        return process.read(this.fd, new Uint8Array(8));
      case "to message":
        return route([{ gsi: GSI, vector: MESSAGE_VECTOR }]);
      case "to pin":
        return route([{ gsi: GSI, chip: IOAPIC, pin: PIN }]);
      case "to nothing":
        return route([]);
      case "mask":
      case "unmask": {
        const chip = KvmIrqchip.encode({ chip_id: IOAPIC });
        process.ioctl(vm, KVM_GET_IRQCHIP, chip);
        const entry = KvmIrqchip.offsetOf.chip + 24 + PIN * 8;
        store32(chip, entry, PIN_VECTOR | (step === "mask" ? 0x10000 : 0));
        return process.ioctl(vm, KVM_SET_IRQCHIP, chip);
      }
      case "work":
        this.world.process.kernel.work.step();
        return 0;
    }
  }
}

/** The twin: what each step answers and delivers, from the documentation alone. */
class Twin {
  route: "message" | "pin" | "nothing" = "nothing";
  masked = false;
  bound = false;
  counter = 0;
  /** whether an injection waits */
  waiting = false;

  step(step: Step): { result: number; delivers: number[] } {
    const delivers: number[] = [];
    let result = 0;
    switch (step) {
      case "signal":
        result = 8;
        if (!this.bound) this.counter++;
        // The irqfd takes the whole counter, what was there before it was bound included.
        else {
          this.counter = 0;
          if (this.route === "message") delivers.push(MESSAGE_VECTOR);
          else this.waiting = true;
        }
        break;
      case "assign":
        if (this.bound) result = -16;
        else {
          this.bound = true;
          if (this.counter > 0) this.waiting = true;
        }
        break;
      case "deassign":
        // It waits for what was left to inject, and leaving the wait queue takes the counter.
        if (this.bound) {
          this.counter = 0;
          if (this.waiting) this.inject(delivers);
          this.bound = false;
        }
        break;
      case "read":
        result = this.counter > 0 ? 8 : -11;
        this.counter = 0;
        break;
      case "to message":
        this.route = "message";
        break;
      case "to pin":
        this.route = "pin";
        break;
      case "to nothing":
        this.route = "nothing";
        break;
      case "mask":
      case "unmask":
        this.masked = step === "mask";
        break;
      case "work":
        if (this.waiting) this.inject(delivers);
        break;
    }
    return { result, delivers };
  }

  /** The route of the moment counts, not that of the signal; a masked pin forgets a pulse. */
  inject(delivers: number[]): void {
    this.waiting = false;
    if (this.route === "message") delivers.push(MESSAGE_VECTOR);
    if (this.route === "pin" && !this.masked) delivers.push(PIN_VECTOR);
  }
}

function differs(program: readonly Step[]): string | undefined {
  const system = new System();
  const twin = new Twin();
  for (const [i, step] of program.entries()) {
    system.world.delivered.length = 0;
    const result = system.step(step);
    const expected = twin.step(step);
    if (result !== expected.result || system.world.delivered.join() !== expected.delivers.join())
      return (
        `${program.slice(0, i + 1).join(", ")}: answered ${result} and delivered [${system.world.delivered}], ` +
        `expected ${expected.result} and [${expected.delivers}]`
      );
  }
  return undefined;
}

function* programs(length: number): Generator<Step[]> {
  if (length === 0) yield [];
  else for (const rest of programs(length - 1)) for (const step of steps) yield [...rest, step];
}

test("every program of four steps, and every one of six that begins bound to a message", () => {
  let count = 0;
  for (const program of programs(4)) {
    expect(differs(program)).toBeUndefined();
    count++;
  }
  for (const rest of programs(4)) {
    expect(differs(["to message", "assign", ...rest])).toBeUndefined();
    count++;
  }
  expect(count).toBe(2 * steps.length ** 4);
});

test("the twin is not blind: a lost, a doubled and a misrouted interrupt are each told", () => {
  const original = Twin.prototype.inject;
  const program: Step[] = ["to pin", "assign", "signal", "work"];
  for (const wrong of [
    () => {},
    (delivers: number[]) => delivers.push(PIN_VECTOR, PIN_VECTOR),
    (delivers: number[]) => delivers.push(MESSAGE_VECTOR),
  ]) {
    Twin.prototype.inject = wrong;
    expect(differs(program)).toContain("expected");
  }
  Twin.prototype.inject = original;
  expect(differs(program)).toBeUndefined();
});
