/** What was said in thread 004, each with the run that decides. */
import { ENXIO } from "../abi/errno.ts";
import { KVM_INTERRUPT, KvmInterrupt } from "../abi/kvm.ts";
import { KVM_INTERRUPT_SET, KVM_INTERRUPT_UNSET } from "../abi/kvm-ppc.ts";
import { KVM_GET_VCPU_EVENTS, KvmVcpuEvents } from "../abi/kvm-x86.ts";
import { explore } from "../fuzz/explore/explore.ts";
import { byHand } from "../kernel/work-queue.ts";
import { Machine } from "../machine/machine.ts";
import type { Claim } from "./claims.ts";
import {
  announcedWhileRunning,
  connectLate,
  connectLateMpic,
  connectSecond,
  hotPlugged,
  inject,
  jumpsToHandler,
  lapicFirst,
  line,
  lineAfterPulse,
  oneLineTwoSides,
  programIoapic,
  raiseTimer,
  search,
  sharedGsi,
  x86Vm,
} from "./irqchips.ts";
import { PowerVm } from "./power-vm.ts";
import { requestedVectors } from "./x86-vm.ts";

const kernel = () => new Machine().process();
const all = { strategy: { exhaustive: {} } } as const;
const fails = (...program: Parameters<typeof explore>): boolean =>
  explore(...program).counterexample !== undefined;

/** KVM_INTERRUPT on a POWER vCPU, connected to a XICS or not: whether its input follows. */
function inputFollows(controller: boolean): boolean {
  const vm = new PowerVm({ controller });
  const cpu = vm.cpu();
  const set = (irq: number) => vm.process.ioctl(vm.vcpu, KVM_INTERRUPT, KvmInterrupt.encode({ irq }));
  const up = set(KVM_INTERRUPT_SET) === 0 && cpu.external;
  return up && set(KVM_INTERRUPT_UNSET) === 0 && !cpu.external;
}

