/**
 * Thread 001: interrupt remapping, activation and failure. Who learns that the host has run out of something: a guest
 * whose MSI-X writes are trapped, and one that tells its hypervisor at activation; which kinds of interrupt there can be;
 * what a processor's removal needs; how an interrupt moves.
 */
import { ENOSPC, errnoName } from "../abi/errno.ts";
import { type ExploreOptions, explore } from "../fuzz/explore/explore.ts";
import type { Program } from "../fuzz/explore/run.ts";
import { Calls, step, type Thread } from "../fuzz/explore/thread.ts";
import { InterruptRemapping } from "../hardware/interrupt-remapping.ts";
import { type DomainIrq, Domains, type IrqKind, type IrqStep, irqKinds } from "../hardware/irq-domain.ts";
import { VectorMatrix } from "../hardware/vector-matrix.ts";
import type { Linux } from "../vmm/co.ts";
import { now } from "../vmm/co.ts";
import { RemappedMsix } from "../vmm/guest-remapping.ts";
import { moving, protocols } from "./affinity.ts";
import { AssignedWorld, message } from "./assigned-msix.ts";
import { table } from "./print.ts";

// ---- who learns of a failure, on KVM and VFIO ----------------------------------------------------------------------

export const guestSides = ["trap and unmask", "hypercall at activation"] as const;
export type GuestSide = (typeof guestSides)[number];

/** A guest with one interrupt of an assigned device, on VFIO as of 6.12. */
class OneInterrupt {
  readonly world: AssignedWorld;
  readonly #side: GuestSide;
  readonly #remapped: RemappedMsix;
  /** what request_irq answered in the guest */
  requested: number | undefined;

  constructor(side: GuestSide, calls?: (process: AssignedWorld["host"]) => Linux) {
    this.#side = side;
    this.world = new AssignedWorld("dynamic", calls === undefined ? {} : { calls });
    this.#remapped = new RemappedMsix(this.world.hostMsix, this.world.device);
  }

  get vectorsLeft(): number {
    return this.world.host.machine.pci!.irqs.matrix.free;
  }

  /** Host drivers take vectors until so many are left. */
  leave(count: number): void {
    const { matrix } = this.world.host.machine.pci!.irqs;
    while (matrix.free > count) matrix.allocate();
  }

  /** pci_alloc_irq_vectors and request_irq in the guest. */
  *request(): Thread<number> {
    const { msix } = this.world;
    if (this.#side === "hypercall at activation") {
      const failed = yield* this.#remapped.updateEntry(0, message(0));
      if (failed === 0) this.#remapped.setMask(0, false);
      this.requested = failed;
      return failed;
    }
    msix.program(0, message(0));
    yield* msix.setEnabled(true);
    yield* msix.setMask(0, false);
    this.requested = 0;
    return 0;
  }

  fire(): void {
    this.world.device.msix!.raise(0);
  }

  get came(): number {
    return this.world.receiver.count(message(0).data);
  }

  /** request_irq said yes, and the interrupt does not come. */
  get silent(): boolean {
    return this.requested === 0 && this.came === 0;
  }

  get hostError(): number {
    return this.world.msix.error;
  }
}

/** What happened with one shortage of the host. */
export interface FaultOutcome {
  /** which allocation failed */
  readonly what: string;
  readonly requested: number;
  readonly came: number;
}

/** Every allocation of the host on the way fails once: each in a run of its own, and the last vector besides. */
export function everyFault(side: GuestSide): FaultOutcome[] {
  const outcomes: FaultOutcome[] = [];
  for (let nth = 1; ; nth++) {
    const one = new OneInterrupt(side);
    const { faults } = one.world.host.machine.kernel;
    faults.failNth("allocation", nth);
    now(one.request());
    faults.clear();
    const [hit] = faults.hits;
    if (hit === undefined) break;
    one.fire();
    outcomes.push({ what: hit.what, requested: one.requested!, came: one.came });
  }
  const one = new OneInterrupt(side);
  one.leave(0);
  now(one.request());
  one.fire();
  outcomes.push({ what: "vector of a processor", requested: one.requested!, came: one.came });
  return outcomes;
}

/** The host has one vector left, and a driver of its own wants one, too. */
export const lastVector = (side: GuestSide): Program => ({
  name: `the host's last vector, ${side}`,
  setup() {
    const one = new OneInterrupt(side, ({ process }) => new Calls(process));
    const { machine } = one.world.host;
    one.leave(1);
    function* guest(): Thread {
      yield* one.request();
      yield* step("the device raises its interrupt", () => one.fire());
    }
    function* driver(): Thread {
      yield* step("a driver of the host takes a vector", () => void machine.pci!.irqs.matrix.allocate());
    }
    return {
      kernel: machine.kernel,
      threads: { guest: guest(), host: driver() },
      final: () =>
        one.silent
          ? `silence: request_irq answered 0 in the guest, the host answered ${errnoName(-one.hostError)} to the VMM, no interrupt comes`
          : undefined,
    };
  },
});

// ---- which kinds there can be, and who learns ----------------------------------------------------------------------

export const remappings = [
  { host: false, guest: false },
  { host: true, guest: false },
  { host: false, guest: true },
  { host: true, guest: true },
] as const;
export type Remapping = (typeof remappings)[number];

/** Who is told of a failure. */
export type Learns = "guest" | "VMM at start" | "nobody";

const SOURCE = "0000:00:05.0";
const matrix = (cpus = 2) => new VectorMatrix({ cpus, firstSystem: 0xec, system: [0x80] });

const domains = (remapped: boolean, fault?: (step: IrqStep) => boolean): Domains =>
  new Domains({
    matrix: matrix(),
    remapping: new InterruptRemapping(remapped ? "intel" : null),
    ...(fault && { fault }),
  });

