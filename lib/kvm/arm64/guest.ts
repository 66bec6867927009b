/**
 * An arm64 guest written in TypeScript: a generator stands in for machine code and yields one thing after the other that
 * a guest does. What KVM or the hardware handles comes back as the answer; an access to memory that is neither RAM nor
 * in the kernel becomes KVM_EXIT_MMIO, and the answer is what user space put into `struct kvm_run` before the next
 * KVM_RUN.
 *
 *     function* guest() {
 *       yield* writeRegister(ICC_IGRPEN1_EL1, 1);
 *       yield* store(0x0800_0000, 4, 0x12);          // GICD_CTLR
 *       let intid = yield* readRegister(ICC_IAR1_EL1);
 *       while (intid === 1023) {
 *         yield* wfi();
 *         intid = yield* readRegister(ICC_IAR1_EL1);
 *       }
 *       yield* writeRegister(ICC_EOIR1_EL1, intid);
 *     }
 *
 * kvm_run: exit_reason @8; mmio: phys_addr u64 @32, data[8] @40, len u32 @48, is_write u8 @52. Address, length and
 * direction are written even where the kernel takes the access, the data of a write only for an exit
 * (arch/arm64/kvm/mmio.c:io_mem_abort, 6.1).
 *
 * Missing: hypercalls (PSCI), timers.
 */
import { EINTR } from "../../abi/errno.ts";
import {
  KVM_EXIT_DIRTY_RING_FULL,
  KVM_EXIT_INTR,
  KVM_EXIT_MMIO,
  KVM_MEM_LOG_DIRTY_PAGES,
} from "../../abi/kvm.ts";
import { KVM_VGIC_V2_CPU_SIZE, KvmRun } from "../../abi/kvm-arm64.ts";
import { load32, store32, store64 } from "../../abi/struct.ts";
import {
  guestReadInterface,
  guestReadSysreg,
  guestWriteInterface,
  guestWriteSysreg,
  load as loadListRegisters,
  maintenance,
  save as saveListRegisters,
} from "../../hardware/gic-cpu-interface.ts";
import { ASLEEP, BUSY } from "../../kernel/long-call.ts";
import { AWAKE, sleepUntil } from "../vcpu-sleep.ts";
import type { Arm64Vcpu } from "./vcpu.ts";
import { UNDEFINED } from "./vgic.ts";

const EXIT_REASON = KvmRun.offsetOf.exit_reason;
const PAGE = 4096;
const MMIO = 32;
const MMIO_DATA = MMIO + 8;
const MMIO_LENGTH = MMIO + 16;
const MMIO_IS_WRITE = MMIO + 20;

/** What a guest does. */
export type GuestAction =
  | { readonly do: "store"; readonly address: number; readonly width: number; readonly value: bigint }
  | { readonly do: "load"; readonly address: number; readonly width: number }
  | { readonly do: "read"; readonly register: number }
  | { readonly do: "write"; readonly register: number; readonly value: bigint }
  | { readonly do: "wfi" };

/** The value of a load or of a register; 0 otherwise. */
export type Guest = Generator<GuestAction, void, bigint>;
export type Step<V> = Generator<GuestAction, V, bigint>;

/** Writes memory: RAM, a register frame, or an exit. */
export function* store(address: number, width: number, value: number | bigint): Step<void> {
  yield { do: "store", address, width, value: BigInt(value) };
}

/** Reads memory. */
export function* load(address: number, width: number): Step<bigint> {
  return yield { do: "load", address, width };
}

/** Reads a register of the processor's interrupt interface (ICC_…_EL1 of gic-cpu-interface.ts). */
export function* readRegister(register: number): Step<number> {
  return Number(yield { do: "read", register });
}

/** Writes one. */
export function* writeRegister(register: number, value: number | bigint): Step<void> {
  yield { do: "write", register, value: BigInt(value) };
}

/** Sleeps until an interrupt is pending; may end without one. */
export function* wfi(): Step<void> {
  yield { do: "wfi" };
}

/** steps of a guest in one KVM_RUN before a signal comes, and before a patient run lets others go on */
const MAX_STEPS = 100_000;
const SLICE = 1_000;

/** Runs a guest on a vCPU, from one exit to the next. */
export class GuestRunner {
  readonly #vcpu: Arm64Vcpu;
  readonly #guest: Guest;
  /** what it did last, where user space has to answer */
  #exited: GuestAction | undefined;
  /** a store that waits for room in the ring of dirty pages */
  #held: GuestAction | undefined;
  #answer = 0n;
  #stepsLeft = 0;
  /** it waits for an interrupt, or has come to its end */
  #asleep = false;
  #ended = false;

