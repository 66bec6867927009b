import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { runInNewContext } from "node:vm";
import { describe, expect, test } from "vitest";
import { bundle, chromium, open, page } from "./bundle.ts";

const steps = [
  "1. KVM_RUN: the guest sleeps",
  "2. the device signals its eventfd: the line of GSI 5 is up; resamplefd: 0",
  "3. KVM_RUN: the handler runs and tells the device; resamplefd: 0",
  "4. KVM_RUN: the handler ends the interrupt, the guest sleeps; resamplefd: 1",
  "5. KVM_RUN: nothing is raised again, the guest sleeps; resamplefd: 0",
].join("\n");
const verdict = /^(\d+) calls replayed: \1 identical, 0 different$/;

describe("a bundle for the browser needs nothing of Node", () => {
  const entries = ["index", "abi/index", "trace/index", "vmm/index", "fuzz/index", "fuzz/fast-check"];

  test.each(entries)("lib/%s.ts", async (entry) => {
    const { metafile } = await bundle(`lib/${entry}.ts`);
    const inputs = Object.entries(metafile.inputs);
    expect(inputs.length).toBeGreaterThan(10);
    expect(inputs.flatMap(([, { imports }]) => imports.filter(({ external }) => external))).toEqual([]);
    const packages = inputs.map(([path]) => /node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(path)?.[1]);
    const allowed = entry === "fuzz/fast-check" ? ["fast-check", "pure-rand", "ts-pattern"] : ["ts-pattern"];
    expect(packages.filter((name) => name !== undefined && !allowed.includes(name))).toEqual([]);
  });

  test("what needs Node is refused", async () => {
    await expect(bundle("lib/trace/files.ts")).rejects.toThrow('Could not resolve "node:fs"');
  });
});

test("the page runs where there is a document and nothing else", async () => {
  const [, script] = /<script>([\s\S]*)<\/script>/.exec(await page())!;
  const elements: Record<string, { textContent: string }> = {};
  runInNewContext(script, {
    document: { getElementById: (id: string) => (elements[id] ??= { textContent: "" }) },
  });
  expect(elements.resampling.textContent).toBe(steps);
  expect(elements.verdict.textContent).toMatch(verdict);
});

const browser = chromium();
test.skipIf(browser === undefined)(
  browser === undefined ? "in Chromium (skipped: none in the path, and CHROMIUM names none)" : "in Chromium",
  async () => {
    const folder = mkdtempSync(join(tmpdir(), "fake-kvm-page-"));
    const path = join(folder, "page.html");
    writeFileSync(path, await page());
    const dom = open(browser!, `file://${path}`, "--dump-dom");
    rmSync(folder, { recursive: true });
    const text = (id: string) => new RegExp(`id="${id}">([^<]*)<`).exec(dom)?.[1];
    expect(text("resampling")).toBe(steps);
    expect(text("verdict")).toMatch(verdict);
  },
  90_000,
);
