/**
 * Thread 004: where interrupt controllers are, and the ways into them. On x86 all combinations of controllers in the
 * kernel and ways to inject, on the fake or on the real kernel; on POWER one line driven from two sides, controllers that
 * are connected late, and controllers that are announced before they exist.
 */
import { ENXIO, errnoName } from "../abi/errno.ts";
import {
  KVM_CAP_SPLIT_IRQCHIP,
  KVM_CREATE_IRQCHIP,
  KVM_CREATE_VCPU,
  KVM_CREATE_VM,
  KVM_DEV_TYPE_XICS,
  KVM_ENABLE_CAP,
  KVM_GET_VCPU_MMAP_SIZE,
  KVM_INTERRUPT,
  KVM_IRQ_LINE,
  KVM_RUN,
  KVM_SET_USER_MEMORY_REGION,
  KVM_SIGNAL_MSI,
  KvmEnableCap,
  KvmInterrupt,
  KvmIrqLevel,
  KvmMsi,
  KvmUserspaceMemoryRegion,
} from "../abi/kvm.ts";
import { KVM_INTERRUPT_SET, KVM_INTERRUPT_UNSET } from "../abi/kvm-ppc.ts";
import {
  KVM_GET_IRQCHIP,
  KVM_GET_SREGS,
  KVM_GET_VCPU_EVENTS,
  KVM_IRQCHIP_IOAPIC,
  KVM_IRQCHIP_PIC_MASTER,
  KVM_SET_IRQCHIP,
  KVM_SET_REGS,
  KVM_SET_SREGS,
  KvmIrqchip,
  KvmRegs,
  KvmSregs,
  KvmVcpuEvents,
} from "../abi/kvm-x86.ts";
import { loadNumber64, store32 } from "../abi/struct.ts";
import type { Program } from "../fuzz/explore/run.ts";
import { Calls, step, type Thread, until } from "../fuzz/explore/thread.ts";
import type { Syscalls } from "../kernel/syscalls.ts";
import { byHand, type Policy } from "../kernel/work-queue.ts";
import { type IrqchipProposal, KVM_SET_IRQCHIP_TYPE } from "../kvm/irqchip-type.ts";
import { H_CPPR, H_EOI, H_XIRR } from "../kvm/ppc/hypercalls.ts";
import type { PpcVcpu } from "../kvm/ppc/vcpu.ts";
import type { VcpuFile } from "../kvm/vcpu.ts";
import { sendIoapicEoi } from "../kvm/x86/guest-interrupts.ts";
import type { X86Vcpu } from "../kvm/x86/vcpu.ts";
import { Machine } from "../machine/machine.ts";
import { Direct, now } from "../vmm/co.ts";
import { Irqchip } from "../vmm/irqchip.ts";
import type { PinRoute } from "../vmm/route-table.ts";
import { MpicVm } from "./mpic-vm.ts";
import { PowerVm } from "./power-vm.ts";
import { hex, table } from "./print.ts";
import { CODE, guestMemory, out8, PORT_HANDLED } from "./small-guest.ts";
import { enableLapic, requestedVectors } from "./x86-vm.ts";

export const modes = ["none", "split", "full"] as const;
export type Mode = (typeof modes)[number];
export const ways = ["KVM_INTERRUPT", "KVM_IRQ_LINE", "irqfd", "KVM_SIGNAL_MSI"] as const;
export type Way = (typeof ways)[number];

const VECTOR = 0x41;
/** the union of exits in struct kvm_run */
const EXIT_DATA = 32;
/** a GSI that leads to a message with that vector */
const MESSAGE_GSI = 24;

/** Where an injected vector shows: in the local APIC's IRR, or as the interrupt that the vCPU takes next. */
export interface Injected {
  readonly result: number;
  readonly lapic: readonly number[];
  /** the vector that KVM_GET_VCPU_EVENTS shows as injected, or none */
  readonly cpu: number | undefined;
}

/** A VM with controllers as `mode` says, and one vCPU. */
export function x86Vm(kernel: Syscalls, mode: Mode): { vm: number; vcpu: number } {
  const vm = kernel.ioctl(kernel.open("/dev/kvm", 2), KVM_CREATE_VM, 0);
  if (mode === "full") kernel.ioctl(vm, KVM_CREATE_IRQCHIP, 0);
  if (mode === "split")
    kernel.ioctl(
      vm,
      KVM_ENABLE_CAP,
      KvmEnableCap.encode({ cap: KVM_CAP_SPLIT_IRQCHIP, args: [24n, 0n, 0n, 0n] }),
    );
  const vcpu = kernel.ioctl(vm, KVM_CREATE_VCPU, 0);
  if (mode !== "none") enableLapic(kernel, vcpu);
  return { vm, vcpu };
}

