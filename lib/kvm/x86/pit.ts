/**
 * KVM_CREATE_PIT2, KVM_GET_PIT2, KVM_SET_PIT2, their older forms, and KVM_REINJECT_CONTROL: the 8254 timer in the
 * kernel. Its counter 0 pulses GSI 0 (arch/x86/kvm/i8254.c, 6.1).
 *
 * `struct kvm_pit_config`, 64 bytes: flags u32 (1: the speaker port answers too). `struct kvm_pit_state`, 72 bytes, and
 * `kvm_pit_state2`, 112 bytes: see hardware/pit.ts. `struct kvm_reinject_control`, 32 bytes: pit_reinject u8.
 */
import { EEXIST, EFAULT, ENOENT, ENOMEM, ENXIO } from "../../abi/errno.ts";
import {
  KVM_CREATE_PIT,
  KVM_CREATE_PIT2,
  KVM_GET_PIT,
  KVM_GET_PIT2,
  KVM_PIT_SPEAKER_DUMMY,
  KVM_REINJECT_CONTROL,
  KVM_SET_PIT,
  KVM_SET_PIT2,
  KvmPitConfig,
  KvmReinjectControl,
} from "../../abi/kvm-x86.ts";
import { load32 } from "../../abi/struct.ts";
import { PIT_STATE_SIZE, PIT_STATE2_SIZE, Pit } from "../../hardware/pit.ts";
import type { Argument } from "../../kernel/argument.ts";
import type { Timer } from "../../kernel/clock.ts";
import type { Work } from "../../kernel/work-queue.ts";
import { copyOut } from "../copy-out.ts";
import type { Entry } from "../dispatch.ts";
import { heldRange } from "../io-bus.ts";
import type { AckNotifier } from "../irq-routing.ts";
import type { Vm, VmFile } from "../vm.ts";
import type { Irqchip } from "./irqchip.ts";
import type { X86Vm } from "./vm.ts";

const PIT_GSI = 0;
/** the first source after user space and the resamplers (kvm_request_irq_source_id) */
const PIT_IRQ_SOURCE_ID = 2;

/** The PIT, its timer on the host's clock, and its line. */
export class KvmPit implements Timer, AckNotifier, Work {
  readonly name = "pit";
  readonly gsi = PIT_GSI;
  readonly chip: Pit;
  readonly speaker: boolean;
  expiry = Number.POSITIVE_INFINITY;
  readonly #vm: Vm;
  /** none where the PIT was made without it, before 6.12 */
  readonly #irqchip: Irqchip | undefined;

  constructor(vm: Vm, irqchip: Irqchip | undefined, speaker: boolean) {
    this.#vm = vm;
    this.#irqchip = irqchip;
    this.speaker = speaker;
    this.chip = new Pit(vm.kernel.clock.now);
    vm.routing.addNotifier(this);
    irqchip?.maskNotifiers.push({ gsi: PIT_GSI, changed: (masked) => masked || this.chip.resetReinject() });
    this.follow();
  }

  /** The guest acknowledged GSI 0. */
  acked(): void {
    this.chip.ack();
    this.schedule();
  }

  fire(now: number): void {
    this.chip.expire(now);
    this.follow();
    this.schedule();
  }

  schedule(): void {
    if (this.chip.flushed) {
      this.chip.flushed = false;
      this.#pulse();
    }
    if (this.chip.workQueued) this.#vm.kernel.work.schedule(this);
  }

  /** The work item: pulses the line, and on a LAPIC whose LINT0 takes NMIs delivers there too. */
  run(): void {
    if (this.chip.runWork()) this.#pulse();
    this.schedule();
  }

  #pulse(): void {
    const vm = this.#vm;
    vm.routing.pulse(PIT_IRQ_SOURCE_ID, PIT_GSI);
    if (this.#irqchip === undefined) return;
    const { system, bus } = this.#irqchip;
    if (system.lapicsInNmiMode > 0) for (const lapic of bus.lapics) lapic.localDeliver(LVT0);
  }