/** A guest's interrupt on a host, as two hierarchies; the host's nth step fails. */
function attempt(
  kind: IrqKind,
  remapping: Remapping,
  nth: number,
): { failed: IrqStep; learns: Learns } | "works" | "not offered" {
  let seen = 0;
  let failed: IrqStep | undefined;
  const host = domains(remapping.host, (step) => {
    if (++seen !== nth) return false;
    failed = step;
    return true;
  });
  const guest = domains(remapping.guest);
  // A guest's IMS needs its own remapping to tell the host, and the host's to be told apart.
  if (!guest.offers(kind) || !host.offers(kind)) return "not offered";
  const back = (): number => {
    const irqs = host.allocate(kind, SOURCE);
    return typeof irqs === "number" ? irqs : host.request(irqs[0]);
  };
  // A pin is backed when the VMM sets the device up, unless the guest's own remapping asks for it.
  const atStart = kind === "INTx" && !remapping.guest;
  if (atStart && back() < 0) return { failed: failed!, learns: "VMM at start" };
  const irqs = guest.allocate(kind, SOURCE) as DomainIrq[];
  // A guest with remapping updates its entry inside request_irq, and the hypervisor answers.
  const requestIrq = (): number => {
    const requested = guest.request(irqs[0]);
    return requested < 0 || !remapping.guest ? requested : back();
  };
  // Without, the hypervisor sees the unmasked vector afterwards, and has nobody to answer to.
  const unmask = (): number => (remapping.guest || atStart ? 0 : back());
  if (requestIrq() < 0) return { failed: failed!, learns: "guest" };
  return unmask() < 0 ? { failed: failed!, learns: "nobody" } : "works";
}

/** A cell: every step of the host that can fail, and who learns of it. */
export function learns(
  kind: IrqKind,
  remapping: Remapping,
): { step: IrqStep; learns: Learns }[] | "not offered" {
  const found: { step: IrqStep; learns: Learns }[] = [];
  for (let nth = 1; ; nth++) {
    const outcome = attempt(kind, remapping, nth);
    if (outcome === "not offered") return outcome;
    if (outcome === "works") return found;
    found.push({ step: outcome.failed, learns: outcome.learns });
  }
}

export const tellLearns = (cell: ReturnType<typeof learns>): string =>
  typeof cell === "string" ? cell : cell.map(({ step, learns }) => `${step}: ${learns}`).join(", ");

/** How many MSI vectors a driver gets that asks for four. */
export const fourMsi = (remapped: boolean): number =>
  (domains(remapped).allocate("MSI", SOURCE, 4) as DomainIrq[]).length;

// ---- a processor goes -----------------------------------------------------------------------------------------------

/** Two processors, interrupts allocated and some of them requested; then one processor is to go. 0 or −ENOSPC. */
export function unplug(
  reservation: boolean,
  allocated: number,
  requested: number,
): { allocated: number; unplugged: number | undefined } {
  const host = new Domains({ matrix: matrix(), remapping: new InterruptRemapping("intel"), reservation });
  const irqs = host.allocate("MSI-X", SOURCE, allocated);
  if (typeof irqs === "number") return { allocated: irqs, unplugged: undefined };
  for (const irq of irqs.slice(0, requested)) host.request(irq);
  return { allocated: irqs.length, unplugged: host.takeOffline(1) };
}

/** allocated, requested: a little; more than one processor has vectors; more than both have, unused and used */
export const loads = [
  [100, 50],
  [300, 50],
  [300, 300],
  [600, 50],
] as const;

export const tellUnplug = ({ allocated, unplugged }: ReturnType<typeof unplug>): string =>
  allocated === -ENOSPC ? "no vectors to allocate" : unplugged === 0 ? "goes" : "stays (ENOSPC)";

export const all: ExploreOptions = { strategy: { exhaustive: {} } };

export function print(): string {
  const sides = remappings.map(({ host, guest }) =>
    host && guest ? "host and guest" : host ? "host" : guest ? "guest" : "nowhere",
  );
  const faults = everyFault("hypercall at activation").map(({ what }) => what);
  const whats = [...new Set([...everyFault("trap and unmask").map(({ what }) => what), ...faults])];
  return [
    table(
      ["remapping", ...irqKinds, "MSI vectors of 4"],
      remappings.map((remapping, i) => [
        sides[i],
        ...irqKinds.map((kind) => tellLearns(learns(kind, remapping))),
        String(fourMsi(remapping.guest)),
      ]),
    ),
    "",
    table(
      ["allocation that fails (KVM and VFIO)", ...guestSides],
      whats.map((what) => [what, ...guestSides.map((side) => tellFault(side, what))]),
    ),
    "",
    table(
      ["a processor of two goes", ...loads.map(([a, r]) => `${a} allocated, ${r} requested`)],
      [true, false].map((reservation) => [
        reservation ? "with reservation" : "without",
        ...loads.map(([allocated, requested]) => tellUnplug(unplug(reservation, allocated, requested))),
      ]),
    ),
    "",
    table(
      ["an interrupt moves while its device fires", "every order"],
      protocols.map((protocol) => [
        protocol,
        explore(moving(protocol), all).counterexample?.failure.reason ?? "works",
      ]),
    ),
  ].join("\n");
}

/** "request_irq answers ENOMEM", "silence" */
export function tellFault(side: GuestSide, what: string): string {
  const outcomes = everyFault(side).filter((outcome) => outcome.what === what);
  if (outcomes.length === 0) return "not on the way";
  const words = outcomes.map(({ requested, came }) =>
    requested < 0
      ? `request_irq answers ${errnoName(-requested)}`
      : came === 1
        ? "comes all the same"
        : "silence",
  );
  return [...new Set(words)].join(", ");
}
