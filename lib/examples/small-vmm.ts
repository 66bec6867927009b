/**
 * A small VMM on the fake: it gives a guest an MSI-X device and a level INTx device through VFIO, and a virtio-like device
 * of its own, which the guest kicks through an ioeventfd. The guest is a script of machine code; everything else is what a
 * VMM does: exits, the trapped MSI-X table, configuration by ports, irqfds.
 *
 *     npm run vmm
 */
import { EINTR } from "../abi/errno.ts";
import { O_RDWR } from "../abi/fcntl.ts";
import {
  KVM_CREATE_IRQCHIP,
  KVM_CREATE_VCPU,
  KVM_CREATE_VM,
  KVM_EXIT_IO,
  KVM_EXIT_MMIO,
  KVM_GET_VCPU_MMAP_SIZE,
  KVM_IOEVENTFD,
  KVM_IOEVENTFD_FLAG_DATAMATCH,
  KVM_RUN,
  KVM_SET_USER_MEMORY_REGION,
  KvmIoeventfd,
  KvmUserspaceMemoryRegion,
} from "../abi/kvm.ts";
import {
  KVM_GET_SREGS,
  KVM_IRQCHIP_IOAPIC,
  KVM_SET_REGS,
  KVM_SET_SREGS,
  KvmRegs,
  KvmRun,
  KvmSregs,
} from "../abi/kvm-x86.ts";
import { load32, loadNumber64 } from "../abi/struct.ts";
import { VFIO_PCI_CONFIG_REGION_INDEX } from "../abi/vfio.ts";
import { doorbell, intxLevel, RegisterDevice } from "../hardware/register-device.ts";
import type { Syscalls } from "../kernel/syscalls.ts";
import { Machine } from "../machine/machine.ts";
import { profileFromHeader } from "../machine/profile.ts";
import { x86_64_6_18_pvm } from "../machine/profiles/x86_64-6.18-pvm.ts";
import { Direct, drain, now } from "../vmm/co.ts";
import { HostBridge } from "../vmm/host-bridge.ts";
import { Irqchip } from "../vmm/irqchip.ts";
import { MsiVector } from "../vmm/msi-vector.ts";
import { AssignedMsix } from "../vmm/pci-assign.ts";
import { enableVfioIntx, openVfioDevice, VfioMsix } from "../vmm/vfio-pci.ts";
import { describeDevice } from "./assigned-host.ts";
import { programIoapic } from "./irqchips.ts";
import {
  CODE,
  fs,
  type GuestScript,
  gs,
  guestMemory,
  out16,
  out32,
  PORT_DONE,
  waitFor,
} from "./small-guest.ts";
import { enableLapic } from "./x86-vm.ts";

// ---- the machine ----------------------------------------------------------------------------------------------------

const MSIX_DEVICE = { address: "0000:00:05.0", device: 0x10fe, group: 1, irq: 20, size: 8192, msix: 2 };
const INTX_DEVICE = { address: "0000:00:06.0", device: 0x10fd, group: 2, irq: 21, size: 4096 };
/** where the MSI-X table starts in BAR 0 of the first device */
const TABLE = 4096;

/** A host with both devices: a write to register 0 raises a vector of the one, and is the level of the other's pin. */
function createMachine(): Machine {
  const devices = [MSIX_DEVICE, INTX_DEVICE].map(describeDevice);
  const host = { cpus: 2, iommu: "intel", intremap: true, modules: ["vfio"] };
  return new Machine(profileFromHeader({ ...x86_64_6_18_pvm, host, devices, pci: devices }), {
    models: new Map([
      ["0x1af4:0x10fe", (device) => new RegisterDevice(device, { 0: doorbell })],
      ["0x1af4:0x10fd", (device) => new RegisterDevice(device, { 0: intxLevel })],
    ]),
  });
}

// ---- the guest ------------------------------------------------------------------------------------------------------

/** guest physical addresses; GS starts at the first BAR, FS at the virtio device */
const BARS = 0xe000_0000;
const INTX_BAR = 0x2000;
const VIRTIO = 0xd000_0000;
const KICK = 7;
const LAPIC = 0xfee0_0000;

const MSIX_VECTOR = 0x60;
const VIRTIO_VECTOR = 0x61;
const INTX_GSI = 10;
/** pin n of the IOAPIC has vector 0x50 + n */
const INTX_VECTOR = 0x50 + INTX_GSI;

/** configuration space by ports: device 5, the MSI-X capability at 0x40 */
const CONFIG_ADDRESS = 0xcf8;
const CONFIG_DATA = 0xcfc;
const MSIX_CONTROL = 0x40 + 2;

