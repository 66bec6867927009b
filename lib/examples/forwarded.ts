/**
 * Thread 003: forwarded interrupts on ARM. A platform device, its physical interrupt, VFIO's handler, an eventfd, an irqfd,
 * a virtual interrupt and a guest, with every part that could be left out left out in turn; and a timer that two guests
 * share.
 */

import { KVM_RUN } from "../abi/kvm.ts";
import { type ExploreOptions, explore } from "../fuzz/explore/explore.ts";
import type { Program } from "../fuzz/explore/run.ts";
import { Calls, step, type Thread, until } from "../fuzz/explore/thread.ts";
import { NR_PRIVATE_IRQS } from "../hardware/gic.ts";
import { type ForwardedState, handleOne, NONE, PhysicalGic } from "../hardware/gic-physical.ts";
import type { EventFd } from "../kernel/eventfd.ts";
import { Kernel } from "../kernel/kernel.ts";
import { byHand } from "../kernel/work-queue.ts";
import { PlatformDeviceFile } from "../vfio/platform-device.ts";
import { Direct, now } from "../vmm/co.ts";
import { assignPlatformIrq, ForwardedIrq, type ForwardedOptions } from "../vmm/forwarded-irq.ts";
import { Irqchip } from "../vmm/irqchip.ts";
import { ArmVm, servingGuest } from "./arm-vm.ts";
import { table } from "./print.ts";

/** the physical interrupt of the device, and the virtual one that the guest knows */
const PHYSICAL = 100;
const VIRTUAL = 40;
/** more than so many interrupts for one event are too many */
const TOO_MANY = 8;
const EVENTS = 2;

export type Trigger = "level" | "edge";

/** What a run was like, for those who count. */
export interface Account {
  hostInterrupts: number;
  guestInterrupts: number;
  hostDeactivations: number;
  unmasks: number;
  /** the way of the first interrupt: who was called */
  way: string[];
  /** what the guest acknowledged */
  taken: number[];
}

/** A device that fires twice: a level until the guest has served it, or an edge. */
export const device = (
  trigger: Trigger,
  options: ForwardedOptions,
  tell: (account: Account) => void = () => undefined,
): Program => ({
  name: `${trigger}, ${nameOf(options)}`,
  setup() {
    const vm = new ArmVm();
    const { process, kvm } = vm;
    const calls = new Calls(process);
    const linux = new Direct(process);
    const gic = new PhysicalGic();
    const edge = trigger === "edge";
    gic.irq(PHYSICAL).edge = edge;
    const account: Account = {
      hostInterrupts: 0,
      guestInterrupts: 0,
      hostDeactivations: 0,
      unmasks: 0,
      way: [],
      taken: [],
    };

    // The VMM: the device, an eventfd on its interrupt, and the irqfd behind it.
    const gsi = VIRTUAL - NR_PRIVATE_IRQS;
    const irq = vm.cpu.vm.vgic.gic.irq(undefined, VIRTUAL)!;
    const platform = new ForwardedIrq(gic, PHYSICAL, options, {
      setLine: (level) => void kvm.routing.setIrq(0, gsi, level, false),
      get active() {
        return irq.active;
      },
    });
    const file = new PlatformDeviceFile(vm.machine.kernel, [platform]);
    const irqchip = new Irqchip(linux, vm.vm, { routing: "table" });
    const triggerFd = now(assignPlatformIrq(linux, process.install(file, true), irqchip, gsi, options));
    kvm.routing.addNotifier({ gsi, acked: () => platform.ended() });
    platform.unmasks = 0;

    // Who is called on the way of the first interrupt.
    const eventfd = process.fds.get(triggerFd) as EventFd;
    const { vgic } = vm.cpu.vm;
    const note = <K extends string>(
      object: Record<K, (...args: never[]) => unknown>,
      method: K,
      name: string,
    ) => {
      const original = object[method].bind(object);
      object[method] = ((...args: never[]) => {
        if (!account.way.includes("vgic")) account.way.push(name);
        return original(...args);
      }) as (typeof object)[K];
    };
    note(platform as unknown as { handler(): void }, "handler", "VFIO");
    note(eventfd as { signal(): void }, "signal", "eventfd");
    note(kvm.irqfds.get(eventfd)!, "wake", "irqfd");
    note(vgic as { inject(...args: never[]): number }, "inject", "vgic");

    let unserved = 0;
    let served = 0;
    vm.cpu.load(
      servingGuest(VIRTUAL, edge, (intid) => {
        account.guestInterrupts++;
        account.taken.push(intid);
      }),
    );
    process.ioctl(vm.vcpu, KVM_RUN, 0);

    function* fires(): Thread {
      for (let event = 0; event < EVENTS; event++) {
        // An edge that comes before the last was served may be one with it.
        yield* until("the device is served", () => served >= event);
        yield* step("the device wants to be served", () => {
          unserved++;
          if (edge) gic.setLine(PHYSICAL, false);
          gic.setLine(PHYSICAL, true);
        });
      }
    }
    function* host(): Thread {
      for (;;) {
        yield* until("a physical interrupt", () => gic.highest !== NONE);
        yield* step("the host takes its interrupt", () => {
          account.hostInterrupts++;
          handleOne(gic, () => platform.handler!());
        });
      }
    }
    function* vcpu(): Thread {
      for (;;) {
        yield* until("a virtual interrupt", () => vgic.gic.hasPending(vm.cpu.cpu) || irq.active);
        const exited = (yield* calls.ioctl(vm.vcpu, KVM_RUN)) === 0;
        platform.guestRan();
        if (!exited) continue;
        yield* step("the guest serves the device", () => {
          if (unserved !== 0) served++;
          unserved = 0;
          if (!edge) gic.setLine(PHYSICAL, false);
        });
      }
    }
    return {
      kernel: vm.machine.kernel,
      threads: { vcpu: vcpu(), host: host(), device: fires() },
      daemons: ["vcpu", "host", "device"],
      check() {
        if (account.hostInterrupts > TOO_MANY) return "storm: the host takes the interrupt again and again";
        return account.guestInterrupts > TOO_MANY
          ? "storm: the guest takes the interrupt again and again"
          : undefined;
      },
      final() {
        account.hostDeactivations = gic.deactivations.host;
        account.unmasks = platform.unmasks;
        tell(account);
        return served === EVENTS ? undefined : `the device was served ${served} times of ${EVENTS}`;
      },
    };
  },
});

