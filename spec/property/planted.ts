/**
 * Ten mistakes to plant into the fake itself: each takes a small thing away from what routing, irqfds, resampling and
 * masks do, and gives it back when it is told to. They are what a careless change could do.
 */
import {
  KVM_CREATE_IRQCHIP,
  KVM_CREATE_VM,
  KVM_IRQFD,
  KVM_IRQFD_FLAG_RESAMPLE,
  KvmIrqfd,
} from "../../lib/abi/kvm.ts";
import { InterruptRemapping } from "../../lib/hardware/interrupt-remapping.ts";
import { Ioapic } from "../../lib/hardware/ioapic.ts";
import { Msix } from "../../lib/hardware/msix.ts";
import { WorkQueue } from "../../lib/kernel/work-queue.ts";
import { IrqRouting } from "../../lib/kvm/irq-routing.ts";
import { IrqFd, type Resampler } from "../../lib/kvm/irqfd.ts";
import type { VmFile } from "../../lib/kvm/vm.ts";
import { Machine } from "../../lib/machine/machine.ts";
import { Virqfd } from "../../lib/vfio/virqfd.ts";

export interface Mistake {
  readonly where: "routing" | "irqfd" | "resample" | "mask";
  readonly what: string;
  /** plants it; the answer takes it out again */
  plant(): () => void;
}

type Method = (this: never, ...args: never[]) => unknown;

/** Puts another method in the place of one; the answer puts it back. */
function replace<T extends object, K extends keyof T>(target: T, name: K, make: (before: T[K]) => T[K]) {
  const before = Object.getOwnPropertyDescriptor(target, name)!;
  Object.defineProperty(target, name, { ...before, value: make(before.value as T[K]) });
  return () => Object.defineProperty(target, name, before);
}

/** The class of resamplers is nobody's business but irqfd's: it is found in a VM that has one. */
function resamplers(): Resampler {
  const process = new Machine().process();
  const vm = process.ioctl(process.open("/dev/kvm", 2), KVM_CREATE_VM, 0);
  process.ioctl(vm, KVM_CREATE_IRQCHIP, 0);
  const [fd, resamplefd] = [process.eventfd2(0, 0), process.eventfd2(0, 0)];
  const args = KvmIrqfd.encode({ fd, gsi: 20, flags: KVM_IRQFD_FLAG_RESAMPLE, resamplefd });
  process.ioctl(vm, KVM_IRQFD, args);
  const resampler = (process.fds.get(vm) as VmFile).vm.resamplers.get(20);
  return Object.getPrototypeOf(resampler) as Resampler;
}

const nothing = (() => undefined) as Method;

export const mistakes: readonly Mistake[] = [
  {
    where: "routing",
    what: "a new table is not told to the irqfds",
    plant: () =>
      replace(
        IrqRouting.prototype,
        "replace",
        (before) =>
          function (this: IrqRouting, bytes, at, count) {
            const told = this.onChange.splice(0);
            const result = before.call(this, bytes, at, count);
            this.onChange.push(...told);
            return result;
          },
      ),
  },
  {
    where: "routing",
    what: "a line that goes down is not lowered in the controllers",
    plant: () =>
      replace(
        IrqRouting.prototype,
        "setIrq",
        (before) =>
          function (this: IrqRouting, source, gsi, level, status) {
            return level ? before.call(this, source, gsi, level, status) : 1;
          },
      ),
  },
  {
    where: "irqfd",
    what: "what was left to inject is dropped when it is removed",
    plant: () =>
      replace(
        WorkQueue.prototype,
        "cancel",
        (before) =>
          function (this: WorkQueue, work) {
            before.call(this, work);
            return false;
          },
      ),
  },
  {
    where: "irqfd",
    what: "what was signalled before it is bound is forgotten",
    plant: () =>
      replace(
        IrqFd.prototype,
        "scheduleInject",
        (before) =>
          function (this: IrqFd) {
            if (this.eventfd.lo === 0) before.call(this);
          },
      ),
  },
  {
    where: "irqfd",
    what: "a deassigned one stays at the eventfd",
    plant: () =>
      replace(
        IrqFd.prototype,
        "deactivate",
        (before) =>
          function (this: IrqFd) {
            before.call(this);
            this.active = true;
            this.eventfd.waitQueue.remove(this);
            this.eventfd.waitQueue.add({
              exclusive: false,
              wake: () => {
                this.scheduleInject();
                return false;
              },
            });
          },
      ),
  },
  {
    where: "irqfd",
    what: "an interrupt that is posted is never taken back",
    plant: () =>
      replace(InterruptRemapping.prototype, "unpost", () => nothing as InterruptRemapping["unpost"]),
  },
  {
    where: "resample",
    what: "the resamplefd is signalled twice",
    plant: () =>
      replace(
        resamplers(),
        "acked",
        (before) =>
          function (this: Resampler) {
            before.call(this);
            for (const { resamplefd } of this.irqfds) resamplefd!.signal();
          },
      ),
  },
  {
    where: "resample",
    what: "unmasking by an eventfd leaves the line masked",
    plant: () => replace(Virqfd.prototype, "wake", () => () => false),
  },
  {
    where: "mask",
    what: "an EOI leaves remote IRR set",
    plant: () => replace(Ioapic.prototype, "eoi", () => () => 0),
  },
  {
    where: "mask",
    what: "a masked MSI-X vector forgets what it should keep pending",
    plant: () =>
      replace(
        Msix.prototype,
        "raise",
        (before) =>
          function (this: Msix, vector) {
            if (!this.masked(vector)) before.call(this, vector);
          },
      ),
  },
];
