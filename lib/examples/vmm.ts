/** `npm run vmm`: runs the small VMM and prints what happened; with `-- --strace` every system call that it made. */
import { defaultProfile } from "../machine/default-profile.ts";
import type { TraceHeader } from "../trace/format.ts";
import { record } from "../trace/record.ts";
import { Strace } from "../trace/strace.ts";
import { runSmallVmm } from "./small-vmm.ts";

const header: TraceHeader = {
  format: "kvm-vfio-trace",
  version: 1,
  about: "the small VMM",
  kernel: defaultProfile.release,
  arch: defaultProfile.arch,
  kvm: defaultProfile.flavour,
  host: {},
};

/** What the small VMM prints, or with `strace` its system calls. */
export function output(strace: boolean): string[] {
  if (!strace) return runSmallVmm();
  let recorder: ReturnType<typeof record> | undefined;
  runSmallVmm((process) => (recorder = record(process)));
  const printer = new Strace(header);
  return recorder!.lines
    .filter(({ call }) => call !== "peek" && call !== "poke")
    .map((line) => printer.line(line));
}

if (process.argv[1]?.endsWith("vmm.js"))
  for (const line of output(process.argv.includes("--strace"))) console.log(line);
