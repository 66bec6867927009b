/** How what a call costs grows with what there is already: routes, irqfds, memory slots, vCPUs; and what a VM weighs. */
import {
  KVM_CAP_X2APIC_API,
  KVM_CREATE_VCPU,
  KVM_ENABLE_CAP,
  KVM_IRQFD,
  KVM_IRQFD_FLAG_DEASSIGN,
  KVM_SET_GSI_ROUTING,
  KVM_SET_USER_MEMORY_REGION,
  KVM_SIGNAL_MSI,
  KvmEnableCap,
  KvmIrqfd,
  KvmMsi,
  KvmUserspaceMemoryRegion,
} from "../../lib/abi/kvm.ts";
import {
  KVM_GET_SREGS,
  KVM_SET_CPUID2,
  KVM_SET_SREGS,
  KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK,
  KVM_X2APIC_API_USE_32BIT_IDS,
  KvmCpuid2,
  KvmCpuidEntry2,
  KvmSregs,
} from "../../lib/abi/kvm-x86.ts";
import type { Process } from "../../lib/kernel/process.ts";
import type { VmFile } from "../../lib/kvm/vm.ts";
import { Machine } from "../../lib/machine/machine.ts";
import { hostWith, interrupt } from "./assigned.ts";
import { enableLapic, must, routes, vmWithLapic } from "./operations.ts";
import type { Series } from "./plot.ts";

export interface Growth {
  readonly name: string;
  readonly unit: string;
  readonly sizes: readonly number[];
  /** one line each: for a host that holds so many, the call to measure; `each`: what one run is divided by */
  readonly lines: readonly {
    readonly name: string;
    prepare(n: number): { once: () => unknown; each?: number };
  }[];
}

const CPUID_X2APIC = 1 << 21;
const BASE_X2APIC = 1 << 10;
const RLIMIT_NOFILE = 7;
const PAGE = 4096;
const one = Uint8Array.of(1, 0, 0, 0, 0, 0, 0, 0);

function newProcess(): Process {
  const process = new Machine().process();
  process.setrlimit(RLIMIT_NOFILE, 1 << 20);
  return process;
}

/** A VM with n irqfds on its first 16 GSIs, all of them messages. */
function withIrqfds(n: number): { process: Process; vm: number; last: number } {
  const process = newProcess();
  const { vm } = vmWithLapic(process);
  must(process.ioctl(vm, KVM_SET_GSI_ROUTING, routes(16)));
  let last = -1;
  for (let i = 0; i < n; i++) {
    last = must(process.eventfd2(0, 0));
    must(process.ioctl(vm, KVM_IRQFD, KvmIrqfd.encode({ fd: last, gsi: i & 15 })));
  }
  return { process, vm, last };
}

const region = (slot: number, pages = 1): Uint8Array =>
  KvmUserspaceMemoryRegion.encode({ slot, guest_phys_addr: 2 * slot * PAGE, memory_size: pages * PAGE });

/** A VM with n slots of one page, a hole behind each. */
function withSlots(n: number): { process: Process; vm: number } {
  const process = newProcess();
  const { vm } = vmWithLapic(process);
  for (let slot = 0; slot < n; slot++) must(process.ioctl(vm, KVM_SET_USER_MEMORY_REGION, region(slot)));
  return { process, vm };
}

/** A VM with n vCPUs whose LAPICs are on. */
function withVcpus(n: number): { process: Process; vm: number; vcpus: number[] } {
  const process = newProcess();
  const { vm, vcpu } = vmWithLapic(process);
  const vcpus = [vcpu];
  for (let id = 1; id < n; id++) {
    vcpus.push(must(process.ioctl(vm, KVM_CREATE_VCPU, id)));
    enableLapic(process, vcpus[id]);
  }
  return { process, vm, vcpus };
}

/** The same in x2APIC mode: of more than 255, eight bits tell no one from another. */
function withX2apics(n: number): { process: Process; vm: number } {
  const { process, vm, vcpus } = withVcpus(n);
  // without the quirk 255 is the number of one vCPU, not everybody's
  const flags = KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK;
  must(process.ioctl(vm, KVM_ENABLE_CAP, KvmEnableCap.encode({ cap: KVM_CAP_X2APIC_API, args: [flags] })));
  const cpuid = new Uint8Array(KvmCpuid2.size + KvmCpuidEntry2.size);
  cpuid.set(KvmCpuid2.encode({ nent: 1 }));
  cpuid.set(KvmCpuidEntry2.encode({ function: 1, ecx: CPUID_X2APIC }), KvmCpuid2.size);
  const sregs = new Uint8Array(KvmSregs.size);
  for (const vcpu of vcpus) {
    must(process.ioctl(vcpu, KVM_SET_CPUID2, cpuid));
    must(process.ioctl(vcpu, KVM_GET_SREGS, sregs));
    KvmSregs.at(sregs).apic_baseLo |= BASE_X2APIC;
    must(process.ioctl(vcpu, KVM_SET_SREGS, sregs));
  }
  return { process, vm };
}

