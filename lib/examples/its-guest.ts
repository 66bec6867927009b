/**
 * An arm64 guest that takes messages: it gives its GICv3 and ITS memory for their tables, maps the first events of device
 * 0 to LPIs, and acknowledges what comes (GIC architecture specification, IHI 0069: tables, commands).
 */
import { ICC_EOIR1_EL1, ICC_IAR1_EL1, ICC_IGRPEN1_EL1, ICC_PMR_EL1 } from "../hardware/gic-cpu-interface.ts";
import { GITS_BASER, GITS_CBASER, GITS_CTLR, GITS_CWRITER } from "../hardware/its.ts";
import { readRegister, type Step, store, writeRegister } from "../kvm/arm64/guest.ts";

/** Guest memory that the tables lie in. */
export const RAM = 0x4000_0000;
export const RAM_SIZE = 0x8_0000;
const DEVICES = RAM;
const COLLECTIONS = RAM + 0x1_0000;
const QUEUE = RAM + 0x2_0000;
const CONFIG = RAM + 0x3_0000;
const EVENTS = RAM + 0x4_0000;
const PENDING = RAM + 0x5_0000;

/** the LPI of event 0 */
export const FIRST_LPI = 8192;
const VALID = 1n << 63n;
const ENABLED = 0xa1;
const LPI_BITS = 0xfn;
const SPURIOUS = 1023;

const GICD_ENABLED = 0x12;
const GICR_CTLR = 0;
const GICR_PROPBASER = 0x70;
const GICR_PENDBASER = 0x78;

const MAPD = 0x08n;
const MAPC = 0x09n;
const MAPTI = 0x0an;

/** Interrupts are enabled; where there is an ITS, so many events of device 0 lead to LPIs. */
export function* setUp(gicd: number, gicr: number, its: number | undefined, events: number): Step<void> {
  yield* writeRegister(ICC_PMR_EL1, 0xff);
  yield* writeRegister(ICC_IGRPEN1_EL1, 1);
  yield* store(gicd, 4, GICD_ENABLED);
  if (its === undefined) return;
  for (let event = 0; event < events; event++) yield* store(CONFIG + event, 1, ENABLED);
  yield* store(gicr + GICR_PROPBASER, 8, BigInt(CONFIG) | LPI_BITS);
  yield* store(gicr + GICR_PENDBASER, 8, PENDING);
  yield* store(gicr + GICR_CTLR, 4, 1);
  yield* store(its + GITS_BASER, 8, VALID | BigInt(DEVICES));
  yield* store(its + GITS_BASER + 8, 8, VALID | BigInt(COLLECTIONS));
  yield* store(its + GITS_CBASER, 8, VALID | BigInt(QUEUE));
  yield* store(its + GITS_CTLR, 4, 1);
  const commands = [
    [MAPD, 4n, VALID | BigInt(EVENTS)],
    [MAPC, 0n, VALID],
    ...Array.from({ length: events }, (_, event) => [
      MAPTI,
      BigInt(event) | (BigInt(FIRST_LPI + event) << 32n),
      0n,
    ]),
  ];
  for (const [at, words] of commands.entries())
    for (const [i, word] of words.entries()) yield* store(QUEUE + 32 * at + 8 * i, 8, word);
  yield* store(its + GITS_CWRITER, 8, 32 * commands.length);
}

/** Acknowledges and ends what is pending. */
export function* takeAll(taken: number[]): Step<void> {
  for (;;) {
    const intid = yield* readRegister(ICC_IAR1_EL1);
    if (intid === SPURIOUS) return;
    taken.push(intid);
    yield* writeRegister(ICC_EOIR1_EL1, intid);
  }
}
