/**
 * The 16 bits of `Irqchip.addMsiRoute` with linear GSIs, end to end: sources of a POWER VM, one of which fires through the
 * irqfd on its GSI, and the word of each source afterwards.
 */
import { Direct, now } from "../vmm/co.ts";
import { Irqchip } from "../vmm/irqchip.ts";
import { PowerVm } from "./power-vm.ts";
import { hex, table } from "./print.ts";

/** A XICS has sources from here on. */
export const FIRST_SOURCE = 16;

/** The first of the sources fires: the GSI that its message was given, and every word that changed. */
export function fired(
  sources: readonly number[],
  linearMask: number,
): { gsi: number; changed: ReadonlyMap<number, bigint> } {
  const vm = new PowerVm();
  const linux = new Direct(vm.process);
  const irqchip = new Irqchip(linux, vm.vm, { routing: "linear", linearMask });
  for (const source of sources) vm.setUp(source);
  const idle = new Map(sources.map((source) => [source, vm.word(source)]));
  const gsi = now(irqchip.addMsiRoute({ addressHi: 0x400, addressLo: 0, data: sources[0] }));
  const eventfd = now(linux.eventfd2(0, 0));
  now(irqchip.addIrqfd(eventfd, gsi));
  now(linux.signal(eventfd));
  const words = sources.map((source) => [source, vm.word(source) as bigint] as const);
  return { gsi, changed: new Map(words.filter(([source, word]) => word !== idle.get(source))) };
}

/** The lowest source whose interrupt ends in the word of another one. */
export function firstCut(): number {
  for (let source = 0x1_0000; ; source++) {
    const other = source & 0xffff;
    if (other >= FIRST_SOURCE && fired([source, other], 0xffff).changed.has(other)) return source;
  }
}

export function print(): string {
  const source = firstCut();
  const other = source & 0xffff;
  const rows = [0xffff, 0xffff_ffff].map((mask) => {
    const { gsi, changed } = fired([source, other], mask);
    const word = (number: number) => {
      const now = changed.get(number);
      return now === undefined ? "unchanged" : `0x${now.toString(16)}`;
    };
    return [`& ${hex(mask)}`, hex(gsi), word(source), word(other)];
  });
  const head = [`message of source ${hex(source)}`, "GSI", `word of ${hex(source)}`, `word of ${hex(other)}`];
  return table(head, rows);
}