/** One cell: injects once. */
export function inject(kernel: Syscalls, mode: Mode, way: Way): Injected {
  const { vm, vcpu } = x86Vm(kernel, mode);
  const result = injectBy[way](kernel, vm, vcpu);
  kernel.settle();
  const events = new Uint8Array(KvmVcpuEvents.size);
  kernel.ioctl(vcpu, KVM_GET_VCPU_EVENTS, events);
  const { injected, nr } = KvmVcpuEvents.decode(events).interrupt;
  return { result, lapic: requestedVectors(kernel, vcpu), cpu: injected === 1 ? nr : undefined };
}

/**
 * A guest in real mode without controllers in the kernel: KVM_INTERRUPT, then one KVM_RUN. The number that the guest's
 * first output carries: that of its handler, or 1 where it ran on instead.
 */
export function jumpsToHandler(kernel: Syscalls): number {
  const kvm = kernel.open("/dev/kvm", 2);
  const vm = kernel.ioctl(kvm, KVM_CREATE_VM, 0);
  const vcpu = kernel.ioctl(vm, KVM_CREATE_VCPU, 0);
  const image = guestMemory({
    main: [out8(PORT_HANDLED, 1)],
    handlers: new Map([[VECTOR, { interrupt: 5, serve: [] }]]),
  });
  const at = kernel.mmap(0, image.length, 3, 0x22, -1, 0);
  kernel.memory(at, image.length)!.set(image);
  const slot = { memory_size: BigInt(image.length), userspace_addr: BigInt(at) };
  kernel.ioctl(vm, KVM_SET_USER_MEMORY_REGION, KvmUserspaceMemoryRegion.encode(slot));
  const sregs = new Uint8Array(KvmSregs.size);
  kernel.ioctl(vcpu, KVM_GET_SREGS, sregs);
  const view = KvmSregs.at(sregs);
  view.cs.base = 0n;
  view.cs.selector = 0;
  kernel.ioctl(vcpu, KVM_SET_SREGS, sregs);
  const interruptsOn = 0x202n;
  kernel.ioctl(vcpu, KVM_SET_REGS, KvmRegs.encode({ rip: BigInt(CODE), rsp: 0x8000n, rflags: interruptsOn }));
  kernel.ioctl(vcpu, KVM_INTERRUPT, KvmInterrupt.encode({ irq: VECTOR }));
  const size = kernel.ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
  const run = kernel.memory(kernel.mmap(0, size, 3, 1, vcpu, 0), size)!;
  if (kernel.ioctl(vcpu, KVM_RUN, 0) !== 0) return -1;
  return run[loadNumber64(run, EXIT_DATA + 8)];
}

const injectBy: Record<Way, (kernel: Syscalls, vm: number, vcpu: number) => number> = {
  KVM_INTERRUPT: (kernel, _vm, vcpu) =>
    kernel.ioctl(vcpu, KVM_INTERRUPT, KvmInterrupt.encode({ irq: VECTOR })),
  KVM_IRQ_LINE(kernel, vm) {
    messageRoute(kernel, vm);
    return line(kernel, vm, MESSAGE_GSI, 1);
  },
  irqfd(kernel, vm) {
    const irqchip = messageRoute(kernel, vm);
    const linux = new Direct(kernel);
    const fd = now(linux.eventfd2(0, 0));
    const bound = now(irqchip.addIrqfd(fd, MESSAGE_GSI));
    now(linux.signal(fd));
    return bound;
  },
  KVM_SIGNAL_MSI: (kernel, vm) =>
    kernel.ioctl(vm, KVM_SIGNAL_MSI, KvmMsi.encode({ address_lo: 0xfee0_0000, data: VECTOR })),
};

export const line = (kernel: Syscalls, vm: number, irq: number, level: number): number =>
  kernel.ioctl(vm, KVM_IRQ_LINE, KvmIrqLevel.encode({ irq, level }));

/** GSI 24 leads to the vector, where there can be routes. */
function messageRoute(kernel: Syscalls, vm: number): Irqchip {
  const taken = Array.from({ length: MESSAGE_GSI }, (_, gsi) => ({ gsi, irqchip: 2, pin: gsi }));
  const irqchip = new Irqchip(new Direct(kernel), vm, { routing: "table", gsis: 4096 });
  now(
    irqchip.change((routes) => {
      for (const _ of taken) routes.add({ addressLo: 0xfee0_0000, addressHi: 0, data: 0x30 });
      return routes.add({ addressLo: 0xfee0_0000, addressHi: 0, data: VECTOR });
    }),
  );
  return irqchip;
}

