/**
 * What a KVM for AMD answers about encrypted guests on a host that has none: the module knows the requests
 * (arch/x86/kvm/svm/sev.c:sev_dev_get_attr, sev_vm_copy_enc_context_from, sev_vm_move_enc_context_from, 6.12).
 */
import { EBADF, EINVAL } from "../../abi/errno.ts";
import type { Process } from "../../kernel/process.ts";
import { vmOf } from "../vm.ts";

/** KVM_X86_GRP_SEV, KVM_X86_SEV_VMSA_FEATURES: no feature */
export const SEV_GROUP = 1;
export const SEV_VMSA_FEATURES = 0;

/** KVM_CAP_VM_COPY_ENC_CONTEXT_FROM, KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM: EBADF for what is no VM; no VM is encrypted. */
export const encryptionContext = (process: Process, argument: bigint): number =>
  typeof vmOf(process, Number(BigInt.asIntN(32, argument))) === "number" ? -EBADF : -EINVAL;
