/**
 * Thread 002: when is MSI-X of an assigned device really on? Every policy of the VMM, with guests and devices that tell
 * them apart. A cell is what exploration finds over the orders in which guest and device go on.
 *
 * Guests: "Linux" programs its table, turns MSI-X on, asks the device's firmware for something, then requests its
 * interrupts one by one, which unmasks them. "FreeBSD" turns MSI-X on before it has programmed anything.
 *
 * Devices: each raises every vector once, as soon as the driver has started it. "patient" keeps an interrupt that it may
 * not send, whatever the reason; "strict" keeps it only while MSI-X is on, as the specification has it; "firmware" is
 * patient, and does what it is asked only where MSI-X is on in the device itself.
 */
import { KVM_ASSIGN_PCI_DEVICE, KVM_DEV_ASSIGN_ENABLE_IOMMU, KvmAssignedPciDev } from "../abi/kvm-legacy.ts";
import { PCI_MSIX_FLAGS, PCI_MSIX_FLAGS_ENABLE } from "../abi/pci.ts";
import { load32 } from "../abi/struct.ts";
import { explore } from "../fuzz/explore/explore.ts";
import { Receiver } from "../fuzz/explore/receiver.ts";
import type { Program } from "../fuzz/explore/run.ts";
import { Calls, step, type Thread, until } from "../fuzz/explore/thread.ts";
import type { PciDevice, ResetMethod } from "../hardware/pci-device.ts";
import { Direct, type Linux, now } from "../vmm/co.ts";
import { Irqchip } from "../vmm/irqchip.ts";
import { KvmAssignedMsix } from "../vmm/kvm-assigned-msix.ts";
import {
  AssignedMsix,
  type HostMsix,
  kvmPolicies,
  type MsixPolicy,
  type RawMsix,
  vfioPolicies,
} from "../vmm/pci-assign.ts";
import { openVfioDevice, VfioMsix } from "../vmm/vfio-pci.ts";
import { ADDRESS, AssignedHost, DEVFN, GROUP, VECTORS } from "./assigned-host.ts";
import { hex, table } from "./print.ts";
import { X86Vm } from "./x86-vm.ts";

export const policies: readonly MsixPolicy[] = [...kvmPolicies, ...vfioPolicies];
export const guests = ["Linux", "FreeBSD"] as const;
export type Guest = (typeof guests)[number];
export const devices = ["patient", "strict", "firmware"] as const;
export type Device = (typeof devices)[number];
/** What can go wrong. */
export const troubles = ["lost interrupt", "spurious interrupt", "firmware breaks"] as const;
export type Trouble = (typeof troubles)[number];

/** the vector that the guest programs for vector n of the device */
const GUEST_VECTOR = 0x60;
export const message = (vector: number) => ({
  addressLo: 0xfee0_0000,
  addressHi: 0,
  data: GUEST_VECTOR + vector,
});

const releaseOf = (policy: MsixPolicy) =>
  policy === "vector 0" ? "6.1" : policy === "dynamic" ? "6.12" : "3.7";

export interface AssignedWorldOptions {
  /** who makes the VMM's system calls */
  calls?: (host: AssignedHost) => Linux;
  resets?: readonly ResetMethod[];
  /** what happens to the device before it is assigned */
  before?: (host: AssignedHost) => void;
}

/** A VM with the device in it, and the VMM's MSI-X of that device. */
export class AssignedWorld {
  readonly host: AssignedHost;
  readonly vm: X86Vm;
  readonly device: PciDevice;
  readonly msix: AssignedMsix;
  /** what the VMM uses of the host for it */
  readonly hostMsix: HostMsix;
  readonly receiver: Receiver;

