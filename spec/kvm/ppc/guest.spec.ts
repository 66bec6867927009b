/** A guest as a script: exits, what user space answers to them, and signals. */
import { describe, expect, test } from "vitest";
import {
  KVM_EXIT_INTR,
  KVM_EXIT_MMIO,
  KVM_EXIT_PAPR_HCALL,
  KVM_INTERRUPT,
  KVM_RUN,
} from "../../../lib/abi/kvm.ts";
import { KVM_INTERRUPT_SET, KVM_INTERRUPT_UNSET, KvmRun } from "../../../lib/abi/kvm-ppc.ts";
import { load32, load64, store32, store64 } from "../../../lib/abi/struct.ts";
import { byHand } from "../../../lib/kernel/work-queue.ts";
import { type Guest, hypercall, load, store, wait } from "../../../lib/kvm/ppc/guest.ts";
import { H_XIRR } from "../../../lib/kvm/ppc/hypercalls.ts";
import { vcpuOf } from "./guests.ts";
import { named, pseries, World } from "./world.ts";

const EXIT_REASON = KvmRun.offsetOf.exit_reason;
const IMMEDIATE_EXIT = KvmRun.offsetOf.immediate_exit;

function worldWith(guest: Guest) {
  const world = new World(pseries, { policy: byHand });
  const [fd] = world.connected();
  const vcpu = vcpuOf(world.process, fd);
  vcpu.load(guest);
  const { pages } = vcpu.vcpu;
  const run = () => {
    const result = named(world.process.ioctl(fd, KVM_RUN.powerpc, 0));
    return [result, load32(pages, EXIT_REASON)];
  };
  return { world, fd, vcpu, pages, run };
}

describe("exits", () => {
  test("a load brings what user space puts into kvm_run", () => {
    const seen: number[] = [];
    const { pages, run } = worldWith(
      (function* () {
        seen.push(yield* load(0x9000_0000, 4));
      })(),
    );
    expect(run()).toEqual([0, KVM_EXIT_MMIO]);
    expect([load64(pages, 32), load32(pages, 48), pages[52]]).toEqual([0x9000_0000n, 4, 0]);
    store32(pages, 40, 0x1234_5678);
    expect(run()).toEqual(["EINTR", KVM_EXIT_INTR]);
    expect(seen).toEqual([0x1234_5678]);
  });

  test("immediate_exit: the answer is taken over, and the guest does not go on", () => {
    const seen: number[] = [];
    const { pages, run } = worldWith(
      (function* () {
        seen.push(yield* load(0x9000_0000, 4));
      })(),
    );
    run();
    store32(pages, 40, 1);
    pages[IMMEDIATE_EXIT] = 1;
    expect(run()[0]).toBe("EINTR");
    expect(seen).toEqual([]);
    store32(pages, 40, 2);
    pages[IMMEDIATE_EXIT] = 0;
    run();
    expect(seen).toEqual([1]);
  });

  test("a hypercall that KVM does not know is user space's: nine arguments, nine answers", () => {
    const seen: (readonly number[])[] = [];
    const { pages, run } = worldWith(
      (function* () {
        seen.push(yield* hypercall(0xf00c, 1, 2, 3));
      })(),
    );
    expect(run()).toEqual([0, KVM_EXIT_PAPR_HCALL]);
    expect([32, 48, 56, 64].map((at) => load64(pages, at))).toEqual([0xf00cn, 1n, 2n, 3n]);
    store64(pages, 40, -2n);
    store64(pages, 48, 77);
    store64(pages, 56, 78);
    run();
    expect(seen).toEqual([[-2, 77, 78]]);
  });

  test("a guest that polls for ever is ended by a signal, and goes on with the next KVM_RUN", () => {
    let polls = 0;
    const { run } = worldWith(
      (function* () {
        for (;;) {
          yield* hypercall(H_XIRR);
          polls++;
        }
      })(),
    );
    expect(run()[0]).toBe("EINTR");
    const before = polls;
    expect(run()[0]).toBe("EINTR");
    expect(polls - before).toBe(100_000);
  });
});

describe("the external interrupt", () => {
  const interrupt = (world: World, fd: number, value: number) => {
    const argument = new Uint8Array(4);
    store32(argument, 0, value);
    return world.process.ioctl(fd, KVM_INTERRUPT.powerpc, argument);
  };

  test("wakes a guest that waits for it; KVM_INTERRUPT_UNSET takes it back", () => {
    let woken = 0;
    const { world, fd, vcpu, run } = worldWith(
      (function* () {
        for (;;) {
          yield* wait();
          woken++;
          yield* store(0x9000_0000, 4, woken);
        }
      })(),
    );
    expect(run()[0]).toBe("EINTR");
    expect(interrupt(world, fd, KVM_INTERRUPT_SET)).toBe(0);
    expect(run()).toEqual([0, KVM_EXIT_MMIO]);
    interrupt(world, fd, KVM_INTERRUPT_UNSET);
    expect(vcpu.external).toBe(false);
    expect(run()[0]).toBe("EINTR");
    expect(woken).toBe(1);
  });

  test("an irqfd raises it, and accepting the interrupt lowers it", () => {
    const { world, fd, vcpu, run } = worldWith(
      (function* () {
        yield* hypercall(0x68, 0xff);
        yield* wait();
        yield* hypercall(H_XIRR);
        yield* store(0x9000_0000, 4, 1);
      })(),
    );
    world.setSource(0x1000, 0x5_0000_0000n);
    run();
    expect(vcpu.external).toBe(false);
    const eventfd = world.eventfd();
    world.irqfd(eventfd, 0x1000);
    world.signal(eventfd);
    expect(vcpu.external).toBe(true);
    expect(run()).toEqual([0, KVM_EXIT_MMIO]);
    expect(vcpu.external).toBe(false);
    expect(world.icp(fd)).toBe(0x0500_0000_ffff_0000n);
  });
});