export const claims: readonly Claim[] = [
  {
    who: "Natapov",
    when: "2013-03-06",
    says: "on x86 SET_INTERRUPT tells the vCPU which vector to jump to at once",
    holds: () => inject(kernel(), "none", "KVM_INTERRUPT").cpu === 0x41 && jumpsToHandler(kernel()) === 5,
    verdict: "confirmed",
    by: "without controllers in the kernel the vector stands in KVM_GET_VCPU_EVENTS, and KVM_RUN starts in its handler",
  },
  {
    who: "Graf",
    when: "2013-03-06",
    says: "SET_INTERRUPT works whether there is a LAPIC in the kernel or not (x86)",
    holds: () => inject(kernel(), "full", "KVM_INTERRUPT").result === 0,
    verdict: "contradicted",
    by: "ENXIO with all controllers in the kernel, as Natapov answers",
  },
  {
    who: "Graf",
    when: "2013-03-06",
    says: "SET_INTERRUPT works whether there is a controller in the kernel or not (POWER)",
    holds: () => inputFollows(true) && inputFollows(false),
    verdict: "confirmed",
    by: "set and unset, with a XICS and without",
  },
  {
    who: "Graf",
    when: "2013-03-06",
    says: "on POWER it is the vCPU's interrupt pin, not a vector",
    holds: () => {
      const vm = new PowerVm();
      const set = (irq: number) => vm.process.ioctl(vm.vcpu, KVM_INTERRUPT, KvmInterrupt.encode({ irq }));
      return [0, 0x41, 0x1_0000].every((irq) => set(irq) === 0 && vm.cpu().external);
    },
    verdict: "confirmed",
    by: "any number but UNSET raises the one input",
  },
  {
    who: "Natapov",
    when: "2013-03-06",
    says: "the interface to a LAPIC in user space has to be synchronous",
    holds: () => {
      const process = kernel();
      const { vcpu } = x86Vm(process, "none");
      for (const irq of [0x41, 0x42]) process.ioctl(vcpu, KVM_INTERRUPT, KvmInterrupt.encode({ irq }));
      const events = new Uint8Array(KvmVcpuEvents.size);
      process.ioctl(vcpu, KVM_GET_VCPU_EVENTS, events);
      return KvmVcpuEvents.decode(events).interrupt.nr === 0x42;
    },
    verdict: "confirmed",
    by: "a second one before the first is taken replaces it, and both calls answer 0",
  },
  {
    who: "Natapov",
    when: "2013-03-06",
    says: "KVM_IRQ_LINE raises GSIs, which never go to the CPU itself",
    holds: () => {
      const none = inject(kernel(), "none", "KVM_IRQ_LINE");
      return none.result === -ENXIO && inject(kernel(), "full", "KVM_IRQ_LINE").cpu === undefined;
    },
    verdict: "confirmed",
    by: "ENXIO without controllers; with them the LAPIC has the interrupt, not the vCPU",
  },
  {
    who: "Natapov",
    when: "2013-03-06",
    says: "the emulated IOAPIC calls the LAPICs directly, there is no bus between them",
    holds: () => {
      const process = new Machine(undefined, { policy: byHand }).process();
      const { vm, vcpu } = x86Vm(process, "full");
      programIoapic(process, vm);
      line(process, vm, 9, 1);
      return requestedVectors(process, vcpu).length === 1 && process.kernel.work.pending === 0;
    },
    verdict: "confirmed",
    by: "the LAPIC has the vector when KVM_IRQ_LINE returns, with no deferred work",
  },
  {
    who: "Graf",
    when: "2013-03-06",
    says: "it is racy if both sides assert and deassert one line",
    holds: () => fails(oneLineTwoSides(true), all),
    verdict: "confirmed",
    by: "exploration: the guest's H_XIRR takes the input down that KVM_INTERRUPT has raised",
  },
  {
    who: "Graf",
    when: "2013-03-06",
    says: "it is racy if both sides assert and deassert one line (a GSI of x86)",
    holds: () => !lineAfterPulse(kernel()) && fails(sharedGsi(false), search),
    verdict: "confirmed",
    by: "exploration: the pulse of an irqfd takes a line down that KVM_IRQ_LINE holds up",
  },
  {
    who: "Graf",
    when: "2013-03-06",
    says: "there is nothing wrong as long as only one of the two sides is used",
    holds: () => !fails(oneLineTwoSides(false), all),
    verdict: "confirmed",
    by: "two devices on the kernel's side, every order",
  },
  {
    who: "Natapov",
    when: "2013-03-06",
    says: "on x86 one GSI can be IRQ2 through the IOAPIC and IRQ0 through the PIC",
    holds: () => {
      const { pic, lapic } = raiseTimer(kernel());
      return pic === 1 << 0 && lapic.join() === String(0x50 + 2);
    },
    verdict: "confirmed",
    by: "GSI 0 raises pin 0 of the PIC and pin 2 of the IOAPIC in one call",
  },
  {
    who: "Natapov",
    when: "2013-03-06",
    says: "on sane architectures the number of KVM_IRQ_LINE is the interrupt's own",
    holds: () => {
      const vm = new PowerVm();
      vm.setUp(0x1234);
      line(vm.process, vm.vm, 0x1234, 1);
      return vm.pending(0x1234) === 1;
    },
    verdict: "confirmed",
    by: "POWER: no table, source 0x1234",
  },
  {
    who: "Graf",
    when: "2013-03-06",
    says: "by the time an IOAPIC is created, the LAPICs have to be there",
    holds: () => lapicFirst(kernel()) === 0,
    verdict: "contradicted",
    by: "x86 wants it the other way round: EINVAL once a vCPU exists",
  },
  {
    who: "Natapov",
    when: "2013-03-06",
    says: "LAPICs can be created after the IOAPIC, or CPUs could not be plugged in",
    holds: () => hotPlugged(kernel()).join() === String(0x59),
    verdict: "confirmed",
    by: "a vCPU created last gets what the IOAPIC sends to its id",
  },
  {
    who: "Graf",
    when: "2013-03-06",
    says: "'this CPU can receive interrupts' can be a KVM_ENABLE_CAP that is set at run time",
    holds: () => connectSecond(),
    verdict: "confirmed",
    by: "a second vCPU is connected while the first has an interrupt under way",
  },
  {
    who: "Graf",
    when: "2013-03-06",
    says: "KVM_ENABLE_CAP works at any point in time",
    holds: () => connectLate("after the source").came || connectLateMpic("after the source").came,
    verdict: "contradicted",
    by: "a source cannot go to a vCPU that is not connected yet: XICS says EINVAL, MPIC forgets it silently",
  },
  {
    who: "Natapov",
    when: "2013-03-06",
    says: "it is unlikely that IOAPIC and PIC will be in user space while the LAPIC is in the kernel",
    holds: () => inject(kernel(), "split", "KVM_SIGNAL_MSI").result < 0,
    verdict: "contradicted",
    by: "KVM_CAP_SPLIT_IRQCHIP: the row 'split' of the table",
  },
  {
    who: "Natapov",
    when: "2013-03-06",
    says: "an announcement raises the question what KVM_RUN does before the device is created",
    holds: () =>
      fails(announcedWhileRunning("run"), all) && !fails(announcedWhileRunning("refuse unconnected"), all),
    verdict: "confirmed",
    by: "a vCPU that runs loses an interrupt; one that is refused until it is connected does not",
  },
];
