/**
 * The hosts whose description comes with the library, and which of them a header means that leaves out what KVM offers:
 * the same architecture, then the same flavour, machine and release.
 */
import type { ProfileHeader } from "./profile.ts";
import * as arm64 from "./profiles/arm64.ts";
import * as ppc64le from "./profiles/ppc64le.ts";
import { x86_64_6_18_pvm } from "./profiles/x86_64-6.18-pvm.ts";
import { x86_64_7_2_svm } from "./profiles/x86_64-7.2-svm.ts";

const hosts = { x86_64_6_18_pvm, x86_64_7_2_svm, ...arm64, ...ppc64le };

/** By name: "ppc64le_6_12_pseries". */
export const builtinHosts: Readonly<typeof hosts & Record<string, ProfileHeader>> = hosts;

/** "6.12.107+deb13" → "6.12" */
const releaseOf = (kernel: string): string => kernel.split(/[.\-+]/, 2).join(".");

/** "qemu-system-ppc64 powernv9 (TCG): …" → "qemu-system-ppc64 powernv9" */
const machineOf = ({ host }: ProfileHeader): string =>
  String(host?.machine ?? "")
    .split(/[ ,(]/, 2)
    .join(" ");

/** The header, with what it leaves out of capabilities taken from the closest host of the library. */
export function completed(header: ProfileHeader): ProfileHeader {
  if (header.capabilities !== undefined || header.kvm === null) return header;
  const score = (other: ProfileHeader): number =>
    (other.kvm === header.kvm ? 4 : 0) +
    (machineOf(other) === machineOf(header) ? 2 : 0) +
    (releaseOf(other.kernel) === releaseOf(header.kernel) ? 1 : 0);
  const candidates = Object.values(builtinHosts).filter(({ arch }) => arch === header.arch);
  const [best] = candidates.sort((a, b) => score(b) - score(a));
  return best === undefined ? header : { ...header, capabilities: best.capabilities! };
}
