#!/usr/bin/env node
/** The command line: `fake-kvm replay`, `explain`, `explore`, `coverage`, … */
import { standardOutput } from "./output.ts";
import { run } from "./program.ts";

// a reader that went away (`| head`) is no error
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code === "EPIPE") process.exit(0);
  throw error;
});
process.exitCode = await run(process.argv.slice(2), standardOutput(), true);
