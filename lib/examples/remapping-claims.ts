/** What was said in thread 001, each with the run that decides. */
import { ENOSPC } from "../abi/errno.ts";
import { explore } from "../fuzz/explore/explore.ts";
import { InterruptRemapping, type RemappingKind } from "../hardware/interrupt-remapping.ts";
import { type DomainIrq, Domains, irqKinds, PLACEHOLDER_VECTOR } from "../hardware/irq-domain.ts";
import { VectorMatrix } from "../hardware/vector-matrix.ts";
import { now } from "../vmm/co.ts";
import { RemappedMsix } from "../vmm/guest-remapping.ts";
import { moving, type Protocol } from "./affinity.ts";
import { AssignedWorld, message } from "./assigned-msix.ts";
import type { Claim } from "./claims.ts";
import { all, everyFault, fourMsi, lastVector, learns, remappings, unplug } from "./remapping.ts";

const safe = (protocol: Protocol): boolean => explore(moving(protocol), all).counterexample === undefined;

const SOURCE = "0000:00:05.0";

function host(kind: RemappingKind, { entries = 64, firstSystem = 0xec } = {}): Domains {
  return new Domains({
    matrix: new VectorMatrix({ cpus: 2, firstSystem, system: [0x80] }),
    remapping: new InterruptRemapping(kind, entries),
  });
}

const allocate = (domains: Domains, count = 1): DomainIrq[] =>
  domains.allocate("MSI-X", SOURCE, count) as DomainIrq[];

/** What the device holds after allocation, request and two moves. */
function messages(kind: RemappingKind): string[] {
  const domains = host(kind);
  const [irq] = allocate(domains);
  const seen = [JSON.stringify(irq.message)];
  for (const change of [
    () => domains.request(irq),
    () => domains.setAffinity(irq, 1),
    () => domains.setAffinity(irq, 0),
  ]) {
    change();
    seen.push(JSON.stringify(irq.message));
  }
  return [...new Set(seen)];
}

const GLEIXNER = "Gleixner";
const DAY = "2021-12-10";

