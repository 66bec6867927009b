/** Runs the small VMM and prints what happened. */
import { runSmallVmm } from "./small-vmm.ts";

for (const line of runSmallVmm()) console.log(line);