const script: GuestScript = {
  main: [
    // The driver of the MSI-X device: turn it on, program and unmask vector 1, ask for it.
    out32(CONFIG_ADDRESS, 0x8000_0000 | (5 << 11) | (MSIX_CONTROL & ~3)),
    out16(CONFIG_DATA + (MSIX_CONTROL & 3), 0x8000),
    gs(TABLE + 16, LAPIC),
    gs(TABLE + 20, 0),
    gs(TABLE + 24, MSIX_VECTOR),
    gs(TABLE + 28, 0),
    gs(0, 1),
    waitFor(0),
    // The virtio-like device: a kick, an answer.
    fs(0, KICK),
    waitFor(1),
    // The INTx device: twice, to see that its line comes back.
    gs(INTX_BAR, 1),
    waitFor(2),
    gs(INTX_BAR, 1),
    waitFor(2),
  ],
  handlers: new Map([
    [MSIX_VECTOR, { interrupt: 0, serve: [] }],
    [VIRTIO_VECTOR, { interrupt: 1, serve: [] }],
    [INTX_VECTOR, { interrupt: 2, serve: gs(INTX_BAR, 0) }],
  ]),
};

// ---- the VMM --------------------------------------------------------------------------------------------------------

const READ_WRITE = 3;
const SHARED = 1;
const PRIVATE_ANONYMOUS = 0x22;
const REGION = 2 ** 40;
/** offsets in struct kvm_run */
const EXIT_REASON = KvmRun.offsetOf.exit_reason;
const UNION = 32;

class SmallVmm {
  readonly log: string[] = [];
  readonly #process: Syscalls;
  readonly #linux: Direct;
  readonly #vm: number;
  readonly #vcpu: number;
  readonly #run: Uint8Array;
  readonly #devices: number[];
  readonly #msix: AssignedMsix;
  readonly #kick: number;
  readonly #answer: number;
  #configAddress = 0;

