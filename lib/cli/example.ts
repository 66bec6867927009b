/** `fake-kvm example NAME`: a program that shows something, and with `--strace` the system calls that it made. */
import { resampling } from "../examples/resampling.ts";
import { runSmallVmm } from "../examples/small-vmm.ts";
import { defaultProfile } from "../machine/default-profile.ts";
import { Machine } from "../machine/machine.ts";
import type { TraceHeader } from "../trace/format.ts";
import { type Recorder, record } from "../trace/record.ts";
import { Strace } from "../trace/strace.ts";
import { type Output, UsageError } from "./output.ts";

interface Example {
  readonly about: string;
  /** what it prints; `recorder` is told who records its calls */
  run(recorder: (recorder: Recorder) => void): readonly string[];
}

const examples: Readonly<Record<string, Example>> = {
  resampling: {
    about: "a level-triggered irqfd, from the device's line to the guest's end of interrupt",
    run(recorder) {
      const process = record(new Machine().process());
      recorder(process);
      return resampling(process);
    },
  },
  vmm: {
    about: "a small VMM: two assigned PCI devices and a virtio-like one",
    run: (recorder) =>
      runSmallVmm((process) => {
        const recorded = record(process);
        recorder(recorded);
        return recorded;
      }),
  },
};

const header: TraceHeader = {
  format: "kvm-vfio-trace",
  version: 1,
  kernel: defaultProfile.release,
  arch: defaultProfile.arch,
  kvm: defaultProfile.flavour,
  host: {},
};

/** Without a name: which there are. The exit code. */
export function exampleCommand(
  name: string | undefined,
  { strace }: { strace?: boolean },
  output: Output,
): number {
  if (name === undefined) {
    for (const [each, { about }] of Object.entries(examples)) output.print(`${each}: ${about}`);
    return 0;
  }
  const example = examples[name];
  if (example === undefined)
    throw new UsageError(`no example "${name}": ${Object.keys(examples).join(", ")}`);
  let recorder: Recorder | undefined;
  const printed = example.run((recorded) => {
    recorder = recorded;
  });
  if (strace !== true) {
    for (const line of printed) output.print(line);
    return 0;
  }
  const printer = new Strace(header);
  for (const line of recorder!.lines)
    if (line.call !== "peek" && line.call !== "poke") output.print(printer.line(line));
  return 0;
}
