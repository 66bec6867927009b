import { readdirSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { KVM_GET_REGS, KvmRegs } from "../../lib/abi/kvm-x86.ts";
import { compareBytes, compareResult, errnoOf } from "../../lib/trace/compare.ts";
import { readTrace } from "../../lib/trace/files.ts";
import { layoutOf } from "../../lib/trace/layout.ts";

test("two names of one error are the same answer", () => {
  expect(compareResult(-95, -1, "ENOTSUP")).toBeUndefined();
  expect(compareResult(-95, -1, "EOPNOTSUPP")).toBeUndefined();
  expect(compareResult(-22, -1, "ENOTSUP")).toBe("answered EINVAL, the kernel answered ENOTSUP");
});

test("every error that a recorded kernel answered has a number: none differs for its name alone", () => {
  const root = new URL("../../fixtures/traces", import.meta.url).pathname;
  const unknown = new Set<string>();
  for (const file of readdirSync(root, { recursive: true, encoding: "utf8" }))
    if (file.endsWith(".gz"))
      for (const line of readTrace(join(root, file)).lines)
        if ("errno" in line && line.errno !== undefined && !Number.isFinite(errnoOf(line.errno)))
          unknown.add(line.errno);
  expect([...unknown]).toEqual([]);
});

test("long differences are counted, not told one by one", () => {
  const ours = new Uint8Array(20);
  const recorded = Uint8Array.from(ours, (_, at) => (at % 4 === 0 ? 1 : 0));
  expect(compareBytes("out", ours, recorded)).toBe(
    "out: at 0 is 00, the kernel says 01, at 4 is 00, the kernel says 01, at 8 is 00, the kernel says 01, and 2 more",
  );
});

test("two numbers are told in the same base", () => {
  const layout = layoutOf(KVM_GET_REGS);
  const regs = (rflags: number) => KvmRegs.encode({ rflags });
  const told = (ours: number, recorded: number) =>
    compareBytes("out", regs(ours), regs(recorded), undefined, layout);
  expect(told(0x10046, 70)).toBe("out: rflags is 0x10046, the kernel says 0x46");
  expect(told(70, 0x10046)).toBe("out: rflags is 0x46, the kernel says 0x10046");
  expect(told(70, 2)).toBe("out: rflags is 70, the kernel says 2");
});
