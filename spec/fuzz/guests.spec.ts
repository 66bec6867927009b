/** Random guests: they find what is planted, repeat themselves, and run alike on the fake and on the real kernel. */
import { describe, expect, test } from "vitest";
import { load32 } from "../../lib/abi/struct.ts";
import { campaign, programAt } from "../../lib/fuzz/campaign.ts";
import { compareOn, type Kernel, optionsOf } from "../../lib/fuzz/differential.ts";
import { Instructions, topics } from "../../lib/fuzz/guest-instructions.ts";
import { modes } from "../../lib/fuzz/guest-machine.ts";
import { guestKinds, guestPrograms, usualGuests } from "../../lib/fuzz/guest-programs.ts";
import { runProgram } from "../../lib/fuzz/interpreter.ts";
import { fakeSide, nativeSide } from "../../lib/fuzz/kernels.ts";
import { formatProgram, type Program, parseProgram } from "../../lib/fuzz/program.ts";
import { Random } from "../../lib/fuzz/random.ts";
import { headerOf } from "../../lib/fuzz/this-host.ts";
import { x86_64_6_18_pvm } from "../../lib/machine/profiles/x86_64-6.18-pvm.ts";
import { nativeKernel } from "../../lib/native/native.ts";
import type { TraceHeader } from "../../lib/trace/format.ts";

const header = { format: "kvm-vfio-trace", version: 1, host: {}, ...x86_64_6_18_pvm } as TraceHeader;
const fake = fakeSide(header);

/** The exits of a program on the fake, each with where the guest stands. */
function exits(program: Program): string[] {
  const found: string[] = [];
  const process = fake.process();
  for (const { call, result, bytes } of runProgram(program, process, optionsOf(fake, 0)))
    if (call === "KVM_RUN")
      found.push(`${result} ${bytes.length === 0 ? "stopped" : load32(bytes[0] as Uint8Array, 8)}`);
  process.exit();
  return found;
}

describe("programs of guests", () => {
  test.each(guestKinds)("%s are data: text and back, and the same exits", { timeout: 60_000 }, (kind) => {
    const arbitrary = guestPrograms([kind]);
    for (let index = 0; index < 6; index++) {
      const program = programAt(arbitrary, 21, index);
      expect(programAt(guestPrograms([kind]), 21, index)).toEqual(program);
      const again = parseProgram(formatProgram(program));
      expect(again).toEqual(program);
      expect(exits(again)).toEqual(exits(program));
    }
  });

  test.each(usualGuests)("%s leave the guest more often than they fail", (kind) => {
    const arbitrary = guestPrograms([kind]);
    const all = Array.from({ length: 25 }, (_, index) => exits(programAt(arbitrary, 22, index))).flat();
    const failed = all.filter((exit) => exit === "0 17" || exit === "0 9");
    expect(all.length).toBeGreaterThan(60);
    expect(failed.length).toBeLessThan(all.length / 4);
  });

  test.each(modes)("of every topic in %s mode some piece is code", (mode) => {
    for (const topic of topics) {
      const instructions = new Instructions(new Random(23), mode, true);
      for (let i = 0; i < 50; i++) expect(instructions.piece(topic)).toMatch(/^([0-9a-f]{2})+$/);
    }
  });
});

describe("the comparison is not blind", () => {
  /** The fake, with a mistake in what the guest's memory holds after a run. */
  const broken: Kernel = {
    ...fake,
    enter(process, vcpu, patience) {
      const result = fake.enter!(process, vcpu, patience);
      const regs = new Uint8Array(144);
      process.ioctl(vcpu, 0x8090_ae81, regs);
      regs[8] ^= load32(regs, 8) === 0 ? 0 : 1;
      process.ioctl(vcpu, 0x4090_ae82, regs);
      return result;
    },
  };

  test("a bit of a register", () => {
    const result = campaign(broken, fake, {
      programs: 20,
      seed: 24,
      guests: ["code"],
      shrink: false,
      atMost: 1,
    });
    expect(result.findings).toHaveLength(1);
  });

  test("nothing where there is nothing", () => {
    const result = campaign(fake, fake, { programs: 30, seed: 25, guests: usualGuests });
    expect(result.findings).toEqual([]);
    expect(result.programs).toBe(30);
  });

  test("a guest that runs on and on ends its program, and is the same on both", { timeout: 60_000 }, () => {
    const program: Program = programAt(guestPrograms(["accesses"]), 26, 0).map((operation) =>
      operation.op === "code" ? { ...operation, instructions: ["ebfe"] } : operation,
    );
    expect(exits(program)).toEqual(["-4 stopped"]);
    expect(compareOn(program, fake, fake)).toBeUndefined();
  });
});

const native = nativeKernel();

describe.skipIf(!native.available)(
  native.available ? "on the real kernel" : `on the real kernel: skipped, ${native.reason}`,
  () => {
    test.each(usualGuests)("%s: no difference", { timeout: 60_000 }, (kind) => {
      if (!native.available) return;
      const result = campaign(fakeSide(headerOf(native)), nativeSide(native), {
        programs: 15,
        seed: 27,
        guests: [kind],
        shrink: false,
      });
      expect(result.findings.map(({ difference }) => `${difference.call}: ${difference.what}`)).toEqual([]);
      expect(result.programs).toBe(15);
    });
  },
);
