/**
 * A POWER guest written in TypeScript: a generator stands in for machine code and yields one thing after the other that
 * a guest does. What KVM handles itself comes back as the answer; what it does not becomes an exit, and the answer is
 * what user space put into `struct kvm_run` before the next KVM_RUN.
 *
 *     function* guest() {
 *       yield* hypercall(H_CPPR, 0xff);
 *       const [, xirr] = yield* hypercall(H_XIRR);
 *       yield* hypercall(H_EOI, xirr);
 *       yield* store(0x9000_0000, 4, 1);
 *     }
 *
 * A store or load that no memory slot backs goes through the fields `mmio` of kvm_run (phys_addr @32, data @40, len @48, is_write @52) even where
 * an ioeventfd takes it (arch/powerpc/kvm/powerpc.c:kvmppc_handle_store, 6.1; traces guest-code/guest). A hypercall of
 * user space: `papr_hcall` (nr @32, ret @40, nine arguments @48).
 */
import { EINTR } from "../../abi/errno.ts";
import { KVM_EXIT_INTR, KVM_EXIT_MMIO, KVM_EXIT_PAPR_HCALL } from "../../abi/kvm.ts";
import { KvmRun } from "../../abi/kvm-ppc.ts";
import { store32, store64 } from "../../abi/struct.ts";
import { ASLEEP, BUSY } from "../../kernel/long-call.ts";
import { AWAKE, sleepUntil } from "../vcpu-sleep.ts";
import type { PpcVcpu } from "./vcpu.ts";

const EXIT_REASON = KvmRun.offsetOf.exit_reason;
const EXIT = 32;
const MMIO_DATA = EXIT + 8;
const MMIO_LENGTH = EXIT + 16;
const MMIO_IS_WRITE = EXIT + 20;
const HCALL_RET = EXIT + 8;
const HCALL_ARGS = EXIT + 16;
const HCALL_ARGUMENTS = 9;
const GPR_STATUS = 3;
/** steps of a guest in one KVM_RUN before a signal comes, and before a patient run lets others go on */
const MAX_STEPS = 100_000;
const SLICE = 1_000;

/** What a guest does: numbers up to 2^53, wider stores as bigints. */
export type GuestAction =
  | { readonly do: "hypercall"; readonly number: number; readonly args: readonly number[] }
  | {
      readonly do: "store";
      readonly address: number;
      readonly width: number;
      readonly value: number | bigint;
    }
  | { readonly do: "load"; readonly address: number; readonly width: number }
  | { readonly do: "wait" };

/** The status and GPRs 4 and 5 of a hypercall; the value of a load; nothing otherwise. */
export type GuestAnswer = readonly number[];
export type Guest = Generator<GuestAction, void, GuestAnswer>;

/** Asks the hypervisor: status, GPR 4, GPR 5. */
export function* hypercall(
  number: number,
  ...args: number[]
): Generator<GuestAction, GuestAnswer, GuestAnswer> {
  return yield { do: "hypercall", number, args };
}

/** Writes to a guest physical address. */
export function* store(
  address: number,
  width: number,
  value: number | bigint,
): Generator<GuestAction, void, GuestAnswer> {
  yield { do: "store", address, width, value };
}

/** Reads a guest physical address. */
export function* load(address: number, width: number): Generator<GuestAction, number, GuestAnswer> {
  const [value] = yield { do: "load", address, width };
  return value;
}

/** Sleeps until an external interrupt is pending. */
export function* wait(): Generator<GuestAction, void, GuestAnswer> {
  yield { do: "wait" };
}

/** Runs a guest on a vCPU, from one exit to the next. */
export class GuestRunner {
  readonly #vcpu: PpcVcpu;
  readonly #guest: Guest;
  /** what it did last, and what came of it */
  #action: GuestAction | undefined;
  /** undefined while user space has to answer */
  #answer: GuestAnswer | undefined = nothing;
  #stepsLeft = 0;
  /** the guest has come to its end */
  #ended = false;

  constructor(vcpu: PpcVcpu, guest: Guest) {
    this.#vcpu = vcpu;
    this.#guest = guest;
  }

  /** 0 for an exit; −EINTR for a signal, where the guest waits or spins for ever, or has ended. */
  run(patient: boolean): number {
    this.#stepsLeft = MAX_STEPS;
    return this.#go(patient);
  }

  /** A patient run that is not over goes on. */
  resume(): number {
    return this.#go(true);
  }

