/**
 * The floating point state of a vCPU: KVM_GET/SET_FPU, KVM_GET/SET_XSAVE, KVM_GET_XSAVE2, KVM_GET/SET_XCRS
 * (arch/x86/kvm/x86.c, arch/x86/kernel/fpu/xstate.c:copy_uabi_to_xstate, 6.1 and 6.18).
 *
 * The XSAVE area: fcw u16 @0, fsw u16 @2, ftw u8 @4, fop u16 @6, rip u64 @8, rdp u64 @16, mxcsr u32 @24, its mask u32
 * @28, eight st registers of 16 bytes @32, sixteen xmm @160, from @464 what the host supports, @512 xstate_bv u64 (which
 * components are not in their initial state), @520 xcomp_bv u64, reserved up to @576, then AVX, AVX-512, …
 *
 * KVM_GET_FPU reads the legacy part as it is, KVM_GET_XSAVE shows components outside xstate_bv in their initial state:
 * what KVM_SET_FPU wrote is not seen there until the guest has run.
 */
import { EFAULT, EINVAL } from "../../abi/errno.ts";
import {
  KVM_GET_FPU,
  KVM_GET_XCRS,
  KVM_GET_XSAVE,
  KVM_GET_XSAVE2,
  KVM_SET_FPU,
  KVM_SET_XCRS,
  KVM_SET_XSAVE,
  KvmFpu,
  KvmXcrs,
} from "../../abi/kvm-x86.ts";
import { load16, load32, store16, store32 } from "../../abi/struct.ts";
import type { Argument } from "../../kernel/argument.ts";
import { answering } from "../copy-out.ts";
import type { Entry } from "../dispatch.ts";
import type { VcpuFile } from "../vcpu.ts";
import type { X86Vcpu } from "./vcpu.ts";

const AREA = 4096;
const MXCSR = 24;
const ST = 32;
const XMM = 160;
const SOFTWARE = 464;
const XSTATE_BV = 512;
const XCOMP_BV = 520;
const EXTENDED = 576;

const FP = 1;
const SSE = 2;
const YMM = 4;
/** BNDREGS and BNDCSR; opmask, ZMM low, ZMM high: each group is on or off together */
const MPX = 0x18;
const AVX512 = 0xe0;

const RESET_FCW = 0x37f;
const RESET_MXCSR = 0x1f80;
const MXCSR_MASK = 0xffff;

/** A component of the extended area: its bit, where it starts, how long it is. */
const components = [
  { bit: YMM, at: 576, size: 256 },
  { bit: 0x20, at: 1088, size: 64 },
  { bit: 0x40, at: 1152, size: 512 },
  { bit: 0x80, at: 1664, size: 1024 },
];

export class Fpu {
  xcr0 = FP;
  #area: Uint8Array | undefined;

  /** the area in the standard format, as the processor would have it; made when somebody looks at it */
  get area(): Uint8Array {
    if (this.#area === undefined) {
      const area = new Uint8Array(AREA);
      store16(area, 0, RESET_FCW);
      store32(area, MXCSR, RESET_MXCSR);
      store32(area, MXCSR + 4, MXCSR_MASK);
      this.#area = area;
    }
    return this.#area;
  }

  get inUse(): number {
    return load32(this.area, XSTATE_BV);
  }

  /** `shown`: the components that the guest may have; `supported`: what the host tells of itself. */
  copyTo(bytes: Uint8Array, at: number, shown: number, supported: number): void {
    const { area } = this;
    const present = this.inUse & shown;
    const copy = (from: number, to: number) => bytes.set(area.subarray(from, to), at + from);
    bytes.fill(0, at, at + AREA);
    if ((present & FP) !== 0) copy(0, MXCSR);
    else store16(bytes, at, RESET_FCW);
    if ((present & (SSE | YMM)) !== 0) copy(MXCSR, ST);
    else {
      store32(bytes, at + MXCSR, RESET_MXCSR);
      store32(bytes, at + MXCSR + 4, MXCSR_MASK);
    }
    if ((present & FP) !== 0) copy(ST, XMM);
    if ((present & SSE) !== 0) copy(XMM, 416);
    store32(bytes, at + SOFTWARE, supported);
    store32(bytes, at + XSTATE_BV, present);
    for (const { bit, at: from, size } of components) if ((present & bit) !== 0) copy(from, from + size);
  }

  /** EINVAL for components outside `allowed`, the compacted format, reserved bytes, reserved bits of MXCSR. */
  copyFrom(bytes: Uint8Array, at: number, allowed: number): number {
    const given = load32(bytes, at + XSTATE_BV);
    if ((given & ~allowed) !== 0 || load32(bytes, at + XSTATE_BV + 4) !== 0) return -EINVAL;
    for (let i = XCOMP_BV; i < EXTENDED; i++) if (bytes[at + i] !== 0) return -EINVAL;
    const withMxcsr = (given & (SSE | YMM)) !== 0;
    const checksMxcsr = (given & (FP | SSE | YMM)) !== 0;
    if (checksMxcsr && (load32(bytes, at + MXCSR) & ~MXCSR_MASK) !== 0) return -EINVAL;
    const { area } = this;
    const copy = (from: number, to: number) => area.set(bytes.subarray(at + from, at + to), from);
    if (withMxcsr) copy(MXCSR, ST);
    if ((given & FP) !== 0) {
      copy(0, MXCSR);
      copy(ST, XMM);
    }
    if ((given & SSE) !== 0) copy(XMM, 416);
    for (const { bit, at: from, size } of components) if ((given & bit) !== 0) copy(from, from + size);
    store32(area, XSTATE_BV, given);
    return 0;
  }

