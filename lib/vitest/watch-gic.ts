/**
 * A processor of a GIC: an interrupt is delivered when it becomes pending for this processor, and once more with every
 * edge or message that follows. A level that stays up is one delivery. What comes while it is disabled is delivered when
 * it is enabled.
 */
import type { Gic, GicCpu } from "../hardware/gic.ts";
import { WatchedVcpu } from "./watched.ts";

/** The watched processors of each GIC. */
const watched = new WeakMap<Gic, Map<GicCpu, WatchedGicCpu>>();

export class WatchedGicCpu extends WatchedVcpu {
  readonly #gic: Gic;
  readonly #cpu: GicCpu;

  constructor(id: number, gic: Gic, cpu: GicCpu) {
    super(id);
    this.#gic = gic;
    this.#cpu = cpu;
    let cpus = watched.get(gic);
    if (cpus === undefined) {
      cpus = new Map();
      watched.set(gic, cpus);
      watch(gic, (cpu, intid) => watched.get(gic)!.get(cpu)?.add(intid));
    }
    cpus.set(cpu, this);
  }

  override nameOf(intid: number): string {
    return `INTID ${intid}`;
  }

  protected override waits(intid: number): boolean {
    const irq = this.#gic.irq(this.#cpu, intid);
    return irq?.pending === true && irq.queuedOn === this.#cpu;
  }
}

/** Tells every delivery. */
function watch(gic: Gic, delivered: (cpu: GicCpu, intid: number) => void): void {
  const inject = gic.inject.bind(gic);
  const sendSgi = gic.sendSgi.bind(gic);
  const enqueue = gic.enqueue.bind(gic);
  /** whether something comes: an edge, a level that rises, a message */
  let event = false;
  gic.inject = (irq, level, owner) => {
    event = level;
    inject(irq, level, owner);
    event = false;
  };
  gic.sendSgi = (cpu, intid, source) => {
    event = true;
    sendSgi(cpu, intid, source);
    event = false;
  };
  gic.enqueue = (irq) => {
    const waited = irq.queuedOn !== undefined;
    enqueue(irq);
    const cpu = irq.queuedOn;
    if (cpu !== undefined && irq.pending && gic.destination(irq) !== undefined && (event || !waited))
      delivered(cpu, irq.intid);
  };
}