  constructor(vcpu: Arm64Vcpu, guest: Guest) {
    this.#vcpu = vcpu;
    this.#guest = guest;
  }

  /** Takes over what user space answered to the last exit: KVM_RUN does it first of all (live 6.12). */
  complete(): void {
    if (this.#exited?.do === "load") this.#answer = dataOf(this.#vcpu.vcpu.pages, this.#exited.width);
    this.#exited = undefined;
  }

  /** 0 for an exit; −EINTR for a signal, where the guest waits or spins for ever, or has ended. */
  run(patient: boolean): number {
    if (this.#ringFull) return this.#exitForRing();
    store32(this.#vcpu.vcpu.pages, EXIT_REASON, 0);
    this.#stepsLeft = MAX_STEPS;
    return this.#go(patient);
  }

  /** A patient run that is not over goes on. */
  resume(): number {
    return this.#go(true);
  }

  #go(patient: boolean): number {
    const { vcpu } = this.#vcpu;
    if (vcpu.interrupted) return this.#interrupted();
    if (this.#asleep) {
      const slept = this.#sleep(patient);
      if (slept !== AWAKE) return slept;
    }
    const pause = patient ? this.#stepsLeft - SLICE : 0;
    this.#enter();
    while (this.#stepsLeft-- > 0 && !vcpu.interrupted) {
      if (this.#stepsLeft < pause) {
        this.#leave();
        return BUSY;
      }
      const action = this.#next();
      if (action === undefined || action.do === "wfi") {
        this.#ended = action === undefined;
        this.#leave();
        const slept = this.#sleep(patient);
        if (slept !== AWAKE) return slept;
        this.#enter();
      } else if (this.#fillsRing(action)) {
        this.#held = action;
        this.#leave();
        return this.#exitForRing();
      } else if (!this.#perform(action)) {
        this.#exited = action;
        store32(vcpu.pages, EXIT_REASON, KVM_EXIT_MMIO);
        return 0;
      }
    }
    this.#leave();
    return this.#interrupted();
  }

  /** AWAKE with something to do, ASLEEP, or −EINTR. A guest that has ended sleeps until a signal comes. */
  #sleep(patient: boolean): number {
    const { vcpu } = this.#vcpu;
    const what = this.#ended ? "has come to its end" : "waits for an interrupt";
    this.#asleep = true;
    const slept = sleepUntil(vcpu, patient, what, () => !this.#ended && this.#vcpu.runnable);
    if (slept === ASLEEP) return ASLEEP;
    if (slept !== AWAKE) return this.#interrupted();
    this.#asleep = false;
    return AWAKE;
  }

  #interrupted(): number {
    store32(this.#vcpu.vcpu.pages, EXIT_REASON, KVM_EXIT_INTR);
    return -EINTR;
  }

  /** What it does now; undefined: nothing any more. */
  #next(): GuestAction | undefined {
    const held = this.#held;
    if (held !== undefined) {
      this.#held = undefined;
      return held;
    }
    const next = this.#guest.next(this.#answer);
    if (next.done === true) return undefined;
    this.#answer = 0n;
    return next.value;
  }

  get #ringFull(): boolean {
    const { vcpu } = this.#vcpu;
    return vcpu.vm.dirtyRingSize !== 0 && vcpu.dirtyRing.full;
  }

  #exitForRing(): 0 {
    store32(this.#vcpu.vcpu.pages, EXIT_REASON, KVM_EXIT_DIRTY_RING_FULL);
    return 0;
  }