const nameOf = ({ forwarded, masks, unmasks, direct }: ForwardedOptions): string =>
  [
    forwarded ? "forwarded" : "not forwarded",
    masks ? "masked" : "not masked",
    unmasks ? "resampled" : "not resampled",
    ...(direct ? ["injected directly"] : []),
  ].join(", ");

/** Both ways of each part. */
export const combinations: readonly ForwardedOptions[] = [true, false].flatMap((forwarded) =>
  [true, false].flatMap((masks) =>
    [true, false].map((unmasks) => ({ forwarded, masks, unmasks, direct: false })),
  ),
);

export const forwarded: ForwardedOptions = { forwarded: true, masks: false, unmasks: false, direct: false };
export const bypass: ForwardedOptions = { ...forwarded, direct: true };

export const search: ExploreOptions = { strategy: { exhaustive: { preemptions: 2 } } };

/** "works", or the first word of what goes wrong in some order. */
export function outcome(trigger: Trigger, options: ForwardedOptions): string {
  const { counterexample } = explore(device(trigger, options), search);
  if (counterexample === undefined) return "works";
  const { reason } = counterexample.failure;
  return reason.startsWith("storm: the host")
    ? "storm in the host"
    : reason.startsWith("storm")
      ? "storm in the guest"
      : "lost";
}

/** What every order has in common. */
export function accounts(trigger: Trigger, options: ForwardedOptions): Account[] {
  const all: Account[] = [];
  explore(
    device(trigger, options, (account) => all.push(account)),
    search,
  );
  return all;
}

// ---- a timer that two guests share ---------------------------------------------------------------------------------

const TIMER = 27;

/**
 * One processor, two guests, one physical timer, which belongs to the one that runs. Both timers are due; the host
 * switches at any point, and once more when a guest can do no more. `saves`: the state of the forwarded interrupt moves
 * with the guest.
 */
export const sharedTimer = (saves: boolean): Program => ({
  name: saves ? "a shared timer, its state saved and restored" : "a shared timer, its state left as it is",
  setup() {
    const gic = new PhysicalGic();
    gic.irq(TIMER).forwarded = true;
    const idle: ForwardedState = { active: false, pending: false };
    const guests = {
      A: { due: true, waits: true, ended: false, state: idle },
      B: { due: true, waits: true, ended: false, state: idle },
    };
    let running: "A" | "B" = "A";
    gic.setLine(TIMER, true);
    const stuck = () => guests[running].waits && gic.highest === NONE;

    function* guest(name: "A" | "B"): Thread {
      const mine = guests[name];
      const turn = () => running === name;
      yield {
        run() {
          handleOne(gic, () => undefined);
          mine.waits = false;
        },
        blocked: () => !turn() || gic.highest !== TIMER,
        label: () => `guest ${name} gets its timer interrupt`,
      };
      yield {
        run() {
          mine.due = false;
          gic.setLine(TIMER, false);
        },
        blocked: () => !turn(),
        label: () => `guest ${name} stops its timer`,
      };
      yield {
        run() {
          gic.deactivateByGuest(TIMER);
          mine.ended = true;
        },
        blocked: () => !turn(),
        label: () => `guest ${name} deactivates the interrupt`,
      };
    }
    function* switchTo(next: "A" | "B"): Thread {
      yield* step(`the host switches to guest ${next}`, () => {
        if (saves) guests[running].state = gic.saveForwarded(TIMER);
        running = next;
        gic.setLine(TIMER, guests[next].due);
        if (saves) gic.restoreForwarded(TIMER, guests[next].state);
      });
    }
    function* host(): Thread {
      yield* switchTo("B");
      yield* switchTo("A");
      yield* until("guest A can do no more", () => guests.A.ended || stuck());
      yield* switchTo("B");
    }
    return {
      kernel: new Kernel({ policy: byHand }),
      threads: { A: guest("A"), B: guest("B"), host: host() },
      daemons: ["A", "B"],
      check: () =>
        stuck() && guests[running].due
          ? `guest ${running} runs, its timer is due, and its interrupt does not come`
          : undefined,
      final: () =>
        guests.A.ended && guests.B.ended ? undefined : "a guest has not ended its timer interrupt",
    };
  },
});

export function print(): string {
  const rows = [...combinations, bypass].map((options) => [
    nameOf(options),
    outcome("level", options),
    outcome("edge", options),
    accounts("level", options)[0]?.way.join(" → ") ?? "",
    [...new Set(accounts("level", options).map(({ hostDeactivations }) => hostDeactivations))].join(", "),
  ]);
  return table(["interrupt", "level", "edge", "way", "deactivated by the host"], rows);
}
