/** `npm run guests`: the guests of guest-machine.ts on two fake hosts, and on this machine's kernel if it has KVM. */
import type { Syscalls } from "../kernel/syscalls.ts";
import { defaultProfile } from "../machine/default-profile.ts";
import { Machine } from "../machine/machine.ts";
import { nativeKernel } from "../native/index.ts";
import { guests, runGuest } from "./guest-machine.ts";

const { nativeCpuid: _, ...facts } = defaultProfile.facts;
const native = nativeKernel();
const hosts: [name: string, kernel: Syscalls][] = [
  ["fake, svm", new Machine({ ...defaultProfile, flavour: "svm", facts }).process()],
  ["fake, pvm", new Machine(defaultProfile).process()],
];
if (native.available) hosts.push(["this machine", native.process()]);
else console.log(`no real kernel: ${native.reason}`);

for (const guest of guests) {
  console.log(`${guest.name}: ${guest.about}`);
  for (const [name, kernel] of hosts) {
    const { output, exitReason, result } = runGuest(kernel, guest);
    const verdict =
      output === guest.output ? "as it should" : `and stops with exit ${exitReason}, result ${result}`;
    console.log(`  ${name}: writes ${JSON.stringify(output)}, ${verdict}`);
  }
}
