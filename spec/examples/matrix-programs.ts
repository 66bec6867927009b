/**
 * Programs of MSI routes and irqfds as data; what they do under a profile, and what a twin says that knows nothing of the
 * profile but its row of the capability matrix.
 */
import fc from "fast-check";
import * as errnos from "../../lib/abi/errno.ts";
import {
  KVM_IRQFD,
  KVM_IRQFD_FLAG_DEASSIGN,
  KVM_IRQFD_FLAG_RESAMPLE,
  KVM_SET_GSI_ROUTING,
  KVM_SIGNAL_MSI,
  KvmIrqfd,
} from "../../lib/abi/kvm.ts";
import { type MatrixRequest, msi, requests } from "../../lib/examples/capability-matrix.ts";
import { fakeOf, type MatrixProfile, MESSAGES, type Stage, stages } from "../../lib/examples/matrix-hosts.ts";
import type { Syscalls } from "../../lib/kernel/syscalls.ts";
import { RouteTable } from "../../lib/vmm/route-table.ts";
import { expected } from "./expected-matrix.ts";

/** `fd` and `gsi` are 0 or 1, `message` 0 to 3; what number that is, the profile says. */
export type Op =
  | { do: "route"; routes: { gsi: number; message: number }[] }
  | { do: "message"; message: number }
  | { do: "irqfd"; fd: number; gsi: number }
  | { do: "resample"; fd: number; gsi: number }
  | { do: "unbind"; fd: number; gsi: number }
  | { do: "signal"; fd: number };

/** few of them, that programs come back to the same ones */
const FDS = 2;
const fd = fc.nat(FDS - 1);
const gsi = fc.nat(1);
const message = fc.nat(MESSAGES - 1);
const route = fc.record({
  do: fc.constant("route" as const),
  routes: fc.uniqueArray(fc.record({ gsi, message }), {
    selector: ({ gsi }) => gsi,
    maxLength: 2,
  }),
});
const binding = (what: "irqfd" | "resample" | "unbind") => fc.record({ do: fc.constant(what), fd, gsi });

export const programs: fc.Arbitrary<Op[]> = fc.array(
  fc.oneof(
    route,
    fc.record({ do: fc.constant("message" as const), message }),
    binding("irqfd"),
    binding("irqfd"),
    binding("resample"),
    binding("unbind"),
    fc.record({ do: fc.constant("signal" as const), fd }),
    fc.record({ do: fc.constant("signal" as const), fd }),
  ) as fc.Arbitrary<Op>,
  { maxLength: 16, size: "max" },
);

/** What a program sees: the answer to each step, and the messages whose interrupts came. */
export interface Outcome {
  answers: number[];
  came: number[];
}

/** The cell that a step stands in; signals and deassigning are in none. */
export const requestOf: Partial<Record<Op["do"], MatrixRequest>> = {
  route: "KVM_SET_GSI_ROUTING",
  message: "KVM_SIGNAL_MSI",
  irqfd: "KVM_IRQFD",
  resample: "KVM_IRQFD with resample",
};

/** Cells of one profile at one stage. */
export type MatrixRow = Readonly<Record<MatrixRequest, number>>;

/** The cells of a profile at a stage: "EINVAL traces/…" is −22. */
export function rowOf({ name }: MatrixProfile, stage: Stage): MatrixRow {
  const number = (cell: string): number => {
    const [answer] = cell.split(" ");
    return /^\d+$/.test(answer) ? Number(answer) : -(errnos as unknown as Record<string, number>)[answer];
  };
  const column = stages.indexOf(stage);
  return Object.fromEntries(
    requests.map((request) => [request, number(expected[request][name][column])]),
  ) as MatrixRow;
}

const ONE = Uint8Array.of(1, 0, 0, 0, 0, 0, 0, 0);

