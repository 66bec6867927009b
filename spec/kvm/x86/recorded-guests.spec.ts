/**
 * Short random programs that ran on a real kernel: every KVM_RUN answers the same, with the same registers and events,
 * and leaves the same memory. Recorded on Linux 6.18, flavour pvm, where KVM's emulator runs them on an Intel processor.
 */
import { readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";
import { describe, expect, test } from "vitest";
import { store16, store64 } from "../../../lib/abi/struct.ts";
import { defaultProfile } from "../../../lib/machine/default-profile.ts";
import { Machine } from "../../../lib/machine/machine.ts";
import { CODE, Guest, type Mode } from "./guest.ts";

interface Run {
  reason: number;
  ready: number;
  if: number;
  /** the first 40 bytes of the union, without the zeros at its end */
  exit: string;
  regs: string;
  events: string;
  io?: string;
}

interface Program {
  kind: string;
  mode: Mode;
  code: string;
  regs: string[];
  /** of the bytes from 0x8000 to 0x9000 */
  seed: number;
  ivt: boolean;
  /** what user space puts into the page before each further run */
  answers: string[];
  runs: Run[];
  /** what changed between 0x7f00 and 0x9000 */
  memory: [at: number, bytes: string][];
}

const file = new URL("../../../fixtures/guests/x86_64-6.18-pvm.jsonl.gz", import.meta.url);
const programs: Program[] = gunzipSync(readFileSync(file))
  .toString()
  .trim()
  .split("\n")
  .slice(1)
  .map((line) => JSON.parse(line));

const FROM = 0x7f00;
const UNTIL = 0x9000;
const MMIO = 6;
const IO = 2;

/** xorshift, as the recorder filled memory */
function* noise(seed: number): Generator<number> {
  const mask = (1n << 64n) - 1n;
  for (let x = BigInt(seed); ; ) {
    x ^= (x << 13n) & mask;
    x ^= x >> 7n;
    x ^= (x << 17n) & mask;
    yield Number(x & 0xffn);
  }
}

const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex");
const trimmed = (bytes: Uint8Array) => hex(bytes).replace(/0*$/, "");
const unhex = (text: string) => Uint8Array.from(Buffer.from(text, "hex"));

function play(program: Program): { runs: Run[]; memory: string } {
  const guest = new Guest(new Machine(defaultProfile).process(), program.mode);
  const { memory, run } = guest;
  const bytes = noise(program.seed);
  for (let at = 0x8000; at < UNTIL; at++) memory[at] = bytes.next().value!;
  if (program.ivt)
    for (let vector = 0; vector < 256; vector++) store16(memory, 4 * vector, 0x4000 + 32 * vector);
  guest.code(...unhex(program.code));
  const regs = new Uint8Array(144);
  program.regs.forEach((value, i) => {
    store64(regs, 8 * i, BigInt(`0x${value}`));
  });
  guest.setRegisters(regs);
  const runs: Run[] = [];
  for (let i = 0; i < program.runs.length; i++) {
    if (i > 0) run.set(unhex(program.answers[i - 1]), guest.exitReason === MMIO ? 40 : 4096);
    expect(guest.enter()).toBe(0);
    const now = guest.regs;
    const view = new DataView(now.buffer);
    const answer: Run = {
      reason: guest.exitReason,
      ready: run[12],
      if: run[13],
      exit: trimmed(run.subarray(32, 72)),
      regs: Array.from({ length: 18 }, (_, n) => view.getBigUint64(8 * n, true).toString(16)).join(" "),
      events: trimmed(guest.events.subarray(0, 24)),
    };
    if (answer.reason === IO) {
      const count = new DataView(run.buffer, run.byteOffset).getUint32(36, true);
      answer.io = hex(run.subarray(4096, 4096 + Math.min(64, run[33] * count)));
    }
    runs.push(answer);
  }
  return { runs, memory: hex(memory.subarray(FROM, UNTIL)) };
}

function expectedMemory(program: Program): string {
  const bytes = new Uint8Array(UNTIL - FROM);
  const random = noise(program.seed);
  for (let at = 0x8000; at < UNTIL; at++) bytes[at - FROM] = random.next().value!;
  for (const [at, changed] of program.memory) bytes.set(unhex(changed), at - FROM);
  return hex(bytes);
}

test("1580 programs were recorded", () => expect(programs.length).toBe(1580));

describe.each(["instructions", "bytes", "devices"])("random %s", (kind) => {
  describe.each(["real", "prot16", "prot32", "long"])("%s", (mode) => {
    const some = programs.filter((program) => program.kind === kind && program.mode === mode);
    test.runIf(some.length > 0)(`${some.length} programs`, () => {
      for (const program of some) {
        const { runs, memory } = play(program);
        expect({ code: program.code, runs }).toEqual({ code: program.code, runs: program.runs });
        expect(memory === expectedMemory(program), `memory after ${program.code}`).toBe(true);
      }
    });
  });
});

test("code starts where the programs think", () => expect(CODE).toBe(0x1000));
