/** The example guests: on a host whose processor runs them all of them come to their end; pvm refuses one, as it should. */
import { describe, expect, test } from "vitest";
import { KVM_EXIT_HLT, KVM_EXIT_INTERNAL_ERROR } from "../../lib/abi/kvm.ts";
import { guests, runGuest } from "../../lib/examples/guest-machine.ts";
import { defaultProfile } from "../../lib/machine/default-profile.ts";
import { Machine } from "../../lib/machine/machine.ts";

const { nativeCpuid: _, ...facts } = defaultProfile.facts;

describe.each(["svm", "vmx"])("%s", (flavour) => {
  test.each(guests.map((guest) => [guest.name, guest] as const))("%s", (_name, guest) => {
    const kernel = new Machine({ ...defaultProfile, flavour, facts }).process();
    expect(runGuest(kernel, guest)).toEqual({ output: guest.output, exitReason: KVM_EXIT_HLT, result: 0 });
  });
});

test("pvm: INT in protected mode is outside of what KVM's emulator knows", () => {
  const answers = guests.map((guest) => runGuest(new Machine(defaultProfile).process(), guest));
  expect(answers).toEqual([
    { output: "4\n", exitReason: KVM_EXIT_HLT, result: 0 },
    { output: "P", exitReason: KVM_EXIT_INTERNAL_ERROR, result: 0 },
    { output: "LH\n", exitReason: KVM_EXIT_HLT, result: 0 },
  ]);
});
