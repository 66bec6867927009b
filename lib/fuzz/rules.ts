/**
 * What the comparison of two kernels leaves out, by name and counted; nothing else is.
 *
 * - Volatile rules: bytes of answers that follow the clock of the host.
 * - Taming rules: bytes of arguments that are changed before both kernels see them, because a timer that fires in the
 *   middle of a program makes the answers a matter of speed, or because the real kernel would write to an address that
 *   belongs to the host program.
 * - Two things are left to run their course, and what differs in a program after them is counted as unstable: a PIT that
 *   ticks all the same, and a storm of interrupts, which KVM pauses for 10 ms after 10,000 ends of interrupt.
 */

import {
  KVM_SET_USER_MEMORY_REGION,
  KVM_SET_USER_MEMORY_REGION2,
  KvmUserspaceMemoryRegion,
} from "../abi/kvm.ts";
import {
  KVM_GET_CLOCK,
  KVM_GET_LAPIC,
  KVM_GET_MSRS,
  KVM_GET_PIT,
  KVM_GET_PIT2,
  KVM_GET_SUPPORTED_CPUID,
  KVM_SET_LAPIC,
  KVM_SET_MSRS,
  KVM_SET_PIT,
  KVM_SET_PIT2,
  KvmCpuid2,
  KvmCpuidEntry2,
  KvmPitChannelState,
  KvmPitState2,
} from "../abi/kvm-x86.ts";
import { placesOf } from "../abi/places.ts";
import { findRequest } from "../abi/requests.ts";
import { load32, load64, store32, store64 } from "../abi/struct.ts";
import { APIC_TMCCT, APIC_TMICT } from "../hardware/lapic-registers.ts";

export type Range = readonly [offset: number, length: number];

interface VolatileRule {
  readonly name: string;
  readonly requests: readonly number[];
  ranges(answer: Uint8Array): readonly Range[];
}

const PIT_CHANNEL = KvmPitChannelState.size;
const LOAD_TIME = KvmPitChannelState.offsetOf.count_load_time;
const MSR_HEAD = 8;
const MSR_ENTRY = 16;

/** MSRs that count time: TSC, MPERF, APERF, the kvmclock of Hyper-V, TSC deadline. */
const clockMsrs = new Set([0x10, 0xe7, 0xe8, 0x6e0, 0x4000_0020]);

const CPUID_HEAD = KvmCpuid2.size;
const CPUID_ENTRY = KvmCpuidEntry2.size;
const CPUID_EBX = KvmCpuidEntry2.offsetOf.ebx;
const CPUID_EDX = KvmCpuidEntry2.offsetOf.edx;
const topologyLeaves = new Set([0xb, 0x1f]);

export const volatileRules: readonly VolatileRule[] = [
  {
    name: "the count of a LAPIC timer",
    requests: [KVM_GET_LAPIC.number],
    ranges: () => [[APIC_TMCCT, 4]],
  },
  {
    name: "when a PIT channel was loaded",
    requests: [KVM_GET_PIT.number, KVM_GET_PIT2.number],
    ranges: () => [0, 1, 2].map((channel) => [channel * PIT_CHANNEL + LOAD_TIME, 8] as const),
  },
  {
    name: "the clock of a VM",
    requests: [KVM_GET_CLOCK.number],
    ranges: () => [
      [0, 8],
      [16, 16],
    ],
  },
  {
    name: "the APIC id of the processor that the program runs on",
    requests: [KVM_GET_SUPPORTED_CPUID.number],
    ranges(answer) {
      const found: Range[] = [];
      for (let at = CPUID_HEAD; at + 4 <= answer.length; at += CPUID_ENTRY)
        if (load32(answer, at) === 1) found.push([at + CPUID_EBX + 3, 1]);
        else if (topologyLeaves.has(load32(answer, at))) found.push([at + CPUID_EDX, 4]);
      return found;
    },
  },
  {
    name: "MSRs that count time",
    requests: [KVM_GET_MSRS.number],
    ranges(answer) {
      const found: Range[] = [];
      for (let at = MSR_HEAD; at + 4 <= answer.length; at += MSR_ENTRY)
        if (clockMsrs.has(load32(answer, at))) found.push([at + 8, 8]);
      return found;
    },
  },
];

/** Which bytes of an answer are not compared, and by which rule. */
export function volatileBytes(
  request: number,
  answer: Uint8Array,
): { rule: string; ranges: readonly Range[] } | undefined {
  const rule = volatileRules.find(({ requests }) => requests.includes(request));
  if (rule === undefined) return undefined;
  const ranges = rule
    .ranges(answer)
    .filter(([at]) => at < answer.length)
    .map(([at, length]): Range => [at, Math.min(length, answer.length - at)]);
  return ranges.length === 0 ? undefined : { rule: rule.name, ranges };
}

