/**
 * What the recorded processor shows to a guest of pvm whatever KVM_SET_CPUID2 says, found by setting each leaf to all
 * zeros and all ones. `avx`: those of the bits that go where leaf 0xd.0 offers no AVX state.
 */
import type { NativeCpuid } from "../../kvm/host.ts";

const EAX = 12;
const EBX = 16;
const ECX = 20;
const EDX = 24;
const ALL = -1;

// biome-ignore format: a table
export const nativeCpuidBits: Omit<NativeCpuid, "xsave"> = {
  // AMX tiles, AMX TMUL, AVX10
  removed: [0x1d, 0x1e, 0x24],
  registers: [
    { leaf: 1, index: 0, register: ECX, keep: ALL, force: 0x76d8_1203, avx: 0x3000_1000 },
    { leaf: 1, index: 0, register: EDX, keep: 0x5f9f_ffff, force: 0x1f8b_fbff, avx: 0 },
    { leaf: 7, index: 0, register: EAX, keep: 0, force: 2, avx: 0 },
    { leaf: 7, index: 0, register: EBX, keep: 0, force: 0xf1bf_2bfb, avx: 0xd023_0020 },
    { leaf: 7, index: 0, register: ECX, keep: 0, force: 0x1a00_5f46, avx: 0x5e42 },
    { leaf: 7, index: 0, register: EDX, keep: 0, force: 0x2081_4010, avx: 0x0080_0000 },
    { leaf: 7, index: 1, register: EAX, keep: 0, force: 0x1c30, avx: 0x30 },
    { leaf: 7, index: 1, register: EBX, keep: 0, force: 0, avx: 0 },
    { leaf: 7, index: 1, register: ECX, keep: 0, force: 0, avx: 0 },
    { leaf: 7, index: 1, register: EDX, keep: 0, force: 0x4000, avx: 0 },
    // XOP and FMA4 need AVX's state
    { leaf: 0x8000_0001, index: 0, register: ECX, keep: ALL, force: 0, avx: 0x0001_0800 },
  ],
};
