/**
 * The interrupts that a host has in use itself, before any device is given away: they take entries of the remapping
 * table and vectors of the processors, and with them decide what fits beside. Derived from the profile: the processors
 * and the IOMMU, and the PCI functions that host drivers use.
 *
 * What is known of a PC that runs Linux, seen in /proc/interrupts of the recorded hosts: timer, keyboard and mouse, a
 * serial port, the clock and ACPI are in use; every ISA interrupt but the cascade has an entry; an IOMMU has one message
 * of its own, not remapped; every PCI Express root port has one for its port services; a virtio console has two, and its
 * INTx pin is enabled. A host of another kind lists its own in `host.interrupts`.
 */
import type { HostIrqs } from "../kernel/irq.ts";
import type { PciDescription } from "../vfio/host.ts";

/** `host.interrupts` of a profile: what the host uses itself. */
export interface HostInterrupts {
  /** pins with an entry of the remapping table */
  pins: number;
  /** of these, how many are in use: each has a vector */
  active: number;
  /** messages of the IOMMU and others that are not remapped */
  unmapped: number;
  /** messages of host drivers, by the address of their function */
  messages: Readonly<Record<string, number>>;
  /** pins that a host driver has enabled for a PCI function */
  pciPins: readonly number[];
}

/** The interrupt of the timer stays where it was before the I/O APIC was set up (ISA_IRQ_VECTOR(0)). */
const TIMER_VECTOR = 0x30;

/** The pin of the 440FX's and Q35's interrupt routing for a slot of the root bus (PIRQE to PIRQH at pins 20 to 23). */
const rootPin = (slot: number, pin: number): number => 20 + ((slot + pin - 1) & 3);

const busOf = (bdf: string): number => Number.parseInt(bdf.slice(5, 7), 16);
const slotOf = (bdf: string): number => Number.parseInt(bdf.slice(8, 10), 16);

/** The bridge above each bus: bridges get the bus numbers below them in the order in which they are found. */
export function bridgesByBus(pci: readonly PciDescription[]): Map<number, string> {
  const bridges = new Map<number, string>();
  let next = 1;
  const walk = (bus: number): void => {
    for (const { bdf, class: kind } of pci) {
      if (busOf(bdf) !== bus || !kind.startsWith("0x0604")) continue;
      const below = next++;
      bridges.set(below, bdf);
      walk(below);
    }
  };
  walk(0);
  return bridges;
}

/** The pin that a function's INTx (1 for A) arrives at, through the bridges above it. */
export function pinOf(pci: readonly PciDescription[], bdf: string, intx: number): number {
  if (intx === 0) return 0;
  const bridges = bridgesByBus(pci);
  let at = bdf;
  let pin = intx;
  for (let bridge = bridges.get(busOf(at)); bridge !== undefined; bridge = bridges.get(busOf(at))) {
    pin = ((pin - 1 + slotOf(at)) & 3) + 1;
    at = bridge;
  }
  return rootPin(slotOf(at), pin);
}

/** What the host of a profile uses itself. */
export function hostInterrupts(
  host: Readonly<Record<string, unknown>>,
  pci: readonly PciDescription[],
  given: ReadonlySet<string>,
): HostInterrupts {
  const told = host.interrupts as Partial<HostInterrupts> | undefined;
  const messages: Record<string, number> = {};
  const pciPins = new Set<number>();
  for (const { bdf, vendor, device, class: kind } of pci) {
    if (given.has(bdf)) continue;
    const port = kind.startsWith("0x0604") && busOf(bdf) === 0;
    const console = vendor === "0x1af4" && device === "0x1043";
    if (!port && !console) continue;
    messages[bdf] = port ? 1 : 2;
    pciPins.add(pinOf(pci, bdf, 1));
  }
  const unmapped = host.iommu === "intel" || host.iommu === "amd" ? 1 : 0;
  return { pins: 15, active: 6, unmapped, messages, pciPins: [...pciPins], ...told };
}

/** Takes what the host uses. */
export function occupy(irqs: HostIrqs, { pins, active, unmapped, messages, pciPins }: HostInterrupts): void {
  for (let pin = 0; pin < pins; pin++) irqs.hostPin(pin < active, pin === 0 ? TIMER_VECTOR : undefined);
  for (let i = 0; i < unmapped; i++) irqs.hostMessage("", false);
  for (const pin of pciPins) irqs.enablePin(pin);
  for (const [address, count] of Object.entries(messages))
    for (let i = 0; i < count; i++) irqs.hostMessage(address, irqs.remapping.kind !== null);
}
