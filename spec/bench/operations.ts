/** What is measured: each operation prepares its objects once and gives the call to repeat. */
import {
  KVM_CREATE_IRQCHIP,
  KVM_CREATE_VCPU,
  KVM_CREATE_VM,
  KVM_GET_API_VERSION,
  KVM_GET_IRQCHIP,
  KVM_GET_LAPIC,
  KVM_GET_MP_STATE,
  KVM_GET_VCPU_EVENTS,
  KVM_IOEVENTFD,
  KVM_IOEVENTFD_FLAG_DEASSIGN,
  KVM_IRQ_LINE,
  KVM_IRQ_LINE_STATUS,
  KVM_IRQ_ROUTING_MSI,
  KVM_IRQFD,
  KVM_IRQFD_FLAG_DEASSIGN,
  KVM_IRQFD_FLAG_RESAMPLE,
  KVM_NMI,
  KVM_RUN,
  KVM_SET_GSI_ROUTING,
  KVM_SET_IRQCHIP,
  KVM_SET_LAPIC,
  KVM_SET_MP_STATE,
  KVM_SET_VCPU_EVENTS,
  KVM_SIGNAL_MSI,
  KvmIoeventfd,
  KvmIrqchip,
  KvmIrqfd,
  KvmIrqLevel,
  KvmIrqRoutingEntry,
  KvmLapicState,
  KvmMpState,
  KvmMsi,
  KvmVcpuEvents,
} from "../../lib/abi/index.ts";
import type { Request } from "../../lib/abi/ioctl.ts";
import { store32 } from "../../lib/abi/struct.ts";
import type { Syscalls } from "../../lib/kernel/syscalls.ts";
import { COUNT_LOOP_LENGTH, countLoop, guestOf, interruptedGuest, message, portLoop } from "./guest.ts";

export interface Benchmark {
  readonly name: string;
  /** nanoseconds of the real kernel called from C, measured once on the recorded 6.18 host: the fastest of 31 rounds */
  readonly c?: number;
  /** system calls in one run of the function, where one is not what is reported */
  readonly calls?: number;
  prepare(process: Syscalls): () => unknown;
}

const RDWR_CLOEXEC = 0x80002;
const EFD_NONBLOCK = 0x800;
/** where the LAPIC's enable bit is (SPIV, bit 8) */
const SPIV = 0xf0;

/** Answers a descriptor, or ends the benchmark where the kernel refuses. */
export function must(result: number): number {
  if (result < 0) throw new Error(`refused: ${result}`);
  return result;
}

/** A VM with an in-kernel irqchip and one vCPU whose LAPIC is enabled. */
export function vmWithLapic(process: Syscalls): { vm: number; vcpu: number } {
  const kvm = must(process.open("/dev/kvm", RDWR_CLOEXEC));
  const vm = must(process.ioctl(kvm, KVM_CREATE_VM, 0));
  must(process.ioctl(vm, KVM_CREATE_IRQCHIP, 0));
  const vcpu = must(process.ioctl(vm, KVM_CREATE_VCPU, 0));
  enableLapic(process, vcpu);
  return { vm, vcpu };
}

export function enableLapic(process: Syscalls, vcpu: number): void {
  const lapic = new Uint8Array(KvmLapicState.size);
  must(process.ioctl(vcpu, KVM_GET_LAPIC, lapic));
  store32(lapic, SPIV, 0x1ff);
  must(process.ioctl(vcpu, KVM_SET_LAPIC, lapic));
}

/** A routing table of `count` messages, as KVM_SET_GSI_ROUTING takes it. */
export function routes(count: number, firstGsi = 0): Uint8Array {
  const table = new Uint8Array(8 + count * KvmIrqRoutingEntry.size);
  store32(table, 0, count);
  for (let i = 0; i < count; i++)
    table.set(
      KvmIrqRoutingEntry.encode({
        gsi: firstGsi + i,
        type: KVM_IRQ_ROUTING_MSI,
        u: { msi: { address_lo: 0xfee00000, data: 0x40 + (i & 63) } },
      }),
      8 + i * KvmIrqRoutingEntry.size,
    );
  return table;
}

const routing = (count: number, c: number): Benchmark => ({
  name: `KVM_SET_GSI_ROUTING, ${count} route${count === 1 ? "" : "s"}`,
  c,
  prepare(process) {
    const { vm } = vmWithLapic(process);
    const table = routes(count);
    must(process.ioctl(vm, KVM_SET_GSI_ROUTING, table));
    return () => process.ioctl(vm, KVM_SET_GSI_ROUTING, table);
  },
});

