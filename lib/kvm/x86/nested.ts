/**
 * The state of nested virtualisation: KVM_GET_NESTED_STATE, KVM_SET_NESTED_STATE, where KVM offers it on AMD
 * (arch/x86/kvm/svm/nested.c:svm_get_nested_state, svm_set_nested_state, 6.1). A vCPU that runs no guest of its own has
 * one bit of it: the global interrupt flag.
 *
 * `struct kvm_nested_state`, 128 bytes: flags u16, format u16, size u32, then the header of the format.
 *
 * Missing: a vCPU inside its own guest (KVM_STATE_NESTED_GUEST_MODE is refused); Intel's format.
 */
import { E2BIG, EFAULT, EINVAL } from "../../abi/errno.ts";
import { KVM_CAP_NESTED_STATE } from "../../abi/kvm.ts";
import {
  KVM_GET_NESTED_STATE,
  KVM_SET_NESTED_STATE,
  KVM_STATE_NESTED_FORMAT_SVM,
  KVM_STATE_NESTED_GIF_SET,
  KvmNestedState,
} from "../../abi/kvm-x86.ts";
import { load16, load32, store16, store32 } from "../../abi/struct.ts";
import type { Argument } from "../../kernel/argument.ts";
import { copyOut } from "../copy-out.ts";
import type { Entry } from "../dispatch.ts";
import type { VcpuFile } from "../vcpu.ts";
import { EFER_SVME } from "./registers.ts";
import type { X86Vcpu } from "./vcpu.ts";

const SIZE = KvmNestedState.size;
const FORMAT_AT = 2;
const SIZE_AT = 4;

const offered = (file: VcpuFile): boolean =>
  file.vcpu.vm.host.flavour === "svm" && file.vcpu.vm.host.vmCapabilities.has(KVM_CAP_NESTED_STATE);

/** EINVAL where it is not offered; EFAULT; E2BIG, and the size that is needed. */
function getNestedState(file: VcpuFile, user: Argument): number {
  if (!offered(file)) return -EINVAL;
  if (!user.readable(SIZE_AT + 4)) return -EFAULT;
  const room = load32(user.bytes, user.at + SIZE_AT);
  if (room < SIZE) {
    if (!user.writable(SIZE_AT + 4)) return -EFAULT;
    store32(user.bytes, user.at + SIZE_AT, SIZE);
    return -E2BIG;
  }
  const state = new Uint8Array(SIZE);
  store16(state, 0, (file.vcpu.arch as X86Vcpu).gif ? KVM_STATE_NESTED_GIF_SET : 0);
  store16(state, FORMAT_AT, KVM_STATE_NESTED_FORMAT_SVM);
  store32(state, SIZE_AT, SIZE);
  return copyOut(user, state) ? 0 : -EFAULT;
}

/** EINVAL where it is not offered, for a size below the header's and another format; GIF may be off with EFER.SVME only, before 7.2. */
function setNestedState(file: VcpuFile, user: Argument): number {
  if (!offered(file)) return -EINVAL;
  if (!user.readable(SIZE)) return -EFAULT;
  const { bytes, at } = user;
  const flags = load16(bytes, at);
  if (load32(bytes, at + SIZE_AT) < SIZE || (flags & ~KVM_STATE_NESTED_GIF_SET) !== 0) return -EINVAL;
  if (load16(bytes, at + FORMAT_AT) !== KVM_STATE_NESTED_FORMAT_SVM) return -EINVAL;
  const vcpu = file.vcpu.arch as X86Vcpu;
  const nests = (vcpu.registers.sregs.eferLo & EFER_SVME) !== 0;
  const { behaviour } = file.vcpu.vm.host;
  if (!nests && flags !== KVM_STATE_NESTED_GIF_SET && !behaviour.gifWithoutSvme) return -EINVAL;
  vcpu.gif = flags !== 0;
  return 0;
}

export const nestedIoctls: readonly Entry<VcpuFile>[] = [
  [KVM_GET_NESTED_STATE, getNestedState],
  [KVM_SET_NESTED_STATE, setNestedState],
];
