/** Every MSR of the ranges that KVM knows, with many values: what is taken, and what is read afterwards. */
import { KVM_CREATE_IRQCHIP, KVM_CREATE_VCPU, KVM_CREATE_VM } from "../../lib/abi/kvm.ts";
import {
  KVM_GET_MSRS,
  KVM_GET_SUPPORTED_CPUID,
  KVM_SET_CPUID2,
  KVM_SET_MSRS,
} from "../../lib/abi/kvm-x86.ts";
import { load32, load64, store32, store64 } from "../../lib/abi/struct.ts";
import type { Syscalls } from "../../lib/kernel/syscalls.ts";
import { type Answers, agreement, named } from "./contract.ts";

const values = [
  0n,
  1n,
  6n,
  0xffn,
  0x1000n,
  0x1234_5678n,
  0xffff_ffffn,
  1n << 47n,
  1n << 63n,
  (1n << 64n) - 1n,
];
/** the time stamp counter and what counts with it */
const CLOCKS = new Set([0x10, 0x6e0, 0xe7, 0xe8, 0xc000_0104]);
const ranges: [name: string, from: number, until: number][] = [
  ["0x0", 0, 0x200],
  ["MTRRs", 0x200, 0x300],
  ["performance", 0x300, 0x400],
  ["machine check banks", 0x400, 0x4a0],
  ["0x4a0", 0x4a0, 0x500],
  ["x2APIC", 0x800, 0x840],
  ["0xd00", 0xd90, 0xdb0],
  ["paravirtual", 0x4b56_4d00, 0x4b56_4d10],
  ["paravirtual, old", 0x10, 0x13],
  ["Hyper-V", 0x4000_0000, 0x4000_0020],
  ["AMD's", 0xc000_0080, 0xc000_0110],
  ["AMD's system", 0xc001_0000, 0xc001_0020],
  ["AMD's virtualization", 0xc001_0110, 0xc001_0120],
];

function vcpuOf(process: Syscalls, cpuid: boolean): number {
  const kvm = process.open("/dev/kvm", 2);
  const vm = process.ioctl(kvm, KVM_CREATE_VM, 0);
  process.ioctl(vm, KVM_CREATE_IRQCHIP, 0);
  const vcpu = process.ioctl(vm, KVM_CREATE_VCPU, 0);
  if (cpuid) {
    const entries = new Uint8Array(8 + 40 * 100);
    store32(entries, 0, 100);
    process.ioctl(kvm, KVM_GET_SUPPORTED_CPUID, entries);
    process.ioctl(vcpu, KVM_SET_CPUID2, entries.subarray(0, 8 + 40 * load32(entries, 0)));
  }
  return vcpu;
}

for (const cpuid of [false, true])
  for (const [name, from, until] of ranges)
    agreement(`${name}, ${cpuid ? "with all that CPUID offers" : "without CPUID"}`, (process) => {
      const answers: Answers = {};
      const entry = new Uint8Array(8 + 16);
      const access = (vcpu: number, request: typeof KVM_GET_MSRS, index: number, value: bigint): number => {
        entry.fill(0);
        store32(entry, 0, 1);
        store32(entry, 8, index);
        store64(entry, 16, value);
        return process.ioctl(vcpu, request, entry);
      };
      for (const value of values) {
        const vcpu = vcpuOf(process, cpuid);
        for (let index = from; index < until; index++) {
          if (CLOCKS.has(index)) continue;
          const taken = named(access(vcpu, KVM_SET_MSRS, index, value));
          const found = access(vcpu, KVM_GET_MSRS, index, 0n);
          const read = found === 1 ? load64(entry, 16).toString(16) : named(found);
          answers[`${index.toString(16)} = ${value.toString(16)}`] = [taken, read];
        }
        process.close(vcpu);
      }
      return answers;
    });
