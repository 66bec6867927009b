/**
 * KVM_HYPERV_EVENTFD, where KVM offers Hyper-V: an eventfd for a connection that a guest signals by a hypercall
 * (arch/x86/kvm/hyperv.c:kvm_vm_ioctl_hv_eventfd, 6.1). The hypercall: hyperv-hypercalls.ts.
 */
import { EBADF, EEXIST, EFAULT, EINVAL, ENOENT, ENOTTY } from "../../abi/errno.ts";
import { KVM_CAP_HYPERV_EVENTFD } from "../../abi/kvm.ts";
import { KVM_HYPERV_CONN_ID_MASK, KVM_HYPERV_EVENTFD, KvmHypervEventfd } from "../../abi/kvm-x86.ts";
import type { Argument } from "../../kernel/argument.ts";
import { EventFd } from "../../kernel/eventfd.ts";
import type { Process } from "../../kernel/process.ts";
import type { Entry } from "../dispatch.ts";
import type { VmFile } from "../vm.ts";
import type { X86Vm } from "./vm.ts";

/** KVM_HYPERV_EVENTFD_DEASSIGN */
const DEASSIGN = 1;

/** ENOTTY where it is not offered; EFAULT; EINVAL for flags and large numbers; ENOENT; EBADF, EINVAL, EEXIST. */
function hypervEventfd(file: VmFile, user: Argument, process: Process): number {
  if (!file.vm.host.vmCapabilities.has(KVM_CAP_HYPERV_EVENTFD)) return -ENOTTY;
  if (!user.readable(KvmHypervEventfd.size)) return -EFAULT;
  const { conn_id: connection, fd, flags } = KvmHypervEventfd.decode(user.bytes, user.at);
  if ((flags & ~DEASSIGN) !== 0 || (connection & ~KVM_HYPERV_CONN_ID_MASK) !== 0) return -EINVAL;
  const { connections } = (file.vm.arch as X86Vm).hyperv;
  if (flags === DEASSIGN) return connections.delete(connection) ? 0 : -ENOENT;
  const eventfd = process.fds.get(fd);
  if (eventfd === undefined) return -EBADF;
  if (!(eventfd instanceof EventFd)) return -EINVAL;
  if (connections.has(connection)) return -EEXIST;
  connections.set(connection, eventfd);
  return 0;
}

export const hypervEventfdIoctls: readonly Entry<VmFile>[] = [[KVM_HYPERV_EVENTFD, hypervEventfd]];
