/**
 * Registers of POWER vCPUs and what a VM's hypercalls and tables may be, enumerated: arch/powerpc/kvm/book3s.c,
 * book3s_hv.c:kvmppc_set_one_reg_hv and set_vpa, book3s_64_vio.c:kvm_vm_ioctl_create_spapr_tce, powerpc.c (6.1).
 */
import { describe, expect, test } from "vitest";
import {
  KVM_CAP_PPC_ENABLE_HCALL,
  KVM_GET_ONE_REG,
  KVM_SET_ONE_REG,
  KvmOneReg,
} from "../../../lib/abi/kvm.ts";
import {
  KVM_CREATE_SPAPR_TCE_64,
  KVM_GET_REGS,
  KVM_GET_SREGS,
  KVM_REG_PPC_FPR0,
  KVM_REG_PPC_VPA_ADDR,
  KVM_REG_PPC_VPA_DTL,
  KVM_REG_PPC_VPA_SLB,
  KVM_REG_PPC_VSR0,
  KVM_SET_REGS,
  KVM_SET_SREGS,
  KvmCreateSpaprTce64,
  KvmRegs,
  KvmSregs,
} from "../../../lib/abi/kvm-ppc.ts";
import { load64, store32, store64 } from "../../../lib/abi/struct.ts";
import { named, powernv9, pr, World } from "./world.ts";

const HV = 1n << 60n;
const ME = 1n << 12n;
const TRANSACTION = 33n;

function vcpuOf(host: string) {
  const world = new World(host);
  const fd = world.vcpu(0);
  const { process } = world;
  const value = new Uint8Array(16);
  const reg = (request: { powerpc: number }, id: bigint) =>
    named(
      process.ioctl(fd, request.powerpc, KvmOneReg.encode({ id, addr: BigInt(process.mm.addressOf(value)) })),
    );
  return {
    world,
    fd,
    process,
    set: (id: bigint, low: bigint, high = 0n) => {
      store64(value, 0, low);
      store64(value, 8, high);
      return reg(KVM_SET_ONE_REG, id);
    },
    get: (id: bigint) => {
      value.fill(0);
      const answer = reg(KVM_GET_ONE_REG, id);
      return answer === 0 ? [load64(value, 0), load64(value, 8)] : answer;
    },
  };
}

describe("KVM_SET_REGS", () => {
  test.each([
    ["in hypervisor mode", powernv9],
    ["without", pr],
  ])("every field is kept, PID is not set, CR has 32 bits; MSR %s", (_name, host) => {
    const { fd, process } = vcpuOf(host);
    const hv = host === powernv9;
    for (let transaction = 0n; transaction < 4n; transaction++)
      for (const extra of [0n, HV, ME, HV | ME, 0x8000_0000_0000_0000n]) {
        const regs = new Uint8Array(KvmRegs.size).map((_, i) => i + 1);
        const { msr, cr, pid } = KvmRegs.offsetOf;
        store64(regs, msr, (transaction << TRANSACTION) | extra);
        expect(process.ioctl(fd, KVM_SET_REGS.powerpc, regs)).toBe(0);
        const read = new Uint8Array(KvmRegs.size);
        expect(process.ioctl(fd, KVM_GET_REGS.powerpc, read)).toBe(0);
        const kept = transaction === 3n ? 0n : transaction;
        store32(regs, cr + 4, 0);
        store64(regs, pid, 0);
        if (hv) store64(regs, msr, (kept << TRANSACTION) | (extra & ~HV) | ME);
        expect([transaction, extra, ...read]).toEqual([transaction, extra, ...regs]);
      }
  });

  test("sregs: the PVR of a host in hypervisor mode is its own", () => {
    for (const [host, answer] of [
      [powernv9, "EINVAL"],
      [pr, 0],
    ] as const) {
      const { fd, process } = vcpuOf(host);
      const sregs = new Uint8Array(KvmSregs.size).fill(0xff);
      expect(process.ioctl(fd, KVM_GET_SREGS.powerpc, sregs)).toBe(0);
      expect(named(process.ioctl(fd, KVM_SET_SREGS.powerpc, sregs))).toBe(0);
      sregs[0] ^= 1;
      expect(named(process.ioctl(fd, KVM_SET_SREGS.powerpc, sregs))).toBe(answer);
    }
  });
});

