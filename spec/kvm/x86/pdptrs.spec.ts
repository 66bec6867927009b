/** KVM_GET_SREGS2's page directory pointers where the guest itself turns on paging or loads CR3, as Linux 7.2 with svm answers. */
import { expect, test } from "vitest";
import {
  KVM_GET_SREGS,
  KVM_GET_SREGS2,
  KVM_SET_SREGS,
  KvmSregs,
  KvmSregs2,
} from "../../../lib/abi/kvm-x86.ts";
import { load32, load64, store32, store64 } from "../../../lib/abi/struct.ts";
import { Machine } from "../../../lib/machine/machine.ts";
import { Guest } from "./guest.ts";
import { mainline } from "./vm.ts";

const PAE = 0x20;
const PG = 0x8000_0000;
const first = [0x12001n, 0x13001n, 0n, 0x14001n];
const second = [0x15001n, 0n, 0x16001n, 0n];
const nothing = [0n, 0n, 0n, 0n];
const HLT = 0xf4;
/** mov eax, 0x11020; mov cr3, eax */
const loadsCr3 = [0xb8, 0x20, 0x10, 1, 0, 0x0f, 0x22, 0xd8, HLT];
/** mov eax, cr0; or eax, PG; mov cr0, eax */
const turnsOn = [0x0f, 0x20, 0xc0, 0x0d, 0, 0, 0, 0x80, 0x0f, 0x22, 0xc0, HLT];

test.each([
  ["paging is on", true, [HLT], 1, first],
  ["it is on, and the guest loads CR3", true, loadsCr3, 1, first],
  ["it is off", false, [HLT], 0, nothing],
  ["it is off, and the guest turns it on", false, turnsOn, 1, first],
] as const)("%s", (_what, paging, code, flags, pointers) => {
  const guest = new Guest(new Machine(mainline).process(), "prot32");
  const { memory, kernel, vcpu } = guest;
  first.forEach((pointer, i) => {
    store64(memory, 0x11000 + 8 * i, pointer);
    store64(memory, 0x11020 + 8 * i, second[i]);
  });
  for (const directory of [0x12000, 0x15000]) store64(memory, directory, 0x83);
  const sregs = guest.get(KVM_GET_SREGS.number, KvmSregs.size);
  const { cr0, cr3, cr4 } = KvmSregs.offsetOf;
  store32(sregs, cr4, load32(sregs, cr4) | PAE);
  store64(sregs, cr3, 0x11000);
  if (paging) store32(sregs, cr0, load32(sregs, cr0) | PG);
  expect(kernel.ioctl(vcpu, KVM_SET_SREGS, sregs)).toBe(0);
  guest.code(...code);
  expect([guest.enter(), guest.exitReason, guest.register("rip")]).toEqual([
    0,
    5,
    BigInt(0x1000 + code.length),
  ]);
  const answer = guest.get(KVM_GET_SREGS2.number, KvmSregs2.size);
  const at = KvmSregs2.offsetOf.pdptrs;
  expect(load64(answer, KvmSregs2.offsetOf.flags)).toBe(BigInt(flags));
  expect([0, 8, 16, 24].map((i) => load64(answer, at + i))).toEqual([...pointers]);
});
