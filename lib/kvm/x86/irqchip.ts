/**
 * The in-kernel interrupt controllers of an x86 VM: PIC pair, IOAPIC, local APICs, and the wires between them. A GSI
 * may lead to a pin of the PIC and a pin of the IOAPIC at once; the chips know nothing of each other, and messages go
 * through here (arch/x86/kvm/irq_comm.c, ioapic.c, i8259.c, 6.1).
 *
 * KVM_CREATE_IRQCHIP, KVM_GET_IRQCHIP, KVM_SET_IRQCHIP: `struct kvm_irqchip`, 520 bytes: chip_id u32 @0 (0 PIC master,
 * 1 slave, 2 IOAPIC), pad u32, the state @8. KVM_IRQ_LINE, KVM_IRQ_LINE_STATUS: `struct kvm_irq_level`, 8 bytes:
 * irq u32 (the status comes back here), level u32. KVM_SIGNAL_MSI: `struct kvm_msi`, 32 bytes.
 */
import { EEXIST, EFAULT, EINVAL, ENOENT, ENOMEM, ENOSPC, ENXIO } from "../../abi/errno.ts";
import {
  KVM_CAP_HYPERV_SYNIC,
  KVM_CREATE_IRQCHIP,
  KVM_IRQ_LINE,
  KVM_IRQ_LINE_STATUS,
  KVM_IRQ_ROUTING_HV_SINT,
  KVM_IRQ_ROUTING_IRQCHIP,
  KVM_IRQ_ROUTING_MSI,
  KVM_IRQFD,
  KVM_MSI_VALID_DEVID,
  KVM_SET_GSI_ROUTING,
  KVM_SIGNAL_MSI,
  KvmIrqLevel,
  KvmMsi,
} from "../../abi/kvm.ts";
import {
  KVM_GET_IRQCHIP,
  KVM_IRQCHIP_IOAPIC,
  KVM_IRQCHIP_PIC_MASTER,
  KVM_IRQCHIP_PIC_SLAVE,
  KVM_SET_IRQCHIP,
  KvmIrqchip,
} from "../../abi/kvm-x86.ts";
import { load32, store32 } from "../../abi/struct.ts";
import { ApicBus, NOT_FAST } from "../../hardware/apic-bus.ts";
import { DM_FIXED, DM_LOWEST, messageFromMsi, newMessage } from "../../hardware/apic-message.ts";
import { ApicSystem } from "../../hardware/apic-system.ts";
import { DELAYED, EOI_INJECT_DELAY, IOAPIC_NUM_PINS, Ioapic, RTC_GSI, SEND } from "../../hardware/ioapic.ts";
import type { Lapic } from "../../hardware/lapic.ts";
import { Pic } from "../../hardware/pic.ts";
import type { Argument } from "../../kernel/argument.ts";
import type { Timer } from "../../kernel/clock.ts";
import type { Entry } from "../dispatch.ts";
import { heldRange } from "../io-bus.ts";
import { type IrqArch, KVM_USERSPACE_IRQ_SOURCE_ID, setGsiRouting, WOULD_BLOCK } from "../irq-routing.ts";
import { irqfd } from "../irqfd.ts";
import { ROUTE_BYTES, type Route, type RoutingTable } from "../routing-table.ts";
import type { Vm, VmFile } from "../vm.ts";
import type { X86Vm } from "./vm.ts";

/** pins of one of the two PICs */
const PIC_PINS = 8;
/** where the state of a chip starts in `struct kvm_irqchip` */
const STATE = KvmIrqchip.offsetOf.chip;
/** of the data of a message */
const MSI_LEVEL = 1 << 15;
/** GSIs that lead to both the PIC and the IOAPIC after KVM_CREATE_IRQCHIP */
const ISA_GSIS = 16;

