/**
 * A kernel bug, in miniature: the descriptor through which a device posts interrupts to a vCPU. It has the posted
 * vectors (PIR), a bit that a notification is under way (ON) and one that suppresses notifications (SN), which is set
 * while the vCPU is preempted. What is posted then sets a vector but not ON; the vCPU, back and about to halt, looks at
 * ON alone and sleeps on its interrupt. Mended: whoever clears SN looks at PIR, and sets ON for what came meanwhile.
 */
import type { World } from "../../lib/fuzz/explore/run.ts";
import { step, type Thread, until } from "../../lib/fuzz/explore/thread.ts";
import { Kernel } from "../../lib/kernel/kernel.ts";
import { byHand } from "../../lib/kernel/work-queue.ts";
import type { Bug } from "./bug.ts";

function world(looksAtPir: boolean): World {
  const descriptor = { pir: 0, on: false, sn: false };
  let asleep = false;
  let delivered = 0;

  /** Takes over what was posted. */
  const sync = () => {
    descriptor.on = false;
    delivered |= descriptor.pir;
    descriptor.pir = 0;
  };

  function* vcpu(): Thread {
    yield* step("preempted: SN is set", () => (descriptor.sn = true));
    yield* step("scheduled again: SN is cleared", () => {
      descriptor.sn = false;
      if (looksAtPir && descriptor.pir !== 0) descriptor.on = true;
    });
    yield* step("halts, unless a notification is under way", () => {
      if (descriptor.on) sync();
      else asleep = true;
    });
    yield* until("a notification", () => descriptor.on);
    yield* step("wakes up", () => {
      asleep = false;
      sync();
    });
  }
  function* device(): Thread {
    yield* step("posts a vector", () => {
      descriptor.pir |= 1;
      if (!descriptor.sn) descriptor.on = true;
    });
  }

  return {
    kernel: new Kernel({ policy: byHand }),
    threads: { vcpu: vcpu(), device: device() },
    daemons: ["vcpu"],
    final() {
      if (delivered !== 0 || descriptor.pir === 0) return undefined;
      return asleep ? "a vCPU sleeps with an interrupt posted to it" : "a posted interrupt was lost";
    },
  };
}

export const bug: Bug = {
  number: 36,
  title: "posted while notifications are suppressed",
  reference: "Linux c112b5f502",
  broken: { name: "ON alone is looked at", setup: () => world(false) },
  mended: { name: "PIR is looked at when SN is cleared", setup: () => world(true) },
};
