/** What was said in thread 003, each with the run that decides. */
import { KVM_ASSIGN_DEV_IRQ, KvmAssignedIrq } from "../abi/kvm-legacy.ts";
import { explore } from "../fuzz/explore/explore.ts";
import { decodeListRegister, encodeListRegister, handleOne, PhysicalGic } from "../hardware/gic-physical.ts";
import { AssignedWorld } from "./assigned-msix.ts";
import type { Claim } from "./claims.ts";
import { accounts, bypass, forwarded, outcome, search, sharedTimer } from "./forwarded.ts";
import { programIoapic } from "./irqchips.ts";

const works = (...run: Parameters<typeof outcome>): boolean => outcome(...run) === "works";
const same = (values: readonly unknown[]): boolean =>
  new Set(values.map((value) => JSON.stringify(value))).size === 1;

/** The host's way until forwarding: mask, and unmask when the guest is through. */
const classic = { forwarded: false, masks: true, unmasks: true, direct: false };

export const claims: readonly Claim[] = [
  {
    who: "Zyngier",
    when: "2014-06-25",
    says: "an active interrupt can be forwarded, and the guest deactivates it by ending the virtual one",
    holds: () =>
      works("level", forwarded) &&
      works("edge", forwarded) &&
      accounts("level", forwarded).every(({ hostDeactivations }) => hostDeactivations === 0),
    verdict: "confirmed",
    by: "forwarded: every event is served and the host deactivates nothing, in every order",
  },
  {
    who: "Zyngier",
    when: "2014-06-25",
    says: "the host's flow only has to know that it must not deactivate the interrupt itself",
    holds: () => {
      const gic = new PhysicalGic();
      const [left, kept] = [30, 31].map((intid) => {
        gic.irq(intid).forwarded = intid === 31;
        gic.setLine(intid, true);
        handleOne(gic, () => gic.setLine(intid, false));
        return gic.irq(intid).active;
      });
      return !left && kept;
    },
    verdict: "confirmed",
    by: "one flow for both kinds: after it a forwarded interrupt is still active, another one is not",
  },
  {
    who: "Zyngier",
    when: "2014-06-26",
    says: "state is saved and restored where guests share a device, typically the timer",
    holds: () =>
      explore(sharedTimer(true), search).counterexample === undefined &&
      explore(sharedTimer(false), search).counterexample !== undefined,
    verdict: "confirmed",
    by: "exploration: without it a guest does not get its timer interrupt while the other's is active",
  },
  {
    who: "Zyngier",
    when: "2014-06-26",
    says: "VFIO need not use that, as the device belongs to one guest",
    holds: () => works("level", forwarded) && works("edge", forwarded),
    verdict: "confirmed",
    by: "no run of an assigned device saves or restores anything",
  },
  {
    who: "Auger",
    when: "2014-06-25",
    says: "from the physical interrupt to the virtual one it is VFIO → fd, then fd → irqfd → GSI",
    holds: () => accounts("level", forwarded).every(({ way }) => way.join() === "VFIO,eventfd,irqfd,vgic"),
    verdict: "confirmed",
    by: "the calls of the first interrupt, in order",
  },
  {
    who: "Auger",
    when: "2014-06-25",
    says: "KVM_ASSIGN_DEV_IRQ associated physical and virtual interrupt directly",
    holds: () => {
      const world = new AssignedWorld("masked");
      const { process } = world.host;
      programIoapic(process, world.vm.vm, 0, true);
      const before = process.fds.open.length;
      const both = KvmAssignedIrq.encode({ assigned_dev_id: 1, guest_irq: 5, flags: 0x101 });
      process.ioctl(world.vm.vm, KVM_ASSIGN_DEV_IRQ, both);
      world.device.setIntx(true);
      world.host.machine.kernel.work.drain();
      return world.receiver.count(0x55) === 1 && process.fds.open.length === before;
    },
    verdict: "confirmed",
    by: "one call binds both, and there is no descriptor between them",
  },
  {
    who: "Auger",
    when: "2014-06-25",
    says: "VFIO can stop masking the physical interrupt",
    holds: () => works("level", { ...forwarded, masks: false }),
    verdict: "confirmed",
    by: "forwarded and not masked, every order",
  },
  {
    who: "Auger",
    when: "2014-06-25",
    says: "the mask was there because the interrupt was completed and could hit again",
    holds: () => outcome("level", { ...classic, masks: false }) === "storm in the host",
    verdict: "confirmed",
    by: "not forwarded and not masked: the host takes the interrupt again and again",
  },
  {
    who: "Auger",
    when: "2014-06-25",
    says: "with two-stage completion the interrupt cannot hit before the guest has deactivated it",
    holds: () =>
      (["level", "edge"] as const).every((trigger) =>
        accounts(trigger, forwarded).every(
          ({ hostInterrupts, guestInterrupts }) => hostInterrupts === 2 && guestInterrupts === 2,
        ),
      ),
    verdict: "confirmed",
    by: "two events are two interrupts of the host and two of the guest, in every order",
  },
  {
    who: "Auger",
    when: "2014-06-25",
    says: "the end of a forwarded interrupt is not trapped, so it cannot trigger the resamplefd",
    holds: () => !decodeListRegister(encodeListRegister({ virtual: 40, physical: 100, eoi: true })).eoi,
    verdict: "confirmed",
    by: "a list register with the HW bit asks for no maintenance interrupt",
  },
  {
    who: "Zyngier",
    when: "2014-06-26",
    says: "for a level there is still the EOI maintenance interrupt to hook into",
    holds: () => {
      const { physical, eoi } = decodeListRegister(
        encodeListRegister({ virtual: 40, physical: 100, eoi: true }),
      );
      return eoi && physical === 100;
    },
    verdict: "contradicted",
    by: "with the HW bit, bit 19 belongs to the physical number: asking for both names another interrupt",
  },
  {
    who: "Zyngier",
    when: "2014-06-26",
    says: "if the line is still up after the deactivation, another interrupt is taken right away",
    holds: () => {
      const gic = new PhysicalGic();
      gic.irq(100).forwarded = true;
      gic.setLine(100, true);
      handleOne(gic, () => undefined);
      const quiet = gic.highest !== 100;
      gic.deactivateByGuest(100);
      return quiet && gic.highest === 100;
    },
    verdict: "confirmed",
    by: "the physical GIC before and after the guest's deactivation",
  },
  {
    who: "Zyngier",
    when: "2014-06-26",
    says: "resampling becomes useless",
    holds: () => {
      const counts = [true, false].map((unmasks) =>
        accounts("level", { ...forwarded, unmasks }).map(({ hostInterrupts, guestInterrupts, taken }) => ({
          hostInterrupts,
          guestInterrupts,
          taken,
        })),
      );
      return works("level", { ...forwarded, unmasks: false }) && same(counts.flat());
    },
    verdict: "confirmed",
    by: "with and without: every order works, with the same interrupts",
  },
  {
    who: "Auger",
    when: "2014-06-25",
    says: "(until now) a level needs the mask and its counterpart when the guest is through",
    holds: () =>
      works("level", classic) &&
      !works("level", { ...classic, masks: false }) &&
      !works("level", { ...classic, unmasks: false }),
    verdict: "confirmed",
    by: "not forwarded: either one left out fails, and exploration says how",
  },
  {
    who: "Zyngier",
    when: "2014-06-26",
    says: "the eventfd can be bypassed, and the interrupt injected from VFIO's handler",
    holds: () => {
      const [around, straight] = [forwarded, bypass].map((options) => accounts("level", options));
      return (
        works("level", bypass) &&
        works("edge", bypass) &&
        same([...around, ...straight].map(({ taken }) => taken)) &&
        straight.every(({ way }) => way.join() === "VFIO,vgic")
      );
    },
    verdict: "confirmed",
    by: "the same interrupts in every order, by two calls instead of four",
  },
];