export const claims: readonly Claim[] = [
  {
    who: GLEIXNER,
    when: DAY,
    says: "without remapping, a message that is not updated atomically is a problem when the affinity changes",
    holds: () => !safe("address, then data"),
    verdict: "confirmed",
    by: "exploration: the device fires between the two halves, the interrupt is spurious and lost",
  },
  {
    who: GLEIXNER,
    when: DAY,
    says: "the protocol of msi_set_affinity copes with it",
    holds: () => safe("vector first, on the old processor"),
    verdict: "confirmed",
    by: "every order of the protocol, two interrupts",
  },
  {
    who: GLEIXNER,
    when: DAY,
    says: "it is not to be hoped that each driver gets the protocol right",
    holds: () => !safe("the same, without a look at the IRR"),
    verdict: "confirmed",
    by: "exploration: leaving one step out loses an interrupt",
  },
  {
    who: GLEIXNER,
    when: DAY,
    says: "with remapping the affinity change happens at the entry, and needs no care at the device",
    holds: () => safe("remapping"),
    verdict: "confirmed",
    by: "every order of one update of the entry, two interrupts",
  },
  {
    who: GLEIXNER,
    when: DAY,
    says: "multi-vector MSI is not supported on x86 unless interrupt remapping is enabled",
    holds: () => fourMsi(false) === 1 && fourMsi(true) === 4,
    verdict: "confirmed",
    by: "a driver asks for four",
  },
  {
    who: GLEIXNER,
    when: DAY,
    says: "with remapping the message is constructed at allocation and does not change after that",
    holds: () => messages("intel").length === 1 && messages("amd").length === 1,
    verdict: "confirmed",
    by: "the device's message after allocation, request, and two moves: Intel's format and AMD's",
  },
  {
    who: GLEIXNER,
    when: DAY,
    says: "without remapping it does",
    holds: () => messages(null).length > 2,
    verdict: "confirmed",
    by: "the same without remapping: placeholder, vector, and one for each processor",
  },
  {
    who: GLEIXNER,
    when: DAY,
    says: "the next interrupt after the change ends up on the new target",
    holds: () => {
      const domains = host("intel");
      const [irq] = allocate(domains);
      domains.request(irq);
      const other = 1 - irq.cpu;
      domains.setAffinity(irq, other);
      return domains.send(irq) === irq && irq.cpu === other;
    },
    verdict: "confirmed",
    by: "one message sent after setAffinity",
  },
  {
    who: GLEIXNER,
    when: DAY,
    says: "allocation takes an entry of the remapping table, which can fail",
    holds: () => {
      const domains = host("intel", { entries: 2 });
      allocate(domains, 2);
      return domains.allocate("MSI-X", SOURCE) === -ENOSPC;
    },
    verdict: "confirmed",
    by: "a table of two entries",
  },
  {
    who: GLEIXNER,
    when: DAY,
    says: "the special vector of reservation is handed out to all allocated interrupts",
    holds: () => {
      const domains = host("intel");
      const before = domains.matrix.free;
      const irqs = allocate(domains, 10);
      const places = irqs.map((irq) => domains.remapping.translate(SOURCE, irq.message));
      return places.every((place) => place === PLACEHOLDER_VECTOR) && domains.matrix.free === before;
    },
    verdict: "confirmed",
    by: "ten interrupts lead to one vector, and no vector is taken",
  },
  {
    who: GLEIXNER,
    when: DAY,
    says: "reservation lets devices allocate tons of MSI-X vectors without using them",
    holds: () => unplug(true, 600, 50).allocated === 600 && unplug(false, 600, 50).allocated === -ENOSPC,
    verdict: "confirmed",
    by: "600 interrupts on two processors, with and without reservation",
  },
  {
    who: GLEIXNER,
    when: DAY,
    says: "moving everything off a processor can exhaust the vectors; reservation avoids that",
    holds: () => unplug(false, 300, 50).unplugged === -ENOSPC && unplug(true, 300, 50).unplugged === 0,
    verdict: "confirmed",
    by: "300 interrupts of which 50 are requested, one of two processors goes",
  },
  {
    who: GLEIXNER,
    when: DAY,
    says: "reservation avoids it whatever is in use",
    holds: () => unplug(true, 300, 300).unplugged === 0,
    verdict: "contradicted",
    by: "300 interrupts, all requested: the processor has to stay",
  },
  {
    who: GLEIXNER,
    when: DAY,
    says: "both activations can fail, and the error is propagated",
    holds: () => {
      const cell = learns("MSI-X", { host: true, guest: true });
      return cell !== "not offered" && cell.map(({ step }) => step).join() === "IRTE,placeholder,vector";
    },
    verdict: "confirmed",
    by: "each step fails once, and request_irq answers",
  },
  {
    who: GLEIXNER,
    when: DAY,
    says: "a new vector for another processor can fail, and the interrupt stays where it was",
    holds: () => {
      const domains = host("intel", { firstSystem: 0x22 });
      const irqs = allocate(domains, 4);
      for (const irq of irqs) domains.request(irq);
      const [irq] = irqs;
      const { place } = irq;
      const answer = domains.setAffinity(irq, 1 - irq.cpu);
      return answer === -ENOSPC && irq.place === place && domains.send(irq) === irq;
    },
    verdict: "confirmed",
    by: "two processors with two vectors each, all taken",
  },
  {
    who: GLEIXNER,
    when: DAY,
    says: "today's allocation at unmask fails silently",
    holds: () =>
      everyFault("trap and unmask").some(({ requested, came }) => requested === 0 && came === 0) &&
      explore(lastVector("trap and unmask"), all).counterexample !== undefined,
    verdict: "confirmed",
    by: "KVM and VFIO: request_irq answers 0 and nothing comes, at most of the host's allocations",
  },
  {
    who: GLEIXNER,
    when: DAY,
    says: "one hypercall, where the guest updates its entry, is enough",
    holds: () => {
      const { hostMsix, device } = new AssignedWorld("dynamic");
      const msix = new RemappedMsix(hostMsix, device);
      for (const vector of [0, 1]) {
        now(msix.updateEntry(vector, message(vector)));
        msix.setMask(vector, false);
      }
      return msix.exits === 2;
    },
    verdict: "confirmed",
    by: "two interrupts, two exits",
  },
  {
    who: GLEIXNER,
    when: DAY,
    says: "with it a failure of the host is a failure of the guest's activation",
    holds: () =>
      everyFault("hypercall at activation").every(({ requested, came }) => requested < 0 && came === 0) &&
      explore(lastVector("hypercall at activation"), all).counterexample === undefined,
    verdict: "confirmed",
    by: "every allocation of the host fails once: request_irq answers an errno each time",
  },
  {
    who: GLEIXNER,
    when: DAY,
    says: "it works for everything from INTx to IMS, but INTx has no reservation",
    holds: () =>
      irqKinds.every((kind) => {
        const cell = learns(kind, { host: true, guest: true });
        if (cell === "not offered") return false;
        const reserves = cell.some(({ step }) => step === "placeholder");
        return cell.every((each) => each.learns === "guest") && reserves === (kind !== "INTx");
      }),
    verdict: "confirmed",
    by: "the row 'host and guest' of the table",
  },
  {
    who: GLEIXNER,
    when: DAY,
    says: "IMS has to depend on remapping on both sides",
    holds: () =>
      remappings.every(
        (remapping) => (learns("IMS", remapping) === "not offered") === !(remapping.host && remapping.guest),
      ),
    verdict: "confirmed",
    by: "the column IMS of the table",
  },
  {
    who: "Gunthorpe",
    when: "2021-12-09",
    says: "the MSI-X table could be mapped straight into the guest",
    holds: () => {
      const { hostMsix, device, receiver } = new AssignedWorld("dynamic");
      const msix = new RemappedMsix(hostMsix, device);
      now(msix.updateEntry(0, message(0)));
      msix.setMask(0, true);
      device.msix!.raise(0);
      const held = receiver.deliveries.length === 0;
      msix.setMask(0, false);
      return held && receiver.count(message(0).data) === 1 && msix.exits === 1;
    },
    verdict: "confirmed",
    by: "the guest masks and unmasks without an exit; the pending interrupt comes exactly once",
  },
];
