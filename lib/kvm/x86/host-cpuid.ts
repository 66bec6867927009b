/**
 * What the host's processor has, as far as KVM offers it to guests: bits of KVM_GET_SUPPORTED_CPUID, which a profile
 * holds. User space may set what the host has, whatever the vCPU's own CPUID says.
 */
import { load32 } from "../../abi/struct.ts";
import type { KvmHost } from "../host.ts";

/** `struct kvm_cpuid_entry2` */
const ENTRY = 40;
const EAX = 12;
const EBX = 16;
const ECX = 20;
const EDX = 24;

// biome-ignore format: a table
const features = {
  la57: [7, ECX, 16],
  flushL1d: [7, EDX, 28],
  fxsrOpt: [0x8000_0001, EDX, 25],
  svm: [0x8000_0001, ECX, 2],
  noLmsle: [0x8000_0008, EBX, 20],
  pku: [7, ECX, 3],
  ibpb: [0x8000_0008, EBX, 12],
  automaticIbrs: [0x8000_0021, EAX, 8],
} as const;
export type HostFeature = keyof typeof features;

/** Whether the host has a feature: `mask` is its bit in the register. */
export function hostFeature({ facts }: KvmHost, leaf: number, register: number, mask: number): boolean {
  const entries = facts.supportedCpuid;
  return entries === undefined || hasBit(entries, leaf, register, mask);
}

function hasBit(entries: Uint8Array, leaf: number, register: number, mask: number): boolean {
  for (let at = 0; at < entries.length; at += ENTRY)
    if (load32(entries, at) === leaf && load32(entries, at + 4) === 0)
      return (load32(entries, at + register) & mask) !== 0;
  return false;
}

/** Looked up once for each host and feature. */
const known = new WeakMap<Uint8Array, Map<HostFeature, boolean>>();

export function hostHas({ facts }: KvmHost, name: HostFeature): boolean {
  const { supportedCpuid } = facts;
  if (supportedCpuid === undefined) return false;
  let answers = known.get(supportedCpuid);
  if (answers === undefined) known.set(supportedCpuid, (answers = new Map()));
  let answer = answers.get(name);
  if (answer === undefined) answers.set(name, (answer = looked(supportedCpuid, name)));
  return answer;
}

function looked(entries: Uint8Array, name: HostFeature): boolean {
  const [leaf, register, bit] = features[name];
  return hasBit(entries, leaf, register, 1 << bit);
}

/** Bits of a physical address, 52 where the host does not say. */
export function hostPhysicalBits({ facts: { supportedCpuid } }: KvmHost): number {
  const entries = supportedCpuid ?? none;
  for (let at = 0; at < entries.length; at += ENTRY)
    if (load32(entries, at) === 0x8000_0008) return load32(entries, at + EAX) & 0xff;
  return 52;
}
const none = new Uint8Array(0);

/**
 * Bits of a linear address that an MSR may hold (arch/x86/kvm/x86.c:__kvm_set_msr, 6.18). Before 6.13, the guest's CR4.LA57
 * decided.
 */
export const hostVirtualBits = (host: KvmHost): number =>
  host.facts.supportedCpuid === undefined || hostHas(host, "la57") ? 57 : 48;