  #go(patient: boolean): number {
    this.#vcpu.vm.running = this.#vcpu;
    const result = this.#steps(patient);
    this.#vcpu.vm.running = undefined;
    return result;
  }

  /** Takes over what user space answered to the last exit: KVM_RUN does it first of all. */
  complete(): void {
    this.#answer ??= this.#fromUserSpace(this.#action!, this.#vcpu.vcpu.pages);
  }

  /** Between two steps deferred work may run. */
  #steps(patient: boolean): number {
    const { vcpu } = this.#vcpu;
    const { work } = vcpu.vm.kernel;
    const pause = patient ? this.#stepsLeft - SLICE : 0;
    while (this.#stepsLeft-- > 0 && !vcpu.interrupted) {
      if (this.#stepsLeft < pause) return BUSY;
      if (this.#ended || (this.#action?.do === "wait" && !this.#vcpu.external)) {
        const slept = this.#sleep(patient);
        if (slept !== AWAKE) return slept;
      }
      const next = this.#guest.next(this.#answer!);
      this.#ended = next.done === true;
      if (next.done === true) continue;
      this.#action = next.value;
      this.#answer = this.#perform(next.value, vcpu.pages);
      if (this.#answer === undefined) return 0;
      work.policy(work);
    }
    return this.#interrupted();
  }

  /** AWAKE with something to do, ASLEEP, or −EINTR. A guest that has ended sleeps until a signal comes. */
  #sleep(patient: boolean): number {
    const what = this.#ended ? "has come to its end" : "waits for an interrupt";
    const slept = sleepUntil(this.#vcpu.vcpu, patient, what, () => !this.#ended && this.#vcpu.external);
    return slept === AWAKE || slept === ASLEEP ? slept : this.#interrupted();
  }

  #interrupted(): number {
    store32(this.#vcpu.vcpu.pages, EXIT_REASON, KVM_EXIT_INTR);
    return -EINTR;
  }

  /** The answer where KVM handles it; if not, kvm_run says what user space is to do. */
  #perform(action: GuestAction, pages: Uint8Array): GuestAnswer | undefined {
    switch (action.do) {
      case "hypercall":
        return this.#hypercall(action.number, action.args, pages);
      case "store":
        return this.#access(action.address, action.width, action.value, pages);
      case "load":
        return this.#access(action.address, action.width, undefined, pages);
      case "wait":
        return nothing;
    }
  }

  #hypercall(number: number, args: readonly number[], pages: Uint8Array): GuestAnswer | undefined {
    const { registers } = this.#vcpu;
    registers.setGpr(GPR_STATUS, number);
    args.forEach((arg, i) => {
      registers.setGpr(GPR_STATUS + 1 + i, arg);
    });
    if (this.#vcpu.hypercall()) return [registers.status, registers.gpr(4), registers.gpr(5)];
    store32(pages, EXIT_REASON, KVM_EXIT_PAPR_HCALL);
    store64(pages, EXIT, number);
    for (let i = 0; i < HCALL_ARGUMENTS; i++)
      store64(pages, HCALL_ARGS + 8 * i, registers.gpr(GPR_STATUS + 1 + i));
    return undefined;
  }

  #access(
    address: number,
    width: number,
    value: number | bigint | undefined,
    pages: Uint8Array,
  ): GuestAnswer | undefined {
    const { slots, mm, buses } = this.#vcpu.vcpu.vm;
    const user = slots.userAddress(address);
    if (user >= 0) {
      if (value === undefined) return [Number(mm.load(user, width))];
      mm.store(user, width, value);
      return nothing;
    }
    store64(pages, EXIT, address);
    store32(pages, MMIO_LENGTH, width);
    pages[MMIO_IS_WRITE] = value === undefined ? 0 : 1;
    if (value !== undefined)
      for (let i = 0; i < width; i++) pages[MMIO_DATA + i] = Number((BigInt(value) >> BigInt(8 * i)) & 0xffn);
    const taken =
      value === undefined
        ? buses.mmio.read(address, width, pages, MMIO_DATA)
        : buses.mmio.write(address, width, pages, MMIO_DATA);
    if (taken) return value === undefined ? [dataOf(pages, width)] : nothing;
    store32(pages, EXIT_REASON, KVM_EXIT_MMIO);
    return undefined;
  }

  #fromUserSpace(action: GuestAction, pages: Uint8Array): GuestAnswer {
    if (action.do === "load") return [dataOf(pages, action.width)];
    if (action.do !== "hypercall") return nothing;
    const { registers } = this.#vcpu;
    registers.loadGprs(GPR_STATUS, pages.subarray(HCALL_RET, HCALL_ARGS + 8 * HCALL_ARGUMENTS));
    return [registers.status, registers.gpr(4), registers.gpr(5)];
  }
}

const nothing: GuestAnswer = [];

/** What a load brought, little-endian. */
function dataOf(pages: Uint8Array, width: number): number {
  let value = 0;
  for (let i = width - 1; i >= 0; i--) value = value * 256 + pages[MMIO_DATA + i];
  return value;
}
