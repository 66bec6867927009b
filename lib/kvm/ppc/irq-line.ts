/**
 * KVM_IRQ_LINE and KVM_IRQ_LINE_STATUS on POWER (arch/powerpc/kvm/powerpc.c:kvm_vm_ioctl_irq_line, 6.1):
 * `struct kvm_irq_level`, irq u32 @0 (a source number), level u32 @4. The call answers 0 whatever the controller says;
 * the latter says it in place of the number: 0, or −EINVAL for a source that is not there.
 */
import { EFAULT, ENXIO } from "../../abi/errno.ts";
import { KVM_IRQ_LINE, KVM_IRQ_LINE_STATUS, KvmIrqLevel } from "../../abi/kvm.ts";
import { load32, store32 } from "../../abi/struct.ts";
import type { Argument } from "../../kernel/argument.ts";
import type { Entry } from "../dispatch.ts";
import type { VmFile } from "../vm.ts";
import type { PpcVm } from "./vm.ts";

/** EFAULT; ENXIO: no controller. */
function irqLine(file: VmFile, user: Argument, withStatus: boolean): number {
  if (!user.readable(KvmIrqLevel.size)) return -EFAULT;
  const { controller } = file.vm.arch as PpcVm;
  if (controller === undefined) return -ENXIO;
  const status = controller.setIrq(load32(user.bytes, user.at), load32(user.bytes, user.at + 4));
  if (!withStatus) return 0;
  if (!user.writable(KvmIrqLevel.size)) return -EFAULT;
  store32(user.bytes, user.at, status);
  return 0;
}

export const irqLineIoctls: readonly Entry<VmFile>[] = [
  [KVM_IRQ_LINE, (file, user) => irqLine(file, user, false)],
  [KVM_IRQ_LINE_STATUS, (file, user) => irqLine(file, user, true)],
];
