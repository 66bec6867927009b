/**
 * ARM, in miniature. A level interrupt of a device is either masked by VFIO until the guest's EOI is trapped, or forwarded:
 * then it stays active in the physical controller, and the guest's own EOI deactivates it there, without a trap. A VMM
 * that switches to forwarding while an interrupt is on its way mixes the two: masked in VFIO as if it were not forwarded,
 * ended as if it were. It is deactivated though it is not active, and nobody unmasks it. Mended: the switch waits until
 * nothing is in flight.
 */
import type { World } from "../../lib/fuzz/explore/run.ts";
import { step, type Thread } from "../../lib/fuzz/explore/thread.ts";
import { Kernel } from "../../lib/kernel/kernel.ts";
import { byHand } from "../../lib/kernel/work-queue.ts";
import type { Bug } from "./bug.ts";

function world(waits: boolean): World {
  /** the device's line, VFIO's mask, and the interrupt's state in the physical controller */
  let line = false;
  let masked = false;
  let active = false;
  let forwarded = false;
  /** the virtual interrupt, and whether its end deactivates the physical one */
  let pending = false;
  let hardware = false;
  let wrong: string | undefined;

  function* device(): Thread {
    for (let i = 0; i < 2; i++)
      yield* step("device: asserts its line", () => {
        line = true;
      });
  }

  function* host(): Thread {
    for (;;) {
      yield {
        run() {
          if (forwarded) active = true;
          else masked = true;
        },
        blocked: () => !line || masked || active,
        label: () => (forwarded ? "VFIO: leaves it active" : "VFIO: masks it, signals the eventfd"),
      };
      yield* step("irqfd: the virtual interrupt is pending", () => {
        pending = true;
        hardware = forwarded;
      });
    }
  }

  function* vmm(): Thread {
    yield {
      run() {
        forwarded = true;
      },
      blocked: () => waits && (masked || active || pending),
      label: () => "VMM: forwards the interrupt",
    };
  }

  function* guest(): Thread {
    for (;;) {
      yield {
        run() {
          pending = false;
          line = false;
        },
        blocked: () => !pending,
        label: () => "guest: takes the interrupt and acknowledges the device",
      };
      yield* step("guest: EOI", () => {
        if (!hardware) masked = false;
        else if (active) active = false;
        else wrong = "the interrupt is deactivated, and it was not active";
      });
    }
  }

  return {
    kernel: new Kernel({ policy: byHand }),
    threads: { vmm: vmm(), device: device(), host: host(), guest: guest() },
    daemons: ["host", "guest"],
    check: () => wrong,
    final: () => (line ? "the device asserts its line, and nobody is told" : undefined),
  };
}

export const bug: Bug = {
  number: 39,
  title: "forwarding begins while an interrupt is in flight",
  reference: "Auger and Zyngier on forwarded interrupts, 2014",
  broken: { name: "forwarding is switched on at once", setup: () => world(false) },
  mended: { name: "forwarding waits for what is in flight", setup: () => world(true) },
};