  /** Whether XCR0 may be so where the guest's CPUID offers `offered` (arch/x86/kvm/x86.c:__kvm_set_xcr, 6.18). */
  setXcr0(lo: number, hi: number, offered: number): boolean {
    if ((lo & FP) === 0 || hi !== 0) return false;
    if ((lo & YMM) !== 0 && (lo & SSE) === 0) return false;
    if ((lo & ~(offered | FP)) !== 0) return false;
    if ((lo & MPX) !== 0 && (lo & MPX) !== MPX) return false;
    if ((lo & AVX512) !== 0 && ((lo & YMM) === 0 || (lo & AVX512) !== AVX512)) return false;
    this.xcr0 = lo;
    return true;
  }
}

const of = (file: VcpuFile): X86Vcpu => file.vcpu.arch as X86Vcpu;

/** `struct kvm_fpu`: fpr @0, fcw @128, fsw @130, ftwx u8 @132, last_opcode @134, last_ip @136, last_dp @144, xmm @152. */
const { fcw, fsw, ftwx, last_opcode, last_ip, xmm } = KvmFpu.offsetOf;

const getFpu = answering(KvmFpu.size, (file: VcpuFile, bytes, at) => {
  const { area } = of(file).fpu;
  bytes.fill(0, at, at + KvmFpu.size);
  bytes.set(area.subarray(ST, XMM), at);
  store16(bytes, at + fcw, load16(area, 0));
  store16(bytes, at + fsw, load16(area, 2));
  bytes[at + ftwx] = area[4];
  store16(bytes, at + last_opcode, load16(area, 6));
  bytes.set(area.subarray(8, MXCSR), at + last_ip);
  bytes.set(area.subarray(XMM, 416), at + xmm);
});

function setFpu(file: VcpuFile, user: Argument): number {
  if (!user.readable(KvmFpu.size)) return -EFAULT;
  const { area } = of(file).fpu;
  const { bytes, at } = user;
  area.set(bytes.subarray(at, at + 128), ST);
  store16(area, 0, load16(bytes, at + fcw));
  store16(area, 2, load16(bytes, at + fsw));
  store16(area, 4, bytes[at + ftwx]);
  store16(area, 6, load16(bytes, at + last_opcode));
  area.set(bytes.subarray(at + last_ip, at + last_ip + 16), 8);
  area.set(bytes.subarray(at + xmm, at + xmm + 256), XMM);
  return 0;
}

const getXsave = answering(AREA, (file: VcpuFile, bytes, at) => {
  const vcpu = of(file);
  const { facts } = vcpu.vcpu.vm.host;
  const offered = (vcpu.cpuid.xcr0 & (facts.guestXcr0 ?? 3)) | FP | SSE;
  vcpu.fpu.copyTo(bytes, at, offered, facts.userXfeatures ?? 3);
});

function setXsave(file: VcpuFile, user: Argument): number {
  if (!user.readable(AREA)) return -EFAULT;
  const vcpu = of(file);
  return vcpu.fpu.copyFrom(user.bytes, user.at, vcpu.vcpu.vm.host.facts.guestXcr0 ?? 3);
}

/** One register, XCR0. */
const getXcrs = answering(KvmXcrs.size, (file: VcpuFile, bytes, at) => {
  bytes.fill(0, at, at + KvmXcrs.size);
  store32(bytes, at, 1);
  store32(bytes, at + KvmXcrs.offsetOf.xcrs + 8, of(file).fpu.xcr0);
});

/** The first entry for XCR0 counts. EFAULT; EINVAL for flags, more than 16 entries, a value that cannot be. */
function setXcrs(file: VcpuFile, user: Argument): number {
  if (!user.readable(KvmXcrs.size)) return -EFAULT;
  const { bytes, at } = user;
  const count = load32(bytes, at);
  if (count > 16 || load32(bytes, at + 4) !== 0) return -EINVAL;
  const vcpu = of(file);
  const offered = vcpu.cpuid.xcr0 & (vcpu.vcpu.vm.host.facts.guestXcr0 ?? 3);
  for (let i = 0; i < count; i++) {
    const entry = at + KvmXcrs.offsetOf.xcrs + 16 * i;
    if (load32(bytes, entry) !== 0) continue;
    return vcpu.fpu.setXcr0(load32(bytes, entry + 8), load32(bytes, entry + 12), offered) ? 0 : -EINVAL;
  }
  return 0;
}

export const fpuIoctls: readonly Entry<VcpuFile>[] = [
  [KVM_GET_FPU, getFpu],
  [KVM_SET_FPU, setFpu],
  [KVM_GET_XSAVE, getXsave],
  [KVM_GET_XSAVE2, getXsave],
  [KVM_SET_XSAVE, setXsave],
  [KVM_GET_XCRS, getXcrs],
  [KVM_SET_XCRS, setXcrs],
];
