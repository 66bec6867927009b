/** What each host answers at each stage of a VM's life, as a table of runs. */
import { describe, expect, test } from "vitest";
import {
  KVM_CAP_IRQ_XICS,
  KVM_CAP_PPC_IRQ_XIVE,
  KVM_CAP_PPC_PAPR,
  KVM_CREATE_IRQCHIP,
  KVM_DEV_TYPE_FSL_MPIC_20,
  KVM_DEV_TYPE_XICS,
  KVM_DEV_TYPE_XIVE,
  KVM_INTERRUPT,
  KVM_IRQFD_FLAG_RESAMPLE,
  KVM_RUN,
  KVM_SET_GSI_ROUTING,
  KVM_SIGNAL_MSI,
  KvmMsi,
} from "../../../lib/abi/kvm.ts";
import { named, powernv9, pr, pseries, World } from "./world.ts";

type Stage = "before" | "created" | "connected" | "ran";
const stages: readonly Stage[] = ["before", "created", "connected", "ran"];

/** A VM at a stage, with one vCPU. */
function worldAt(host: string, stage: Stage): { world: World; vcpu: number } {
  const world = new World(host);
  const vcpu = world.vcpu(0);
  if (stage !== "before") world.xics = world.device(KVM_DEV_TYPE_XICS);
  if (stage === "connected" || stage === "ran") {
    world.enable(vcpu, KVM_CAP_PPC_PAPR);
    expect(world.enable(vcpu, KVM_CAP_IRQ_XICS, world.xics, 0)).toBe(0);
    world.setSource(0x1000, 0x5_0000_0000n);
  }
  if (stage === "ran") expect(named(world.process.ioctl(vcpu, KVM_RUN.powerpc, 0))).toBe("EINTR");
  return { world, vcpu };
}

const questions: Record<string, (world: World, vcpu: number) => number> = {
  "SET_GSI_ROUTING, empty": (w) => w.process.ioctl(w.vm, KVM_SET_GSI_ROUTING.powerpc, new Uint8Array(8)),
  SIGNAL_MSI: (w) => w.process.ioctl(w.vm, KVM_SIGNAL_MSI.powerpc, KvmMsi.encode({ data: 0x1000 })),
  IRQFD: (w) => w.irqfd(w.eventfd(), 0x1000),
  "IRQFD, resample": (w) => w.irqfd(w.eventfd(), 0x1000, KVM_IRQFD_FLAG_RESAMPLE, w.eventfd()),
  IRQ_LINE: (w) => w.line(0x1000, 1),
  INTERRUPT: (w, vcpu) => w.process.ioctl(vcpu, KVM_INTERRUPT.powerpc, new Uint8Array(4)),
  CREATE_IRQCHIP: (w) => w.process.ioctl(w.vm, KVM_CREATE_IRQCHIP.powerpc, 0),
};

/** The same on the three hosts: no routes, no messages; a controller is a device. */
const answers: Record<string, Record<Stage, number | string>> = {
  "SET_GSI_ROUTING, empty": { before: "ENOTTY", created: "ENOTTY", connected: "ENOTTY", ran: "ENOTTY" },
  SIGNAL_MSI: { before: "ENOTTY", created: "ENOTTY", connected: "ENOTTY", ran: "ENOTTY" },
  IRQFD: { before: "EAGAIN", created: 0, connected: 0, ran: 0 },
  "IRQFD, resample": { before: "EAGAIN", created: 0, connected: 0, ran: 0 },
  IRQ_LINE: { before: "ENXIO", created: 0, connected: 0, ran: 0 },
  INTERRUPT: { before: 0, created: 0, connected: 0, ran: 0 },
  CREATE_IRQCHIP: { before: "ENOTTY", created: "ENOTTY", connected: "ENOTTY", ran: "ENOTTY" },
};