/** "0: LAPIC 0x41", "ENXIO" */
export function tell({ result, lapic, cpu }: Injected): string {
  const places = [
    ...(lapic.length === 0 ? [] : [`LAPIC ${lapic.map(hex)}`]),
    ...(cpu === undefined ? [] : [`vCPU ${hex(cpu)}`]),
  ];
  const answer = result < 0 ? errnoName(-result) : String(result);
  return places.length === 0 ? answer : `${answer}: ${places.join(", ")}`;
}

// ---- one GSI, two chips ---------------------------------------------------------------------------------------------

/** QEMU's routes: GSI 0 is pin 0 of the PIC and pin 2 of the IOAPIC. */
export const timerRoutes: readonly PinRoute[] = [
  { gsi: 0, irqchip: KVM_IRQCHIP_PIC_MASTER, pin: 0 },
  { gsi: 0, irqchip: KVM_IRQCHIP_IOAPIC, pin: 2 },
];

/** Raises GSI 0 after the IOAPIC's pins were given vectors 0x50 and up: what the PIC and the LAPIC show. */
export function raiseTimer(kernel: Syscalls): { pic: number; lapic: readonly number[] } {
  const { vm, vcpu } = x86Vm(kernel, "full");
  programIoapic(kernel, vm);
  const irqchip = new Irqchip(new Direct(kernel), vm, { routing: "table", gsis: 4096, pins: timerRoutes });
  now(irqchip.change(() => 0));
  line(kernel, vm, 0, 1);
  const pic = new Uint8Array(KvmIrqchip.size);
  store32(pic, 0, KVM_IRQCHIP_PIC_MASTER);
  kernel.ioctl(vm, KVM_GET_IRQCHIP, pic);
  return { pic: KvmIrqchip.decode(pic).chip.pic.irr, lapic: requestedVectors(kernel, vcpu) };
}

/** Pin n of the IOAPIC: vector 0x50 + n, to APIC id `destination`, not masked. */
export function programIoapic(kernel: Syscalls, vm: number, destination = 0, level = false): void {
  const state = new Uint8Array(KvmIrqchip.size);
  store32(state, 0, KVM_IRQCHIP_IOAPIC);
  kernel.ioctl(vm, KVM_GET_IRQCHIP, state);
  const table = 8 + 24;
  for (let pin = 0; pin < 24; pin++) {
    store32(state, table + 8 * pin, (level ? 1 << 15 : 0) | (0x50 + pin));
    store32(state, table + 8 * pin + 4, destination << 24);
  }
  kernel.ioctl(vm, KVM_SET_IRQCHIP, state);
}

/** A vCPU is added after the IOAPIC was created and programmed to send to it: what its LAPIC shows. */
export function hotPlugged(kernel: Syscalls): readonly number[] {
  const { vm } = x86Vm(kernel, "full");
  programIoapic(kernel, vm, 1);
  const late = kernel.ioctl(vm, KVM_CREATE_VCPU, 1);
  enableLapic(kernel, late);
  line(kernel, vm, 9, 1);
  return requestedVectors(kernel, late);
}

/** KVM_CREATE_IRQCHIP after a vCPU. */
export function lapicFirst(kernel: Syscalls): number {
  const { vm } = x86Vm(kernel, "none");
  return kernel.ioctl(vm, KVM_CREATE_IRQCHIP, 0);
}

// ---- POWER: one line, two sides --------------------------------------------------------------------------------------

const SOURCE = 0x1000;

/** A hypercall of the guest, as the vCPU makes it; undefined where it would go to user space. */
function hypercall(cpu: PpcVcpu, number: number, argument = 0): number | undefined {
  cpu.registers.setGpr(3, number);
  cpu.registers.setGpr(4, argument);
  return cpu.hypercall() ? cpu.registers.gpr(4) : undefined;
}

/**
 * A guest with two devices: one behind the in-kernel XICS, one behind a controller in user space that drives the same
 * input of the vCPU with KVM_INTERRUPT. `both`: each fires once; otherwise only one side is used, twice.
 */
