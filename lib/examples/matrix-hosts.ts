/**
 * Virtual machines for the capability matrix: for each combination of kernel and interrupt controller, how a VM gets to
 * a stage of its life. "x86 none" has no controller in the kernel; its stages are those of the vCPU. The x86 VMs are
 * built on any kernel; the first run of the others needs a guest, which only the fake can load.
 */
import {
  KVM_CAP_IRQ_XICS,
  KVM_CAP_PPC_PAPR,
  KVM_CAP_SPLIT_IRQCHIP,
  KVM_CREATE_DEVICE,
  KVM_CREATE_IRQCHIP,
  KVM_CREATE_VCPU,
  KVM_CREATE_VM,
  KVM_DEV_TYPE_ARM_VGIC_ITS,
  KVM_DEV_TYPE_ARM_VGIC_V2,
  KVM_DEV_TYPE_ARM_VGIC_V3,
  KVM_DEV_TYPE_XICS,
  KVM_ENABLE_CAP,
  KVM_RUN,
  KVM_SET_DEVICE_ATTR,
  KVM_SET_USER_MEMORY_REGION,
  KvmCreateDevice,
  KvmDeviceAttr,
  KvmEnableCap,
  KvmUserspaceMemoryRegion,
} from "../abi/kvm.ts";
import {
  KVM_ARM_PREFERRED_TARGET,
  KVM_ARM_VCPU_INIT,
  KVM_DEV_ARM_VGIC_CTRL_INIT,
  KVM_DEV_ARM_VGIC_GRP_ADDR,
  KVM_DEV_ARM_VGIC_GRP_CTRL,
  KVM_VGIC_ITS_ADDR_TYPE,
  KVM_VGIC_V2_ADDR_TYPE_CPU,
  KVM_VGIC_V2_ADDR_TYPE_DIST,
  KVM_VGIC_V3_ADDR_TYPE_DIST,
  KVM_VGIC_V3_ADDR_TYPE_REDIST,
  KvmVcpuInit,
} from "../abi/kvm-arm64.ts";
import { KVM_DEV_XICS_GRP_SOURCES } from "../abi/kvm-ppc.ts";
import { KVM_GET_SREGS, KVM_SET_REGS, KVM_SET_SREGS, KvmRegs, KvmSregs } from "../abi/kvm-x86.ts";
import { store64 } from "../abi/struct.ts";
import type { Process } from "../kernel/process.ts";
import type { Syscalls } from "../kernel/syscalls.ts";
import { type Guest as GuestOfArm64, store as storeOfArm64 } from "../kvm/arm64/guest.ts";
import type { Arm64Vcpu } from "../kvm/arm64/vcpu.ts";
import { type Guest as GuestOfPower, hypercall, store as storeOfPower } from "../kvm/ppc/guest.ts";
import { H_CPPR, H_EOI, H_XIRR } from "../kvm/ppc/hypercalls.ts";
import type { PpcVcpu } from "../kvm/ppc/vcpu.ts";
import type { VcpuFile } from "../kvm/vcpu.ts";
import { builtinHosts } from "../machine/builtin.ts";
import { Machine } from "../machine/machine.ts";
import { profileFromHeader } from "../machine/profile.ts";
import type { Message } from "../vmm/route-table.ts";
import { FIRST_LPI, RAM, RAM_SIZE, setUp, takeAll } from "./its-guest.ts";
import { enableLapic, requestedVectors } from "./x86-vm.ts";

export const stages = ["before the irqchip", "created", "initialised", "after the first run"] as const;
export type Stage = (typeof stages)[number];

/** How many interrupts a VM is set up for. */
export const MESSAGES = 4;

/** A VM at some stage. */
export interface StagedVm {
  readonly kernel: Syscalls;
  readonly vm: number;
  /** made where there is none yet */
  vcpu(): number;
  /** what the first KVM_RUN answered */
  readonly ran: number | undefined;
  /** runs the guest once more: the interrupts that came, by the messages that mean them; after the first run */
  came(): number[];
}