/** Runs a program under a profile, on the fake if nothing else is said. */
export function run(
  profile: MatrixProfile,
  stage: Stage,
  program: readonly Op[],
  kernel: Syscalls = fakeOf(profile),
): Outcome {
  const reached = profile.reach(kernel, stage);
  const { vm } = reached;
  const fds = Array.from({ length: FDS }, () => [kernel.eventfd2(0, 0), kernel.eventfd2(0, 0)]);
  const irqfd = (fd: number, gsi: number, flags: number) =>
    kernel.ioctl(
      vm,
      KVM_IRQFD,
      KvmIrqfd.encode({ fd: fds[fd][0], gsi: profile.gsi + gsi, flags, resamplefd: fds[fd][1] }),
    );
  const step = (op: Op): number => {
    switch (op.do) {
      case "route": {
        const messages = op.routes.map(
          ({ gsi, message }) => [profile.gsi + gsi, profile.message(message)] as const,
        );
        return kernel.ioctl(
          vm,
          KVM_SET_GSI_ROUTING,
          new RouteTable(profile.gsi + MESSAGES, [], new Map(messages)).encode(),
        );
      }
      case "message":
        return kernel.ioctl(vm, KVM_SIGNAL_MSI, msi(profile.message(op.message)));
      case "irqfd":
        return irqfd(op.fd, op.gsi, 0);
      case "resample":
        return irqfd(op.fd, op.gsi, KVM_IRQFD_FLAG_RESAMPLE);
      case "unbind":
        return irqfd(op.fd, op.gsi, KVM_IRQFD_FLAG_DEASSIGN);
      case "signal":
        return kernel.write(fds[op.fd][0], ONE);
    }
  };
  const answers = program.map((op) => {
    const answer = step(op);
    // a binding of an eventfd that was signalled before is work for later
    if (op.do !== "route") kernel.settle();
    return answer;
  });
  const came = stage === "after the first run" ? reached.came() : [];
  for (const fd of [...fds.flat(), reached.vcpu(), vm]) kernel.close(fd);
  return { answers, came };
}

/**
 * What a row of the matrix says of a program. Where no routes can be set, a GSI is the number of the interrupt itself;
 * where they can, its message arrives if the kernel takes messages at all. An eventfd that was signalled before it is
 * bound is seen then; what it had counted is forgotten with the binding.
 */
export function twin(row: MatrixRow, program: readonly Op[]): Outcome {
  const routes = new Map<number, number>();
  const bound = new Map<number, number>();
  const counted = new Set<number>();
  const came = new Set<number>();
  const raise = (gsi: number): void => {
    const message = row.KVM_SET_GSI_ROUTING < 0 ? gsi : routes.get(gsi);
    const arrives = row.KVM_SET_GSI_ROUTING < 0 || row.KVM_SIGNAL_MSI >= 0;
    if (message !== undefined && arrives) came.add(message);
  };
  const bind = (fd: number, gsi: number): number => {
    if (bound.has(fd)) return -errnos.EBUSY;
    bound.set(fd, gsi);
    if (counted.has(fd)) raise(gsi);
    return 0;
  };
  const step = (op: Op): number => {
    const request = requestOf[op.do];
    if (request !== undefined && row[request] < 0) return row[request];
    switch (op.do) {
      case "route":
        routes.clear();
        for (const { gsi, message } of op.routes) routes.set(gsi, message);
        return 0;
      case "message":
        came.add(op.message);
        return row.KVM_SIGNAL_MSI;
      case "irqfd":
      case "resample":
        return bind(op.fd, op.gsi);
      case "unbind":
        if (bound.get(op.fd) !== op.gsi) return 0;
        bound.delete(op.fd);
        counted.delete(op.fd);
        return 0;
      case "signal": {
        const gsi = bound.get(op.fd);
        if (gsi === undefined) counted.add(op.fd);
        else {
          counted.delete(op.fd);
          raise(gsi);
        }
        return ONE.length;
      }
    }
  };
  const answers = program.map(step);
  return { answers, came: [...came].sort((a, b) => a - b) };
}
