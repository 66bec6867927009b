/**
 * What a KVM for AMD answers about encrypted guests on a host that has none: the module knows the requests
 * (arch/x86/kvm/svm/sev.c:sev_dev_get_attr, sev_vm_copy_enc_context_from, sev_vm_move_enc_context_from, 6.12).
 */
import { EBADF, EINVAL } from "../../abi/errno.ts";
import type { Process } from "../../kernel/process.ts";
import type { KvmHost } from "../host.ts";
import { vmOf } from "../vm.ts";

const SEV_GROUP = 1;
/** KVM_X86_SEV_VMSA_FEATURES; with 7.2 KVM_X86_SNP_POLICY_BITS and another: nothing is there, all are 0 */
const ATTRIBUTES = 1;
const MORE_ATTRIBUTES = 3;

/** Whether an attribute of /dev/kvm is one of AMD's. */
export function isSevAttribute({ behaviour }: KvmHost, group: number, attribute: number): boolean {
  if (!behaviour.sevAttributes || group !== SEV_GROUP) return false;
  return attribute < (behaviour.sevMoreAttributes ? MORE_ATTRIBUTES : ATTRIBUTES);
}

/** KVM_CAP_VM_COPY_ENC_CONTEXT_FROM, KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM: EBADF for what is no VM; no VM is encrypted. */
export const encryptionContext = (process: Process, argument: bigint): number =>
  typeof vmOf(process, Number(BigInt.asIntN(32, argument))) === "number" ? -EBADF : -EINVAL;
