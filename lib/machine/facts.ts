/**
 * Facts about a host as a trace's header writes them, and the facts of hosts that are known by release and flavour: a
 * header that tells nothing of its processor gets those.
 */
import { load32 } from "../abi/struct.ts";
import type { HostFacts, NativeCpuid } from "../kvm/host.ts";
import { nativeCpuidBits } from "./profiles/native-cpuid.ts";
import { x86_64_6_18_pvm } from "./profiles/x86_64-6.18-pvm.ts";
import { moreFacts } from "./profiles/x86_64-6.18-pvm-live.ts";

/** Arrays of bytes are hex; the values of MSRs are eight bytes in memory order, by index. */
export interface HeaderFacts {
  supportedCpuid?: string;
  emulatedCpuid?: string;
  msrIndices?: string;
  msrFeatureIndices?: string;
  msrFeatureValues?: Readonly<Record<string, string>>;
  tscKhz?: number;
  mceCap?: string;
  guestXcr0?: number;
  userXfeatures?: number;
  /** entries of leaf 0xd that a guest on the bare processor sees */
  nativeXsave?: readonly string[];
}

/** By architecture, release and flavour. */
const known: Readonly<Record<string, HeaderFacts>> = {
  "x86_64 6.18 pvm": { ...x86_64_6_18_pvm.facts, ...moreFacts },
};

/** The facts of a header, completed by what is known of such a host. */
export function factsOf(
  arch: string,
  release: string,
  flavour: string | null,
  header?: HeaderFacts,
): HostFacts {
  const facts: HeaderFacts = { ...known[`${arch} ${release} ${flavour}`], ...header };
  const { supportedCpuid, emulatedCpuid, msrIndices, msrFeatureIndices, msrFeatureValues } = facts;
  const { tscKhz, mceCap, guestXcr0, userXfeatures, nativeXsave } = facts;
  return {
    ...(supportedCpuid !== undefined && { supportedCpuid: fromHex(supportedCpuid) }),
    ...(emulatedCpuid !== undefined && { emulatedCpuid: fromHex(emulatedCpuid) }),
    ...(msrIndices !== undefined && { msrIndices: words(msrIndices) }),
    ...(msrFeatureIndices !== undefined && { msrFeatureIndices: words(msrFeatureIndices) }),
    ...(msrFeatureValues !== undefined && { msrFeatureValues: values(msrFeatureValues) }),
    ...(tscKhz !== undefined && { tscKhz }),
    ...(mceCap !== undefined && { mceCap: BigInt(mceCap) }),
    ...(guestXcr0 !== undefined && { guestXcr0 }),
    ...(userXfeatures !== undefined && { userXfeatures }),
    ...(nativeXsave !== undefined && { nativeCpuid: nativeCpuid(nativeXsave) }),
  };
}

const nativeCpuid = (xsave: readonly string[]): NativeCpuid => ({
  ...nativeCpuidBits,
  xsave: xsave.map(fromHex),
});

function fromHex(hex: string): Uint8Array {
  const bytes = new Uint8Array(hex.length / 2);
  for (let i = 0; i < bytes.length; i++) bytes[i] = Number.parseInt(hex.slice(2 * i, 2 * i + 2), 16);
  return bytes;
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