describe("one register", () => {
  test("FPR n is the upper half of VSR n; each of 32 its own", () => {
    const { set, get } = vcpuOf(powernv9);
    for (let n = 0n; n < 32n; n++) expect(set(KVM_REG_PPC_VSR0 + n, 0x100n + n, 0x200n + n)).toBe(0);
    for (let n = 0n; n < 32n; n += 2n) expect(set(KVM_REG_PPC_FPR0 + n, 0x300n + n)).toBe(0);
    for (let n = 0n; n < 32n; n++) {
      const upper = n % 2n === 0n ? 0x300n + n : 0x200n + n;
      expect([n, get(KVM_REG_PPC_VSR0 + n), get(KVM_REG_PPC_FPR0 + n)]).toEqual([
        n,
        [0x100n + n, upper],
        [upper, 0n],
      ]);
    }
  });

  test("areas of the guest's memory: aligned to 128 bytes, whole entries of 48, none without the processor's own", () => {
    for (const own of [0n, 0x1000n])
      for (const address of [0n, 1n, 64n, 0x7fn, 0x80n, 0x2000n])
        for (const length of [0n, 1n, 47n, 48n, 49n, 95n, 96n, 1000n]) {
          const { set, get } = vcpuOf(powernv9);
          expect(set(KVM_REG_PPC_VPA_ADDR, own)).toBe(0);
          const aligned = address % 128n === 0n;
          const shadow = address === 0n || (own !== 0n && aligned);
          expect([own, address, set(KVM_REG_PPC_VPA_SLB, address, length)]).toEqual([
            own,
            address,
            shadow ? 0 : "EINVAL",
          ]);
          if (shadow) expect(get(KVM_REG_PPC_VPA_SLB)).toEqual([address, address === 0n ? 0n : length]);
          const log = address === 0n || (own !== 0n && aligned && length >= 48n);
          expect([own, address, length, set(KVM_REG_PPC_VPA_DTL, address, length)]).toEqual([
            own,
            address,
            length,
            log ? 0 : "EINVAL",
          ]);
          if (log)
            expect(get(KVM_REG_PPC_VPA_DTL)).toEqual([
              address,
              address === 0n ? 0n : length - (length % 48n),
            ]);
        }
  });

  test("the processor's own area: aligned, and there as long as another needs it", () => {
    const { set, get } = vcpuOf(powernv9);
    for (let low = 1n; low < 128n; low++) expect(set(KVM_REG_PPC_VPA_ADDR, 0x1000n + low)).toBe("EINVAL");
    for (const other of [KVM_REG_PPC_VPA_SLB, KVM_REG_PPC_VPA_DTL]) {
      expect(set(KVM_REG_PPC_VPA_ADDR, 0x1000n)).toBe(0);
      expect(set(other, 0x2000n, 96n)).toBe(0);
      expect(set(KVM_REG_PPC_VPA_ADDR, 0n)).toBe("EINVAL");
      expect(get(KVM_REG_PPC_VPA_ADDR)).toEqual([0x1000n, 0n]);
      expect([set(other, 0n, 96n), set(KVM_REG_PPC_VPA_ADDR, 0n)]).toEqual([0, 0]);
    }
  });
});

describe("a VM", () => {
  test("hypercalls: multiples of 4 that the kernel knows, on or off", () => {
    const world = new World(powernv9);
    const H_REMOVE = 4;
    const H_SET_MODE = 0x31c;
    const enable = (number: number, on: number) =>
      named(world.enable(world.vm, KVM_CAP_PPC_ENABLE_HCALL, number, on));
    expect([enable(H_REMOVE, 1), enable(H_REMOVE, 0), enable(H_SET_MODE, 1)]).toEqual([0, 0, 0]);
    for (const low of [1, 2, 3]) expect(enable(H_REMOVE + low, 1)).toBe("EINVAL");
    expect([enable(H_REMOVE, 2), enable(0x10_0000, 1), enable(0xffc, 1)]).toEqual([
      "EINVAL",
      "EINVAL",
      "EINVAL",
    ]);
  });

  test("tables of an IOMMU: every page size, and the end of 64 bits", () => {
    const world = new World(powernv9);
    let liobn = 1;
    const create = (page_shift: number, size: bigint, offset = 0n, flags = 0) => {
      const argument = KvmCreateSpaprTce64.encode({
        liobn: BigInt(liobn++),
        page_shift,
        flags,
        offset,
        size,
      });
      const answer = world.process.ioctl(world.vm, KVM_CREATE_SPAPR_TCE_64.powerpc, argument);
      if (answer >= 0) world.process.close(answer);
      return answer >= 0 ? 0 : named(answer);
    };
    for (let shift = 0; shift < 70; shift++)
      expect([shift, create(shift, 1n)]).toEqual([shift, shift >= 12 && shift <= 34 ? 0 : "EINVAL"]);
    expect([create(12, 0n), create(12, 1n, 0n, 1)]).toEqual(["EINVAL", "EINVAL"]);
    const last = (1n << 52n) - 1n;
    expect([create(12, 1n, last - 1n), create(12, 2n, last - 1n), create(12, 1n, last)]).toEqual([
      0,
      "EINVAL",
      "EINVAL",
    ]);
  });
});