/** A call that copies a state of `size` bytes out of a vCPU, or into it: what it has already. */
const stateOfVcpu = (name: string, size: number, c: number, get: Request, set = get): Benchmark => ({
  name,
  c,
  prepare(process) {
    const { vcpu } = vmWithLapic(process);
    const state = new Uint8Array(size);
    must(process.ioctl(vcpu, get, state));
    return () => process.ioctl(vcpu, set, state);
  },
});

const IOAPIC = 2;

/** KVM_GET_IRQCHIP, KVM_SET_IRQCHIP of the IOAPIC. */
const stateOfIoapic = (name: string, c: number, request: Request): Benchmark => ({
  name,
  c,
  prepare(process) {
    const { vm } = vmWithLapic(process);
    const chip = KvmIrqchip.encode({ chip_id: IOAPIC });
    must(process.ioctl(vm, KVM_GET_IRQCHIP, chip));
    return () => process.ioctl(vm, request, chip);
  },
});

/** A line that goes up and down. */
const line = (name: string, c: number, request: Request, irq: number): Benchmark => ({
  name,
  c,
  calls: 2,
  prepare(process) {
    const { vm } = vmWithLapic(process);
    const up = KvmIrqLevel.encode({ irq, level: 1 });
    const down = KvmIrqLevel.encode({ irq, level: 0 });
    return () => {
      store32(up, 0, irq); // KVM_IRQ_LINE_STATUS answers there
      store32(down, 0, irq);
      process.ioctl(vm, request, up);
      return process.ioctl(vm, request, down);
    };
  },
});

const irqfdOnAndOff = (name: string, c: number, flags: number): Benchmark => ({
  name,
  c,
  prepare(process) {
    const { vm } = vmWithLapic(process);
    const fd = must(process.eventfd2(0, EFD_NONBLOCK));
    const resamplefd = must(process.eventfd2(0, EFD_NONBLOCK));
    const assign = KvmIrqfd.encode({ fd, gsi: 20, flags, resamplefd });
    const deassign = KvmIrqfd.encode({ fd, gsi: 20, flags: KVM_IRQFD_FLAG_DEASSIGN });
    must(process.ioctl(vm, KVM_IRQFD, assign));
    must(process.ioctl(vm, KVM_IRQFD, deassign));
    return () => {
      process.ioctl(vm, KVM_IRQFD, assign);
      return process.ioctl(vm, KVM_IRQFD, deassign);
    };
  },
});

const one = Uint8Array.of(1, 0, 0, 0, 0, 0, 0, 0);

