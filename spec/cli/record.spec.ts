import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import picocolors from "picocolors";
import { afterAll, describe, expect, test } from "vitest";
import { run } from "../../lib/cli/program.ts";
import { nativeKernel } from "../../lib/native/native.ts";
import { readTrace } from "../../lib/trace/files.ts";

// inside the project, as a user's script is in theirs: a TypeScript file is compiled by the project's esbuild
const folder = mkdtempSync(join(import.meta.dirname, ".record-"));
afterAll(() => rmSync(folder, { recursive: true }));

const KVM_CREATE_VM = 0xae01;
const script = (name: string, source: string): string => {
  const path = join(folder, name);
  writeFileSync(path, source);
  return path;
};
const routes = script(
  "routes.ts",
  `interface Linux { open(path: string, flags: number): number; ioctl(fd: number, request: number, argument: unknown): number }
  export const about = "what an irqfd of nothing answers";
  export default function anIrqfdOfNothing(linux: Linux): void {
    const vm = linux.ioctl(linux.open("/dev/kvm", 2), ${KVM_CREATE_VM}, 0);
    linux.ioctl(vm, 0xae60, 0);
    const irqfd = new Uint8Array(32);
    irqfd[0] = 99;
    linux.ioctl(vm, 0x4020ae76, irqfd);
    linux.ioctl(vm, 0x8030ae7c, new Uint8Array(48));
    linux.ioctl(linux.ioctl(vm, 0xae41, 0), 0x8048ae9f, new Uint8Array(72));
  }`,
);

async function commandLine(...args: string[]) {
  const lines: string[] = [];
  const warnings: string[] = [];
  const output = {
    print: (text: string) => void lines.push(text),
    warn: (text: string) => void warnings.push(text),
    width: Number.POSITIVE_INFINITY,
    interactive: false,
    colors: picocolors.createColors(false),
  };
  const code = await run(args, output, true);
  return { code, text: lines.join("\n"), warnings: warnings.join("\n") };
}

test("a script in TypeScript is recorded on the fake, and its trace replays", async () => {
  const out = join(folder, "routes.jsonl.gz");
  const { code, text } = await commandLine("record", routes, "--on", "fake", "--out", out, "--strace");
  expect(code).toBe(0);
  expect(text.split("\n")[0]).toBe('open("/dev/kvm", O_RDWR) = 3');
  expect(text).toContain("KVM_IRQFD, {fd=99, gsi=0, flags=0, resamplefd=0}) = -1 EBADF");
  expect(text.split("\n").at(-1)).toBe(`7 lines of Linux 6.18 (KVM pvm), 0 bytes volatile: ${out}`);
  const { header, lines } = readTrace(out);
  expect(header).toMatchObject({
    scenario: "anIrqfdOfNothing",
    about: "what an irqfd of nothing answers",
    vcpuMmapSize: 12288,
  });
  expect(lines).toHaveLength(7);
  expect((await commandLine("replay", out)).text).toContain("7 calls, 7 identical, 0 different");
  expect(readdirSync(folder).filter((name) => name.startsWith(".routes"))).toEqual([]);
});

describe("on the real kernel", () => {
  const native = nativeKernel();
  const title = `what it answers is what the fake answers${native.available ? "" : `: skipped, ${native.reason}`}`;
  test.skipIf(!native.available)(title, async () => {
    const out = join(folder, "native.jsonl");
    const { code, text } = await commandLine("record", routes, "--out", out);
    expect(code).toBe(0);
    // the nanoseconds of KVM_GET_CLOCK are not the same twice
    expect(Number(/(\d+) bytes volatile/.exec(text)?.[1])).toBeGreaterThan(0);
    const replayed = await commandLine("replay", out);
    expect(replayed.text).toContain("7 calls, 7 identical, 0 different");
  });
});

test("a script that does not do the same twice is refused, or recorded once", async () => {
  const fickle = script(
    "fickle.mjs",
    "let runs = 0; export const scenario = 'fickle'; export function go(linux) { linux.eventfd2(runs++, 0); }",
  );
  const out = join(folder, "fickle.jsonl");
  const twice = await commandLine("record", fickle, "--on", "fake", "--export", "go", "--out", out);
  expect(twice.code).toBe(1);
  expect(twice.warnings).toMatch(
    /fickle.mjs did not do the same twice: call 1 eventfd2: .*--once records one run/,
  );
  expect(existsSync(out)).toBe(false);
  const once = await commandLine("record", fickle, "--on", "fake", "--export", "go", "--out", out, "--once");
  expect(once.code).toBe(0);
  expect(readTrace(out).lines).toMatchObject([{ call: "eventfd2", initval: 2, ret: 3 }]);
});

test("what cannot be done is told, with exit code 2", async () => {
  const empty = script("empty.mjs", "export const other = 1;");
  const broken = script("broken.ts", "export default function (");
  const throws = script(
    "throws.mjs",
    "export const x = 1;\nexport default () => { throw new Error('boom'); };",
  );
  const nothing = script("nothing.mjs", "throw null;");
  const idle = script("idle.mjs", "export default () => {};");
  const out = ["--out", join(folder, "never.jsonl")];
  const answers: [string[], RegExp][] = [
    [
      ["record", empty, "--on", "fake", ...out],
      /exports no function `default`: export default function …\(linux\)/,
    ],
    [["record", join(folder, "none.mjs"), "--on", "fake", ...out], /Cannot find module/],
    [["record", broken, "--on", "fake", ...out], /broken.ts: .*(Build failed|Expected|Unexpected)/s],
    [["record", throws, "--on", "fake", ...out], /throws.mjs:2: boom$/],
    [["record", nothing, "--on", "fake", ...out], /nothing.mjs: null was thrown$/],
    [["record", idle, "--on", "fake", "--out", folder], /: cannot be written: it is a folder$/],
    [["record", empty, "--on", "xen", ...out], /--on xen: "native" or "fake"/],
    [["record", empty], /required option '--out <file>'/],
  ];
  for (const [args, message] of answers) {
    const { code, warnings } = await commandLine(...args);
    expect(code).toBe(2);
    expect(warnings).toMatch(message);
  }
  expect(existsSync(out[1])).toBe(false);
});
