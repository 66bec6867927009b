import { spawnSync } from "node:child_process";
import { describe, expect, test } from "vitest";
import { KvmIrqfd, KvmIrqRoutingEntry, KvmMpState } from "../../lib/abi/index.ts";
import { checked } from "../../lib/kernel/checked.ts";
import { Machine } from "../../lib/machine/machine.ts";
import { record } from "../../lib/trace/record.ts";
import { printTrace, serializer, TestHost, toFailWith, toHaveDelivered } from "../../lib/vitest/index.ts";

interface Report {
  testResults: { assertionResults: { title: string; status: string; failureMessages: string[] }[] }[];
}

describe("the fixture, in a vitest of its own", () => {
  const { stdout, stderr } = spawnSync(
    process.execPath,
    ["node_modules/vitest/vitest.mjs", "run", "--config", "spec/vitest/inner.config.ts", "--reporter=json"],
    { encoding: "utf8", env: { ...process.env, NO_COLOR: "1" } },
  );
  const report = JSON.parse(
    stdout.slice(stdout.indexOf("{")) || `{"error":${JSON.stringify(stderr)}}`,
  ) as Report;
  const results = report.testResults.flatMap(({ assertionResults }) => assertionResults);

  test("every test ran", () => expect(results.length).toBe(24));

  test.each(results)("$title", ({ title, status, failureMessages }) => {
    const [, outcome, reason] = /^(passes|fails): (.*)$/.exec(title)!;
    expect(status).toBe(outcome === "passes" ? "passed" : "failed");
    if (outcome === "fails") {
      const wanted = reason.replace(/: a later one$| \([^)]*\)$/, "");
      for (const message of failureMessages) expect(message).toContain(wanted);
      expect(failureMessages.length).toBe(title.includes("attempt") ? 2 : 1);
    }
  });
});

describe("toFailWith", () => {
  const linux = new Machine().process();

  test("takes answers, and functions that make the call", () => {
    expect(toFailWith(-16, "EBUSY").pass).toBe(true);
    expect(toFailWith(-16, "EINVAL").pass).toBe(false);
    expect(toFailWith(0, "EBUSY").pass).toBe(false);
    expect(toFailWith(undefined, "EBUSY").pass).toBe(false);
    expect(toFailWith(-4096, "EBUSY").pass).toBe(false);
    expect(toFailWith(() => linux.close(99), "EBADF").pass).toBe(true);
    expect(toFailWith(() => checked(linux).close(99), "EBADF").pass).toBe(true);
    expect(toFailWith(() => checked(linux).close(99), "EINVAL").pass).toBe(false);
  });

  test("a code that is no error of Linux is refused, or `not` would be content with it", () => {
    expect(() => toFailWith(-16, "EBUSSY")).toThrow('"EBUSSY" is no error of Linux');
  });

  test("an exception of another kind goes on", () => {
    const broken = () => {
      throw new RangeError("a bug");
    };
    expect(() => toFailWith(broken, "EBADF")).toThrow(RangeError);
  });
});

test("toHaveDelivered asks a host or a vCPU", () => {
  expect(toHaveDelivered(new TestHost(), 0x41, 0).pass).toBe(true);
  expect(toHaveDelivered(new TestHost(), 0x41).pass).toBe(false);
  expect(() => toHaveDelivered(3, 0x41, 0)).toThrow("asked of a host");
});

describe("serializer", () => {
  expect.addSnapshotSerializer(serializer);

  test("structs", () => {
    expect(KvmIrqfd.at(KvmIrqfd.encode({ fd: 5, gsi: 24 }))).toMatchInlineSnapshot(
      `{fd=5, gsi=24, flags=0, resamplefd=0}`,
    );
    expect(KvmMpState.at(new Uint8Array(4))).toMatchInlineSnapshot(`{mp_state=0}`);
    expect(
      KvmIrqRoutingEntry.at(
        KvmIrqRoutingEntry.encode({ gsi: 24, type: 2, u: { msi: { address_lo: 0xfee00000 } } }),
      ),
    ).toMatchInlineSnapshot(
      `{gsi=24, type=2, flags=0, u={msi={address_lo=0xfee00000, address_hi=0, data=0, devid=0}}}`,
    );
    expect({ nested: [KvmIrqfd.at(new Uint8Array(32))] }).toMatchInlineSnapshot(`
      {
        "nested": [
          {fd=0, gsi=0, flags=0, resamplefd=0},
        ],
      }
    `);
  });

  test("recordings", () => {
    const recorder = record(new Machine().process());
    recorder.write(recorder.eventfd2(0, 0), Uint8Array.of(1, 0, 0, 0, 0, 0, 0, 0));
    expect(recorder).toMatchInlineSnapshot(`
      eventfd2(0, 0) = 3
      write(3<anon_inode:[eventfd]>, "0100000000000000", 8) = 8
    `);
    expect(printTrace(recorder)).toBe(serializer.serialize(recorder));
  });

  test("anything else is left alone", () => {
    for (const value of [
      null,
      undefined,
      3,
      "x",
      {},
      [],
      { lines: [] },
      { lines: ["x"] },
      { bytes: 1, structAt: 0 },
    ])
      expect(serializer.test(value)).toBe(false);
  });
});