export class Irqchip implements IrqArch {
  readonly vm: Vm;
  readonly mode: "kernel" | "split";
  readonly system: ApicSystem;
  readonly bus: ApicBus;
  /** in mode "kernel" only */
  readonly pic: Pic | undefined;
  readonly ioapic: Ioapic | undefined;
  /** in mode "split": so many GSIs from 0 on may belong to an IOAPIC of user space */
  readonly reservedIoapicPins: number;
  /** called when an IOAPIC pin's mask bit changes: the PIT listens to the pin of GSI 0 */
  readonly maskNotifiers: { gsi: number; changed(masked: boolean): void }[] = [];
  readonly #message = newMessage();
  readonly #asked: Lapic[] = [];
  readonly #redelivery: Timer = { expiry: Number.POSITIVE_INFINITY, fire: () => this.#redeliver() };

  constructor(vm: Vm, mode: "kernel" | "split", reservedIoapicPins = 0) {
    this.vm = vm;
    this.mode = mode;
    this.reservedIoapicPins = reservedIoapicPins;
    this.system = new ApicSystem({ ioapicInKernel: mode === "kernel" });
    this.bus = new ApicBus(this.system);
    if (mode === "kernel") {
      this.pic = new Pic();
      this.ioapic = new Ioapic();
    }
  }

  // ---- routes ----------------------------------------------------------------------------------------------------

  readonly initialized = true;
  readonly canSetRouting = true;

  irqfdAllowed(resample: boolean): boolean {
    return !resample || this.mode === "kernel";
  }

  /** arch/x86/kvm/irq_comm.c:kvm_set_routing_entry (6.1). Nothing listens to a source of Hyper-V's controller here. */
  checkRoute(type: number, first: number, second: number): number {
    switch (type) {
      case KVM_IRQ_ROUTING_IRQCHIP:
        if (this.mode === "split") return -EINVAL;
        switch (first) {
          case KVM_IRQCHIP_PIC_MASTER:
          case KVM_IRQCHIP_PIC_SLAVE:
            return second >= PIC_PINS ? -EINVAL : 0;
          case KVM_IRQCHIP_IOAPIC:
            return second >= IOAPIC_NUM_PINS ? -EINVAL : 0;
          default:
            return -EINVAL;
        }
      case KVM_IRQ_ROUTING_MSI:
        return this.#invalidMsi(second) ? -EINVAL : 0;
      case KVM_IRQ_ROUTING_HV_SINT:
        return this.vm.host.vmCapabilities.has(KVM_CAP_HYPERV_SYNIC) ? 0 : -EINVAL;
      default:
        return -EINVAL;
    }
  }

  setRoute(route: Route, sourceId: number, level: boolean, lineStatus: boolean): number {
    if (route.type === KVM_IRQ_ROUTING_MSI)
      return level ? this.sendMsi(route.addressLo, route.addressHi, route.data) : -1;
    if (route.type === KVM_IRQ_ROUTING_HV_SINT) return level ? -ENOENT : -1;
    if (route.irqchip === KVM_IRQCHIP_IOAPIC)
      return this.setIoapicPin(route.pin, sourceId, level, lineStatus);
    const input = route.irqchip === KVM_IRQCHIP_PIC_SLAVE ? PIC_PINS + route.pin : route.pin;
    const result = this.pic!.setIrq(input, level, sourceId);
    this.picChanged();
    return result;
  }

