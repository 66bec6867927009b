/**
 * Programs that are arbitraries of fast-check: a property over a program and its schedule, both of which shrink.
 *
 *     fc.assert(fc.property(scheduled(fc.array(step).map(toProgram)), (it) => it.run().failure === undefined));
 *
 * The schedule is data beside the program: at each step a number says who goes, counted from who would go by default, and
 * a shorter list or smaller numbers are closer to the default order. fast-check shrinks both together; its own scheduler
 * orders promises, and a run here has none.
 */
import fc from "fast-check";
import { type Chooser, type Outcome, type Program, type RunOptions, run } from "./run.ts";
import { inOrder } from "./strategies.ts";

/** A program and an order. It prints as the run that it is. */
export class Scheduled {
  readonly program: Program;
  readonly turns: readonly number[];

  constructor(program: Program, turns: readonly number[]) {
    this.program = program;
    this.turns = turns;
  }

  run(options?: RunOptions): Outcome {
    return run(this.program, turnChooser(this.turns), options);
  }

  toString(): string {
    const { log, failure, schedule } = this.run({ log: true });
    const steps = log.map(({ actor, label }, i) => `${i + 1} ${actor}: ${label}`);
    return [this.program.name, ...steps, failure?.reason ?? "nothing wrong", JSON.stringify(schedule)].join(
      "\n",
    );
  }
}

/** At step i the actor `turns[i]` places after the one that goes by default; beyond the list, the default. */
export function turnChooser(turns: readonly number[]): Chooser {
  return (enabled, current, step) => (inOrder(enabled, current, step) + (turns[step] ?? 0)) % enabled.length;
}

/** An arbitrary of `Scheduled`: turns for the first so many steps, each among so many actors beside the default one. */
export function scheduled(
  programs: fc.Arbitrary<Program>,
  { steps = 50, actors = 3 }: { steps?: number; actors?: number } = {},
): fc.Arbitrary<Scheduled> {
  const turns = fc.array(fc.nat(actors), { maxLength: steps, size: "max" });
  return fc.tuple(programs, turns).map(([program, chosen]) => new Scheduled(program, chosen));
}
