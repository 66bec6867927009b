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
import { store as storeOfArm64 } from "../kvm/arm64/guest.ts";
import type { Arm64Vcpu } from "../kvm/arm64/vcpu.ts";
import { store as storeOfPower } from "../kvm/ppc/guest.ts";
import type { PpcVcpu } from "../kvm/ppc/vcpu.ts";
import type { VcpuFile } from "../kvm/vcpu.ts";
import { builtinHosts } from "../machine/builtin.ts";
import { Machine } from "../machine/machine.ts";
import { profileFromHeader } from "../machine/profile.ts";
import type { Message } from "../vmm/route-table.ts";
import { enableLapic } from "./x86-vm.ts";

export const stages = ["before the irqchip", "created", "initialised", "after the first run"] as const;
export type Stage = (typeof stages)[number];

/** A VM at some stage. */
export interface StagedVm {
  readonly kernel: Syscalls;
  readonly vm: number;
  /** made where there is none yet */
  vcpu(): number;
  /** what the first KVM_RUN answered */
  readonly ran: number | undefined;
}

/** A combination of kernel and controller. */
export interface MatrixProfile {
  readonly name: string;
  /** of builtinHosts */
  readonly host: string;
  /** a message that means one interrupt */
  readonly message: Message;
  /** for irqfds and routes */
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

// ---- x86 -----------------------------------------------------------------------------------------------------------

const PAGE = 0x1000;
const PROT_READ_WRITE = 3;
const MAP_PRIVATE_ANONYMOUS = 0x22;
/** out %al, $0x80: an exit to user space */
const GUEST = Uint8Array.of(0xe6, 0x80);

/** KVM_RUN of a guest of one instruction, in real mode at address 0. */
function runX86(kernel: Syscalls, vm: number, vcpu: number): number {
  const userspace_addr = kernel.mmap(0, PAGE, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS, -1, 0);
  GUEST.forEach((byte, i) => {
    kernel.store(userspace_addr + i, 1, byte);
  });
  const slot = { memory_size: BigInt(PAGE), userspace_addr: BigInt(userspace_addr) };
  kernel.ioctl(vm, KVM_SET_USER_MEMORY_REGION, KvmUserspaceMemoryRegion.encode(slot));
  const sregs = new Uint8Array(KvmSregs.size);
  kernel.ioctl(vcpu, KVM_GET_SREGS, sregs);
  const cs = KvmSregs.at(sregs).cs;
  cs.base = 0n;
  cs.selector = 0;
  kernel.ioctl(vcpu, KVM_SET_SREGS, sregs);
  kernel.ioctl(vcpu, KVM_SET_REGS, KvmRegs.encode({ rflags: 2n }));
  return kernel.ioctl(vcpu, KVM_RUN, 0);
}

type X86Mode = "full" | "split" | "none";

function createX86(kernel: Syscalls, vm: number, mode: X86Mode): void {
  if (mode === "full") kernel.ioctl(vm, KVM_CREATE_IRQCHIP, 0);
  if (mode === "split") enableCap(kernel, vm, KVM_CAP_SPLIT_IRQCHIP, 24);
}

const x86 = (mode: X86Mode): MatrixProfile => ({
  name: `x86 ${mode}`,
  host: "x86_64_6_18_pvm",
  message: { addressHi: 0, addressLo: 0xfee0_0000, data: 0x41 },
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
    return { kernel, vm, vcpu, ran: reached >= 3 ? runX86(kernel, vm, vcpu()) : undefined };
  },
});

// ---- POWER ---------------------------------------------------------------------------------------------------------

const SOURCE = 0x1000;
const PRIORITY_5 = 5n << 32n;

const power = (flavour: string, host: string): MatrixProfile => ({
  name: `POWER ${flavour}`,
  host,
  message: { addressHi: 0x400, addressLo: 0, data: SOURCE },
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
      setAttr(kernel, xics, KVM_DEV_XICS_GRP_SOURCES, SOURCE, PRIORITY_5);
    }
    if (reached >= 3) {
      (cpuOf(kernel, vcpu) as PpcVcpu).load(storeOfPower(NOWHERE, 4, 1));
    }
    return { kernel, vm, vcpu: () => vcpu, ran: reached >= 3 ? kernel.ioctl(vcpu, KVM_RUN, 0) : undefined };
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

const arm = (gic: keyof typeof controllers, host: string): MatrixProfile => ({
  name: `ARM ${gic}`,
  host,
  message: { addressHi: 0, addressLo: DOORBELL, data: 0, ...(gic === "v3+ITS" && { devid: 0 }) },
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
    if (reached >= 3) {
      (cpuOf(kernel, vcpu) as Arm64Vcpu).load(storeOfArm64(NOWHERE, 4, 1));
    }
    return { kernel, vm, vcpu: () => vcpu, ran: reached >= 3 ? kernel.ioctl(vcpu, KVM_RUN, 0) : undefined };
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