  /** arch/x86/kvm/irq_comm.c:kvm_arch_set_irq_inatomic (6.1): messages that the LAPIC map can deliver. */
  setInAtomic(route: Route): number {
    if (route.type !== KVM_IRQ_ROUTING_MSI) return WOULD_BLOCK;
    if (this.#invalidMsi(route.addressHi)) return -EINVAL;
    messageFromMsi(
      this.#message,
      route.addressLo,
      route.addressHi,
      route.data,
      this.system.settings.x2apicFormat,
    );
    const result = this.bus.deliverFast(this.#message);
    return result === NOT_FAST ? WOULD_BLOCK : result;
  }

  /** A fixed or lowest-priority message with a single destination (arch/x86/kvm/svm/avic.c:avic_pi_update_irte, 6.1). */
  postable(route: Route): boolean {
    if (route.type !== KVM_IRQ_ROUTING_MSI || this.#invalidMsi(route.addressHi)) return false;
    messageFromMsi(
      this.#message,
      route.addressLo,
      route.addressHi,
      route.data,
      this.system.settings.x2apicFormat,
    );
    if (this.#message.deliveryMode > DM_LOWEST) return false;
    return this.bus.singleDestination(this.#message) !== null;
  }

  /** Which EOIs are reported follows the table only where the IOAPIC is user space's. */
  routingChanged(): void {
    if (this.mode === "split") this.system.scans++;
  }

  notifiersChanged(): void {
    this.system.scans++;
  }

  /** With 32-bit APIC ids the low byte of an MSI's upper address must be zero (kvm_msi_route_invalid). */
  #invalidMsi(addressHi: number): boolean {
    return this.system.settings.x2apicFormat && (addressHi & 0xff) !== 0;
  }

  /** Delivers a message: −EINVAL, −1 nobody there, else how many LAPICs took it. */
  sendMsi(addressLo: number, addressHi: number, data: number): number {
    if (this.#invalidMsi(addressHi)) return -EINVAL;
    messageFromMsi(this.#message, addressLo, addressHi, data, this.system.settings.x2apicFormat);
    return this.bus.deliver(this.#message);
  }

  // ---- PIC -------------------------------------------------------------------------------------------------------

  /** After every operation of the PIC: ack notifiers run, then its output is looked at by the vCPUs. */
  picChanged(): void {
    const pic = this.pic!;
    for (let irq = pic.takeAck(); irq >= 0; irq = pic.takeAck())
      this.vm.routing.notifyAcked(
        irq < PIC_PINS ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE,
        irq % PIC_PINS,
      );
    pic.finish();
    if (!pic.takeWakeup()) return;
    for (const lapic of this.bus.lapics) lapic.picHeard = false;
    // the first that takes the PIC's interrupts is told, and nobody else
    for (const lapic of this.bus.lapics)
      if (lapic.acceptsPic()) {
        lapic.eventRequested = true;
        this.system.kick(lapic);
        return;
      }
  }

  // ---- IOAPIC ----------------------------------------------------------------------------------------------------

  setIoapicPin(pin: number, sourceId: number, level: boolean, lineStatus: boolean): number {
    return this.ioapicSends(this.ioapic!.setIrq(pin, sourceId, level, lineStatus));
  }

  /** Delivers what the IOAPIC has to send, and tells it the result. */
  ioapicSends(result: number): number {
    if (result !== SEND) return result;
    const ioapic = this.ioapic!;
    return ioapic.sent(this.bus.deliver(ioapic.message, null, ioapic.messageDestMap));
  }

  /** A LAPIC reports the end of a vector (kvm_ioapic_update_eoi): notifiers first, then the line is looked at again. */
  ioapicEoi(lapic: Lapic, vector: number, levelTriggered: boolean): void {
    const ioapic = this.ioapic!;
    ioapic.rtcEoi(lapic.vcpuId, vector);
    for (let pin = ioapic.nextPin(vector, 0); pin >= 0; pin = ioapic.nextPin(vector, pin + 1)) {
      this.vm.routing.notifyAcked(KVM_IRQCHIP_IOAPIC, pin);
      const result = this.ioapicSends(ioapic.eoi(pin, levelTriggered, lapic.directedEoi));
      if (result === DELAYED)
        this.vm.kernel.clock.arm(this.#redelivery, this.vm.kernel.clock.now + EOI_INJECT_DELAY);
    }
  }

  #wantsEoi(pin: number): boolean {
    return this.ioapic!.wantsEoi(pin, this.vm.routing.hasNotifier(KVM_IRQCHIP_IOAPIC, pin));
  }

  #leadsTo(pin: number, lapic: Lapic): boolean {
    return this.bus.matchesDestination(lapic, false, this.ioapic!.destId(pin), this.ioapic!.destMode(pin));
  }

  /** The IOAPIC's table was written: every LAPIC has to look, or those that the pin led to and leads to. */
  ioapicChanged(destinationsOnly: boolean): void {
    if (!destinationsOnly) {
      this.system.scans++;
      return;
    }
    const ioapic = this.ioapic!;
    const message = this.#message;
    message.vector = ioapic.vector(ioapic.writtenPin);
    message.deliveryMode = DM_FIXED;
    message.destMode = ioapic.destMode(ioapic.writtenPin);
    message.shorthand = 0;
    message.msiRedirHint = false;
    // the destination of before is sought in the new mode (ioapic_write_indirect, 6.1)
    for (const destId of [ioapic.destId(ioapic.writtenPin), ioapic.previousDestId]) {
      message.destId = destId;
      this.#asked.length = 0;
      this.bus.destinations(message, this.#asked);
      for (const lapic of this.#asked) lapic.eoiReports.request();
    }
  }

  /** A vCPU enters its guest: which EOIs does its LAPIC report from now on? (vcpu_scan_ioapic) */
  scan(lapic: Lapic): void {
    const { eoiReports } = lapic;
    if (!eoiReports.due) return;
    if (!lapic.hwEnabled) {
      eoiReports.taken();
      return;
    }
    eoiReports.begin();
    if (this.mode === "kernel") this.#scanIoapic(lapic);
    else this.#scanRoutes(lapic);
  }

  #scanIoapic(lapic: Lapic): void {
    const ioapic = this.ioapic!;
    const rtc = ioapic.rtcVectorOf(lapic.vcpuId);
    if (rtc !== undefined) lapic.eoiReports.add(rtc, true, false);
    for (let pin = 0; pin < IOAPIC_NUM_PINS; pin++) {
      if (!this.#wantsEoi(pin)) continue;
      const vector = ioapic.vector(pin);
      lapic.eoiReports.add(vector, this.#leadsTo(pin, lapic), lapic.pendingEoi(vector));
    }
  }

  /** Level-triggered messages of the IOAPIC of user space (kvm_scan_ioapic_routes). */
  #scanRoutes(lapic: Lapic): void {
    const message = this.#message;
    const { routing } = this.vm;
    for (let gsi = 0; gsi < this.reservedIoapicPins; gsi++)
      for (let route = routing.routes(gsi); route !== undefined; route = route.next) {
        if (route.type !== KVM_IRQ_ROUTING_MSI || (route.data & MSI_LEVEL) === 0) continue;
        const { addressLo, addressHi, data } = route;
        messageFromMsi(message, addressLo, addressHi, data, this.system.settings.x2apicFormat);
        const { vector } = message;
        lapic.eoiReports.add(vector, this.bus.matches(lapic, null, message), lapic.pendingEoi(vector));
      }
  }

  #redeliver(): void {
    for (let pin = 0; pin < IOAPIC_NUM_PINS; pin++) this.ioapicSends(this.ioapic!.redeliver(pin));
  }

  /** The EOIs of the clock's interrupt that are still to come are worked out again. */
  restoreRtc(): void {
    const ioapic = this.ioapic;
    if (ioapic === undefined) return;
    ioapic.resetRtc();
    for (const lapic of this.bus.lapics) this.restoreRtcOf(lapic);
  }

  restoreRtcOf(lapic: Lapic): void {
    const ioapic = this.ioapic;
    if (ioapic === undefined) return;
    const message = this.#message;
    message.destId = ioapic.destId(RTC_GSI);
    message.destMode = ioapic.destMode(RTC_GSI);
    message.shorthand = 0;
    const addressed = this.bus.matches(lapic, null, message);
    ioapic.restoreRtc(lapic.vcpuId, addressed, lapic.pendingEoi(ioapic.vector(RTC_GSI)));
  }

  destroy(): void {
    this.vm.kernel.clock.cancel(this.#redelivery);
  }
}

const irqchipOf = (file: VmFile): Irqchip | undefined => (file.vm.arch as X86Vm).irqchip;

/** two ports of each PIC, two of their trigger registers (arch/x86/kvm/i8259.c:kvm_pic_init, 6.1) */
const PIC_RANGES = [heldRange(0x20, 2), heldRange(0xa0, 2), heldRange(0x4d0, 2)];
const IOAPIC_RANGES = [heldRange(0xfec0_0000, 0x100)];

/** KVM_CREATE_IRQCHIP. EEXIST: there is one, split included; EINVAL: a vCPU exists already; ENOMEM; ENOSPC on a bus. */
function createIrqchip(file: VmFile): number {
  const arch = file.vm.arch as X86Vm;
  if (arch.irqchip !== undefined) return -EEXIST;
  if (file.vm.vcpus.length !== 0) return -EINVAL;
  if (file.kernel.faults.allocation("kvm_pic") || file.kernel.faults.allocation("kvm_ioapic")) return -ENOMEM;
  const { mmio, pio } = file.vm.buses;
  if (pio.hold(PIC_RANGES) < 0) return -ENOSPC;
  if (mmio.hold(IOAPIC_RANGES) < 0) {
    pio.release(PIC_RANGES);
    return -ENOSPC;
  }
  arch.irqchip = new Irqchip(file.vm, "kernel");
  const table = defaultTable ?? file.vm.routing.build(defaultRoutes, 0, defaultRoutes.length / ROUTE_BYTES);
  if (typeof table === "number") {
    arch.irqchip = undefined;
    return table;
  }
  defaultTable = table;
  file.vm.routing.share(table);
  return 0;
}

/** The default routes as a table: made once, for every VM. */
let defaultTable: RoutingTable | undefined;

/** GSI n leads to pin n of the IOAPIC, below 16 to input n of the PICs too (arch/x86/kvm/irq_comm.c, 6.1). */
const defaultRoutes = makeDefaultRoutes();

function makeDefaultRoutes(): Uint8Array {
  const routes: [gsi: number, chip: number, pin: number][] = [];
  for (let gsi = 0; gsi < IOAPIC_NUM_PINS; gsi++) {
    routes.push([gsi, KVM_IRQCHIP_IOAPIC, gsi]);
    if (gsi < ISA_GSIS)
      routes.push([gsi, gsi < PIC_PINS ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE, gsi % PIC_PINS]);
  }
  const bytes = new Uint8Array(routes.length * ROUTE_BYTES);
  routes.forEach(([gsi, chip, pin], i) => {
    const at = i * ROUTE_BYTES;
    store32(bytes, at, gsi);
    store32(bytes, at + 4, KVM_IRQ_ROUTING_IRQCHIP);
    store32(bytes, at + 16, chip);
    store32(bytes, at + 20, pin);
  });
  return bytes;
}

/**
 * KVM_CAP_SPLIT_IRQCHIP: local APICs in the kernel, the rest in user space. `pins`: GSIs from 0 on that may belong to
 * its IOAPIC. EINVAL: more than KVM_MAX_IRQ_ROUTES; EEXIST: there is an irqchip, or a vCPU.
 */
export function splitIrqchip(arch: X86Vm, pins: bigint): number {
  const { vm } = arch;
  if (pins > MAX_RESERVED_IOAPIC_PINS) return -EINVAL;
  if (arch.irqchip !== undefined || vm.vcpus.length !== 0) return -EEXIST;
  arch.irqchip = new Irqchip(vm, "split", Number(pins));
  return 0;
}

/** MAX_NR_RESERVED_IOAPIC_PINS (arch/x86/include/asm/kvm_host.h, 6.1) */
const MAX_RESERVED_IOAPIC_PINS = 4096n;

/** KVM_GET_IRQCHIP. EFAULT; ENXIO: no PIC and IOAPIC in the kernel; EINVAL: no such chip. */
function getIrqchip(file: VmFile, user: Argument): number {
  if (!user.readable(KvmIrqchip.size)) return -EFAULT;
  const irqchip = irqchipOf(file);
  if (irqchip?.mode !== "kernel") return -ENXIO;
  const chip = load32(user.bytes, user.at);
  if (chip > KVM_IRQCHIP_IOAPIC) return -EINVAL;
  if (!user.writable(KvmIrqchip.size)) return -EFAULT;
  const at = user.at + STATE;
  if (chip === KVM_IRQCHIP_IOAPIC) irqchip.ioapic!.saveTo(user.bytes, at);
  else (chip === KVM_IRQCHIP_PIC_MASTER ? irqchip.pic!.master : irqchip.pic!.slave).saveTo(user.bytes, at);
  return 0;
}

/** KVM_SET_IRQCHIP: as above. What the IOAPIC's state has pending is sent again. */
function setIrqchip(file: VmFile, user: Argument): number {
  if (!user.readable(KvmIrqchip.size)) return -EFAULT;
  const irqchip = irqchipOf(file);
  if (irqchip?.mode !== "kernel") return -ENXIO;
  const chip = load32(user.bytes, user.at);
  const at = user.at + STATE;
  if (chip === KVM_IRQCHIP_IOAPIC) {
    const ioapic = irqchip.ioapic!;
    let pending = ioapic.loadFrom(user.bytes, at);
    for (; pending !== 0; pending &= pending - 1)
      irqchip.ioapicSends(ioapic.inject(31 - Math.clz32(pending & -pending)));
    irqchip.restoreRtc();
    irqchip.ioapicChanged(false);
  } else if (chip === KVM_IRQCHIP_PIC_MASTER) irqchip.pic!.master.loadFrom(user.bytes, at);
  else if (chip === KVM_IRQCHIP_PIC_SLAVE) irqchip.pic!.slave.loadFrom(user.bytes, at);
  // whichever chip it was, one that is none too: an edge that the slave's output held back comes now
  irqchip.pic!.update();
  irqchip.picChanged();
  return chip > KVM_IRQCHIP_IOAPIC ? -EINVAL : 0;
}

/** KVM_IRQ_LINE, and with the answer −1, 0, 1, … in place of the GSI KVM_IRQ_LINE_STATUS. EFAULT; ENXIO: no irqchip. */
function irqLine(file: VmFile, user: Argument, withStatus: boolean): number {
  if (!user.readable(KvmIrqLevel.size)) return -EFAULT;
  const { vm } = file;
  if ((vm.arch as X86Vm).irqchip === undefined) return -ENXIO;
  const gsi = load32(user.bytes, user.at);
  const level = load32(user.bytes, user.at + 4) !== 0;
  const status = vm.routing.setIrq(KVM_USERSPACE_IRQ_SOURCE_ID, gsi, level, withStatus);
  if (!withStatus) return 0;
  if (!user.writable(KvmIrqLevel.size)) return -EFAULT;
  store32(user.bytes, user.at, status);
  return 0;
}

/**
 * KVM_SIGNAL_MSI: how many LAPICs took the message, 0 where those meant are disabled; −1 (EPERM) where there is
 * none. EFAULT; EINVAL: no local APICs in the kernel, flags but for an ignored VALID_DEVID, bits 39:32 of the address with 32-bit ids.
 */
function signalMsi(file: VmFile, user: Argument): number {
  if (!user.readable(KvmMsi.size)) return -EFAULT;
  const irqchip = irqchipOf(file);
  const { bytes, at } = user;
  if (irqchip === undefined || (load32(bytes, at + 12) & ~KVM_MSI_VALID_DEVID) !== 0) return -EINVAL;
  return irqchip.sendMsi(load32(bytes, at), load32(bytes, at + 4), load32(bytes, at + 8));
}

export const irqchipIoctls: readonly Entry<VmFile>[] = [
  [KVM_CREATE_IRQCHIP, createIrqchip],
  [KVM_GET_IRQCHIP, getIrqchip],
  [KVM_SET_IRQCHIP, setIrqchip],
  [KVM_IRQ_LINE, (file, user) => irqLine(file, user, false)],
  [KVM_IRQ_LINE_STATUS, (file, user) => irqLine(file, user, true)],
  [KVM_SET_GSI_ROUTING, setGsiRouting],
  [KVM_SIGNAL_MSI, signalMsi],
  [KVM_IRQFD, irqfd],
];
