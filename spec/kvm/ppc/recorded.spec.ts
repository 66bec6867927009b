/** What POWER kernels answered: every call is answered the same. */
import { describe, expect, test } from "vitest";
import { identical, identicalFolder } from "../recorded.ts";
import { eduInterrupts, ioeventfdsAndInterrupt, mailboxes, withGuests } from "./guests.ts";

describe("traces", () => {
  const folders: [folder: string, traces: number, calls: number][] = [
    ["traces/ppc64le-kvm-6.1", 10, 12666],
    ["traces/ppc64le-kvm-6.12", 24, 28652],
    ["traces/ppc64le-kvm-pr", 7, 1314],
  ];
  test.each(folders)("%s: %i traces, %i calls", (folder, traces, calls) => {
    expect(identicalFolder(folder, traces)).toBe(calls);
  });
});

describe("recorded beside the traces, from the same machines", () => {
  const recordings: [name: string, calls: number][] = [
    ["ppc64le-6.1/registers", 774],
    ["ppc64le-6.1/xics-states", 5757],
    ["ppc64le-6.1/random-4", 1007],
    ["ppc64le-6.12/registers", 774],
    ["ppc64le-6.12/xics-states", 5757],
    ["ppc64le-6.12/powernv9-registers", 774],
    ["ppc64le-6.12/powernv9-xive", 1427],
    ["ppc64le-6.12/hash-tables", 77],
    ["ppc64le-6.12/powernv9-hash-tables", 74],
    ["ppc64le-6.12/random-1", 607],
    ["ppc64le-6.12/random-2", 607],
    ["ppc64le-6.12/random-3", 606],
    ["ppc64le-6.12/powernv9-random-1", 607],
    ["ppc64le-6.12/powernv9-random-2", 607],
    ["ppc64le-6.12/powernv9-random-3", 606],
  ];
  test.each(recordings)("%s: %i calls", (name, calls) => {
    expect(identical(`recorded/${name}.jsonl.gz`)).toBe(calls);
  });
});

describe("guests, with a script in place of the machine code", () => {
  test.each([
    "traces/ppc64le-kvm-6.1/guest-code/guest.jsonl.gz",
    "traces/ppc64le-kvm-6.12/guest-code/guest.jsonl.gz",
    "traces/ppc64le-kvm-6.12/guest-code/powernv9-guest.jsonl.gz",
    "traces/ppc64le-kvm-pr/guest-code/pr-guest.jsonl.gz",
  ])("%s", (path) => {
    expect(identical(path, withGuests(ioeventfdsAndInterrupt))).toBe(133);
  });

  test.each(["vfio-kvm", "powernv9-vfio-kvm"])("an assigned device: %s", (name) => {
    const path = `traces/ppc64le-kvm-6.12/guest-code/${name}.jsonl.gz`;
    expect(identical(path, withGuests(eduInterrupts))).toBe(96);
  });

  const folders: [folder: string, traces: number, calls: number][] = [
    ["recorded/ppc64le-6.1/guest-code", 1, 2152],
    ["recorded/ppc64le-6.12/guest-code", 5, 14028],
  ];
  test.each(folders)("hypercalls: %s: %i traces, %i calls", (folder, traces, calls) => {
    expect(identicalFolder(folder, traces, withGuests(mailboxes))).toBe(calls);
  });
});
