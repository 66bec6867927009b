/** A GSI is a source number: nothing is routed, and nothing of the number may be cut off. */
import { describe, expect, test } from "vitest";
import { KVM_IRQFD_FLAG_RESAMPLE, KVM_RUN } from "../../../lib/abi/kvm.ts";
import { byHand } from "../../../lib/kernel/work-queue.ts";
import { hypercall } from "../../../lib/kvm/ppc/guest.ts";
import { H_CPPR, H_EOI, H_XIRR } from "../../../lib/kvm/ppc/hypercalls.ts";
import { vcpuOf } from "./guests.ts";
import { named, powernv9, pr, pseries, World } from "./world.ts";

const IDLE = 0x5_0000_0000n;
const LEVEL = 1n << 40n;
const SHOWN = 0xc05_0000_0000n;

describe.each([pseries, pr])("%s", (host) => {
  test("two sources that agree in 16 bits: a number that was cut rings the other one", () => {
    const world = new World(host);
    world.connected();
    const meant = 0x1_2340;
    const cut = meant & 0xffff;
    for (const irq of [meant, cut]) expect(world.setSource(irq, IDLE)).toBe(0);
    const fd = world.eventfd();
    expect(world.irqfd(fd, cut)).toBe(0);
    world.signal(fd);
    expect([world.source(meant), world.source(cut)]).toEqual([IDLE, SHOWN]);
  });

  test.each([0, 2, 15, 0x10_0010, 0xff_fff0, 0x100_1020, 0xffff_ffff])(
    "GSI %i has no source: an irqfd takes it, and nothing happens",
    (gsi) => {
      const world = new World(host);
      const [vcpu] = world.connected();
      const before = world.icp(vcpu);
      const fd = world.eventfd();
      expect(world.irqfd(fd, gsi)).toBe(0);
      world.signal(fd);
      expect(named(world.process.read(fd, new Uint8Array(8)))).toBe("EAGAIN");
      expect(world.icp(vcpu)).toBe(before);
      expect(named(world.setSource(gsi, IDLE))).toBe("ENOENT");
    },
  );

  test("a source set up after its irqfd is rung", () => {
    const world = new World(host);
    world.connected();
    const fd = world.eventfd();
    expect(world.irqfd(fd, 0x7777)).toBe(0);
    expect(world.setSource(0x7777, IDLE)).toBe(0);
    world.signal(fd);
    expect(world.source(0x7777)).toBe(SHOWN);
  });

  test("a signal rings inside the eventfd's write: no work is left", () => {
    const world = new World(host, { policy: byHand });
    world.connected();
    world.setSource(0x1000, IDLE);
    const fd = world.eventfd();
    world.irqfd(fd, 0x1000);
    world.signal(fd);
    expect(world.source(0x1000)).toBe(SHOWN);
    expect(world.process.kernel.work.pending).toBe(0);
  });
});

/** A guest that takes one interrupt and ends it. */
function* takesOne() {
  yield* hypercall(H_CPPR, 0xff);
  const [, xirr] = yield* hypercall(H_XIRR);
  yield* hypercall(H_EOI, xirr);
}

describe("resampling", () => {
  const run = (host: string, irqfds: number) => {
    const world = new World(host);
    const [vcpu] = world.connected();
    world.setSource(0x1030, IDLE | LEVEL);
    const fds = Array.from({ length: irqfds }, () => [world.eventfd(), world.eventfd()]);
    for (const [fd, resamplefd] of fds)
      expect(world.irqfd(fd, 0x1030, KVM_IRQFD_FLAG_RESAMPLE, resamplefd)).toBe(0);
    world.signal(fds[0][0]);
    vcpuOf(world.process, vcpu).load(takesOne());
    expect(named(world.process.ioctl(vcpu, KVM_RUN.powerpc, 0))).toBe("EINTR");
    const told = fds.map(([, resamplefd]) => {
      const count = new Uint8Array(8);
      return world.process.read(resamplefd, count) === 8 ? count[0] : 0;
    });
    return { told, line: world.source(0x1030) };
  };

  test.each([1, 2, 3])(
    "%i irqfds of one source: each is told exactly once, and the line is down",
    (irqfds) => {
      const { told, line } = run(pseries, irqfds);
      expect(told).toEqual(Array(irqfds).fill(1));
      expect(line).toBe(IDLE | LEVEL);
    },
  );

  test("on XIVE hardware nobody is told, and the line stays up (trace guest-code/powernv9-guest)", () => {
    const { told } = run(powernv9, 1);
    expect(told).toEqual([0]);
  });
});