export const benchmarks: readonly Benchmark[] = [
  {
    name: "KVM_GET_API_VERSION",
    c: 100,
    prepare(process) {
      const kvm = must(process.open("/dev/kvm", RDWR_CLOEXEC));
      return () => process.ioctl(kvm, KVM_GET_API_VERSION, 0);
    },
  },
  {
    name: "eventfd write + read",
    prepare(process) {
      const fd = must(process.eventfd2(0, EFD_NONBLOCK));
      const buffer = new Uint8Array(8);
      return () => {
        process.write(fd, one, 8);
        return process.read(fd, buffer, 8);
      };
    },
  },
  {
    name: "KVM_SIGNAL_MSI",
    c: 147,
    prepare(process) {
      const { vm } = vmWithLapic(process);
      const msi = KvmMsi.encode({ address_lo: 0xfee00000, data: 0x41 });
      return () => process.ioctl(vm, KVM_SIGNAL_MSI, msi);
    },
  },
  {
    name: "eventfd write → irqfd → LAPIC IRR",
    c: 207,
    prepare(process) {
      const { vm } = vmWithLapic(process);
      must(process.ioctl(vm, KVM_SET_GSI_ROUTING, routes(1, 24)));
      const fd = must(process.eventfd2(0, EFD_NONBLOCK));
      must(process.ioctl(vm, KVM_IRQFD, KvmIrqfd.encode({ fd, gsi: 24 })));
      return () => process.write(fd, one, 8);
    },
  },
  {
    // the real kernel leaves the pin to a thread of its own: its time is that of the write alone
    name: "eventfd write → irqfd → pin of the IOAPIC",
    c: 145,
    prepare(process) {
      const { vm } = vmWithLapic(process);
      const fd = must(process.eventfd2(0, EFD_NONBLOCK));
      must(process.ioctl(vm, KVM_IRQFD, KvmIrqfd.encode({ fd, gsi: 20 })));
      return () => process.write(fd, one, 8);
    },
  },
  line("KVM_IRQ_LINE, PIC and IOAPIC", 160, KVM_IRQ_LINE, 5),
  line("KVM_IRQ_LINE, IOAPIC", 135, KVM_IRQ_LINE, 20),
  line("KVM_IRQ_LINE_STATUS, PIC and IOAPIC", 175, KVM_IRQ_LINE_STATUS, 5),
  stateOfVcpu("KVM_GET_LAPIC", KvmLapicState.size, 6_200, KVM_GET_LAPIC),
  stateOfVcpu("KVM_SET_LAPIC", KvmLapicState.size, 7_200, KVM_GET_LAPIC, KVM_SET_LAPIC),
  stateOfIoapic("KVM_GET_IRQCHIP, IOAPIC", 190, KVM_GET_IRQCHIP),
  stateOfIoapic("KVM_SET_IRQCHIP, IOAPIC", 240, KVM_SET_IRQCHIP),
  stateOfVcpu("KVM_GET_MP_STATE", KvmMpState.size, 6_400, KVM_GET_MP_STATE),
  stateOfVcpu("KVM_SET_MP_STATE", KvmMpState.size, 6_100, KVM_GET_MP_STATE, KVM_SET_MP_STATE),
  stateOfVcpu("KVM_GET_VCPU_EVENTS", KvmVcpuEvents.size, 6_200, KVM_GET_VCPU_EVENTS),
  stateOfVcpu("KVM_SET_VCPU_EVENTS", KvmVcpuEvents.size, 6_100, KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS),
  {
    name: "KVM_NMI",
    c: 6_100,
    prepare(process) {
      const { vcpu } = vmWithLapic(process);
      return () => process.ioctl(vcpu, KVM_NMI, 0);
    },
  },
  routing(1, 1_700),
  routing(16, 2_600),
  routing(256, 14_800),
  routing(4096, 208_000),
  irqfdOnAndOff("irqfd assign + deassign", 3_300, 0),
  irqfdOnAndOff("irqfd with resamplefd: assign + deassign", 6_500, KVM_IRQFD_FLAG_RESAMPLE),
  {
    name: "KVM_IOEVENTFD assign + deassign",
    c: 6_700_000,
    prepare(process) {
      const { vm } = vmWithLapic(process);
      const fd = must(process.eventfd2(0, EFD_NONBLOCK));
      const request = { fd, addr: 0xd000_0000, len: 4 };
      const assign = KvmIoeventfd.encode(request);
      const deassign = KvmIoeventfd.encode({ ...request, flags: KVM_IOEVENTFD_FLAG_DEASSIGN });
      return () => {
        process.ioctl(vm, KVM_IOEVENTFD, assign);
        return process.ioctl(vm, KVM_IOEVENTFD, deassign);
      };
    },
  },
  {
    name: "/dev/kvm, VM, irqchip, vCPU: open and close",
    c: 16_600_000,
    prepare: (process) => () => {
      const kvm = must(process.open("/dev/kvm", RDWR_CLOEXEC));
      const vm = must(process.ioctl(kvm, KVM_CREATE_VM, 0));
      must(process.ioctl(vm, KVM_CREATE_IRQCHIP, 0));
      const vcpu = must(process.ioctl(vm, KVM_CREATE_VCPU, 0));
      process.close(vcpu);
      process.close(vm);
      return process.close(kvm);
    },
  },
  {
    name: "KVM_RUN to a port access and back",
    prepare(process) {
      const { vcpu } = guestOf(process, portLoop);
      must(process.ioctl(vcpu, KVM_RUN, 0));
      return () => process.ioctl(vcpu, KVM_RUN, 0);
    },
  },
  {
    name: "an interrupt of a guest: sent, accepted, ended, told by a port",
    prepare(process) {
      const { vm, vcpu } = interruptedGuest(process);
      return () => {
        must(process.ioctl(vm, KVM_SIGNAL_MSI, message));
        return process.ioctl(vcpu, KVM_RUN, 0);
      };
    },
  },
  {
    name: "one instruction of a guest",
    calls: COUNT_LOOP_LENGTH,
    prepare(process) {
      const { vcpu } = guestOf(process, countLoop);
      must(process.ioctl(vcpu, KVM_RUN, 0));
      return () => process.ioctl(vcpu, KVM_RUN, 0);
    },
  },
];
