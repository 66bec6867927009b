/**
 * Makes a program that shows a difference as small as possible: operations are left out in halves, quarters and one by
 * one; then edits and patches; then values become 0, bytes become zero, indices become smaller. Works on the data alone, so it takes
 * programs from files as well.
 *
 * Missing: a smallest program is not promised; the number of attempts has a limit.
 */
import type { Edit, Operation, Program } from "./program.ts";

/** Whether a program still shows it. */
export type Shows = (program: Program) => boolean;

/** The smallest program found that still shows it. */
export function shrink(program: Program, shows: Shows, attempts = 400): Program {
  let left = attempts;
  let best = program;
  const attempt = (candidate: Program): boolean => {
    if (left <= 0) return false;
    left--;
    if (!shows(candidate)) return false;
    best = candidate;
    return true;
  };
  shrinkList<Operation>(() => best, attempt);
  for (let again = true; again && left > 0; ) {
    again = false;
    for (let i = best.length - 1; i >= 0; i--)
      for (const simpler of simplerOperations(best[i])) {
        if (i >= best.length) break;
        if (attempt(best.with(i, simpler))) {
          again = true;
          break;
        }
      }
  }
  shrinkList<Operation>(() => best, attempt);
  return best;
}

/** Leaves out parts of a list: large ones first. */
function shrinkList<T>(list: () => readonly T[], attempt: (candidate: readonly T[]) => boolean): void {
  for (let size = Math.ceil(list().length / 2); size >= 1; size = size === 1 ? 0 : Math.ceil(size / 2))
    for (let end = list().length; end > 0; end -= size) {
      const now = list();
      const from = Math.max(0, end - size);
      if (from >= now.length) continue;
      attempt([...now.slice(0, from), ...now.slice(end)]);
    }
}

/** Operations that are a step simpler, the boldest first. */
function* simplerOperations(operation: Operation): Generator<Operation> {
  switch (operation.op) {
    case "ioctl":
      if (operation.patches !== undefined)
        for (let i = 0; i < operation.patches.length; i++)
          yield { ...operation, patches: operation.patches.toSpliced(i, 1) };
      if (operation.bytes !== undefined)
        for (const bytes of simplerBytes(operation.bytes)) yield { ...operation, bytes };
      if (operation.value !== undefined && operation.value !== "0x0") yield { ...operation, value: "0x0" };
      if ("index" in operation.on && operation.on.index > 0)
        yield { ...operation, on: { ...operation.on, index: 0 } };
      return;
    case "modify":
    case "cpuid":
      for (let i = 0; i < operation.edits.length; i++)
        yield { ...operation, edits: operation.edits.toSpliced(i, 1) };
      for (let i = 0; i < operation.edits.length; i++)
        for (const bytes of simplerBytes(operation.edits[i].bytes)) {
          const edit: Edit = { ...operation.edits[i], bytes };
          yield { ...operation, edits: operation.edits.with(i, edit) };
        }
      return;
    case "repeat":
      yield operation.operation;
      if (operation.times > 1) yield { ...operation, times: operation.times >> 1 };
      return;
    case "readback":
      if (operation.parts.length > 1)
        for (const part of operation.parts) yield { ...operation, parts: [part] };
      return;
    case "code":
      for (let i = 0; i < operation.instructions.length; i++)
        yield { ...operation, instructions: operation.instructions.toSpliced(i, 1) };
      return;
    case "run":
      if (operation.times > 1) yield { ...operation, times: operation.times >> 1 };
      if (operation.times > 1) yield { ...operation, times: operation.times - 1 };
      if (operation.page.length > 0) yield { ...operation, page: [] };
      if (operation.parts.length > 1)
        for (const part of operation.parts) yield { ...operation, parts: [part] };
      return;
    case "poke":
    case "write":
      for (const bytes of simplerBytes(operation.bytes)) yield { ...operation, bytes };
      return;
    case "eventfd2":
      if (operation.initval !== 0) yield { ...operation, initval: 0 };
      if (operation.flags !== 0x80800) yield { ...operation, flags: 0x80800 };
      return;
    default:
      return;
  }
}

/** Bytes of the same length with a run of them zero: all, then 8, 4 and 1 at a time. */
function* simplerBytes(hex: string): Generator<string> {
  const zero = /^0*$/;
  if (zero.test(hex)) return;
  yield "0".repeat(hex.length);
  for (const digits of [128, 16, 8, 2])
    for (let at = 0; at < hex.length; at += digits) {
      const part = hex.slice(at, at + digits);
      if (part.length < hex.length && !zero.test(part))
        yield hex.slice(0, at) + "0".repeat(part.length) + hex.slice(at + digits);
    }
}