export const oneLineTwoSides = (both: boolean): Program => ({
  name: both
    ? "one input, driven by the kernel and by KVM_INTERRUPT"
    : "one input, driven by the kernel alone",
  setup() {
    const vm = new PowerVm({ policy: byHand });
    const calls = new Calls(vm.process);
    const { process } = vm;
    vm.setUp(SOURCE);
    vm.setUp(SOURCE + 1);
    const irqchip = new Irqchip(new Direct(process), vm.vm, { routing: "linear" });
    const fds = [0, 1].map((n) => {
      const fd = process.eventfd2(0, 0);
      now(irqchip.addIrqfd(fd, SOURCE + n));
      return fd;
    });
    const cpu = vm.cpu();
    hypercall(cpu, H_CPPR, 0xff);
    let waiting = false;
    const handled: string[] = [];
    function* guest(): Thread {
      for (;;) {
        yield* until("an external interrupt", () => cpu.external);
        const xirr = yield* step("the guest asks the XICS: H_XIRR", () => hypercall(cpu, H_XIRR)!);
        const source = xirr & 0xff_ffff;
        if (source !== 0) {
          handled.push(hex(source));
          yield* step("the guest ends it: H_EOI", () => hypercall(cpu, H_EOI, xirr));
          continue;
        }
        const mine = yield* step("the guest asks user space", () => {
          const taken = waiting;
          waiting = false;
          return taken;
        });
        handled.push(mine ? "user" : "nothing");
        yield* calls.ioctl(vm.vcpu, KVM_INTERRUPT, KvmInterrupt.encode({ irq: KVM_INTERRUPT_UNSET }));
      }
    }
    function* inKernel(fd: number): Thread {
      yield* calls.signal(fd);
    }
    function* inUserSpace(): Thread {
      yield* step("user space: the device wants attention", () => void (waiting = true));
      yield* calls.ioctl(vm.vcpu, KVM_INTERRUPT, KvmInterrupt.encode({ irq: KVM_INTERRUPT_SET }));
    }
    const wanted = [hex(SOURCE), both ? "user" : hex(SOURCE + 1)];
    return {
      kernel: vm.machine.kernel,
      threads: {
        guest: guest(),
        "kernel device": inKernel(fds[0]),
        other: both ? inUserSpace() : inKernel(fds[1]),
      },
      daemons: ["guest"],
      final() {
        if ([...handled].sort().join() === wanted.sort().join()) return undefined;
        return `the guest handled ${handled.join(", ") || "nothing"}; wanted: ${wanted.join(", ")}`;
      },
    };
  },
});

// ---- x86: one GSI, two sides -------------------------------------------------------------------------------------------

/** a GSI whose pin of the IOAPIC is level-triggered */
const SHARED = 9;

export const search = { strategy: { exhaustive: { preemptions: 3 } } } as const;

/**
 * A level that two devices share: one drives it with KVM_IRQ_LINE, the other through an irqfd. Without resampling the
 * irqfd pulses the line, and takes it down for both: an interrupt that the first raised while the guest was in its handler
 * is forgotten. With resampling the irqfd is a source of its own.
 */
export const sharedGsi = (resample: boolean): Program => ({
  name: `one GSI, KVM_IRQ_LINE and an irqfd ${resample ? "with" : "without"} resampling`,
  setup() {
    const machine = new Machine(undefined, { policy: byHand });
    const process = machine.process();
    const calls = new Calls(process);
    const { vm, vcpu } = x86Vm(process, "full");
    programIoapic(process, vm, 0, true);
    const irqchip = new Irqchip(new Direct(process), vm, { routing: "table", gsis: 4096 });
    const fd = process.eventfd2(0, 0);
    const resamplefd = process.eventfd2(0, 0);
    now(irqchip.addIrqfd(fd, SHARED, resample ? resamplefd : undefined));
    const arch = (process.fds.get(vcpu) as VcpuFile).vcpu.arch as X86Vcpu;
    const lapic = arch.lapic!;
    const wants = { first: false, second: false };

    function* guest(): Thread {
      for (;;) {
        yield* until("an interrupt", () => lapic.hasInterrupt() !== -1);
        yield* step("the guest takes its interrupt", () => lapic.takeInterrupt());
        yield* step("its handler serves the first device", () => {
          if (wants.first) line(process, vm, SHARED, 0);
          wants.first = false;
        });
        yield* step("its handler serves the second device", () => void (wants.second = false));
        yield* step("the guest ends the interrupt", () => {
          arch.vm.irqchip!.scan(lapic);
          lapic.eoi();
          sendIoapicEoi(arch);
        });
      }
    }
    function* first(): Thread {
      yield* step("the first device raises the line: KVM_IRQ_LINE", () => {
        wants.first = true;
        line(process, vm, SHARED, 1);
      });
    }
    function* second(): Thread {
      for (let event = 0; event < 2; event++) {
        yield* step("the second device wants attention", () => void (wants.second = true));
        yield* calls.signal(fd);
      }
    }
    function* resampler(): Thread {
      for (;;) {
        yield* calls.take(resamplefd);
        yield* step("the second device still wants attention?", () => {
          if (wants.second) process.write(fd, Uint8Array.of(1, 0, 0, 0, 0, 0, 0, 0));
        });
      }
    }
    return {
      kernel: machine.kernel,
      threads: {
        guest: guest(),
        second: second(),
        first: first(),
        ...(resample && { resampler: resampler() }),
      },
      daemons: ["guest", "resampler"],
      final: () => (wants.first ? "the first device holds the line up, and nobody serves it" : undefined),
    };
  },
});