  /** `around`: what stands between the VMM and its kernel, a recorder for instance. */
  constructor(around: (process: Syscalls) => Syscalls) {
    const process = around(createMachine().process());
    this.#process = process;
    this.#linux = new Direct(process);
    const kvm = process.open("/dev/kvm", O_RDWR);
    this.#vm = process.ioctl(kvm, KVM_CREATE_VM, 0);
    process.ioctl(this.#vm, KVM_CREATE_IRQCHIP, 0);
    this.#vcpu = process.ioctl(this.#vm, KVM_CREATE_VCPU, 0);
    const size = process.ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    const address = process.mmap(0, size, READ_WRITE, SHARED, this.#vcpu, 0);
    this.#run = process.memory(address, size)!;
    this.#firmware();

    const pins = [{ gsi: INTX_GSI, irqchip: KVM_IRQCHIP_IOAPIC, pin: INTX_GSI }];
    const irqchip = new Irqchip(this.#linux, this.#vm, { routing: "table", gsis: 4096, pins });
    now(irqchip.change(() => 0));
    this.#devices = [MSIX_DEVICE, INTX_DEVICE].map((device) => this.#assign(device));
    this.#msix = new AssignedMsix({
      vectors: MSIX_DEVICE.msix,
      policy: "dynamic",
      host: new VfioMsix(this.#linux, this.#devices[0], irqchip),
    });
    now(enableVfioIntx(this.#linux, this.#devices[1], irqchip, INTX_GSI));
    [this.#kick, this.#answer] = this.#virtio(irqchip);
  }

  /** What a guest finds when it starts: memory, segments, controllers. */
  #firmware(): void {
    const process = this.#process;
    const image = guestMemory(script);
    const at = process.mmap(0, image.length, READ_WRITE, PRIVATE_ANONYMOUS, -1, 0);
    process.memory(at, image.length)!.set(image);
    const slot = { memory_size: BigInt(image.length), userspace_addr: BigInt(at) };
    process.ioctl(this.#vm, KVM_SET_USER_MEMORY_REGION, KvmUserspaceMemoryRegion.encode(slot));
    const sregs = new Uint8Array(KvmSregs.size);
    process.ioctl(this.#vcpu, KVM_GET_SREGS, sregs);
    const view = KvmSregs.at(sregs);
    view.cs.base = 0n;
    view.cs.selector = 0;
    for (const [segment, base] of [
      [view.es, LAPIC],
      [view.fs, VIRTIO],
      [view.gs, BARS],
    ] as const)
      segment.base = BigInt(base);
    process.ioctl(this.#vcpu, KVM_SET_SREGS, sregs);
    const regs = { rip: BigInt(CODE), rsp: 0x8000n, rflags: 2n };
    process.ioctl(this.#vcpu, KVM_SET_REGS, KvmRegs.encode(regs));
    enableLapic(process, this.#vcpu);
    programIoapic(process, this.#vm, 0, true);
  }

  /** Opens a device of the host; the guest's driver will find it allowed to speak. */
  #assign({ group, address }: { group: number; address: string }): number {
    const device = now(openVfioDevice(this.#linux, group, address));
    const command = Uint8Array.of(6, 0);
    this.#process.pwrite(device, command, 2, VFIO_PCI_CONFIG_REGION_INDEX * REGION + 4);
    return device;
  }

  /** The device that the VMM plays itself: an ioeventfd for the kick, an irqfd for the answer. */
  #virtio(irqchip: Irqchip): [kick: number, answer: number] {
    const linux = this.#linux;
    const kick = now(linux.eventfd2(0, 0x800));
    const answer = now(linux.eventfd2(0, 0));
    const flags = KVM_IOEVENTFD_FLAG_DATAMATCH;
    const doorbell = { addr: BigInt(VIRTIO), len: 4, fd: kick, flags, datamatch: BigInt(KICK) };
    now(linux.ioctl(this.#vm, KVM_IOEVENTFD, KvmIoeventfd.encode(doorbell)));
    const bridge = new HostBridge(irqchip);
    const vector = new MsiVector({
      linux,
      bridge,
      mapper: irqchip,
      eventfd: answer,
      write: () => undefined,
    });
    now(vector.enable({ addressLo: LAPIC, addressHi: 0, data: VIRTIO_VECTOR }));
    return [kick, answer];
  }

  /** Runs the guest to its end; false where it waits for something that never comes. */
  run(): boolean {
    for (;;) {
      const result = this.#process.ioctl(this.#vcpu, KVM_RUN, 0);
      if (result === -EINTR) {
        if (!this.#serveVirtio()) return false;
        continue;
      }
      const reason = load32(this.#run, EXIT_REASON);
      if (reason === KVM_EXIT_MMIO) this.#mmio();
      else if (reason !== KVM_EXIT_IO || this.#port()) return reason === KVM_EXIT_IO;
    }
  }

  /** The thread of the virtio-like device: a kick is answered. */
  #serveVirtio(): boolean {
    if (now(drain(this.#linux, this.#kick)) === 0) return false;
    this.log.push("virtio: kicked without an exit, answers");
    now(this.#linux.signal(this.#answer));
    return true;
  }

  /** A port: true at the end of the guest. */
  #port(): boolean {
    const size = this.#run[UNION + 1];
    const port = this.#run[UNION + 2] | (this.#run[UNION + 3] << 8);
    const data = loadNumber64(this.#run, UNION + 8);
    const value = size === 4 ? load32(this.#run, data) : this.#run[data] | (this.#run[data + 1] << 8);
    if (port === CONFIG_ADDRESS) this.#configAddress = value & 0xfc;
    else if (port >= CONFIG_DATA && port < CONFIG_DATA + 4) this.#config(port - CONFIG_DATA, value);
    else if (port === PORT_DONE) return true;
    else this.log.push(`guest: handled interrupt ${value & 0xff}`);
    return false;
  }

  #config(offset: number, value: number): void {
    if (this.#configAddress + offset !== MSIX_CONTROL) return;
    const on = (value & 0x8000) !== 0;
    this.log.push(`guest: MSI-X ${on ? "on" : "off"}`);
    now(this.#msix.setEnabled(on));
  }

  #mmio(): void {
    const at = loadNumber64(this.#run, UNION) - BARS;
    const data = this.#run.subarray(UNION + 8, UNION + 12);
    if (at >= TABLE && at < TABLE + 16 * MSIX_DEVICE.msix) {
      this.#table((at - TABLE) >>> 4, (at - TABLE) & 15, load32(data, 0));
      return;
    }
    const second = at >= INTX_BAR;
    this.log.push(`guest: writes ${load32(data, 0)} to the ${second ? "INTx" : "MSI-X"} device`);
    this.#process.pwrite(this.#devices[second ? 1 : 0], data, 4, second ? at - INTX_BAR : at);
  }

  /** The trapped table: three words of a message, and the mask. */
  #table(vector: number, field: number, value: number): void {
    const { addressLo, addressHi, data } = this.#msix.entries[vector];
    if (field === 12) {
      this.log.push(`guest: vector ${vector} ${(value & 1) === 0 ? "unmasked" : "masked"}`);
      now(this.#msix.setMask(vector, (value & 1) !== 0));
    } else
      this.#msix.program(vector, {
        addressLo: field === 0 ? value : addressLo,
        addressHi: field === 4 ? value : addressHi,
        data: field === 8 ? value : data,
      });
  }
}

/** Builds everything and runs the guest: what happened, line by line. */
export function runSmallVmm(around: (process: Syscalls) => Syscalls = (process) => process): string[] {
  const vmm = new SmallVmm(around);
  const ended = vmm.run();
  return [...vmm.log, ended ? "guest: done" : "guest: waits for ever"];
}
