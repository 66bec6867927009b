/**
 * The core registers of arm64: every offset and every size, against the list that arch/arm64/kvm/guest.c:
 * core_reg_size_from_offset (6.1) goes through; modes of PSTATE (set_core_reg).
 */
import { describe, expect, test } from "vitest";
import {
  KVM_CREATE_VCPU,
  KVM_CREATE_VM,
  KVM_GET_ONE_REG,
  KVM_REG_ARM64,
  KVM_SET_ONE_REG,
  KvmOneReg,
} from "../../../lib/abi/kvm.ts";
import {
  KVM_ARM_PREFERRED_TARGET,
  KVM_ARM_VCPU_INIT,
  KVM_REG_ARM_CORE,
  KvmRegs,
  KvmVcpuInit,
} from "../../../lib/abi/kvm-arm64.ts";
import { load64, store64 } from "../../../lib/abi/struct.ts";
import { Machine } from "../../../lib/machine/machine.ts";
import { profileFromHeader } from "../../../lib/machine/profile.ts";
import { readTrace } from "../../../lib/trace/files.ts";
import { named } from "../ppc/world.ts";

const traces = new URL("../../../fixtures/traces/arm64-kvm-6.12/", import.meta.url).pathname;
const { header } = readTrace(`${traces}before-vgic.jsonl.gz`);

/** A vCPU of the recorded host; `features` of KVM_ARM_VCPU_INIT. */
function vcpu(features = 0) {
  const process = new Machine(profileFromHeader(header)).process();
  const vm = process.ioctl(process.open("/dev/kvm", 2), KVM_CREATE_VM, 0);
  const fd = process.ioctl(vm, KVM_CREATE_VCPU, 0);
  const init = new Uint8Array(KvmVcpuInit.size);
  expect(process.ioctl(vm, KVM_ARM_PREFERRED_TARGET, init)).toBe(0);
  init[4] = features;
  expect(process.ioctl(fd, KVM_ARM_VCPU_INIT, init)).toBe(0);
  const value = process.mmap(0, 4096, 3, 0x22, -1, 0);
  const bytes = process.memory(value, 4096)!;
  const access = (request: typeof KVM_GET_ONE_REG, id: bigint) =>
    process.ioctl(fd, request, KvmOneReg.encode({ id, addr: BigInt(value) }));
  return {
    bytes,
    get: (id: bigint) => access(KVM_GET_ONE_REG, id),
    set: (id: bigint) => access(KVM_SET_ONE_REG, id),
  };
}

const core = (word: number, log: number): bigint =>
  KVM_REG_ARM64 | (BigInt(log) << 52n) | KVM_REG_ARM_CORE | BigInt(word);

/** Registers one after the other: 31 general ones, SP, PC, PSTATE, SP_EL1, ELR_EL1, SPSR[5]; V0–V31; FPSR, FPCR. */
function registers(): Map<number, number> {
  const sizes = new Map<number, number>();
  const { regs, fp_regs } = KvmRegs.offsetOf;
  for (let i = 0; i < 31 + 3 + 2 + 5; i++) sizes.set(regs + 8 * i, 8);
  for (let i = 0; i < 32; i++) sizes.set(fp_regs + 16 * i, 16);
  sizes.set(fp_regs + 512, 4);
  sizes.set(fp_regs + 516, 4);
  return sizes;
}

describe("core registers", () => {
  test("every offset, every size: 0, EINVAL within another, ENOENT beyond the last", () => {
    const { get, set } = vcpu();
    const sizes = registers();
    const wrong: string[] = [];
    for (let word = 0; word < KvmRegs.size / 4 + 8; word++)
      for (let log = 0; log < 8; log++) {
        const size = 2 ** log;
        const expected =
          4 * word + size >= KvmRegs.size ? "ENOENT" : sizes.get(4 * word) === size ? 0 : "EINVAL";
        const answers = [named(get(core(word, log))), named(set(core(word, log)))];
        if (answers.some((answer) => answer !== expected))
          wrong.push(`${word} ${log}: ${answers}, ${expected}`);
      }
    expect(wrong).toEqual([]);
  });

  test("each keeps what is written, and no other changes", () => {
    const { get, set, bytes } = vcpu();
    const pstate = KvmRegs.offsetOf.regs + 8 * 33;
    const sizes = [...registers()].filter(([offset]) => offset !== pstate);
    sizes.forEach(([offset, size], n) => {
      bytes.fill(n + 1, 0, 16);
      expect(set(core(offset / 4, Math.log2(size)))).toBe(0);
    });
    sizes.forEach(([offset, size], n) => {
      bytes.fill(0xff, 0, 32);
      expect(get(core(offset / 4, Math.log2(size)))).toBe(0);
      expect([...bytes.subarray(0, size + 1)]).toEqual([...Array(size).fill(n + 1), 0xff]);
    });
  });

  test("modes of PSTATE: EL0t, EL1t, EL1h and those of 32-bit User", () => {
    const { set, get, bytes } = vcpu();
    const pstate = core((KvmRegs.offsetOf.regs + 8 * 33) / 4, 3);
    const taken: number[] = [];
    for (let mode = 0; mode < 32; mode++) {
      store64(bytes, 0, 0x3c0 | mode);
      const answer = named(set(pstate));
      if (answer === 0) {
        taken.push(mode);
        bytes.fill(0, 0, 8);
        get(pstate);
        expect(load64(bytes, 0)).toBe(BigInt(0x3c0 | mode));
      } else expect(answer).toBe("EINVAL");
    }
    expect(taken).toEqual([0, 4, 5, 0x10]);
  });

  test("in a mode of 32 bits the upper halves of X0 to X14 and PC are gone", () => {
    const { set, get, bytes } = vcpu();
    const at = (n: number) => core((KvmRegs.offsetOf.regs + 8 * n) / 4, 3);
    for (let n = 0; n < 33; n++) {
      store64(bytes, 0, 0x1111_2222_3333_4444n);
      expect(set(at(n))).toBe(0);
    }
    store64(bytes, 0, 0x10);
    expect(set(at(33))).toBe(0);
    const narrow = Array.from({ length: 33 }, (_, n) => {
      get(at(n));
      return load64(bytes, 0) === 0x3333_4444n ? n : -1;
    }).filter((n) => n >= 0);
    expect(narrow).toEqual([...Array.from({ length: 15 }, (_, n) => n), 32]);
  });
});
