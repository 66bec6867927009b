/** The LAPIC's page where the LAPIC does not answer: every byte reads as ff (arch/x86/kvm/lapic.c:apic_mmio_read, 6.1). */
import { expect, onTestFinished, test } from "vitest";
import { KVM_CREATE_IRQCHIP } from "../../../lib/abi/kvm.ts";
import { KVM_SET_MSRS } from "../../../lib/abi/kvm-x86.ts";
import { store32, store64 } from "../../../lib/abi/struct.ts";
import { Guest } from "./guest.ts";
import { kernels } from "./kernels.ts";

for (const [name, start] of kernels)
  test.skipIf(start === undefined)(`8 bytes of a LAPIC that is off (${name})`, () => {
    const process = start!();
    onTestFinished(() => process.exit());
    const guest = new Guest(process, "long", (vm) => process.ioctl(vm, KVM_CREATE_IRQCHIP, 0));
    // a page table for the top of the first 4 GiB, and the page in it
    store64(guest.memory, 0x11000 + 24, 0x13007);
    store64(guest.memory, 0x13000 + 8 * 503, 0xfee0_0087);
    const off = new Uint8Array(24);
    store32(off, 0, 1);
    store32(off, 8, 0x1b);
    store64(off, 16, 0xfee0_0100);
    expect(process.ioctl(guest.vcpu, KVM_SET_MSRS, off)).toBe(1);
    guest.code(0x48, 0xa1, 0x30, 0, 0xe0, 0xfe, 0, 0, 0, 0, 0xe6, 0x80, 0xf4); // mov rax, [0xfee00030]; out 0x80, al
    expect(guest.enter()).toBe(0);
    expect(guest.register("rax")).toBe(0xffff_ffff_ffff_ffffn);
  });
