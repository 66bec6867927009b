#!/usr/bin/env node
/** The command line: `fake-kvm replay`, `explain`, `explore`, `coverage`, … */
import { doJob, isJob } from "./explore-jobs.ts";
import { standardOutput } from "./output.ts";
import { run } from "./program.ts";

// a reader that went away (`| head`) is no error
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code === "EPIPE") process.exit(0);
  throw error;
});
if (isJob()) await doJob();
else process.exitCode = await run(process.argv.slice(2), standardOutput(), true);
