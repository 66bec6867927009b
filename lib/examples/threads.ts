/** The five threads: a table, the failures that exploration finds, and the claims of those who took part. */
import { type ExploreOptions, explore } from "../fuzz/explore/explore.ts";
import { toText } from "../fuzz/explore/report.ts";
import type { Program } from "../fuzz/explore/run.ts";
import { Machine } from "../machine/machine.ts";
import { moving } from "./affinity.ts";
import * as assignedMsix from "./assigned-msix.ts";
import { claims as assignedMsixClaims } from "./assigned-msix-claims.ts";
import type { Claim } from "./claims.ts";
import * as forwarded from "./forwarded.ts";
import { claims as forwardedClaims } from "./forwarded-claims.ts";
import * as irqchips from "./irqchips.ts";
import { claims as irqchipsClaims } from "./irqchips-claims.ts";
import * as msiToGsi from "./msi-to-gsi.ts";
import { claims as msiToGsiClaims } from "./msi-to-gsi-claims.ts";
import * as remapping from "./remapping.ts";
import { claims as remappingClaims } from "./remapping-claims.ts";

/** A program that goes wrong under some schedule. */
export interface Search {
  readonly program: Program;
  readonly options: ExploreOptions;
}

export interface Thread {
  readonly name: string;
  print(): string;
  readonly failures: readonly Search[];
  readonly claims: readonly Claim[];
}

const all: ExploreOptions = { strategy: { exhaustive: {} } };

export const threads: readonly Thread[] = [
  {
    name: "000 MSI message to GSI",
    print: msiToGsi.print,
    failures: [
      { program: msiToGsi.hotPlug("irqchip"), options: all },
      { program: msiToGsi.twoRoutes(false), options: all },
    ],
    claims: msiToGsiClaims,
  },
  {
    name: "004 creating irqchips and injecting interrupts",
    print: () => irqchips.print(() => new Machine().process()),
    failures: [
      { program: irqchips.oneLineTwoSides(true), options: all },
      { program: irqchips.sharedGsi(false), options: irqchips.search },
      { program: irqchips.announcedWhileRunning("run"), options: all },
      { program: irqchips.announcedWhileRunning("refuse"), options: all },
    ],
    claims: irqchipsClaims,
  },
  {
    name: "002 device assignment: when MSI-X is really on",
    print: assignedMsix.print,
    failures: [
      { program: assignedMsix.assigned("masked", "Linux", "strict"), options: assignedMsix.search },
      { program: assignedMsix.assigned("masked", "Linux", "firmware"), options: assignedMsix.search },
      { program: assignedMsix.assigned("data", "Linux", "patient"), options: assignedMsix.search },
      { program: assignedMsix.assigned("data, fixed", "FreeBSD", "patient"), options: assignedMsix.search },
      { program: assignedMsix.assigned("one", "Linux", "patient"), options: assignedMsix.search },
      { program: assignedMsix.assigned("vector 0", "Linux", "strict"), options: assignedMsix.search },
    ],
    claims: assignedMsixClaims,
  },
  {
    name: "001 interrupt remapping, activation and failure",
    print: remapping.print,
    failures: [
      { program: remapping.lastVector("trap and unmask"), options: all },
      { program: moving("address, then data"), options: all },
      { program: moving("the same, without a look at the IRR"), options: all },
      { program: moving("remapping, old vector released at once"), options: all },
    ],
    claims: remappingClaims,
  },
  {
    name: "003 forwarded interrupts on ARM",
    print: forwarded.print,
    failures: [
      {
        program: forwarded.device("level", { ...forwarded.forwarded, forwarded: false, unmasks: true }),
        options: forwarded.search,
      },
      {
        program: forwarded.device("level", { ...forwarded.forwarded, forwarded: false, masks: true }),
        options: forwarded.search,
      },
      { program: forwarded.sharedTimer(false), options: forwarded.search },
    ],
    claims: forwardedClaims,
  },
];

/** What exploration says of a program: the shrunk run, or that nothing was found. */
export function found({ program, options }: Search): string {
  const { counterexample, runs } = explore(program, options);
  return counterexample === undefined
    ? `${program.name}: nothing found in ${runs} runs`
    : toText(counterexample);
}
