/**
 * The registers of a POWER vCPU that user space reads and writes: KVM_GET_REGS and KVM_SET_REGS as `struct kvm_regs`
 * (392 bytes: pc, cr, ctr, lr, xer, msr, srr0, srr1, pid, sprg0..7, then 32 GPRs from 136 on, all u64), and KVM_GET_SREGS,
 * KVM_SET_SREGS as `struct kvm_sregs` (1232 bytes: pvr u32 @0, sdr1 u64 @8, then 64 entries of the segment buffer,
 * slbe and slbv u64 each, from 16 on) (arch/powerpc/kvm/book3s.c, book3s_hv.c, 6.1).
 */
import { EFAULT, EINVAL, EOPNOTSUPP } from "../../abi/errno.ts";
import { KVM_SET_MP_STATE, KVM_TRANSLATE, KvmMpState, KvmTranslation } from "../../abi/kvm.ts";
import {
  KVM_GET_FPU,
  KVM_GET_REGS,
  KVM_GET_SREGS,
  KVM_SET_FPU,
  KVM_SET_GUEST_DEBUG,
  KVM_SET_REGS,
  KVM_SET_SREGS,
  KvmFpu,
  KvmGuestDebug,
  KvmRegs,
  KvmSregs,
} from "../../abi/kvm-ppc.ts";
import { load32, load64, loadNumber64, store32, store64 } from "../../abi/struct.ts";
import type { Argument } from "../../kernel/argument.ts";
import type { Entry } from "../dispatch.ts";
import type { VcpuFile } from "../vcpu.ts";
import type { PpcVcpu } from "./vcpu.ts";

const { cr, msr, pid, gpr } = KvmRegs.offsetOf;
const SLB = 16;
const SLB_ENTRY = 16;
/** entries of the segment buffer: of a POWER9 in hypervisor mode, and in user mode */
const HV_SLB_ENTRIES = 32;
const PR_SLB_ENTRIES = 64;
/** the bit of slbe that makes an entry valid (SLB_ESID_V), in its lower half */
const SLB_VALID = 0x0800_0000;

/** bits of MSR: machine checks enabled, in its lower half; hypervisor and the two transaction states in its upper */
const MSR_ME = 0x1000;
const MSR_HV = 0x1000_0000;
const MSR_TS = 6;

export class PpcRegisters {
  readonly bytes = new Uint8Array(KvmRegs.size);
  readonly hv: boolean;
  pvr: number;
  /** the valid entries of the segment buffer, 16 bytes each, as they came */
  #slb = new Uint8Array(0);

  constructor(hv: boolean, pvr: number) {
    this.hv = hv;
    this.pvr = pvr;
    if (hv) store32(this.bytes, msr, MSR_ME);
  }

  /** A general purpose register; above 2^53 the nearest number. */
  gpr(n: number): number {
    return loadNumber64(this.bytes, gpr + 8 * n);
  }

  /** Registers from number `n` on, 8 bytes each. */
  loadGprs(n: number, bytes: Uint8Array): void {
    this.bytes.set(bytes, gpr + 8 * n);
  }

  /** GPR 3 after a hypercall: signed. */
  get status(): number {
    return Number(BigInt.asIntN(64, load64(this.bytes, gpr + 8 * 3)));
  }

  setGpr(n: number, value: number): void {
    store64(this.bytes, gpr + 8 * n, value);
  }

  /**
   * What KVM_SET_REGS takes: CR has 32 bits and PID is set elsewhere. In hypervisor mode a guest has machine checks
   * enabled and is no hypervisor, and both transaction states at once are none (book3s_hv_builtin.c:kvmppc_set_msr_hv, 6.1).
   */
  load(source: Uint8Array, at: number): void {
    const keptPid = this.bytes.slice(pid, pid + 8);
    this.bytes.set(source.subarray(at, at + KvmRegs.size));
    this.bytes.set(keptPid, pid);
    store32(this.bytes, cr + 4, 0);
    if (!this.hv) return;
    store32(this.bytes, msr, load32(this.bytes, msr) | MSR_ME);
    const high = load32(this.bytes, msr + 4) & ~MSR_HV;
    store32(this.bytes, msr + 4, (high & MSR_TS) === MSR_TS ? high & ~MSR_TS : high);
  }

  saveSregs(bytes: Uint8Array, at: number): void {
    bytes.fill(0, at, at + KvmSregs.size);
    store32(bytes, at, this.pvr);
    bytes.set(this.#slb, at + SLB);
  }

  /** In hypervisor mode the PVR is the host's, and valid entries move together. */
  loadSregs(bytes: Uint8Array, at: number): number {
    const pvr = load32(bytes, at);
    if (this.hv && pvr !== this.pvr) return -EINVAL;
    this.pvr = pvr;
    const valid: number[] = [];
    for (let i = 0; i < (this.hv ? HV_SLB_ENTRIES : PR_SLB_ENTRIES); i++) {
      const entry = at + SLB + i * SLB_ENTRY;
      if ((load32(bytes, entry) & SLB_VALID) !== 0) valid.push(...bytes.subarray(entry, entry + SLB_ENTRY));
    }
    this.#slb = Uint8Array.from(valid);
    return 0;
  }
}

const registersOf = (file: VcpuFile): PpcRegisters => (file.vcpu.arch as PpcVcpu).registers;

function getRegs(file: VcpuFile, user: Argument): number {
  if (!user.writable(KvmRegs.size)) return -EFAULT;
  user.bytes.set(registersOf(file).bytes, user.at);
  return 0;
}

function setRegs(file: VcpuFile, user: Argument): number {
  if (!user.readable(KvmRegs.size)) return -EFAULT;
  registersOf(file).load(user.bytes, user.at);
  return 0;
}

function getSregs(file: VcpuFile, user: Argument): number {
  if (!user.writable(KvmSregs.size)) return -EFAULT;
  registersOf(file).saveSregs(user.bytes, user.at);
  return 0;
}

function setSregs(file: VcpuFile, user: Argument): number {
  if (!user.readable(KvmSregs.size)) return -EFAULT;
  return registersOf(file).loadSregs(user.bytes, user.at);
}

/** KVM_TRANSLATE answers 0 and nothing else; there is no MP state; the FPU goes through KVM_GET_ONE_REG. */
export const registerIoctls: readonly Entry<VcpuFile>[] = [
  [KVM_GET_REGS, getRegs],
  [KVM_SET_REGS, setRegs],
  [KVM_GET_SREGS, getSregs],
  [KVM_SET_SREGS, setSregs],
  [KVM_GET_FPU, () => -EOPNOTSUPP],
  [KVM_SET_FPU, (_file, user) => (user.readable(KvmFpu.size) ? -EOPNOTSUPP : -EFAULT)],
  [KVM_SET_MP_STATE, (_file, user) => (user.readable(KvmMpState.size) ? -EINVAL : -EFAULT)],
  [KVM_TRANSLATE, (_file, user) => (user.readable(KvmTranslation.size) ? 0 : -EFAULT)],
  [KVM_SET_GUEST_DEBUG, (_file, user) => (user.readable(KvmGuestDebug.size) ? 0 : -EFAULT)],
];
