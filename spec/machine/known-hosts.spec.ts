import { describe, expect, test } from "vitest";
import { knownHost } from "../../lib/machine/known-hosts.ts";
import { Machine } from "../../lib/machine/machine.ts";
import { profileFromHeader } from "../../lib/machine/profile.ts";

const profile = (arch: string, kernel: string, machine: string) =>
  profileFromHeader({ arch, kernel, kvm: null, host: { machine } });

const virt = "qemu-system-aarch64 virt,virtualization=on,gic-version=3,its=on,iommu=smmuv3 + edu (TCG)";
const pseries = "qemu-system-ppc64 pseries,cap-nested-hv=on (TCG) + edu";
const powernv = "qemu-system-ppc64 powernv9 (TCG): bare metal + edu";

describe("machines that traces name", () => {
  test.each([
    ["arm64", "6.12.1", virt, "0000:00:05.0", "1"],
    ["arm64", "7.2.13", virt, "0000:00:05.0", "2"],
    ["ppc64le", "6.12.1", pseries, "0001:00:00.0", "1"],
    ["ppc64le", "6.12.1", powernv, "0001:01:00.0", "1"],
  ])("%s %s: one edu device", (arch, kernel, machine, address, group) => {
    const { vfio } = new Machine(profile(arch, kernel, machine));
    expect([...vfio!.functions.keys()]).toEqual([address]);
    expect([...vfio!.groups.keys()]).toEqual([group]);
    const config = vfio!.functions.get(address)!.description.config as string;
    expect(config).toHaveLength(512);
    expect(config.slice(0, 8)).toBe("3412e811");
  });

  test("other machines have none", () => {
    expect(knownHost(profile("x86_64", "6.12", "qemu 7.2 q35, TCG"))).toBeUndefined();
    expect(knownHost(profile("arm64", "6.12", "qemu-system-aarch64 virt + edu"))).toBeUndefined();
    expect(new Machine(profile("x86_64", "6.12", "q35")).vfio).toBeUndefined();
  });
});