  /** The first store to a page of a logged slot goes into the ring of this vCPU. True: that is full now, the store waits. */
  #fillsRing(action: GuestAction): boolean {
    const { vcpu } = this.#vcpu;
    const { slots, dirtyRingSize } = vcpu.vm;
    if (action.do !== "store" || dirtyRingSize === 0) return false;
    const frame = Math.floor(action.address / PAGE);
    const slot = slots.find(frame);
    if (slot === undefined || (slot.flags & KVM_MEM_LOG_DIRTY_PAGES) === 0) return false;
    const page = frame - slot.baseFrame;
    if (!slots.writtenFirst(slot, page)) return false;
    vcpu.dirtyRing.push(slot.id, page);
    return vcpu.dirtyRing.full;
  }

  #enter(): void {
    const { vm, cpu } = this.#vcpu;
    cpu.kicked = false;
    if (vm.vgic.initialized) loadListRegisters(vm.vgic.gic, cpu);
  }

  /** The guest is left: what it ended is told. */
  #leave(): void {
    const { vm, cpu } = this.#vcpu;
    if (!vm.vgic.initialized) return;
    saveListRegisters(vm.vgic.gic, cpu);
    vm.vgic.notifyAcked();
  }

  /** Whether it is done without user space. */
  #perform(action: Exclude<GuestAction, { do: "wfi" }>): boolean {
    const { vm, cpu } = this.#vcpu;
    const { gic } = vm.vgic;
    switch (action.do) {
      case "read":
        this.#answer = BigInt(guestReadSysreg(gic, cpu, action.register));
        return true;
      case "write":
        guestWriteSysreg(gic, cpu, action.register, action.value);
        this.#afterInterface();
        return true;
      default:
        return this.#memory(action);
    }
  }

  /** The hardware calls the hypervisor where it was asked to; a new interrupt comes in at once. */
  #afterInterface(): void {
    const { cpu } = this.#vcpu;
    if (!maintenance(cpu) && !cpu.kicked) return;
    this.#leave();
    this.#enter();
  }

  #memory(action: Extract<GuestAction, { do: "load" | "store" }>): boolean {
    if (this.#ram(action) || this.#interface(action)) return true;
    this.#leave();
    const taken = this.#mmio(action);
    if (taken) this.#enter();
    return taken;
  }

  /** A slot of the guest's memory. */
  #ram(action: Extract<GuestAction, { do: "load" | "store" }>): boolean {
    const { memory } = this.#vcpu.vm.vgic;
    if (!memory.visible(action.address)) return false;
    const passedThrough = this.#passedThrough(action);
    if (passedThrough !== undefined) return passedThrough;
    const bytes = new Uint8Array(8);
    if (action.do === "load") {
      if (!memory.read(action.address, bytes.subarray(0, action.width))) return false;
      this.#answer = value(bytes, 0, action.width);
      return true;
    }
    store64(bytes, 0, BigInt.asUintN(64, action.value));
    const marks = this.#vcpu.vm.vm.dirtyRingSize === 0;
    return memory.write(action.address, bytes.subarray(0, action.width), marks);
  }

  /** A slot over the mapping of a device: the guest's access reaches the device itself. Undefined for plain memory. */
  #passedThrough(action: Extract<GuestAction, { do: "load" | "store" }>): boolean | undefined {
    const { slots, mm } = this.#vcpu.vm.vm;
    const user = slots.userAddress(action.address);
    if (mm.find(user)?.device === undefined) return undefined;
    if (action.do === "store") return mm.store(user, action.width, action.value) === 0;
    const answer = mm.load(user, action.width);
    if (typeof answer === "string") return false;
    this.#answer = BigInt(answer);
    return true;
  }

  /** The GICv2's processor interface: the guest reaches the hardware itself. */
  #interface(action: Extract<GuestAction, { do: "load" | "store" }>): boolean {
    const { vm, cpu } = this.#vcpu;
    const { cpuBase, gic } = vm.vgic;
    if (gic.version !== 2 || cpuBase === UNDEFINED) return false;
    const offset = action.address - cpuBase;
    if (offset < 0 || offset >= KVM_VGIC_V2_CPU_SIZE) return false;
    if (action.do === "load") this.#answer = BigInt(guestReadInterface(cpu, offset) >>> 0);
    else {
      guestWriteInterface(cpu, offset, Number(action.value & 0xffff_ffffn));
      this.#afterInterface();
    }
    return true;
  }

  #mmio(action: Extract<GuestAction, { do: "load" | "store" }>): boolean {
    const { vm, cpu, vcpu } = this.#vcpu;
    const { pages } = vcpu;
    const { mmio } = vm.vm.buses;
    const { address, width } = action;
    const data = new Uint8Array(8);
    vm.vgic.current = cpu;
    if (action.do === "store") store64(data, 0, BigInt.asUintN(64, action.value));
    const taken =
      action.do === "store" ? mmio.write(address, width, data, 0) : mmio.read(address, width, data, 0);
    store64(pages, MMIO, address);
    store32(pages, MMIO_LENGTH, width);
    pages[MMIO_IS_WRITE] = action.do === "store" ? 1 : 0;
    if (action.do === "store" ? !taken : taken) pages.set(data.subarray(0, width), MMIO_DATA);
    if (taken && action.do === "load") this.#answer = dataOf(pages, width);
    return taken;
  }
}

function value(bytes: Uint8Array, at: number, width: number): bigint {
  let result = 0n;
  for (let i = width - 1; i >= 0; i--) result = (result << 8n) | BigInt(bytes[at + i]);
  return result;
}

/** What user space put into kvm_run. */
const dataOf = (pages: Uint8Array, width: number): bigint =>
  value(pages, MMIO_DATA, Math.min(width, load32(pages, MMIO_LENGTH)));
