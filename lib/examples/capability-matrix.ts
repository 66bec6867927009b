/**
 * The capability matrix: what a VM answers to the requests about interrupts, by kernel, controller and stage. Every cell
 * is a run of its own: a new VM is brought to the stage and asked once, with an argument that is well-formed there.
 */
import { errnoName } from "../abi/errno.ts";
import {
  KVM_CREATE_IRQCHIP,
  KVM_INTERRUPT,
  KVM_IRQ_LINE,
  KVM_IRQFD,
  KVM_IRQFD_FLAG_RESAMPLE,
  KVM_MSI_VALID_DEVID,
  KVM_SET_GSI_ROUTING,
  KVM_SIGNAL_MSI,
  KvmInterrupt,
  KvmIrqfd,
  KvmIrqLevel,
  KvmMsi,
} from "../abi/kvm.ts";
import type { Syscalls } from "../kernel/syscalls.ts";
import { type Message, RouteTable } from "../vmm/route-table.ts";
import { fakeOf, type MatrixProfile, profiles, type Stage, type StagedVm, stages } from "./matrix-hosts.ts";
import { table } from "./print.ts";

export const requests = [
  "KVM_SET_GSI_ROUTING",
  "KVM_SIGNAL_MSI",
  "KVM_IRQFD",
  "KVM_IRQFD with resample",
  "KVM_IRQ_LINE",
  "KVM_INTERRUPT",
  "KVM_CREATE_IRQCHIP",
] as const;
export type MatrixRequest = (typeof requests)[number];

/** The argument of KVM_SIGNAL_MSI. */
export const msi = ({ addressLo, addressHi, data, devid }: Message): Uint8Array =>
  KvmMsi.encode({
    address_lo: addressLo,
    address_hi: addressHi,
    data,
    flags: devid === undefined ? 0 : KVM_MSI_VALID_DEVID,
    devid: devid ?? 0,
  });

/** a vector, or any number on POWER */
const INTERRUPT = 0x41;

const asking: Record<MatrixRequest, (vm: StagedVm, profile: MatrixProfile) => number> = {
  KVM_SET_GSI_ROUTING({ kernel, vm }, { gsi, message }) {
    const routes = new RouteTable(gsi + 1, [], new Map([[gsi, message(0)]]));
    return kernel.ioctl(vm, KVM_SET_GSI_ROUTING, routes.encode());
  },
  KVM_SIGNAL_MSI: ({ kernel, vm }, { message }) => kernel.ioctl(vm, KVM_SIGNAL_MSI, msi(message(0))),
  KVM_IRQFD: ({ kernel, vm }, { gsi }) =>
    kernel.ioctl(vm, KVM_IRQFD, KvmIrqfd.encode({ fd: kernel.eventfd2(0, 0), gsi })),
  "KVM_IRQFD with resample"({ kernel, vm }, { gsi }) {
    const [fd, resamplefd] = [kernel.eventfd2(0, 0), kernel.eventfd2(0, 0)];
    const flags = KVM_IRQFD_FLAG_RESAMPLE;
    return kernel.ioctl(vm, KVM_IRQFD, KvmIrqfd.encode({ fd, gsi, flags, resamplefd }));
  },
  KVM_IRQ_LINE: ({ kernel, vm }, { line }) =>
    kernel.ioctl(vm, KVM_IRQ_LINE, KvmIrqLevel.encode({ irq: line, level: 1 })),
  KVM_INTERRUPT: ({ kernel, vcpu }) =>
    kernel.ioctl(vcpu(), KVM_INTERRUPT, KvmInterrupt.encode({ irq: INTERRUPT })),
  KVM_CREATE_IRQCHIP: ({ kernel, vm }) => kernel.ioctl(vm, KVM_CREATE_IRQCHIP, 0),
};

/** One cell: the result, or −errno. */
export const ask = (kernel: Syscalls, profile: MatrixProfile, request: MatrixRequest, stage: Stage): number =>
  asking[request](profile.reach(kernel, stage), profile);

/** A result as the tables show it. */
export const shown = (result: number): string => (result < 0 ? errnoName(-result) : String(result));

/** A request's table: a row for each profile, a column for each stage. */
export function print(request: MatrixRequest): string {
  const rows = profiles.map((profile) => [
    profile.name,
    ...stages.map((stage) => shown(ask(fakeOf(profile), profile, request, stage))),
  ]);
  return table([request, ...stages], rows);
}
