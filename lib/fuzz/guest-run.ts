/**
 * KVM_RUN inside a program: the guest runs until it needs user space, everything that can be seen is told, user space
 * answers, and the guest goes on. Two kernels that run the same guest are compared after each KVM_RUN: the page that the
 * vCPU shares, the guest's memory, and the parts that the operation names.
 *
 * A guest that runs on and on is stopped from outside, anywhere: then the program ends, and only that it had to be stopped
 * is compared. A vCPU that sleeps is stopped where it is, and the program goes on. In a storm of interrupts a vCPU sleeps now
 * and then (KVM lets it, for 10 ms after 10,000 of them), so a real one may be found asleep where the fake runs on.
 */
import { EAGAIN, EINTR } from "../abi/errno.ts";
import { fromHex } from "../abi/hex.ts";
import {
  KVM_EXIT_DEBUG,
  KVM_EXIT_IO,
  KVM_EXIT_IO_IN,
  KVM_EXIT_IOAPIC_EOI,
  KVM_EXIT_IRQ_WINDOW_OPEN,
  KVM_EXIT_MMIO,
  KVM_EXIT_X86_RDMSR,
  KVM_EXIT_X86_WRMSR,
  KVM_GET_MP_STATE,
  KVM_MP_STATE_RUNNABLE,
  KVM_RUN,
} from "../abi/kvm.ts";
import { MAP_SHARED } from "../abi/mman.ts";
import { load32 } from "../abi/struct.ts";
import type { Run, Step } from "./interpreter.ts";
import type { Operation } from "./program.ts";
import { readBack } from "./read-back.ts";

/** How much of the program's mapping belongs to a guest: 128 KiB of memory, and 8 KiB that it can only read. */
export const GUEST_RAM = 0x2_0000;
export const GUEST_ROM = 0x2000;

const PROT_READ_WRITE = 3;
/** the page of struct kvm_run, that of port data, the ring of coalesced accesses */
const SHARED_PAGES = 0x3000;
const IMMEDIATE_EXIT = 1;
const EXIT_REASON = 8;
const UNION = 32;
const MMIO_DATA = UNION + 8;
const MMIO_IS_WRITE = UNION + 20;
const MSR_ERROR = UNION;
const MSR_DATA = UNION + 16;
const PIO_DATA = 0x1000;

/** What KVM_RUN is said to answer where the kernel underneath knows that the guest would have run on. */
export const RUNNING_ON = Number.NEGATIVE_INFINITY;

type Answer = Omit<Step, "operation">;

/** The guest's part of the program's mapping. */
export const guestMemory = (run: Run): Uint8Array =>
  run.process.memory(run.guest(), GUEST_RAM + GUEST_ROM) ?? new Uint8Array(GUEST_RAM + GUEST_ROM);

/** The pages that a vCPU shares, mapped at the first use. */
function sharedPages(run: Run, vcpu: number): Uint8Array | undefined {
  let pages = run.pages.get(vcpu);
  if (pages === undefined) {
    const address = run.process.mmap(0, SHARED_PAGES, PROT_READ_WRITE, MAP_SHARED, vcpu, 0);
    pages = address < 0 ? undefined : run.process.memory(address, SHARED_PAGES);
    if (pages !== undefined) run.pages.set(vcpu, pages);
  }
  return pages;
}

/** Bytes that come round and round. */
class Answers {
  readonly #bytes: Uint8Array;
  #at = 0;

  constructor(hex: string) {
    this.#bytes = hex === "" ? new Uint8Array(1) : fromHex(hex);
  }

  fill(into: Uint8Array, at: number, length: number): void {
    for (let i = 0; i < length; i++) into[at + i] = this.#bytes[this.#at++ % this.#bytes.length];
  }
}

/** Whether the vCPU was running, not asleep. */
function runnable(run: Run, vcpu: number): boolean {
  const state = new Uint8Array(4);
  run.process.ioctl(vcpu, KVM_GET_MP_STATE.number, state);
  return load32(state, 0) === KVM_MP_STATE_RUNNABLE;
}

/** Makes the KVM_RUNs of an operation. */
export function* runGuest(
  run: Run,
  vcpu: number,
  operation: Extract<Operation, { op: "run" }>,
): Generator<Answer, void, void> {
  const page = sharedPages(run, vcpu);
  if (page === undefined) return;
  for (const { at, bytes } of operation.page) page.set(fromHex(bytes), at);
  const answers = new Answers(operation.answers);
  for (let i = 0; i < operation.times; i++) {
    const answered = run.enter(vcpu);
    const result = answered === RUNNING_ON ? -EINTR : answered;
    const stopped = result === -EINTR && page[IMMEDIATE_EXIT] === 0;
    run.over = stopped && (answered === RUNNING_ON || runnable(run, vcpu));
    const told = { call: "KVM_RUN", request: KVM_RUN.number, result };
    if (run.over) yield { ...told, bytes: [], over: true };
    if (run.over) return;
    yield { ...told, bytes: [page] };
    yield { call: "memory", result: 0, bytes: [guestMemory(run)] };
    yield* readBack(run, operation.parts);
    if (result === -EAGAIN) continue;
    if (result < 0 || !answer(page, answers)) return;
  }
}

/** Answers an exit; false where the guest has come to an end. */
function answer(page: Uint8Array, answers: Answers): boolean {
  switch (load32(page, EXIT_REASON)) {
    case KVM_EXIT_IO:
      if (page[UNION] === KVM_EXIT_IO_IN)
        answers.fill(page, PIO_DATA, Math.min(page[UNION + 1] * load32(page, UNION + 4), 0x1000));
      return true;
    case KVM_EXIT_MMIO:
      if (page[MMIO_IS_WRITE] === 0) answers.fill(page, MMIO_DATA, 8);
      return true;
    case KVM_EXIT_X86_RDMSR:
      answers.fill(page, MSR_DATA, 8);
      answers.fill(page, MSR_ERROR, 1);
      page[MSR_ERROR] &= 1;
      return true;
    case KVM_EXIT_X86_WRMSR:
      answers.fill(page, MSR_ERROR, 1);
      page[MSR_ERROR] &= 1;
      return true;
    case KVM_EXIT_IRQ_WINDOW_OPEN:
    case KVM_EXIT_DEBUG:
    case KVM_EXIT_IOAPIC_EOI:
      return true;
    default:
      return false;
  }
}
