/** How what a call costs grows with what there is already: routes, irqfds, memory slots, vCPUs; and what a VM weighs. */
import {
  KVM_CREATE_VCPU,
  KVM_IRQFD,
  KVM_IRQFD_FLAG_DEASSIGN,
  KVM_SET_GSI_ROUTING,
  KVM_SET_USER_MEMORY_REGION,
  KVM_SIGNAL_MSI,
  KvmIrqfd,
  KvmMsi,
  KvmUserspaceMemoryRegion,
} from "../../lib/abi/kvm.ts";
import type { Process } from "../../lib/kernel/process.ts";
import type { VmFile } from "../../lib/kvm/vm.ts";
import { Machine } from "../../lib/machine/machine.ts";
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
function withVcpus(n: number): { process: Process; vm: number } {
  const process = newProcess();
  const { vm } = vmWithLapic(process);
  for (let id = 1; id < n; id++) enableLapic(process, must(process.ioctl(vm, KVM_CREATE_VCPU, id)));
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
        name: "SIGNAL_MSI",
        prepare(n) {
          const { process, vm } = withVcpus(n);
          const msi = KvmMsi.encode({ address_lo: 0xfee00000, data: 0x41 });
          return { once: () => process.ioctl(vm, KVM_SIGNAL_MSI, msi) };
        },
      },
      {
        name: "made and closed, each",
        prepare: (n) => ({ once: () => withVcpus(n).process.exit(), each: n }),
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