  constructor(policy: MsixPolicy, { calls, resets: methods, before }: AssignedWorldOptions = {}) {
    this.host = new AssignedHost({
      release: releaseOf(policy),
      growingMsix: policy === "empty",
      ...(methods && { resets: methods }),
    });
    before?.(this.host);
    const { process } = this.host;
    this.vm = new X86Vm(process);
    this.receiver = new Receiver(process, [this.vm.vcpu]);
    this.device = this.host.device;
    const linux = calls?.(this.host) ?? new Direct(process);
    const irqchip = new Irqchip(linux, this.vm.vm, {
      routing: "table",
      gsis: 1024,
      pins: [{ gsi: 0, irqchip: 2, pin: 0 }],
    });
    this.hostMsix = releaseOf(policy) === "3.7" ? this.#assign(linux, irqchip) : this.#open(linux, irqchip);
    this.msix = new AssignedMsix({
      vectors: VECTORS,
      policy,
      host: this.hostMsix,
      raw: rawMsix(this.device),
    });
    // The guest's driver lets the device speak.
    this.device.writeConfig(4, 2, this.device.command | 6);
  }

  #assign(linux: Linux, irqchip: Irqchip): HostMsix {
    const assigned = { assigned_dev_id: 1, devfn: DEVFN, flags: KVM_DEV_ASSIGN_ENABLE_IOMMU };
    this.host.process.ioctl(this.vm.vm, KVM_ASSIGN_PCI_DEVICE, KvmAssignedPciDev.encode(assigned));
    return new KvmAssignedMsix(linux, this.vm.vm, 1, irqchip);
  }

  #open(linux: Linux, irqchip: Irqchip): HostMsix {
    const device = now(openVfioDevice(new Direct(this.host.process), GROUP, ADDRESS));
    return new VfioMsix(linux, device, irqchip);
  }
}

/** The device's registers through sysfs: a step each. */
export function rawMsix(device: PciDevice): RawMsix {
  return {
    *maskAll() {
      yield* step("sysfs: every vector is masked", () => {
        for (let vector = 0; vector < VECTORS; vector++) device.msix!.writeTable(16 * vector + 12, 4, 1);
      });
    },
    *enable(on) {
      const at = device.msixCapability + PCI_MSIX_FLAGS;
      yield* step(`sysfs: MSI-X is turned ${on ? "on" : "off"}`, () => {
        const flags = device.readConfig(at, 2) & ~PCI_MSIX_FLAGS_ENABLE;
        device.writeConfig(at, 2, flags | (on ? PCI_MSIX_FLAGS_ENABLE : 0));
      });
    },
  };
}

/** One guest, one device, one policy. `happened` is told of every trouble; the run fails at those that are looked for. */
export const assigned = (
  policy: MsixPolicy,
  guest: Guest,
  kind: Device,
  lookFor: readonly Trouble[] = troubles,
  happened: (trouble: Trouble) => void = () => undefined,
): Program => ({
  name: `policy ${policy}, ${guest} guest, ${kind} device`,
  setup() {
    const world = new AssignedWorld(policy, { calls: ({ process }) => new Calls(process) });
    const { msix, device, receiver } = world;
    const handlers = new Set<number>();
    const raised = new Set<number>();
    const handled = new Set<number>();
    let wrong: string | undefined;
    let started = false;
    let seen = 0;

    const trouble = (which: Trouble, words: string) => {
      happened(which);
      if (lookFor.includes(which)) wrong ??= `${which}: ${words}`;
    };
    function* start(): Thread {
      started = true;
      if (kind !== "firmware") return;
      yield* step("the driver asks the firmware", () => {
        if (!device.msix!.enabled) trouble("firmware breaks", "it was asked while MSI-X was off");
      });
    }
    function* request(vector: number): Thread {
      yield* step(`the driver requests vector ${vector}`, () => void handlers.add(vector));
      yield* msix.setMask(vector, false);
    }
    function* linux(): Thread {
      for (let vector = 0; vector < VECTORS; vector++) msix.program(vector, message(vector));
      yield* msix.setEnabled(true);
      yield* start();
      for (let vector = 0; vector < VECTORS; vector++) yield* request(vector);
    }
    function* freeBsd(): Thread {
      yield* msix.setEnabled(true);
      yield* start();
      for (let vector = 0; vector < VECTORS; vector++) {
        msix.program(vector, message(vector));
        yield* request(vector);
      }
    }
    function* raise(): Thread {
      yield* until("the driver has started the device", () => started);
      for (let vector = 0; vector < VECTORS; vector++)
        yield* step(`the device raises vector ${vector}`, () => {
          raised.add(vector);
          if (kind !== "strict" || device.msix!.enabled) device.msix!.raise(vector);
        });
    }
    return {
      kernel: world.host.machine.kernel,
      threads: { guest: (guest === "Linux" ? linux : freeBsd)(), device: raise() },
      /** The guest's interrupt handlers run between two steps. */
      check() {
        for (; seen < receiver.deliveries.length; seen++) {
          const { vector } = receiver.deliveries[seen];
          const index = vector - GUEST_VECTOR;
          if (handlers.has(index)) handled.add(index);
          else trouble("spurious interrupt", `${hex(vector)}, which nobody has requested yet`);
        }
        return wrong;
      },
      final() {
        const lost = [...raised].filter((vector) => !handled.has(vector));
        if (lost.length !== 0) trouble("lost interrupt", `vector ${lost.join(", ")} was never handled`);
        return wrong;
      },
    };
  },
});

