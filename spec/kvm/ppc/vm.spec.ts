/** What a POWER VM lets user space switch, and what it says of its MMU (arch/powerpc/kvm/powerpc.c, book3s_pr.c, 6.1). */
import { expect, test } from "vitest";
import {
  KVM_CAP_PPC_ENABLE_HCALL,
  KVM_ENABLE_CAP,
  KVM_EXIT_INTR,
  KVM_EXIT_PAPR_HCALL,
  KVM_RUN,
  KvmEnableCap,
} from "../../../lib/abi/kvm.ts";
import { KVM_PPC_GET_SMMU_INFO, KvmPpcSmmuInfo, KvmRun } from "../../../lib/abi/kvm-ppc.ts";
import { load32, load64 } from "../../../lib/abi/struct.ts";
import { hypercall } from "../../../lib/kvm/ppc/guest.ts";
import { H_CPPR, H_XIRR } from "../../../lib/kvm/ppc/hypercalls.ts";
import { vcpuOf } from "./guests.ts";
import { named, powernv9, pr, pseries, World } from "./world.ts";

test("a hypercall is KVM's or user space's, as the VM was told; flags are refused", () => {
  const world = new World(pseries);
  const [fd] = world.connected();
  const vcpu = vcpuOf(world.process, fd);
  const { pages } = vcpu.vcpu;
  const enable = (number: number, on: number, flags = 0) =>
    named(
      world.process.ioctl(
        world.vm,
        KVM_ENABLE_CAP.powerpc,
        KvmEnableCap.encode({
          cap: KVM_CAP_PPC_ENABLE_HCALL,
          flags,
          args: [BigInt(number), BigInt(on), 0n, 0n],
        }),
      ),
    );
  const call = (number: number) => {
    vcpu.load(
      (function* () {
        yield* hypercall(number, 0xff);
      })(),
    );
    world.process.ioctl(fd, KVM_RUN.powerpc, 0);
    return load32(pages, KvmRun.offsetOf.exit_reason);
  };
  expect([H_CPPR, H_XIRR].map(call)).toEqual([KVM_EXIT_INTR, KVM_EXIT_INTR]);
  expect(enable(H_CPPR, 0, 1)).toBe("EINVAL");
  expect(call(H_CPPR)).toBe(KVM_EXIT_INTR);
  expect([enable(H_CPPR, 0), enable(H_CPPR, 2), enable(H_CPPR + 1, 1)]).toEqual([0, "EINVAL", "EINVAL"]);
  expect([H_CPPR, H_XIRR].map(call)).toEqual([KVM_EXIT_PAPR_HCALL, KVM_EXIT_INTR]);
  expect(enable(H_CPPR, 1)).toBe(0);
  expect([H_CPPR, H_XIRR].map(call)).toEqual([KVM_EXIT_INTR, KVM_EXIT_INTR]);
});

test("an exit for a hypercall holds nine arguments, and leaves what lies behind them", () => {
  const world = new World(pseries);
  const [fd] = world.connected();
  const vcpu = vcpuOf(world.process, fd);
  const { pages } = vcpu.vcpu;
  for (let gpr = 3; gpr < 32; gpr++) vcpu.registers.setGpr(gpr, 0x1000 + gpr);
  pages.fill(0xee, 32, 256);
  vcpu.load(
    (function* () {
      yield* hypercall(0xf00c);
    })(),
  );
  expect(world.process.ioctl(fd, KVM_RUN.powerpc, 0)).toBe(0);
  const words = Array.from({ length: 12 }, (_, i) => load64(pages, 32 + 8 * i));
  // number, answer, arguments in GPR 4 to 12
  expect(words.slice(2)).toEqual([
    ...Array.from({ length: 9 }, (_, i) => BigInt(0x1004 + i)),
    0xeeee_eeee_eeee_eeeen,
  ]);
});

test("KVM_PPC_GET_SMMU_INFO: user mode backs no page with a real one, and a vCPU brings segments of 1 TiB", () => {
  const [REAL, SEGMENTS_1T, NO_HASH] = [1, 2, 4];
  const flags = (host: string, vcpus: number) => {
    const world = new World(host);
    for (let id = 0; id < vcpus; id++) world.vcpu(id);
    const info = new Uint8Array(KvmPpcSmmuInfo.size);
    expect(world.process.ioctl(world.vm, KVM_PPC_GET_SMMU_INFO, info)).toBe(0);
    return load32(info, 0);
  };
  expect([0, 1].map((vcpus) => flags(pr, vcpus))).toEqual([0, SEGMENTS_1T]);
  expect([0, 1].map((vcpus) => flags(powernv9, vcpus))).toEqual([REAL | SEGMENTS_1T, REAL | SEGMENTS_1T]);
  expect([0, 1].map((vcpus) => flags(pseries, vcpus))).toEqual(Array(2).fill(REAL | SEGMENTS_1T | NO_HASH));
});