  /** Keeps the timer of the host's clock where counter 0 says. */
  follow(): void {
    const { clock } = this.#vm.kernel;
    const { nextExpiry } = this.chip;
    if (nextExpiry === this.expiry) return;
    if (nextExpiry === Number.POSITIVE_INFINITY) clock.cancel(this);
    else clock.arm(this, nextExpiry);
  }

  destroy(): void {
    this.#vm.kernel.clock.cancel(this);
    this.#vm.kernel.work.cancel(this);
  }
}

const LVT0 = 0x350;

const PIT_RANGE = heldRange(0x40, 4);
const SPEAKER_RANGE = heldRange(0x61, 4);

const pitOf = (file: VmFile): KvmPit | undefined => (file.vm.arch as X86Vm).pit;

/** EEXIST: there is one; ENOENT: no PIC in the kernel; ENOMEM, for want of room on the bus too. */
function create(file: VmFile, flags: number): number {
  const arch = file.vm.arch as X86Vm;
  if (arch.pit !== undefined) return -EEXIST;
  if (arch.irqchip?.mode !== "kernel" && file.vm.host.behaviour.pitNeedsPic) return -ENOENT;
  if (file.kernel.faults.allocation("kvm_pit")) return -ENOMEM;
  const speaker = (flags & KVM_PIT_SPEAKER_DUMMY) !== 0;
  if (file.vm.buses.pio.hold(speaker ? [PIT_RANGE, SPEAKER_RANGE] : [PIT_RANGE]) < 0) return -ENOMEM;
  arch.pit = new KvmPit(file.vm, arch.irqchip, speaker);
  return 0;
}

function createPit2(file: VmFile, user: Argument): number {
  if (!user.readable(KvmPitConfig.size)) return -EFAULT;
  return create(file, load32(user.bytes, user.at));
}

/** EFAULT: the struct is read before it is written; ENXIO without a PIT. */
function getPit(file: VmFile, user: Argument): number {
  if (!user.readable(PIT_STATE_SIZE)) return -EFAULT;
  const pit = pitOf(file);
  if (pit === undefined) return -ENXIO;
  if (!user.writable(PIT_STATE_SIZE)) return -EFAULT;
  pit.chip.saveTo(user.bytes, user.at);
  return 0;
}

/** ENXIO without a PIT, before the pointer is looked at; EFAULT. */
function getPit2(file: VmFile, user: Argument): number {
  const pit = pitOf(file);
  if (pit === undefined) return -ENXIO;
  const state = new Uint8Array(PIT_STATE2_SIZE);
  pit.chip.save2To(state, 0);
  return copyOut(user, state) ? 0 : -EFAULT;
}

function set(file: VmFile, user: Argument, size: number): number {
  if (!user.readable(size)) return -EFAULT;
  const pit = pitOf(file);
  if (pit === undefined) return -ENXIO;
  const { now } = file.kernel.clock;
  if (size === PIT_STATE2_SIZE) pit.chip.load2From(user.bytes, user.at, now);
  else pit.chip.loadFrom(user.bytes, user.at, now);
  pit.follow();
  pit.schedule();
  return 0;
}

/** EFAULT; ENXIO: no PIT. */
function reinjectControl(file: VmFile, user: Argument): number {
  if (!user.readable(KvmReinjectControl.size)) return -EFAULT;
  const pit = pitOf(file);
  if (pit === undefined) return -ENXIO;
  pit.chip.setReinject(user.bytes[user.at] !== 0);
  return 0;
}

export const pitIoctls: readonly Entry<VmFile>[] = [
  [KVM_CREATE_PIT, (file) => create(file, KVM_PIT_SPEAKER_DUMMY)],
  [KVM_CREATE_PIT2, createPit2],
  [KVM_GET_PIT, getPit],
  [KVM_SET_PIT, (file, user) => set(file, user, PIT_STATE_SIZE)],
  [KVM_GET_PIT2, getPit2],
  [KVM_SET_PIT2, (file, user) => set(file, user, PIT_STATE2_SIZE)],
  [KVM_REINJECT_CONTROL, reinjectControl],
];
