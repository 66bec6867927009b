/** A VM to put questions to: in-kernel irqchip, vCPUs with enabled LAPICs, and a count of every delivery. */
import {
  KVM_CREATE_IRQCHIP,
  KVM_CREATE_VCPU,
  KVM_CREATE_VM,
  KVM_IRQ_ROUTING_IRQCHIP,
  KVM_IRQ_ROUTING_MSI,
  KvmIrqRoutingEntry,
} from "../../lib/abi/kvm.ts";
import { KVM_GET_LAPIC, KVM_IRQCHIP_IOAPIC, KVM_SET_LAPIC, KvmLapicState } from "../../lib/abi/kvm-x86.ts";
import { store32 } from "../../lib/abi/struct.ts";
import type { Lapic } from "../../lib/hardware/lapic.ts";
import type { Process } from "../../lib/kernel/process.ts";
import type { Policy } from "../../lib/kernel/work-queue.ts";
import type { VcpuFile } from "../../lib/kvm/vcpu.ts";
import type { VmFile } from "../../lib/kvm/vm.ts";
import type { X86Vcpu } from "../../lib/kvm/x86/vcpu.ts";
import type { X86Vm } from "../../lib/kvm/x86/vm.ts";
import { Machine } from "../../lib/machine/machine.ts";

const SPIV = 0xf0;

export class IrqWorld {
  readonly process: Process;
  readonly vm: number;
  readonly vcpus: number[];
  /** the vector of every interrupt that a LAPIC was given, in order: coalesced ones too */
  readonly delivered: number[] = [];

  constructor(options: { policy?: Policy; vcpus?: number } = {}) {
    const machine = new Machine(undefined, options.policy === undefined ? {} : { policy: options.policy });
    this.process = machine.process();
    const kvm = this.process.open("/dev/kvm", 2);
    this.vm = this.process.ioctl(kvm, KVM_CREATE_VM, 0);
    this.process.ioctl(this.vm, KVM_CREATE_IRQCHIP, 0);
    this.vcpus = Array.from({ length: options.vcpus ?? 1 }, (_, id) => {
      const vcpu = this.process.ioctl(this.vm, KVM_CREATE_VCPU, id);
      const state = new Uint8Array(KvmLapicState.size);
      this.process.ioctl(vcpu, KVM_GET_LAPIC, state);
      store32(state, SPIV, 0x1ff);
      this.process.ioctl(vcpu, KVM_SET_LAPIC, state);
      this.#count(this.lapic(vcpu));
      return vcpu;
    });
  }

  lapic(vcpu: number): Lapic {
    return ((this.process.fds.get(vcpu) as VcpuFile).vcpu.arch as X86Vcpu).lapic!;
  }

  get arch(): X86Vm {
    return (this.process.fds.get(this.vm) as VmFile).vm.arch as X86Vm;
  }

  #count(lapic: Lapic): void {
    const accept = lapic.acceptIrq.bind(lapic);
    lapic.acceptIrq = (mode, vector, level, trigger, destMap) => {
      this.delivered.push(vector);
      return accept(mode, vector, level, trigger, destMap);
    };
  }
}

/** One entry of a routing table. */
export type TestRoute = { gsi: number; vector: number } | { gsi: number; chip: number; pin: number };

/** A routing table as KVM_SET_GSI_ROUTING takes it; messages go to APIC id 0. */
export function routingTable(routes: readonly TestRoute[]): Uint8Array {
  const bytes = new Uint8Array(8 + routes.length * KvmIrqRoutingEntry.size);
  store32(bytes, 0, routes.length);
  routes.forEach((route, i) => {
    const entry =
      "vector" in route
        ? {
            gsi: route.gsi,
            type: KVM_IRQ_ROUTING_MSI,
            u: { msi: { address_lo: 0xfee00000, data: route.vector } },
          }
        : {
            gsi: route.gsi,
            type: KVM_IRQ_ROUTING_IRQCHIP,
            u: { irqchip: { irqchip: route.chip, pin: route.pin } },
          };
    bytes.set(KvmIrqRoutingEntry.encode(entry), 8 + i * KvmIrqRoutingEntry.size);
  });
  return bytes;
}

export const IOAPIC = KVM_IRQCHIP_IOAPIC;
