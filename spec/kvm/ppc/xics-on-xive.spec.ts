/** XICS played on XIVE: where events arrive, and what of them is left to interrupt (arch/powerpc/kvm/book3s_xive.c, 6.1). */
import { describe, expect, test } from "vitest";
import { H_CPPR, H_EOI, H_IPI, H_SUCCESS, H_XIRR } from "../../../lib/kvm/ppc/hypercalls.ts";
import { vcpuOf } from "./guests.ts";
import { powernv9, World } from "./world.ts";

const IPI = 2;
const MASKED = 0xff;
/** in block 0 of sources, as the number of an IPI is */
const [A, B] = [16, 17];

function connected(vcpus = 1) {
  const world = new World(powernv9);
  const presenters = world.connected(vcpus).map((fd) => {
    const vcpu = vcpuOf(world.process, fd);
    const call = (number: number, ...args: number[]): number => {
      args.forEach((arg, i) => {
        vcpu.registers.setGpr(4 + i, arg);
      });
      expect(vcpu.presenter!.hypercall(number)).toBe(H_SUCCESS);
      return vcpu.registers.gpr(4) >>> 0;
    };
    return {
      vcpu,
      cppr: (value: number) => call(H_CPPR, value),
      ipi: (server: number, mfrr: number) => call(H_IPI, server, mfrr),
      /** CPPR before, and the number */
      xirr: () => {
        const xirr = call(H_XIRR);
        return [xirr >>> 24, xirr & 0xff_ffff];
      },
      eoi: (cppr: number, irq: number) => call(H_EOI, ((cppr << 24) | irq) >>> 0),
    };
  });
  const { controller } = presenters[0].vcpu.vm;
  return {
    world,
    presenters,
    setXive: (irq: number, server: number, priority: number) =>
      controller!.rtas!.setXive(irq, server, priority),
    /** a message source of server 0 */
    source: (irq: number, priority: number, server = 0) =>
      world.setSource(irq, (BigInt(priority) << 32n) | BigInt(server)),
  };
}

describe("ibm,set-xive", () => {
  test("an event arrives at the server and with the priority that were set last, whatever they were before", () => {
    for (const before of [0, 3, 5, MASKED])
      for (const from of [0, 1])
        for (const priority of [0, 3, 4, 5])
          for (const to of [0, 1]) {
            const { world, presenters, source, setXive } = connected(2);
            source(A, before, from);
            expect(setXive(A, to, priority)).toBe(0);
            for (const presenter of presenters) presenter.cppr(MASKED);
            world.line(A, 1);
            expect(presenters.map(({ vcpu }) => vcpu.external)).toEqual([to === 0, to === 1]);
            expect(presenters.map(({ xirr }) => xirr())).toEqual(
              [0, 1].map((server) => [MASKED, server === to ? A : 0]),
            );
            // its priority is the CPPR now
            expect(presenters[to].xirr()[0]).toBe(priority);
          }
  });

  test("a masked source keeps its place: what came meanwhile is there when it is unmasked", () => {
    const { world, presenters, source, setXive } = connected();
    const [{ cppr, xirr }] = presenters;
    source(A, 5);
    cppr(MASKED);
    expect(setXive(A, 0, MASKED)).toBe(0);
    world.line(A, 1);
    expect(xirr()).toEqual([MASKED, 0]);
    expect(setXive(A, 0, 4)).toBe(0);
    expect(xirr()).toEqual([MASKED, A]);
    expect(xirr()).toEqual([4, 0]);
  });
});

describe("what is left interrupts, and nothing else does", () => {
  test("after the end of the only event the input stays down", () => {
    for (let priority = 0; priority < 6; priority++) {
      const { world, presenters, source } = connected();
      const [{ vcpu, cppr, xirr, eoi }] = presenters;
      source(A, priority);
      cppr(MASKED);
      world.line(A, 1);
      expect([vcpu.external, xirr(), vcpu.external]).toEqual([true, [MASKED, A], false]);
      eoi(MASKED, A);
      expect([vcpu.external, xirr()]).toEqual([false, [MASKED, 0]]);
    }
  });

  test("an event and an IPI that both wait: the more favoured one interrupts as soon as CPPR lets it", () => {
    for (let queued = 1; queued < 6; queued++)
      for (let mfrr = 1; mfrr < 8; mfrr++)
        for (let cppr = 1; cppr < 8; cppr++) {
          const { world, presenters, source } = connected();
          const [presenter] = presenters;
          for (const irq of [A, B]) source(irq, queued);
          presenter.cppr(MASKED);
          for (const irq of [A, B]) world.line(irq, 1);
          expect(presenter.xirr()).toEqual([MASKED, A]);
          // the IPI is wanted while nothing gets through
          presenter.cppr(0);
          presenter.ipi(0, mfrr);
          presenter.eoi(cppr, A);
          const first = Math.min(queued, mfrr);
          expect([queued, mfrr, cppr, presenter.vcpu.external]).toEqual([queued, mfrr, cppr, first < cppr]);
          const expected = first >= cppr ? 0 : mfrr <= queued ? IPI : B;
          expect(presenter.xirr()[1]).toBe(expected);
        }
  });

  test("an IPI of any MFRR that was taken back leaves nothing pending", () => {
    for (let mfrr = 1; mfrr < 32; mfrr++) {
      const { presenters } = connected();
      const [{ vcpu, cppr, xirr, ipi, eoi }] = presenters;
      ipi(0, mfrr);
      cppr(MASKED);
      expect([mfrr, vcpu.external, xirr()]).toEqual([mfrr, true, [MASKED, IPI]]);
      ipi(0, MASKED);
      eoi(MASKED, IPI);
      xirr();
      eoi(MASKED, IPI);
      expect([mfrr, vcpu.external, xirr()]).toEqual([mfrr, false, [MASKED, 0]]);
    }
  });

  test("a server that takes nothing for a while gets its IPIs afterwards, each of them", () => {
    for (const server of [0, 1]) {
      const { presenters, source } = connected(2);
      const { vcpu, cppr, xirr, eoi } = presenters[server];
      const { ipi } = presenters[1 - server];
      source(A, 5);
      cppr(MASKED);
      for (let round = 0; round < 3; round++) {
        ipi(server, 3);
        expect(vcpu.external).toBe(true);
        cppr(0);
        cppr(MASKED);
        expect([vcpu.external, xirr()]).toEqual([true, [MASKED, IPI]]);
        ipi(server, MASKED);
        eoi(MASKED, IPI);
        expect(xirr()).toEqual([MASKED, 0]);
      }
    }
  });
});
