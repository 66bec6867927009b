/** An assigned device, VFIO's eventfds and KVM's irqfds: who is told, in every order of setting up and taking down. */
import { describe, expect, test } from "vitest";
import {
  KVM_CREATE_IRQCHIP,
  KVM_CREATE_VCPU,
  KVM_CREATE_VM,
  KVM_IRQ_ROUTING_IRQCHIP,
  KVM_IRQ_ROUTING_MSI,
  KVM_IRQFD,
  KVM_IRQFD_FLAG_DEASSIGN,
  KVM_IRQFD_FLAG_RESAMPLE,
  KVM_SET_GSI_ROUTING,
  KvmIrqfd,
} from "../../lib/abi/kvm.ts";
import { KVM_GET_LAPIC, KVM_SET_LAPIC } from "../../lib/abi/kvm-x86.ts";
import { load32, store32 } from "../../lib/abi/struct.ts";
import type { PciBar } from "../../lib/hardware/pci-device.ts";
import type { PciImage } from "../../lib/hardware/pci-image.ts";
import { Assigned, CONFIG, EVENTFD, INTX, MSIX, NONE, TRIGGER, UNMASK } from "./assigned.ts";

const bar: PciBar = { index: 0, size: 8192, type: "mem", wide: false, prefetchable: false };
const image: PciImage = {
  pin: 1,
  bars: [bar],
  capabilities: [{ kind: "msix", vectors: 2, table: [0, 0], pending: [0, 4096] }],
};
const GSI = 24;
const VECTOR = 0x41;

/** A guest with one processor whose local APIC is on, and an assigned device. */
class Guest extends Assigned {
  readonly vm: number;
  readonly vcpu: number;

  constructor(posted = false) {
    super({ image, host: { posted_interrupts: posted } });
    const kvm = this.process.open("/dev/kvm", 2);
    this.vm = this.process.ioctl(kvm, KVM_CREATE_VM, 0);
    this.process.ioctl(this.vm, KVM_CREATE_IRQCHIP, 0);
    this.vcpu = this.process.ioctl(this.vm, KVM_CREATE_VCPU, 0);
    const lapic = this.lapic();
    store32(lapic, 0xf0, 0x1ff);
    this.process.ioctl(this.vcpu, KVM_SET_LAPIC, lapic);
    this.write(CONFIG + 4, [6, 0]);
  }

  lapic(): Uint8Array {
    const lapic = new Uint8Array(1024);
    this.process.ioctl(this.vcpu, KVM_GET_LAPIC, lapic);
    return lapic;
  }

  /** Vectors that wait in the local APIC; they are taken. */
  pending(): number[] {
    const lapic = this.lapic();
    const found: number[] = [];
    for (let vector = 0; vector < 256; vector++)
      if ((load32(lapic, 0x200 + 16 * (vector >> 5)) & (1 << (vector & 31))) !== 0) found.push(vector);
    for (let word = 0; word < 8; word++) store32(lapic, 0x200 + 16 * word, 0);
    this.process.ioctl(this.vcpu, KVM_SET_LAPIC, lapic);
    return found;
  }

  /** Routes of the one GSI: messages by vector, or pins of the I/O APIC. */
  route(...entries: ({ vector: number; destination?: number } | { pin: number })[]): void {
    const table = new Uint8Array(8 + 48 * entries.length);
    store32(table, 0, entries.length);
    entries.forEach((entry, i) => {
      const at = 8 + 48 * i;
      store32(table, at, GSI);
      store32(table, at + 4, "pin" in entry ? KVM_IRQ_ROUTING_IRQCHIP : KVM_IRQ_ROUTING_MSI);
      if ("pin" in entry) {
        store32(table, at + 16, 2);
        store32(table, at + 20, entry.pin);
      } else {
        store32(table, at + 16, 0xfee0_0000 | ((entry.destination ?? 0) << 12));
        store32(table, at + 24, entry.vector);
      }
    });
    expect(this.process.ioctl(this.vm, KVM_SET_GSI_ROUTING, table)).toBe(0);
  }

  irqfd(fd: number, flags = 0, resamplefd = 0): number {
    return this.process.ioctl(
      this.vm,
      KVM_IRQFD,
      KvmIrqfd.encode({ fd, gsi: GSI, flags, resamplefd, pad: [] }),
    );
  }

  bind(fd: number): number {
    return this.setIrqs(MSIX, EVENTFD | TRIGGER, 0, 1, [fd]);
  }
}