/** A cell: the troubles that some order has. */
export function troublesOf(policy: MsixPolicy, guest: Guest, kind: Device): Trouble[] {
  const found = new Set<Trouble>();
  explore(
    assigned(policy, guest, kind, [], (trouble) => found.add(trouble)),
    search,
  );
  return troubles.filter((trouble) => found.has(trouble));
}

export const search = { strategy: { exhaustive: { preemptions: 1 } } } as const;

export const tell = (found: readonly Trouble[]): string =>
  found.length === 0 ? "works" : found.map((trouble) => trouble.replace(" interrupt", "")).join(", ");

// ---- stale tables ---------------------------------------------------------------------------------------------------

export const resets = ["flr", "pm", "bus", "none"] as const;
export type Reset = (typeof resets)[number];

/**
 * A device whose last owner left every vector unmasked, with messages that are nobody's any more, is assigned to a VM whose
 * VMM turns MSI-X on by hand. How many of its interrupts leave the device before the guest has requested any.
 * `restored`: the host writes the table back after the reset.
 */
export function strayMessages(masks: boolean, reset: Reset, restored: boolean): number {
  const prepare = ({ device }: AssignedHost) => {
    for (let vector = 0; vector < VECTORS; vector++) {
      device.msix!.writeTable(16 * vector, 4, 0xfee0_0000);
      device.msix!.writeTable(16 * vector + 8, 4, 0x70 + vector);
      device.msix!.writeTable(16 * vector + 12, 4, 0);
    }
  };
  let stale: Uint8Array | undefined;
  const world = new AssignedWorld(masks ? "sysfs" : "sysfs, unmasked", {
    resets: reset === "none" ? [] : [reset],
    before(host) {
      prepare(host);
      stale = host.device.msix!.table.slice();
    },
  });
  const { device, msix } = world;
  if (restored)
    for (let at = 0; at < stale!.length; at += 4) device.msix!.writeTable(at, 4, load32(stale!, at));
  for (let vector = 0; vector < VECTORS; vector++) msix.program(vector, message(vector));
  let sent = 0;
  const wires = device.wires!;
  device.wires = { intx: (...pin) => wires.intx(...pin), message: () => void sent++ };
  now(msix.setEnabled(true));
  for (let vector = 0; vector < VECTORS; vector++) device.msix!.raise(vector);
  return sent;
}

export function print(): string {
  const columns = guests.flatMap((guest) => devices.map((device) => [guest, device] as const));
  const cells = policies.map((policy) => [
    policy,
    ...columns.map(([guest, device]) => tell(troublesOf(policy, guest, device))),
  ]);
  const stray = [true, false].flatMap((masks) =>
    [false, true].map((restored) => [
      `${masks ? "masks by hand" : "trusts the reset"}${restored ? ", host restores the table" : ""}`,
      ...resets.map((reset) => String(strayMessages(masks, reset, restored))),
    ]),
  );
  return [
    table(["policy", ...columns.map((column) => column.join(", "))], cells),
    "",
    table(["stray messages of a stale table", ...resets], stray),
  ].join("\n");
}