export const growths: readonly Growth[] = [
  {
    name: "routes",
    unit: "routes in the table",
    sizes: [1, 4, 16, 64, 256, 1024, 4096],
    lines: [
      {
        name: "SET_GSI_ROUTING",
        prepare(n) {
          const process = newProcess();
          const { vm } = vmWithLapic(process);
          const table = routes(n);
          must(process.ioctl(vm, KVM_SET_GSI_ROUTING, table));
          return { once: () => process.ioctl(vm, KVM_SET_GSI_ROUTING, table) };
        },
      },
      {
        name: "… for each route",
        prepare(n) {
          const process = newProcess();
          const { vm } = vmWithLapic(process);
          const table = routes(n);
          return { once: () => process.ioctl(vm, KVM_SET_GSI_ROUTING, table), each: n };
        },
      },
      {
        name: "irqfd signal",
        prepare(n) {
          const process = newProcess();
          const { vm } = vmWithLapic(process);
          must(process.ioctl(vm, KVM_SET_GSI_ROUTING, routes(n)));
          const fd = must(process.eventfd2(0, 0));
          must(process.ioctl(vm, KVM_IRQFD, KvmIrqfd.encode({ fd, gsi: n - 1 })));
          return { once: () => process.write(fd, one, 8) };
        },
      },
    ],
  },
  {
    name: "irqfds",
    unit: "irqfds of the VM",
    sizes: [1, 10, 100, 1000, 10_000],
    lines: [
      {
        name: "irqfd signal",
        prepare(n) {
          const { process, last } = withIrqfds(n);
          return { once: () => process.write(last, one, 8) };
        },
      },
      {
        name: "one more: on and off",
        prepare(n) {
          const { process, vm } = withIrqfds(n);
          const fd = must(process.eventfd2(0, 0));
          const on = KvmIrqfd.encode({ fd, gsi: 5 });
          const off = KvmIrqfd.encode({ fd, gsi: 5, flags: KVM_IRQFD_FLAG_DEASSIGN });
          return {
            once() {
              process.ioctl(vm, KVM_IRQFD, on);
              return process.ioctl(vm, KVM_IRQFD, off);
            },
          };
        },
      },
      {
        name: "made and closed, each",
        prepare: (n) => ({ once: () => withIrqfds(n).process.exit(), each: n }),
      },
    ],
  },
  {
    name: "memory slots",
    unit: "memory slots of the VM",
    sizes: [1, 8, 64, 512, 4096, 32_763],
    lines: [
      {
        name: "lookup of a frame",
        prepare(n) {
          const { process, vm } = withSlots(n);
          const { slots } = (process.fds.get(vm) as VmFile).vm;
          let frame = 0;
          return { once: () => slots.find((frame = (frame + 7919) % (2 * n))) };
        },
      },
      {
        name: "one more: made, removed",
        prepare(n) {
          const { process, vm } = withSlots(n);
          const add = region(n);
          const remove = region(n, 0);
          return {
            once() {
              process.ioctl(vm, KVM_SET_USER_MEMORY_REGION, add);
              return process.ioctl(vm, KVM_SET_USER_MEMORY_REGION, remove);
            },
          };
        },
      },
      {
        name: "made and closed, each",
        prepare: (n) => ({ once: () => withSlots(n).process.exit(), each: n }),
      },
    ],
  },
  {
    name: "vCPUs",
    unit: "vCPUs of the VM",
    sizes: [1, 4, 16, 64, 256, 1024],
    lines: [
      {
        name: "SIGNAL_MSI to the last one",
        prepare(n) {
          const { process, vm } = withX2apics(n);
          const last = n - 1;
          const address_lo = 0xfee00000 | ((last & 0xff) << 12);
          const msi = KvmMsi.encode({ address_lo, address_hi: last & ~0xff, data: 0x41 });
          const reached = process.ioctl(vm, KVM_SIGNAL_MSI, msi);
          if (reached !== 1) throw new Error(`SIGNAL_MSI to vCPU ${last} of ${n} answers ${reached}`);
          return { once: () => process.ioctl(vm, KVM_SIGNAL_MSI, msi) };
        },
      },
      {
        name: "made and closed, each",
        prepare: (n) => ({ once: () => withVcpus(n).process.exit(), each: n }),
      },
    ],
  },
  {
    name: "devices",
    unit: "PCI devices of the host, each bound to vfio-pci",
    sizes: [1, 10, 100, 1000],
    lines: [
      {
        name: "host made, each device",
        prepare(n) {
          const profile = hostWith(n);
          return { once: () => new Machine(profile), each: n };
        },
      },
      {
        name: "interrupt of the last one",
        prepare: (n) => ({ once: interrupt(n) }),
      },
    ],
  },
];

/** Measures every size of every line. */
export async function measureGrowth(
  growth: Growth,
  nanoseconds: (once: () => unknown) => Promise<number>,
): Promise<Series[]> {
  const all: Series[] = [];
  for (const { name, prepare } of growth.lines) {
    const points: [number, number][] = [];
    for (const n of growth.sizes) {
      const { once, each = 1 } = prepare(n);
      points.push([n, (await nanoseconds(once)) / each]);
    }
    all.push({ name, points });
  }
  return all;
}

const VMS = 500;

/** Bytes that one more VM takes: with an irqchip and one vCPU, or with nothing. Undefined without --expose-gc. */
export function bytesOfVm(make: (process: Process) => void): number | undefined {
  const { gc } = globalThis as { gc?: () => void };
  if (gc === undefined) return undefined;
  const used = (): number => {
    gc();
    const { heapUsed, arrayBuffers } = process.memoryUsage();
    return heapUsed + arrayBuffers;
  };
  const linux = newProcess();
  make(linux); // what is made once is not counted
  const before = used();
  for (let i = 0; i < VMS; i++) make(linux);
  const bytes = (used() - before) / VMS;
  linux.exit();
  return bytes;
}
