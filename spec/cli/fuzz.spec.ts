/** `fake-kvm fuzz`: what cannot be asked is told, what is asked ends with a line of counts. */
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import picocolors from "picocolors";
import { afterAll, describe, expect, test } from "vitest";
import { run } from "../../lib/cli/program.ts";
import { nativeKernel } from "../../lib/native/native.ts";

const folder = mkdtempSync(join(tmpdir(), "fuzz-"));
afterAll(() => rmSync(folder, { recursive: true }));

function fuzz(...args: string[]) {
  const out: string[] = [];
  const err: string[] = [];
  const code = run(["fuzz", "--out", join(folder, "found"), ...args], {
    print: (text) => void out.push(text),
    warn: (text) => void err.push(text),
    width: Number.POSITIVE_INFINITY,
    interactive: false,
    colors: picocolors.createColors(false),
  });
  return { code, out: out.join("\n"), err: err.join("\n"), last: out.at(-1) };
}

test.each([
  [["--against", "plan9"], 'only "native" can be asked'],
  [["--group", "irqfd,nonsense"], 'no group "nonsense"'],
  [["--programs", "many"], "many is not a number"],
])("%j: exit code 2, and why", (args, why) => {
  const { code, err } = fuzz(...args);
  expect(code).toBe(2);
  expect(err).toContain(why);
});

const native = nativeKernel();

test.skipIf(native.available)("without a real kernel: exit code 2, and what is missing", () => {
  const { code, err } = fuzz();
  expect(code).toBe(2);
  expect(err).toContain(native.available ? "" : native.reason);
});

describe.skipIf(!native.available)(
  native.available ? "on the real kernel" : `on the real kernel: skipped, ${native.reason}`,
  () => {
    test("programs, calls and differences in the last line", () => {
      const { code, last, out } = fuzz(
        "--programs",
        "3",
        "--group",
        "eventfd,msi",
        "--seed",
        "9",
        "--answers",
      );
      expect(last).toMatch(
        /^seed 9: 3 programs \(\d+\/s\), \d+ calls \(\d+\/s\), [\d.]+ s, 0 differences, 0 known, \d+ unstable$/,
      );
      expect(out).toMatch(/KVM_CREATE_VM: ok \d+/);
      expect(code).toBe(0);
      expect(existsSync(join(folder, "found"))).toBe(false);
    });
  },
);