describe.each([false, true])("posted interrupts %s", (posted) => {
  test.each(["VFIO first", "KVM first"])("%s: each interrupt of the device is one of the guest", (order) => {
    const guest = new Guest(posted);
    const fd = guest.eventfd();
    guest.route({ vector: VECTOR });
    if (order === "VFIO first") expect([guest.bind(fd), guest.irqfd(fd)]).toEqual([0, 0]);
    else expect([guest.irqfd(fd), guest.bind(fd)]).toEqual([0, 0]);
    guest.device.msix!.raise(0);
    expect([guest.pending(), guest.count(fd)]).toEqual([[VECTOR], 0]);
    guest.device.msix!.raise(1);
    expect(guest.pending()).toEqual([]);
  });

  test.each(["VFIO", "KVM"])("%s is taken away first: nothing arrives twice, nothing after", (first) => {
    const guest = new Guest(posted);
    const fd = guest.eventfd();
    guest.route({ vector: VECTOR });
    guest.bind(fd);
    guest.irqfd(fd);
    const leaveVfio = () => guest.setIrqs(MSIX, EVENTFD | TRIGGER, 0, 1, [-1]);
    const leaveKvm = () => guest.irqfd(fd, KVM_IRQFD_FLAG_DEASSIGN);
    expect(first === "VFIO" ? leaveVfio() : leaveKvm()).toBe(0);
    guest.device.msix!.raise(0);
    expect([guest.pending(), guest.count(fd)]).toEqual([[], first === "VFIO" ? 0 : 1]);
    expect(first === "VFIO" ? leaveKvm() : leaveVfio()).toBe(0);
    guest.device.msix!.raise(0);
    expect([guest.pending(), guest.count(fd)]).toEqual([[], 0]);
    expect([guest.bind(fd), guest.irqfd(fd)]).toEqual([0, 0]);
    // what was raised while nobody wanted it was latched, and came with the bind, before there was an irqfd
    expect([guest.pending(), guest.count(fd)]).toEqual([[VECTOR], 1]);
  });

  test("a route that changes is followed; to nowhere, to two places, and back", () => {
    const guest = new Guest(posted);
    const fd = guest.eventfd();
    guest.route({ vector: VECTOR });
    guest.bind(fd);
    guest.irqfd(fd);
    guest.route({ vector: 0x52 });
    guest.device.msix!.raise(0);
    expect(guest.pending()).toEqual([0x52]);
    guest.route();
    guest.device.msix!.raise(0);
    expect([guest.pending(), guest.count(fd)]).toEqual([[], 0]);
    guest.route({ vector: VECTOR });
    guest.device.msix!.raise(0);
    expect(guest.pending()).toEqual([VECTOR]);
    guest.route({ vector: VECTOR, destination: 7 });
    guest.device.msix!.raise(0);
    expect([guest.pending(), guest.count(fd)]).toEqual([[], 0]);
  });

  test("who watches the eventfd is passed by only while the interrupt is posted", () => {
    const guest = new Guest(posted);
    const fd = guest.eventfd();
    guest.route({ vector: VECTOR });
    guest.bind(fd);
    guest.irqfd(fd);
    const { irqs, device } = guest;
    const signals = watch(guest, fd);
    device.msix!.raise(0);
    expect(signals()).toBe(posted ? 0 : 1);
    guest.route({ pin: 5 });
    device.msix!.raise(0);
    expect(signals()).toBe(1);
    guest.route({ vector: VECTOR });
    device.msix!.raise(0);
    expect(signals()).toBe(posted ? 0 : 1);
    expect(irqs.irqOf(device, 0)!.place).toBeGreaterThanOrEqual(0);
  });
});

/** How often the handler of the device's first vector ran since the last call. */
function watch(guest: Guest, _fd: number): () => number {
  const irq = guest.irqs.irqOf(guest.device, 0)!;
  const handler = irq.handler!;
  let ran = 0;
  irq.handler = { handle: () => (ran++, handler.handle()) };
  return () => {
    const result = ran;
    ran = 0;
    return result;
  };
}

test("an eventfd that was signalled before it was bound is injected and stays readable", () => {
  const guest = new Guest();
  const fd = guest.eventfd();
  guest.route({ vector: VECTOR });
  guest.bind(fd);
  guest.device.msix!.raise(0);
  expect(guest.irqfd(fd)).toBe(0);
  expect([guest.pending(), guest.count(fd)]).toEqual([[VECTOR], 1]);
  guest.device.msix!.raise(0);
  expect([guest.pending(), guest.count(fd)]).toEqual([[VECTOR], 0]);
});

test("INTx with resampling: the guest's acknowledgement unmasks, and a line that is still high comes again", () => {
  const guest = new Guest();
  const [trigger, unmask] = [guest.eventfd(), guest.eventfd()];
  guest.route({ pin: 10 });
  expect(guest.irqfd(trigger, KVM_IRQFD_FLAG_RESAMPLE, unmask)).toBe(0);
  guest.setIrqs(INTX, EVENTFD | TRIGGER, 0, 1, [trigger]);
  expect(guest.setIrqs(INTX, EVENTFD | UNMASK, 0, 1, [unmask])).toBe(0);
  guest.device.setIntx(true);
  expect([guest.device.intxHigh, guest.count(trigger)]).toEqual([false, 0]);
  guest.device.setIntx(false);
  // what the resampler does when the guest acknowledges: it signals its eventfd
  guest.process.write(unmask, new Uint8Array([1, 0, 0, 0, 0, 0, 0, 0]));
  guest.device.setIntx(true);
  expect(guest.device.intxHigh).toBe(false);
  guest.process.write(unmask, new Uint8Array([1, 0, 0, 0, 0, 0, 0, 0]));
  expect([guest.device.intxHigh, guest.count(unmask)]).toEqual([false, 0]);
  expect(guest.setIrqs(INTX, NONE | TRIGGER, 0, 0)).toBe(0);
});

test("the VM goes, then the device: nothing is left behind", () => {
  const guest = new Guest(true);
  const fd = guest.eventfd();
  const { matrix } = guest.irqs;
  const free = matrix.free;
  guest.route({ vector: VECTOR });
  guest.bind(fd);
  guest.irqfd(fd);
  guest.process.close(guest.vcpu);
  guest.process.close(guest.vm);
  guest.device.msix!.raise(0);
  expect(guest.count(fd)).toBe(1);
  guest.process.close(guest.fd);
  expect(matrix.free).toBe(free);
});
