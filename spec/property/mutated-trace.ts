/**
 * Recorded traces with something changed: bytes of arguments, requests, descriptors, the order of calls. A recording
 * sets up what a random program hardly comes to (an assigned device, an interrupt controller of arm64 or POWER, an
 * iommufd), and the change leads off the beaten track from there.
 */
import type { Random } from "../../lib/fuzz/random.ts";
import { fromHex, type Trace, type TraceLine, toHex } from "../../lib/trace/format.ts";

const EDGES = [0, 1, 2, 3, 7, 8, 0x10, 0x7f, 0x80, 0xfe, 0xff];
const WORDS = [0, 1, 0xff, 0x1000, 0x7fffffff, 0x80000000, 0xffffffff];

/** A copy with about one line in `every` changed. */
export function mutated(trace: Trace, random: Random, every = 20): Trace {
  const lines: TraceLine[] = [];
  for (const line of trace.lines) {
    if (random.below(every) !== 0) {
      lines.push(line);
      continue;
    }
    switch (random.below(4)) {
      case 0: // left out
        break;
      case 1: // made twice
        lines.push(line, line);
        break;
      case 2: // made before the one that it followed
        lines.splice(Math.max(lines.length - 1, 0), 0, line);
        break;
      default:
        lines.push(changed(line, trace, random));
    }
  }
  return { ...trace, name: `${trace.name}, mutated`, lines };
}

function changed(line: TraceLine, { lines }: Trace, random: Random): TraceLine {
  switch (line.call) {
    case "ioctl": {
      const other = lines[random.below(lines.length)];
      const where = random.below(8);
      if (where === 0 && other.call === "ioctl") return { ...line, fd: other.fd };
      if (where === 1 && other.call === "ioctl") return { ...line, request: other.request };
      if (line.in !== undefined) return { ...line, in: changedBytes(line.in, random) };
      if (line.arg !== undefined) return { ...line, arg: `0x${someWord(random).toString(16)}` };
      return line;
    }
    case "write":
    case "pwrite":
      return { ...line, in: changedBytes(line.in, random) };
    case "pread":
      return { ...line, offset: `0x${(Number(line.offset) + random.below(64)).toString(16)}` };
    case "read":
      return { ...line, count: random.below(32) };
    case "poke":
      return { ...line, bytes: changedBytes(line.bytes, random) };
    case "eventfd2":
      return { ...line, initval: someWord(random) };
    case "setrlimit":
      return { ...line, limit: someWord(random) };
    default:
      return line;
  }
}

const someWord = (random: Random): number =>
  random.below(2) === 0 ? WORDS[random.below(WORDS.length)] : random.next();

/** A few bytes, or a word, replaced; the length stays. */
function changedBytes(hex: string, random: Random): string {
  const bytes = fromHex(hex);
  if (bytes.length === 0) return hex;
  for (let edits = 1 + random.below(3); edits > 0; edits--) {
    const at = random.below(Math.min(bytes.length, 256));
    const word = someWord(random);
    if (random.below(2) === 0) bytes[at] = EDGES[random.below(EDGES.length)];
    else for (let i = 0; i < 4 && (at & ~3) + i < bytes.length; i++) bytes[(at & ~3) + i] = word >>> (8 * i);
  }
  return toHex(bytes);
}