/** The line of a GSI after KVM_IRQ_LINE raised it and an irqfd without resampling pulsed it, as the IOAPIC shows it. */
export function lineAfterPulse(kernel: Syscalls): boolean {
  const { vm } = x86Vm(kernel, "full");
  programIoapic(kernel, vm, 0, true);
  const linux = new Direct(kernel);
  const irqchip = new Irqchip(linux, vm, { routing: "table", gsis: 4096 });
  const fd = now(linux.eventfd2(0, 0));
  now(irqchip.addIrqfd(fd, SHARED));
  line(kernel, vm, SHARED, 1);
  const up = ioapicLine(kernel, vm, SHARED);
  now(linux.signal(fd));
  kernel.settle();
  return up && ioapicLine(kernel, vm, SHARED);
}

function ioapicLine(kernel: Syscalls, vm: number, pin: number): boolean {
  const state = new Uint8Array(KvmIrqchip.size);
  store32(state, 0, KVM_IRQCHIP_IOAPIC);
  kernel.ioctl(vm, KVM_GET_IRQCHIP, state);
  return (KvmIrqchip.decode(state).chip.ioapic.irr & (1 << pin)) !== 0;
}

// ---- POWER: late connection, announcement ---------------------------------------------------------------------------

/** When a vCPU is connected (KVM_ENABLE_CAP), and whether the interrupt of its source comes. */
export const connections = ["before the source", "after the source", "after the interrupt"] as const;

export function connectLate(when: (typeof connections)[number]): { setUp: number; came: boolean } {
  const vm = new PowerVm({ controller: false });
  vm.createXics();
  if (when === "before the source") vm.connect(vm.vcpu, 0);
  const setUp = vm.setUp(SOURCE);
  if (when === "after the source") vm.connect(vm.vcpu, 0);
  line(vm.process, vm.vm, SOURCE, 1);
  if (when === "after the interrupt") vm.connect(vm.vcpu, 0);
  const cpu = vm.cpu();
  hypercall(cpu, H_CPPR, 0xff);
  return { setUp, came: ((hypercall(cpu, H_XIRR) ?? 0) & 0xff_ffff) === SOURCE };
}

/** The same with an MPIC: its source takes no destination that is not connected, and does not say so. */
export function connectLateMpic(when: (typeof connections)[number]): { setUp: number; came: boolean } {
  const vm = new MpicVm();
  vm.create();
  const source = 40;
  if (when === "before the source") vm.connect();
  const setUp = vm.setUp(source);
  if (when === "after the source") vm.connect();
  vm.raise(source);
  if (when === "after the interrupt") vm.connect();
  return { setUp, came: vm.external };
}

/** A second vCPU is connected while the first is at work; its source is set up afterwards. */
export function connectSecond(): boolean {
  const vm = new PowerVm();
  vm.setUp(SOURCE);
  line(vm.process, vm.vm, SOURCE, 1);
  const second = vm.addVcpu(1);
  if (vm.connect(second, 1) !== 0 || vm.setUp(SOURCE + 1, false, 1) !== 0) return false;
  line(vm.process, vm.vm, SOURCE + 1, 1);
  const cpu = vm.cpu(second);
  hypercall(cpu, H_CPPR, 0xff);
  return ((hypercall(cpu, H_XIRR) ?? 0) & 0xff_ffff) === SOURCE + 1;
}

/** What KVM_RUN does before the announced controller exists: the two answers of the thread, and a third. */
export const proposals = ["run", "refuse", "refuse unconnected"] as const;

