/**
 * Facts about a host as a trace's header writes them, and the facts of hosts that are known by release and flavour: a
 * header that tells nothing of its processor gets those.
 */
import { fromHex } from "../abi/hex.ts";
import { load32 } from "../abi/struct.ts";
import type { ArmRegister, HostFacts, NativeCpuid } from "../kvm/host.ts";
import {
  arm64_6_1_gicv3_registers,
  arm64_6_12_gicv2_registers,
  arm64_6_12_gicv3_registers,
  arm64_7_2_gicv2_registers,
  arm64_7_2_gicv3_registers,
} from "./profiles/arm64-registers.ts";
import { nativeCpuidBits } from "./profiles/native-cpuid.ts";
import { x86_64_6_18_pvm } from "./profiles/x86_64-6.18-pvm.ts";
import { moreFacts } from "./profiles/x86_64-6.18-pvm-live.ts";

/** Arrays of bytes are hex; the values of MSRs are eight bytes in memory order, by index. */
export interface HeaderFacts {
  supportedCpuid?: string;
  emulatedCpuid?: string;
  hypervCpuid?: string;
  msrIndices?: string;
  msrFeatureIndices?: string;
  msrFeatureValues?: Readonly<Record<string, string>>;
  tscKhz?: number;
  mceCap?: string;
  guestXcr0?: number;
  userXfeatures?: number;
  /** entries of leaf 0xd that a guest on the bare processor sees */
  nativeXsave?: readonly string[];
  /** registers of an arm64 vCPU as profiles/arm64-registers.ts writes them */
  armRegisters?: string;
}

/** By architecture, release and flavour. */
const known: Readonly<Record<string, HeaderFacts>> = {
  "x86_64 6.18 pvm": { ...x86_64_6_18_pvm.facts, ...moreFacts },
  "arm64 6.1.0-50-arm64 vhe": { armRegisters: arm64_6_1_gicv3_registers },
  "arm64 6.12.107+deb13-arm64 vhe": { armRegisters: arm64_6_12_gicv3_registers },
  "arm64 6.12.107+deb13-arm64 nvhe": { armRegisters: arm64_6_12_gicv2_registers },
  "arm64 7.2.13+deb14-arm64 vhe": { armRegisters: arm64_7_2_gicv3_registers },
  "arm64 7.2.13+deb14-arm64 nvhe": { armRegisters: arm64_7_2_gicv2_registers },
};

/** The facts of a header, completed by what is known of such a host. */
export function factsOf(
  arch: string,
  release: string,
  flavour: string | null,
  header?: HeaderFacts,
): HostFacts {
  const facts: HeaderFacts = { ...known[`${arch} ${release} ${flavour}`], ...header };
  const { supportedCpuid, emulatedCpuid, hypervCpuid, msrIndices, msrFeatureIndices, msrFeatureValues } =
    facts;
  const { tscKhz, mceCap, guestXcr0, userXfeatures, nativeXsave, armRegisters } = facts;
  return {
    ...(supportedCpuid !== undefined && { supportedCpuid: fromHex(supportedCpuid) }),
    ...(emulatedCpuid !== undefined && { emulatedCpuid: fromHex(emulatedCpuid) }),
    ...(hypervCpuid !== undefined && { hypervCpuid: fromHex(hypervCpuid) }),
    ...(msrIndices !== undefined && { msrIndices: words(msrIndices) }),
    ...(msrFeatureIndices !== undefined && { msrFeatureIndices: words(msrFeatureIndices) }),
    ...(msrFeatureValues !== undefined && { msrFeatureValues: values(msrFeatureValues) }),
    ...(tscKhz !== undefined && { tscKhz }),
    ...(mceCap !== undefined && { mceCap: BigInt(mceCap) }),
    ...(guestXcr0 !== undefined && { guestXcr0 }),
    ...(userXfeatures !== undefined && { userXfeatures }),
    ...(nativeXsave !== undefined && { nativeCpuid: nativeCpuid(nativeXsave) }),
    ...(armRegisters !== undefined && { armRegisters: armRegistersOf(armRegisters) }),
  };
}

const nativeCpuid = (xsave: readonly string[]): NativeCpuid => ({
  ...nativeCpuidBits,
  xsave: xsave.map(fromHex),
});

/** Tables that were read before: a profile is made often. */
const armTables = new Map<string, readonly ArmRegister[]>();

/** `0110000/4=2.l@3`: kind and index, width, value, rule, feature. */
function armRegistersOf(table: string): readonly ArmRegister[] {
  let found = armTables.get(table);
  if (found === undefined) {
    found = [...table.matchAll(/([0-9a-f]+)(\/4)?=([0-9a-f]+)(?:\.([a-z]))?(?:@(\d))?/g)].map(
      ([, name, narrow, value, rule, feature]) => ({
        id: (narrow === undefined ? 0x6030n << 48n : 0x6020n << 48n) | BigInt(`0x${name}`),
        initial: BigInt(`0x${value}`),
        rule: rule ?? "",
        feature: feature === undefined ? -1 : Number(feature),
      }),
    );
    armTables.set(table, found);
  }
  return found;
}

function words(hex: string): number[] {
  const bytes = fromHex(hex);
  return Array.from({ length: bytes.length / 4 }, (_, i) => load32(bytes, 4 * i));
}

function values(byIndex: Readonly<Record<string, string>>): Map<number, bigint> {
  return new Map(
    Object.entries(byIndex).map(([index, hex]) => {
      const bytes = fromHex(hex);
      return [Number(index), (BigInt(load32(bytes, 4)) << 32n) | BigInt(load32(bytes, 0))];
    }),
  );
}
