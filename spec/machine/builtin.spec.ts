import { describe, expect, test } from "vitest";
import { builtinHosts } from "../../lib/machine/builtin.ts";
import { type ProfileHeader, profileFromHeader } from "../../lib/machine/profile.ts";
import { readTrace } from "../../lib/trace/files.ts";

const headerOf = (path: string) =>
  readTrace(new URL(`../../fixtures/traces/${path}.jsonl.gz`, import.meta.url).pathname).header;

/** By name: the trace whose header the host was made from. */
const recorded: [name: string, trace: string][] = [
  ["x86_64_7_2_svm", "x86_64-svm-7.2/system"],
  ["arm64_6_1_gicv3", "arm64-kvm-6.1/vgic-create"],
  ["arm64_6_1_gicv2", "arm64-kvm-6.1/gicv2-vgic-create"],
  ["arm64_6_12_gicv3", "arm64-kvm-6.12/vgic-create"],
  ["arm64_6_12_gicv2", "arm64-kvm-6.12/gicv2-vgic-create"],
  ["arm64_7_2_gicv3", "arm64-kvm-7.2/vgic-create"],
  ["arm64_7_2_gicv2", "arm64-kvm-7.2/gicv2-vgic-create"],
  ["ppc64le_6_12_pseries", "ppc64le-kvm-6.12/system"],
  ["ppc64le_6_12_powernv9", "ppc64le-kvm-6.12/powernv9-system"],
  ["ppc64le_6_12_pr", "ppc64le-kvm-pr/pr-system"],
  ["ppc64le_6_1_pseries", "ppc64le-kvm-6.1/xics-create"],
];

describe("hosts that come with the library", () => {
  test.each(recorded)("%s is what %s was recorded on", (name, trace) => {
    expect(profileFromHeader(builtinHosts[name])).toEqual(profileFromHeader(headerOf(trace)));
  });

  test.each(recorded)("%s completes the header of %s without capabilities", (name, trace) => {
    const { capabilities, ...rest } = headerOf(trace);
    expect(capabilities).toBeDefined();
    const completed = profileFromHeader(rest as ProfileHeader);
    expect(completed).toEqual(profileFromHeader(builtinHosts[name]));
  });

  test("a header of a host that nobody has recorded offers nothing", () => {
    const profile = profileFromHeader({ arch: "riscv64", kernel: "6.12", kvm: "h" });
    expect(profile.vmCapabilities.size).toBe(0);
  });
});