function announcing(irqchipProposal: IrqchipProposal, policy?: Policy): PowerVm {
  const vm = new PowerVm({ irqchipProposal, controller: false, ...(policy && { policy }) });
  const type = new Uint8Array(4);
  store32(type, 0, KVM_DEV_TYPE_XICS);
  vm.process.ioctl(vm.vm, KVM_SET_IRQCHIP_TYPE, type);
  return vm;
}

/** KVM_RUN after the announcement: at once, with the controller, connected to it. EINTR: it ran, and had nothing to do. */
export function announced(proposal: IrqchipProposal): number[] {
  const vm = announcing(proposal);
  const run = () => vm.process.ioctl(vm.vcpu, KVM_RUN, 0);
  return [run(), (vm.createXics(), run()), (vm.connect(vm.vcpu, 0), run())];
}

/**
 * A VMM announces a XICS, then creates and connects it while the vCPU runs already. The guest opens its mask (H_CPPR)
 * once, at its start. Where KVM_RUN is allowed before the vCPU is connected, that hypercall goes to user space, and the
 * controller that comes later has a closed mask: the guest never gets an interrupt.
 */
export const announcedWhileRunning = (proposal: IrqchipProposal): Program => ({
  name: `a controller that is announced first; KVM_RUN until then: ${proposal}`,
  setup() {
    const vm = announcing(proposal, byHand);
    const { process } = vm;
    const calls = new Calls(process);
    const cpu = vm.cpu();
    let ready = false;
    let unheard = 0;
    let source = 0;
    function* vmm(): Thread {
      yield* step("KVM_CREATE_DEVICE(XICS)", () => vm.createXics());
      yield* step("KVM_ENABLE_CAP: the vCPU is connected", () => vm.connect(vm.vcpu, 0));
      ready = true;
      vm.setUp(SOURCE);
      yield* step("the device fires", () => line(process, vm.vm, SOURCE, 1));
    }
    function* vcpu(): Thread {
      while ((yield* calls.ioctl(vm.vcpu, KVM_RUN)) === -ENXIO) yield* until("all is ready", () => ready);
      yield* step("the guest opens its mask: H_CPPR", () => {
        if (hypercall(cpu, H_CPPR, 0xff) === undefined) unheard++;
      });
      yield* until("an external interrupt", () => cpu.external);
      source = yield* step("H_XIRR", () => (hypercall(cpu, H_XIRR) ?? 0) & 0xff_ffff);
    }
    return {
      kernel: vm.machine.kernel,
      threads: { vmm: vmm(), vcpu: vcpu() },
      daemons: ["vcpu"],
      final: () =>
        source === SOURCE
          ? undefined
          : `the interrupt never came; hypercalls that found no controller: ${unheard}`,
    };
  },
});

export const rows = (kernel: () => Syscalls): string[][] =>
  modes.map((mode) => [mode, ...ways.map((way) => tell(inject(kernel(), mode, way)))]);

export function print(kernel: () => Syscalls): string {
  const { pic, lapic } = raiseTimer(kernel());
  const name = (result: number) => (result < 0 ? errnoName(-result) : String(result));
  return [
    table(["controllers in the kernel", ...ways], rows(kernel)),
    "",
    table(
      ["what", "answer"],
      [
        ["x86: GSI 0 raised", `PIC IRR ${hex(pic)}, LAPIC ${lapic.map(hex)}`],
        ["x86: LAPIC created after the IOAPIC", `gets ${hotPlugged(kernel()).map(hex)}`],
        ["x86: IOAPIC created after a LAPIC", name(lapicFirst(kernel()))],
        [
          "x86: a line that KVM_IRQ_LINE holds up, after an irqfd's pulse",
          lineAfterPulse(kernel()) ? "up" : "down",
        ],
        ...connections.flatMap((when) =>
          Object.entries({ XICS: connectLate, MPIC: connectLateMpic }).map(([controller, connect]) => {
            const { setUp, came } = connect(when);
            return [
              `POWER, ${controller}: vCPU connected ${when}`,
              `source set up: ${name(setUp)}; its interrupt ${came ? "comes" : "does not come"}`,
            ];
          }),
        ),
        ["POWER: a second vCPU connected later", connectSecond() ? "gets its interrupt" : "gets nothing"],
        ...proposals.map((proposal) => [
          `POWER: KVM_RUN after an announcement (${proposal})`,
          announced(proposal)
            .map((result, i) => `${["at once", "created", "connected"][i]} ${name(result)}`)
            .join(", "),
        ]),
      ],
    ),
  ].join("\n");
}