describe.each([pseries, powernv9, pr])("%s", (host) => {
  test.each(Object.keys(questions))("%s", (question) => {
    const found = Object.fromEntries(
      stages.map((stage) => {
        const { world, vcpu } = worldAt(host, stage);
        return [stage, named(questions[question](world, vcpu))];
      }),
    );
    expect(found).toEqual(answers[question]);
  });

  test("the controller goes with its descriptor, and a new one may come", () => {
    const world = new World(host);
    const [vcpu] = world.connected();
    world.setSource(0x1000, 0x5_0000_0000n);
    expect(named(world.device(KVM_DEV_TYPE_XICS))).toBe("EEXIST");
    expect(typeof world.icp(vcpu)).toBe("bigint");
    world.process.close(world.xics);
    expect(named(Number(world.icp(vcpu)))).toBe("ENXIO");
    expect(named(world.line(0x1000, 1))).toBe("ENXIO");
    world.xics = world.device(KVM_DEV_TYPE_XICS);
    expect(named(Number(world.source(0x1000)))).toBe("ENOENT");
    expect(world.enable(vcpu, KVM_CAP_IRQ_XICS, world.xics, 0)).toBe(0);
  });

  test("a device of another VM cannot be connected to", () => {
    const world = new World(host);
    world.connected(0);
    const vm = world.process.ioctl(world.kvm, 0x2000_ae01, 0);
    const vcpu = world.process.ioctl(vm, 0x2000_ae41, 0);
    expect(named(world.enable(vcpu, KVM_CAP_IRQ_XICS, world.xics, 0))).toBe("EPERM");
  });

  test("no descriptor is free: EMFILE, and no controller is left behind", () => {
    const world = new World(host);
    world.process.setrlimit(7, world.process.fds.lowestFree());
    expect(named(world.device(KVM_DEV_TYPE_XICS))).toBe("EMFILE");
    world.process.setrlimit(7, 1024);
    expect(world.device(KVM_DEV_TYPE_XICS)).toBeGreaterThan(0);
  });

  test("memory runs out at every place in turn: ENOMEM, and the same call then works", () => {
    const world = new World(host);
    const { faults } = world.process.kernel;
    const vcpu = world.vcpu(0);
    world.enable(vcpu, KVM_CAP_PPC_PAPR);
    const places: [what: string, allocations: number, call: () => number][] = [
      ["the device", 2, () => (world.xics = world.device(KVM_DEV_TYPE_XICS))],
      ["the vCPU's end of it", 1, () => world.enable(vcpu, KVM_CAP_IRQ_XICS, world.xics, 0)],
      ["a block of sources", 1, () => world.setSource(0x1000, 0x5_0000_0000n)],
      ["another source of the block", 0, () => world.setSource(0x1001, 0x5_0000_0000n)],
    ];
    for (const [what, allocations, call] of places) {
      for (let nth = 1; nth <= allocations; nth++) {
        faults.failNth("allocation", nth);
        expect([what, nth, named(call())]).toEqual([what, nth, "ENOMEM"]);
      }
      const before = faults.seen.allocation;
      expect(call()).toBeGreaterThanOrEqual(0);
      expect([what, faults.seen.allocation - before]).toEqual([what, allocations]);
    }
  });
});

describe("devices by host", () => {
  test.each([
    [pseries, "ENODEV"],
    [powernv9, 0],
    [pr, "ENODEV"],
  ])("%s: XIVE %s", (host, answer) => {
    const world = new World(host);
    const result = world.device(KVM_DEV_TYPE_XIVE);
    expect(result < 0 ? named(result) : 0).toBe(answer);
    expect(named(world.device(KVM_DEV_TYPE_FSL_MPIC_20))).toBe("ENODEV");
  });

  test("XIVE takes vCPUs by its own capability only", () => {
    const world = new World(powernv9);
    const xive = world.device(KVM_DEV_TYPE_XIVE);
    const vcpu = world.vcpu(0);
    world.enable(vcpu, KVM_CAP_PPC_PAPR);
    expect(named(world.enable(vcpu, KVM_CAP_IRQ_XICS, xive, 0))).toBe("EPERM");
    expect(named(world.enable(vcpu, KVM_CAP_PPC_IRQ_XIVE, xive, 0))).toBe(0);
    expect(named(world.enable(vcpu, KVM_CAP_PPC_IRQ_XIVE, xive, 0))).toBe("EBUSY");
  });
});

describe("running", () => {
  test.each([
    [pseries, "EINVAL"],
    [powernv9, "EINVAL"],
    [pr, "EINTR"],
  ])("%s without PAPR: %s", (host, answer) => {
    const world = new World(host);
    const vcpu = world.vcpu(0);
    expect(named(world.process.ioctl(vcpu, KVM_RUN.powerpc, 0))).toBe(answer);
    expect(world.enable(vcpu, KVM_CAP_PPC_PAPR)).toBe(0);
    expect(named(world.process.ioctl(vcpu, KVM_RUN.powerpc, 0))).toBe("EINTR");
  });
});