/** A combination of kernel and controller. */
export interface MatrixProfile {
  readonly name: string;
  /** of builtinHosts */
  readonly host: string;
  /** messages 0 to 3 mean an interrupt each */
  message(index: number): Message;
  /** for irqfds and routes: this one and the three that follow; on POWER they are the sources of the messages */
  readonly gsi: number;
  /** as KVM_IRQ_LINE names it */
  readonly line: number;
  reach(kernel: Syscalls, stage: Stage): StagedVm;
}

const newVm = (kernel: Syscalls): number => kernel.ioctl(kernel.open("/dev/kvm", 2), KVM_CREATE_VM, 0);

const enableCap = (kernel: Syscalls, fd: number, cap: number, ...given: number[]): number => {
  const args = [0, 1, 2, 3].map((i) => BigInt(given[i] ?? 0));
  return kernel.ioctl(fd, KVM_ENABLE_CAP, KvmEnableCap.encode({ cap, args }));
};

function createDevice(kernel: Syscalls, vm: number, type: number): number {
  const argument = KvmCreateDevice.encode({ type });
  kernel.ioctl(vm, KVM_CREATE_DEVICE, argument);
  return KvmCreateDevice.decode(argument).fd;
}

/** KVM_SET_DEVICE_ATTR with eight bytes. */
function setAttr(kernel: Syscalls, device: number, group: number, attr: number, value = 0n): number {
  const bytes = new Uint8Array(8);
  store64(bytes, 0, value);
  const addr = BigInt(kernel.addressOf(bytes));
  return kernel.ioctl(device, KVM_SET_DEVICE_ATTR, KvmDeviceAttr.encode({ group, attr: BigInt(attr), addr }));
}

/** guest memory of nobody: an access is an exit to user space */
const NOWHERE = 0x9000_0000;

/** The vCPU itself, to put a guest on it. */
const cpuOf = (kernel: Syscalls, fd: number): unknown =>
  ((kernel as Process).fds.get(fd) as VcpuFile).vcpu.arch;

/** Memory of the program becomes memory of the guest: its address. */
function mapMemory(kernel: Syscalls, vm: number, guest: number, size: number): number {
  const address = kernel.mmap(0, size, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS, -1, 0);
  const region = {
    guest_phys_addr: BigInt(guest),
    memory_size: BigInt(size),
    userspace_addr: BigInt(address),
  };
  kernel.ioctl(vm, KVM_SET_USER_MEMORY_REGION, KvmUserspaceMemoryRegion.encode(region));
  return address;
}

/** The runs of a scripted guest; `first` is the number of the interrupt of message 0. */
const runs = (kernel: Syscalls, vcpu: number, stage: Stage, taken: number[], first: number) => ({
  ran: stage === "after the first run" ? kernel.ioctl(vcpu, KVM_RUN, 0) : undefined,
  came(): number[] {
    kernel.ioctl(vcpu, KVM_RUN, 0);
    return [...new Set(taken)].sort((a, b) => a - b).map((number) => number - first);
  },
});

const PROT_READ_WRITE = 3;
const MAP_PRIVATE_ANONYMOUS = 0x22;

// ---- x86 -----------------------------------------------------------------------------------------------------------

const PAGE = 0x1000;
/** out %al, $0x80: an exit to user space */
const GUEST = Uint8Array.of(0xe6, 0x80);

