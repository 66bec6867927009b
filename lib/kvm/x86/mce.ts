/**
 * Machine checks: KVM_X86_GET_MCE_CAP_SUPPORTED, KVM_X86_SETUP_MCE, KVM_X86_SET_MCE, and the registers behind them
 * (arch/x86/kvm/x86.c:kvm_vcpu_ioctl_x86_setup_mce, kvm_vcpu_ioctl_x86_set_mce, 6.1 and 6.18). A bank is four MSRs from
 * 0x400 on: CTL, STATUS, ADDR, MISC.
 *
 * Missing: the interrupt of a corrected error (CMCI), which this kernel does not offer.
 */
import { EFAULT, EINVAL } from "../../abi/errno.ts";
import {
  KVM_X86_GET_MCE_CAP_SUPPORTED,
  KVM_X86_SET_MCE,
  KVM_X86_SETUP_MCE,
  KvmX86Mce,
} from "../../abi/kvm-x86.ts";
import { load64, store64 } from "../../abi/struct.ts";
import type { Argument } from "../../kernel/argument.ts";
import { answering } from "../copy-out.ts";
import type { Entry } from "../dispatch.ts";
import type { KvmSystem } from "../system.ts";
import type { VcpuFile } from "../vcpu.ts";
import type { X86Vcpu } from "./vcpu.ts";

/** KVM_MAX_MCE_BANKS */
const MAX_BANKS = 32;
const BANK_COUNT = 0xffn;
/** the count and the extended counters: what is allowed beside the supported bits */
const ALWAYS_ALLOWED = 0xff_00ffn;
const MCG_CTL_P = 1n << 8n;
const MCG_CMCI_P = 1n << 10n;
const MCG_SER_P = 1n << 24n;
const MCG_STATUS_MCIP = 1n << 2n;
const STATUS_VALID = 1n << 63n;
const STATUS_OVERFLOW = 1n << 62n;
const STATUS_UNCORRECTED = 1n << 61n;
/** PCC, S, AR: the processor's context is lost, an exception was signalled, action is required */
const STATUS_ACTION = (1n << 57n) | (1n << 56n) | (1n << 55n);
const ALL = 0xffff_ffff_ffff_ffffn;
/** AMD: the count of banks and MCG_CTL_P (arch/x86/kvm/svm/svm.c:svm_setup_mce, 6.1) */
const SVM_MCG_CAP = 0x1ffn;
const CR4_MCE = 1 << 6;

const CTL = 0;
const STATUS = 1;
const ADDR = 2;
const MISC = 3;

export class MachineCheck {
  mcgCap = BigInt(MAX_BANKS);
  mcgStatus = 0n;
  mcgCtl = 0n;
  #banks: BigUint64Array | undefined;
  #ctl2: BigUint64Array | undefined;

  /** CTL, STATUS, ADDR, MISC of every bank; made when somebody looks at them */
  get banks(): BigUint64Array {
    this.#banks ??= new BigUint64Array(MAX_BANKS * 4);
    return this.#banks;
  }
  get ctl2(): BigUint64Array {
    this.#ctl2 ??= new BigUint64Array(MAX_BANKS);
    return this.#ctl2;
  }

  get bankCount(): number {
    return Number(this.mcgCap & BANK_COUNT);
  }
  get hasControl(): boolean {
    return (this.mcgCap & MCG_CTL_P) !== 0n;
  }
  get hasCmci(): boolean {
    return (this.mcgCap & MCG_CMCI_P) !== 0n;
  }

  /**
   * MCG_CAP of the guest: −EINVAL for no bank, too many, or a bit that the host does not support. `kept`: what the guest's
   * processor has of it.
   */
  setup(mcgCap: bigint, supported: bigint, kept = ALL): number {
    const count = Number(mcgCap & BANK_COUNT);
    if (count === 0 || count > MAX_BANKS) return -EINVAL;
    if ((mcgCap & ~(supported | ALWAYS_ALLOWED)) !== 0n) return -EINVAL;
    this.mcgCap = mcgCap & kept;
    if (this.hasControl) this.mcgCtl = ALL;
    for (let bank = 0; bank < count; bank++) {
      this.banks[bank * 4 + CTL] = ALL;
      if (this.hasCmci) this.ctl2[bank] = 0n;
    }
    return 0;
  }
}

const of = (file: VcpuFile): X86Vcpu => file.vcpu.arch as X86Vcpu;
const supportedCap = (supported: bigint | undefined): bigint => supported ?? MCG_CTL_P | MCG_SER_P;

const getMceCap = answering(8, (file: KvmSystem, bytes, at) => {
  store64(bytes, at, supportedCap(file.host.facts.mceCap));
});

function setupMce(file: VcpuFile, user: Argument): number {
  if (!user.readable(8)) return -EFAULT;
  const { facts, flavour } = file.vcpu.vm.host;
  const kept = flavour === "svm" ? SVM_MCG_CAP : ALL;
  return of(file).mce.setup(load64(user.bytes, user.at), supportedCap(facts.mceCap), kept);
}

/** An uncorrected error that asks for no action is only logged (arch/x86/kvm/x86.c:is_ucna, 6.1). */
const needsNoAction = (mcgStatus: bigint, status: bigint): boolean =>
  mcgStatus === 0n && (status & STATUS_UNCORRECTED) !== 0n && (status & STATUS_ACTION) === 0n;

/**
 * EFAULT; EINVAL for a bank that is not there or a status that is not valid. An uncorrected error raises #MC, or shuts
 * the guest down where it cannot take one; it is ignored where the guest has switched reporting off.
 */
function setMce(file: VcpuFile, user: Argument): number {
  if (!user.readable(KvmX86Mce.size)) return -EFAULT;
  const { mce, events, registers } = of(file);
  const error = KvmX86Mce.decode(user.bytes, user.at);
  if (error.bank >= mce.bankCount || (error.status & STATUS_VALID) === 0n) return -EINVAL;
  const { banks } = mce;
  const first = error.bank * 4;
  if (needsNoAction(error.mcg_status, error.status)) {
    banks.set([error.status, error.addr, error.misc], first + STATUS);
    mce.mcgStatus = error.mcg_status;
    return 0;
  }
  const uncorrected = (error.status & STATUS_UNCORRECTED) !== 0n;
  if (uncorrected && ((mce.hasControl && mce.mcgCtl !== ALL) || banks[first + CTL] !== ALL)) return 0;
  const old = banks[first + STATUS];
  const wasValid = (old & STATUS_VALID) !== 0n;
  if (uncorrected) {
    if ((mce.mcgStatus & MCG_STATUS_MCIP) !== 0n || (registers.cr4Lo & CR4_MCE) === 0) {
      events.tripleFault = true;
      return 0;
    }
    mce.mcgStatus = error.mcg_status;
    events.queueMachineCheck();
  } else if (wasValid && (old & STATUS_UNCORRECTED) !== 0n) {
    banks[first + STATUS] = old | STATUS_OVERFLOW;
    return 0;
  }
  banks[first + ADDR] = error.addr;
  banks[first + MISC] = error.misc;
  banks[first + STATUS] = wasValid ? error.status | STATUS_OVERFLOW : error.status;
  return 0;
}

export const mceSystemIoctls: readonly Entry<KvmSystem>[] = [[KVM_X86_GET_MCE_CAP_SUPPORTED, getMceCap]];
export const mceIoctls: readonly Entry<VcpuFile>[] = [
  [KVM_X86_SETUP_MCE, setupMce],
  [KVM_X86_SET_MCE, setMce],
];
