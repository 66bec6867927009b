/**
 * XIVE, the interrupt hardware of POWER9, as much of it as a hypervisor sees: sources, event queues, and virtual
 * processors that events are routed to (Documentation/powerpc/xive, arch/powerpc/include/asm/xive-regs.h, 6.1).
 *
 * A source has two bits, P(ending) and Q(ueued). A trigger in state 00 makes an event and goes to 10; while P is set it
 * only sets Q; state 01 is off. The end of an interrupt clears both, and triggers again if Q was set. An event is the
 * source's number in the data it was routed with, appended to one of eight queues of a virtual processor, one a
 * priority.
 *
 * A virtual processor notes which queues got something (IPB, one bit a priority) and raises its processor's input
 * while one of them is more favoured than CPPR. Acknowledging takes the most favoured one and makes it the CPPR.
 *
 * Missing: the limits of a queue, escalation of events to processors that do not run, the guest's direct access to
 * these pages.
 */
import type { ExternalInput } from "./external-input.ts";

export const XIVE_PRIORITIES = 8;
/** no priority: 0xff */
export const XIVE_MASKED = 0xff;

/** states of P and Q */
export const PQ_IDLE = 0b00;
export const PQ_OFF = 0b01;
export const PQ_PENDING = 0b10;
export const PQ_QUEUED = 0b11;

/** Where the events of a source go. */
export interface XiveRoute {
  readonly processor: XiveProcessor;
  readonly priority: number;
  readonly data: number;
}

export class XiveSource {
  pq = PQ_OFF;
  /** undefined: events are lost */
  route: XiveRoute | undefined;

  trigger(): void {
    if (this.pq === PQ_OFF) return;
    const idle = this.pq === PQ_IDLE;
    this.pq = idle ? PQ_PENDING : PQ_QUEUED;
    if (idle && this.route !== undefined) this.route.processor.event(this.route.priority, this.route.data);
  }

  /** The load that sets both bits and answers what they were. */
  exchange(pq: number): number {
    const before = this.pq;
    this.pq = pq;
    return before;
  }

  endOfInterrupt(): void {
    if ((this.exchange(PQ_IDLE) & 1) !== 0) this.trigger();
  }
}

export class XiveProcessor {
  readonly input: ExternalInput;
  /** events by priority, oldest first */
  readonly queues: number[][] = Array.from({ length: XIVE_PRIORITIES }, () => []);
  /** bit n: the queue of priority n got something since it was acknowledged */
  ipb = 0;
  #cppr = 0;
  /** an interrupt was raised and not yet acknowledged: a CPPR that masks it afterwards does not take it back (NSR) */
  #raised = false;

  constructor(input: ExternalInput) {
    this.input = input;
  }

  get cppr(): number {
    return this.#cppr;
  }

  set cppr(value: number) {
    this.#cppr = value;
    this.#signal();
  }

  event(priority: number, data: number): void {
    this.queues[priority].push(data);
    this.setPending(priority);
  }

  /** Notes a priority as pending without an event. */
  setPending(priority: number): void {
    this.ipb |= 1 << priority;
    this.#signal();
  }

  /** The most favoured pending priority; 0xff where none is. */
  get pendingPriority(): number {
    return this.ipb === 0 ? XIVE_MASKED : 31 - Math.clz32(this.ipb & -this.ipb);
  }

  /** The processor takes its interrupt: the priority, which is the CPPR from now on; −1 where none was raised. */
  acknowledge(): number {
    this.input.external = false;
    if (!this.#raised) return -1;
    this.#raised = false;
    const priority = this.pendingPriority;
    this.ipb &= ~(1 << priority);
    this.#cppr = priority;
    return priority;
  }

  #signal(): void {
    if (this.pendingPriority >= this.#cppr) return;
    this.#raised = true;
    this.input.external = true;
  }
}