/** KVM_RUN of a guest of one instruction, in real mode at address 0. */
function runX86(kernel: Syscalls, vm: number, vcpu: number): number {
  const memory = mapMemory(kernel, vm, 0, PAGE);
  GUEST.forEach((byte, i) => {
    kernel.store(memory + i, 1, byte);
  });
  const sregs = new Uint8Array(KvmSregs.size);
  kernel.ioctl(vcpu, KVM_GET_SREGS, sregs);
  const cs = KvmSregs.at(sregs).cs;
  cs.base = 0n;
  cs.selector = 0;
  kernel.ioctl(vcpu, KVM_SET_SREGS, sregs);
  kernel.ioctl(vcpu, KVM_SET_REGS, KvmRegs.encode({ rflags: 2n }));
  return kernel.ioctl(vcpu, KVM_RUN, 0);
}

const VECTOR = 0x41;

type X86Mode = "full" | "split" | "none";

function createX86(kernel: Syscalls, vm: number, mode: X86Mode): void {
  if (mode === "full") kernel.ioctl(vm, KVM_CREATE_IRQCHIP, 0);
  if (mode === "split") enableCap(kernel, vm, KVM_CAP_SPLIT_IRQCHIP, 24);
}

const x86 = (mode: X86Mode): MatrixProfile => ({
  name: `x86 ${mode}`,
  host: "x86_64_6_18_pvm",
  message: (index) => ({ addressHi: 0, addressLo: 0xfee0_0000, data: VECTOR + index }),
  gsi: 40,
  line: 5,
  reach(kernel, stage) {
    const vm = newVm(kernel);
    const reached = stages.indexOf(stage);
    let made = -1;
    const vcpu = () => (made < 0 ? (made = kernel.ioctl(vm, KVM_CREATE_VCPU, 0)) : made);
    if (reached >= 1) createX86(kernel, vm, mode);
    if (reached >= 1 && mode === "none") vcpu();
    if (reached >= 2 && mode !== "none") enableLapic(kernel, vcpu());
    return {
      kernel,
      vm,
      vcpu,
      ran: reached >= 3 ? runX86(kernel, vm, vcpu()) : undefined,
      came: () => (mode === "none" ? [] : requestedVectors(kernel, vcpu()).map((vector) => vector - VECTOR)),
    };
  },
});

// ---- POWER ---------------------------------------------------------------------------------------------------------

const SOURCE = 0x1000;
const XISR = 0xff_ffff;
const PRIORITY_5 = 5n << 32n;

/** Leaves, then takes what came. */
function* powerGuest(taken: number[]): GuestOfPower {
  yield* storeOfPower(NOWHERE, 4, 1);
  yield* hypercall(H_CPPR, 0xff);
  for (;;) {
    const [, xirr] = yield* hypercall(H_XIRR);
    if ((xirr & XISR) === 0) return;
    taken.push(xirr & XISR);
    yield* hypercall(H_EOI, xirr);
  }
}

const power = (flavour: string, host: string): MatrixProfile => ({
  name: `POWER ${flavour}`,
  host,
  message: (index) => ({ addressHi: 0x400, addressLo: 0, data: SOURCE + index }),
  gsi: SOURCE,
  line: SOURCE,
  reach(kernel, stage) {
    const vm = newVm(kernel);
    const reached = stages.indexOf(stage);
    const vcpu = kernel.ioctl(vm, KVM_CREATE_VCPU, 0);
    enableCap(kernel, vcpu, KVM_CAP_PPC_PAPR);
    const xics = reached >= 1 ? createDevice(kernel, vm, KVM_DEV_TYPE_XICS) : -1;
    if (reached >= 2) {
      enableCap(kernel, vcpu, KVM_CAP_IRQ_XICS, xics, 0);
      for (let index = 0; index < MESSAGES; index++)
        setAttr(kernel, xics, KVM_DEV_XICS_GRP_SOURCES, SOURCE + index, PRIORITY_5);
    }
    const taken: number[] = [];
    if (reached >= 3) (cpuOf(kernel, vcpu) as PpcVcpu).load(powerGuest(taken));
    return { kernel, vm, vcpu: () => vcpu, ...runs(kernel, vcpu, stage, taken, SOURCE) };
  },
});

// ---- ARM -----------------------------------------------------------------------------------------------------------

