/**
 * For vitest: a fresh host for every test, which fails where something is left behind on it, matchers, and snapshots
 * that read.
 *
 *     import { expect, test } from "fake-kvm/vitest";
 *
 *     test("no file, no descriptor", ({ linux }) => {
 *       expect(linux.open("/dev/nothing", 0)).toFailWith("ENOENT");
 *     });
 *
 * `test.override({ profile, options })` chooses another host (`test.scoped` before vitest 4.1). Importing this file registers
 * the matchers and the serializer.
 */
import { test as base, expect } from "vitest";
import type { Process } from "../kernel/process.ts";
import { defaultProfile } from "../machine/default-profile.ts";
import type { MachineOptions } from "../machine/machine.ts";
import type { Profile } from "../machine/profile.ts";
import { TestHost } from "./host.ts";
import { toFailWith, toHaveDelivered } from "./matchers.ts";
import { serializer } from "./serializer.ts";

declare module "vitest" {
  // biome-ignore lint/suspicious/noExplicitAny: as vitest declares it
  interface Matchers<T = any> {
    /** A system call failed with this error: the answer is −errno, or the checked call throws it. */
    toFailWith(code: string): T;
    /**
     * An interrupt was delivered exactly so many times (once, if nothing is said) on a host, or on one of its vCPUs: a
     * vector of a local APIC, an INTID of a GIC, a source of a XICS or XIVE.
     */
    toHaveDelivered(number: number, times?: number): T;
  }
}

expect.extend({ toFailWith, toHaveDelivered });
expect.addSnapshotSerializer(serializer);

/** What a test gets. */
export interface HostFixtures {
  /** the host to build */
  profile: Profile;
  /** how: who runs deferred work, the clock, … */
  options: MachineOptions;
  /** the host of this test */
  host: TestHost;
  /** a process on it */
  linux: Process;
}

/** vitest's `test` with a host. A test that passes and leaves something behind fails after all. */
export const test = base.extend<HostFixtures>({
  profile: defaultProfile,
  options: {},
  host: async ({ profile, options, task, onTestFinished }, use) => {
    const host = new TestHost(profile, options);
    // Here and not after `use`: what a fixture throws there is reported twice.
    onTestFinished(() => {
      if (task.result?.state !== "fail") host.verify();
    });
    await use(host);
  },
  linux: async ({ host }, use) => {
    await use(host.process());
  },
});

export { type Leftover, TestHost } from "./host.ts";
export { type MatcherResult, toFailWith, toHaveDelivered } from "./matchers.ts";
export { printStruct, printTrace, type Recorded, serializer } from "./serializer.ts";
export { WatchedVcpu } from "./watched.ts";
export { expect };