interface TamingRule {
  readonly name: string;
  readonly requests?: readonly number[];
  /** changes the bytes; whether it did */
  tame(bytes: Uint8Array, patched: ReadonlySet<number>, request: number): boolean;
}

/** A LAPIC timer that runs for a second at least, whatever its divider. */
const SLOW_TIMER = 0x4000_0000;
/** PIT modes whose channel 0 has a timer */
const TICKING_MODES = 4;
const HPET_LEGACY = 1;
const IA32_TSC_DEADLINE = 0x6e0;
/** X2APIC registers as MSRs: the timer's initial count */
const X2APIC_TMICT = 0x838;

/** 2^20 pages, for which the kernel would allocate, and 2^31, which it refuses */
const MANY_BYTES = 1n << 32n;
const TOO_MANY_BYTES = 1n << 43n;

/** Addresses that are mapped in no process: below the first page that may be, and beyond user space. */
const UNMAPPED_BELOW = 0x1_0000n;
const UNMAPPED_FROM = 0x7fff_ffff_f000n;

/** its rule: a program that runs for long sees the PIT tick all the same */
export const SLOW_PIT = "channel 0 of a PIT ticks as slowly as it can";

/** what a program is marked with once the IOAPIC has paused a pin (arch/x86/kvm/ioapic.c:kvm_ioapic_update_eoi_one, 6.1) */
export const STORM = "a storm of interrupts is paused";

export const tamingRules: readonly TamingRule[] = [
  {
    name: "a LAPIC timer takes a second at least",
    requests: [KVM_SET_LAPIC.number],
    tame(bytes) {
      if (bytes.length < APIC_TMICT + 4) return false;
      const count = load32(bytes, APIC_TMICT);
      if (count === 0 || count >= SLOW_TIMER) return false;
      store32(bytes, APIC_TMICT, (count | SLOW_TIMER) >>> 0);
      return true;
    },
  },
  {
    name: SLOW_PIT,
    requests: [KVM_SET_PIT.number, KVM_SET_PIT2.number],
    tame(bytes, _patched, request) {
      const { count, mode } = KvmPitChannelState.offsetOf;
      if (bytes.length < PIT_CHANNEL || bytes[mode] > TICKING_MODES) return false;
      if (
        request === KVM_SET_PIT2.number &&
        bytes.length >= KvmPitState2.size &&
        (load32(bytes, KvmPitState2.offsetOf.flags) & HPET_LEGACY) !== 0
      )
        return false;
      store32(bytes, count, 0);
      return true;
    },
  },
  {
    name: "MSRs that start a timer are not written",
    requests: [KVM_SET_MSRS.number],
    tame(bytes) {
      let tamed = false;
      for (let at = MSR_HEAD; at + MSR_ENTRY <= bytes.length; at += MSR_ENTRY) {
        const index = load32(bytes, at);
        if (index !== IA32_TSC_DEADLINE && index !== X2APIC_TMICT) continue;
        bytes.fill(0, at + 8, at + MSR_ENTRY);
        tamed = true;
      }
      return tamed;
    },
  },
  {
    name: "no memory slot has 2^20 pages or more, unless that is too many",
    requests: [KVM_SET_USER_MEMORY_REGION.number, KVM_SET_USER_MEMORY_REGION2.number],
    tame(bytes) {
      const at = KvmUserspaceMemoryRegion.offsetOf.memory_size;
      if (bytes.length < at + 8) return false;
      const size = load64(bytes, at);
      if (size < MANY_BYTES || size >= TOO_MANY_BYTES) return false;
      store64(bytes, at, TOO_MANY_BYTES);
      return true;
    },
  },
  {
    name: "a pointer that is no buffer of the program points to nothing",
    tame(bytes, patched, request) {
      const struct = findRequest("x86_64", request)?.request.struct;
      if (struct === undefined) return false;
      let tamed = false;
      for (const { at } of placesOf(struct, "pointer")) {
        if (patched.has(at) || at + 8 > bytes.length) continue;
        const address = load64(bytes, at);
        if (address < UNMAPPED_BELOW || address >= UNMAPPED_FROM) continue;
        bytes.fill(0, at, at + 8);
        tamed = true;
      }
      return tamed;
    },
  },
];

/** Applies every taming rule to the bytes of an argument; tells the names of those that changed something. */
export function tame(request: number, bytes: Uint8Array, patched: ReadonlySet<number>): readonly string[] {
  const used: string[] = [];
  for (const rule of tamingRules)
    if (
      (rule.requests === undefined || rule.requests.includes(request)) &&
      rule.tame(bytes, patched, request)
    )
      used.push(rule.name);
  return used;
}