const GICD = 0x0800_0000;
const GICC = 0x0801_0000;
const ITS = 0x0808_0000;
const GICR = 0x080a_0000;
const DOORBELL = ITS + 0x1_0040;
/** KVM_IRQ_LINE of SPI 33 */
const SPI_33 = (1 << 24) | 33;

/** Controllers of a VM: type, and addresses by kind. */
const controllers = {
  v2: [
    {
      type: KVM_DEV_TYPE_ARM_VGIC_V2,
      at: [
        [KVM_VGIC_V2_ADDR_TYPE_DIST, GICD],
        [KVM_VGIC_V2_ADDR_TYPE_CPU, GICC],
      ],
    },
  ],
  v3: [
    {
      type: KVM_DEV_TYPE_ARM_VGIC_V3,
      at: [
        [KVM_VGIC_V3_ADDR_TYPE_DIST, GICD],
        [KVM_VGIC_V3_ADDR_TYPE_REDIST, GICR],
      ],
    },
  ],
  get "v3+ITS"() {
    return [...this.v3, { type: KVM_DEV_TYPE_ARM_VGIC_ITS, at: [[KVM_VGIC_ITS_ADDR_TYPE, ITS]] }];
  },
};

/** Sets its controller up and leaves, then takes what came. */
function* armGuest(its: number | undefined, taken: number[]): GuestOfArm64 {
  yield* setUp(GICD, GICR, its, MESSAGES);
  yield* storeOfArm64(NOWHERE, 4, 1);
  yield* takeAll(taken);
}

const arm = (gic: keyof typeof controllers, host: string): MatrixProfile => ({
  name: `ARM ${gic}`,
  host,
  message: (index) => ({
    addressHi: 0,
    addressLo: DOORBELL,
    data: index,
    ...(gic === "v3+ITS" && { devid: 0 }),
  }),
  gsi: 40,
  line: SPI_33,
  reach(kernel, stage) {
    const vm = newVm(kernel);
    const reached = stages.indexOf(stage);
    const vcpu = kernel.ioctl(vm, KVM_CREATE_VCPU, 0);
    const init = new Uint8Array(KvmVcpuInit.size);
    kernel.ioctl(vm, KVM_ARM_PREFERRED_TARGET, init);
    kernel.ioctl(vcpu, KVM_ARM_VCPU_INIT, init);
    const made =
      reached < 1 ? [] : controllers[gic].map(({ type, at }) => ({ fd: createDevice(kernel, vm, type), at }));
    if (reached >= 2)
      for (const { fd, at } of made) {
        for (const [kind, address] of at)
          setAttr(kernel, fd, KVM_DEV_ARM_VGIC_GRP_ADDR, kind, BigInt(address));
        setAttr(kernel, fd, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT);
      }
    const taken: number[] = [];
    if (reached >= 3) {
      mapMemory(kernel, vm, RAM, RAM_SIZE);
      (cpuOf(kernel, vcpu) as Arm64Vcpu).load(armGuest(gic === "v3+ITS" ? ITS : undefined, taken));
    }
    return { kernel, vm, vcpu: () => vcpu, ...runs(kernel, vcpu, stage, taken, FIRST_LPI) };
  },
});

// --------------------------------------------------------------------------------------------------------------------

export const profiles: readonly MatrixProfile[] = [
  x86("full"),
  x86("split"),
  x86("none"),
  power("HV", "ppc64le_6_12_pseries"),
  power("PR", "ppc64le_6_12_pr"),
  arm("v2", "arm64_6_12_gicv2"),
  arm("v3", "arm64_6_12_gicv3"),
  arm("v3+ITS", "arm64_6_12_gicv3"),
];

/** The fake of a profile's host, or of another host of its kind. */
export const fakeOf = (profile: MatrixProfile, host = profile.host): Process =>
  new Machine(profileFromHeader(builtinHosts[host])).process();
