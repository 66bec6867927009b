/**
 * Messages to an ITS from outside the guest: where it may stand, and what is delivered inside an eventfd's wake-up
 * (arch/arm64/kvm/vgic/vgic-its.c:vgic_its_inject_cached_translation, vgic-irqfd.c:kvm_arch_set_irq_inatomic, 6.12).
 */
import { describe, expect, test } from "vitest";
import { errnoName } from "../../../lib/abi/errno.ts";
import {
  KVM_DEV_TYPE_ARM_VGIC_ITS,
  KVM_IRQ_ROUTING_MSI,
  KVM_IRQFD,
  KVM_MSI_VALID_DEVID,
  KVM_SET_GSI_ROUTING,
  KVM_SIGNAL_MSI,
  KvmIrqfd,
  KvmMsi,
} from "../../../lib/abi/kvm.ts";
import {
  KVM_DEV_ARM_VGIC_CTRL_INIT,
  KVM_DEV_ARM_VGIC_GRP_ADDR,
  KVM_DEV_ARM_VGIC_GRP_CTRL,
  KVM_DEV_ARM_VGIC_GRP_ITS_REGS,
  KVM_DEV_ARM_VGIC_GRP_REDIST_REGS,
  KVM_VGIC_ITS_ADDR_TYPE,
} from "../../../lib/abi/kvm-arm64.ts";
import { store32, store64 } from "../../../lib/abi/struct.ts";
import {
  GITS_BASER,
  GITS_CBASER,
  GITS_CTLR,
  GITS_CWRITER,
  GITS_TRANSLATER,
} from "../../../lib/hardware/its.ts";
import { byHand, inOrder } from "../../../lib/kernel/work-queue.ts";
import { GICD, GicWorld, RAM } from "./gic-world.ts";

const VALID = 1n << 63n;
const [DEVICES, COLLECTIONS, QUEUE, CONFIG, PENDING, EVENTS] = [0, 1, 2, 3, 4, 5].map(
  (page) => RAM + page * 0x1_0000,
);
const GICR_CTLR = 0x0;
const GICR_PROPBASER = 0x70;
const GICR_PENDBASER = 0x78;
const DEVICE = 7;
const EVENT = 3;
const LPI = 8200;

/** An ITS at an address, with one event of one device mapped to an LPI of the only vCPU. */
function translated(base: number, policy = inOrder) {
  const gic = new GicWorld(1, 1 << 2, { policy }).initialise();
  const { process, vm, ram } = gic;
  const its = gic.device(KVM_DEV_TYPE_ARM_VGIC_ITS);
  expect(gic.set(its, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_ITS_ADDR_TYPE, base)).toBe(0);
  gic.set(its, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT, 0);
  ram.fill(0xa1, CONFIG - RAM, CONFIG - RAM + 0x1000);
  const redistributor = (offset: number, value: number) =>
    gic.set(gic.vgic, KVM_DEV_ARM_VGIC_GRP_REDIST_REGS, offset, value);
  redistributor(GICR_PROPBASER, CONFIG | 0xf);
  redistributor(GICR_PENDBASER, PENDING);
  redistributor(GICR_CTLR, 1);
  gic.vcpu(0).vm.vgic.gic.enabled = true;
  const register = (offset: number, value: bigint) => {
    expect(gic.set(its, KVM_DEV_ARM_VGIC_GRP_ITS_REGS, offset, value)).toBe(0);
  };
  register(GITS_BASER, VALID | BigInt(DEVICES));
  register(GITS_BASER + 8, VALID | BigInt(COLLECTIONS));
  register(GITS_CBASER, VALID | BigInt(QUEUE));
  register(GITS_CTLR, 1n);
  const commands = [
    [0x08n | (BigInt(DEVICE) << 32n), 4n, VALID | BigInt(EVENTS)],
    [0x09n, 0n, VALID],
    [0x0an | (BigInt(DEVICE) << 32n), BigInt(EVENT) | (BigInt(LPI) << 32n), 0n],
  ];
  commands
    .flatMap((words) => [...words, 0n])
    .forEach((word, i) => {
      store64(ram, QUEUE - RAM + 8 * i, word);
    });
  register(GITS_CWRITER, 32n * 3n);
  const doorbell = base + GITS_TRANSLATER;
  const message = {
    address_lo: doorbell >>> 0,
    address_hi: Math.floor(doorbell / 2 ** 32),
    data: EVENT,
    devid: DEVICE,
  };
  const signal = (values: Partial<typeof message>, flags = KVM_MSI_VALID_DEVID) => {
    const answer = process.ioctl(vm, KVM_SIGNAL_MSI, KvmMsi.encode({ ...message, ...values, flags }));
    return answer < 0 ? errnoName(-answer) : answer;
  };
  /** Whether the LPI is pending; then it is not any more. */
  const take = () => {
    const lpi = gic.vcpu(0).vm.vgic.gic.lpis.get(LPI)!;
    const { pendingLatch } = lpi;
    lpi.pendingLatch = false;
    return pendingLatch;
  };
  return { ...gic, gic, process, vm, message, signal, take };
}

describe.each([GICD + 0x8_0000, 0x1_0808_0000, 0xff_0000_0000])("an ITS at 0x%s", (base) => {
  test("hears messages that are sent to its doorbell, and no others", () => {
    const { signal, take, message } = translated(base);
    expect([signal({ address_hi: message.address_hi ^ 1 }), take()]).toEqual(["EINVAL", false]);
    expect([signal({ address_lo: 0x0700_0040 }), take()]).toEqual(["EINVAL", false]);
    expect([signal({ data: EVENT + 1 }), take()]).toEqual([0, false]);
    expect([signal({}, 0), take()]).toEqual(["EINVAL", false]);
    expect([signal({}), take()]).toEqual([1, true]);
    expect([signal({}), take()]).toEqual([1, true]);
    // remembered, it is found by its device id although nobody said that there is one
    expect([signal({}, 0), take()]).toEqual([1, true]);
    expect([signal({ address_hi: message.address_hi ^ 1 }), take()]).toEqual(["EINVAL", false]);
  });

  test("an eventfd's message waits for its work item, and once it is remembered it comes inside the write", () => {
    const { process, vm, gic, message, take } = translated(base, byHand);
    const routing = new Uint8Array(8 + 48);
    store32(routing, 0, 1);
    [
      5,
      KVM_IRQ_ROUTING_MSI,
      1,
      0,
      message.address_lo,
      message.address_hi,
      message.data,
      message.devid,
    ].forEach((value, i) => {
      store32(routing, 8 + 4 * i, value);
    });
    expect(process.ioctl(vm, KVM_SET_GSI_ROUTING, routing)).toBe(0);
    const eventfd = process.eventfd2(0, 0);
    expect(process.ioctl(vm, KVM_IRQFD, KvmIrqfd.encode({ fd: eventfd, gsi: 5 }))).toBe(0);
    const { work } = gic.vcpu(0).vcpu.vm.kernel;
    const one = new Uint8Array([1, 0, 0, 0, 0, 0, 0, 0]);
    process.write(eventfd, one);
    expect([take(), work.pending]).toEqual([false, 1]);
    work.drain();
    expect(take()).toBe(true);
    process.write(eventfd, one);
    expect([take(), work.pending]).toEqual([true, 0]);
  });
});
