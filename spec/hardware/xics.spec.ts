import { describe, expect, test } from "vitest";
import { load32, store32 } from "../../lib/abi/struct.ts";
import { XICS_IPI, XICS_MASKED, XICS_SOURCES, Xics } from "../../lib/hardware/xics.ts";

const EINVAL = 22;
const SET = 0xffff_ffff;
const UNSET = 0xffff_fffe;
const SET_LEVEL = 0xffff_fffd;

// bits of the upper half of a source's state
const LSI = 1 << 8;
const MASKED = 1 << 9;
const PENDING = 1 << 10;
const PRESENTED = 1 << 11;
const QUEUED = 1 << 12;

const A = 0x1000;
const B = 0x1001;

// ---- a naive twin: PAPR's state machine as functions over plain data ----------------------------------------------

interface Source {
  server: number;
  priority: number;
  saved: number;
  lsi: boolean;
  p: boolean;
  q: boolean;
  resend: boolean;
  held: boolean;
}

interface Presenter {
  cppr: number;
  mfrr: number;
  xisr: number;
  at: number;
  wantsResend: boolean;
  blocks: Set<number>;
  input: boolean;
}

interface Twin {
  sources: Record<number, Source>;
  presenters: Presenter[];
}

const newPresenter = (cppr: number): Presenter => ({
  cppr,
  mfrr: 0xff,
  xisr: 0,
  at: 0xff,
  wantsResend: false,
  blocks: new Set(),
  input: false,
});

const block = (irq: number) => Math.floor(irq / 1024);
const lookAt = (presenter: Presenter) => {
  if (presenter.xisr !== 0 && presenter.at < presenter.cppr) presenter.input = true;
};

function deliver(twin: Twin, irq: number, retry = false): void {
  const source = twin.sources[irq];
  const presenter = twin.presenters[source.server];
  if (presenter === undefined || (retry && !source.resend)) return;
  source.resend = false;
  if (source.priority === 0xff) {
    source.held = true;
    return;
  }
  const best = Math.min(presenter.cppr, presenter.mfrr, presenter.at);
  if (source.priority >= best) {
    presenter.wantsResend = true;
    presenter.blocks.add(block(irq));
    source.resend = true;
    lookAt(presenter);
    return;
  }
  const gaveWay = presenter.xisr;
  Object.assign(presenter, { xisr: irq, at: source.priority });
  lookAt(presenter);
  if (gaveWay > XICS_IPI) deliver(twin, gaveWay);
}

function resend(twin: Twin, presenter: Presenter): void {
  for (const number of [...presenter.blocks].sort((x, y) => x - y)) {
    presenter.blocks.delete(number);
    for (const irq of Object.keys(twin.sources).map(Number))
      if (block(irq) === number && twin.sources[irq].resend) deliver(twin, irq, true);
  }
}

const takesLess = (twin: Twin, presenter: Presenter, cppr: number): void => {
  presenter.cppr = cppr;
  if (presenter.mfrr < cppr && presenter.mfrr <= presenter.at)
    Object.assign(presenter, { xisr: XICS_IPI, at: presenter.mfrr });
  const wanted = presenter.wantsResend;
  presenter.wantsResend = false;
  lookAt(presenter);
  if (wanted) resend(twin, presenter);
};

const line = (twin: Twin, irq: number, level: number): void => {
  const source = twin.sources[irq];
  const up = ![0, UNSET].includes(level);
  if (source.lsi) {
    if (up && source.p) return;
    source.p = up;
    source.q = false;
  } else {
    if (!up) return;
    source.q = source.p;
    source.p = true;
  }
  if (source.p && !source.q) deliver(twin, irq);
};

const accept = (presenter: Presenter): void => {
  presenter.input = false;
  if (presenter.xisr === 0) return;
  Object.assign(presenter, { cppr: presenter.at, at: 0xff, xisr: 0 });
};

const setCppr = (twin: Twin, presenter: Presenter, cppr: number): void => {
  if (cppr === presenter.cppr) return;
  if (cppr > presenter.cppr) takesLess(twin, presenter, cppr);
  presenter.input = false;
  presenter.cppr = cppr;
  let gaveWay = 0;
  if (cppr <= presenter.at) {
    gaveWay = presenter.xisr;
    Object.assign(presenter, { xisr: 0, at: 0xff });
  }
  lookAt(presenter);
  if (gaveWay > XICS_IPI) deliver(twin, gaveWay);
};

const end = (twin: Twin, presenter: Presenter, cppr: number, irq: number): void => {
  takesLess(twin, presenter, cppr);
  const source = twin.sources[irq];
  if (irq === XICS_IPI || source === undefined) return;
  if (!source.lsi) Object.assign(source, { p: source.q, q: false });
  if (source.p) deliver(twin, irq);
};

const ipi = (twin: Twin, presenter: Presenter, mfrr: number): void => {
  const before = presenter.mfrr;
  presenter.mfrr = mfrr;
  let gaveWay = 0;
  if (mfrr < presenter.cppr && mfrr <= presenter.at) {
    gaveWay = presenter.xisr;
    Object.assign(presenter, { xisr: XICS_IPI, at: mfrr });
  }
  const wanted = mfrr > before && presenter.wantsResend;
  if (mfrr > before) presenter.wantsResend = false;
  lookAt(presenter);
  if (gaveWay > XICS_IPI) deliver(twin, gaveWay);
  if (wanted) resend(twin, presenter);
};

const configure = (twin: Twin, irq: number, change: Partial<Source>): void => {
  const source = Object.assign(twin.sources[irq], change);
  if (!(source.held || source.resend) || source.priority === 0xff) return;
  Object.assign(source, { held: false, resend: false });
  deliver(twin, irq);
};

// ---- both, side by side -------------------------------------------------------------------------------------------

class Pair {
  readonly chip = new Xics();
  readonly inputs = [{ external: false }, { external: false }];
  readonly twin: Twin;

  constructor(cppr: number) {
    const state = new Uint8Array(8);
    store32(state, 0, 0xffff_0000);
    store32(state, 4, cppr << 24);
    for (const server of [0, 1]) {
      const presenter = this.chip.addPresenter(server, this.inputs[server]);
      this.chip.restorePresenter(presenter, state, 0);
    }
    this.twin = { sources: {}, presenters: [newPresenter(cppr), newPresenter(cppr)] };
  }

  source(irq: number, server: number, high: number): void {
    const word = new Uint8Array(8);
    store32(word, 0, server);
    store32(word, 4, high);
    this.chip.addBlock(irq);
    expect(this.chip.restoreSource(this.chip.source(irq)!, word, 0)).toBe(0);
    const priority = high & 0xff;
    this.twin.sources[irq] = {
      server,
      priority: high & MASKED ? 0xff : priority,
      saved: priority,
      lsi: (high & LSI) !== 0,
      p: (high & (PRESENTED | PENDING)) !== 0,
      q: (high & QUEUED) !== 0,
      resend: false,
      held: false,
    };
    if (high & PENDING) deliver(this.twin, irq);
  }

  presenter(server: number) {
    return this.chip.presenter(server)!;
  }

  /** What can be seen from outside, of the chip and of the twin. */
  seen(): [unknown, unknown] {
    const word = new Uint8Array(8);
    const chip = [
      ...Object.keys(this.twin.sources).map((irq) => {
        this.chip.source(Number(irq))!.saveTo(word, 0);
        return [load32(word, 0), load32(word, 4)];
      }),
      ...[0, 1].map((server) => {
        this.chip.savePresenter(this.presenter(server), word, 0);
        return [load32(word, 0), load32(word, 4), this.inputs[server].external];
      }),
    ];
    const twin = [
      ...Object.values(this.twin.sources).map((s) => {
        let high = s.priority === 0xff ? s.saved | MASKED : s.priority;
        if (s.lsi) high |= LSI;
        if (s.lsi ? s.p : s.held || s.resend) high |= PENDING;
        if (s.p) high |= PRESENTED;
        if (s.q) high |= QUEUED;
        return [s.server, high];
      }),
      ...this.twin.presenters.map((p) => [
        ((p.mfrr << 24) | (p.at << 16)) >>> 0,
        ((p.cppr << 24) | p.xisr) >>> 0,
        p.input,
      ]),
    ];
    return [chip, twin];
  }
}

type Operation = [name: string, run: (pair: Pair) => void];

const operations: Operation[] = [
  ...[0, 1].map(
    (level): Operation => [
      `line A ${level}`,
      (pair) => {
        pair.chip.setIrq(A, level);
        line(pair.twin, A, level);
      },
    ],
  ),
  [
    "line B 1",
    (pair) => {
      pair.chip.setIrq(B, 1);
      line(pair.twin, B, 1);
    },
  ],
  ...[0, 1].map(
    (server): Operation => [
      `H_XIRR ${server}`,
      (pair) => {
        const shown = pair.twin.presenters[server];
        const expected = ((shown.cppr << 24) | shown.xisr) >>> 0;
        accept(shown);
        expect(pair.chip.xirr(pair.presenter(server))).toBe(expected);
      },
    ],
  ),
  ...[A, B, XICS_IPI].map(
    (irq): Operation => [
      `H_EOI ${irq.toString(16)}`,
      (pair) => {
        end(pair.twin, pair.twin.presenters[0], 0xff, irq);
        pair.chip.eoi(pair.presenter(0), (0xff00_0000 | irq) >>> 0);
      },
    ],
  ),
  ...[0, 4, 5, 0xff].map(
    (cppr): Operation => [
      `H_CPPR ${cppr}`,
      (pair) => {
        setCppr(pair.twin, pair.twin.presenters[0], cppr);
        pair.chip.setCppr(pair.presenter(0), cppr);
      },
    ],
  ),
  ...[3, 4, 0xff].map(
    (mfrr): Operation => [
      `H_IPI ${mfrr}`,
      (pair) => {
        ipi(pair.twin, pair.twin.presenters[0], mfrr);
        expect(pair.chip.ipi(0, mfrr)).toBe(0);
      },
    ],
  ),
  [
    "int-off A",
    (pair) => {
      const { priority } = pair.twin.sources[A];
      configure(pair.twin, A, { priority: 0xff, saved: priority });
      expect(pair.chip.intOff(A)).toBe(0);
    },
  ],
  [
    "int-on A",
    (pair) => {
      configure(pair.twin, A, { priority: pair.twin.sources[A].saved });
      expect(pair.chip.intOn(A)).toBe(0);
    },
  ],
  [
    "set-xive A server 1 priority 4",
    (pair) => {
      configure(pair.twin, A, { server: 1, priority: 4, saved: 4 });
      expect(pair.chip.setXive(A, 1, 4)).toBe(0);
    },
  ],
];

/** Every state of A that user space can set: its server, priority, kind, mask, P, Q, pending. */
const states = [0, 1].flatMap((server) =>
  [4, 5, 0xff].flatMap((priority) =>
    [0, LSI].flatMap((kind) =>
      [0, MASKED].flatMap((mask) =>
        [0, PRESENTED, PRESENTED | QUEUED, PENDING].map((pq) => ({
          server,
          high: priority | kind | mask | pq,
        })),
      ),
    ),
  ),
);

describe("XICS against its twin", () => {
  test.each([0, 5, 0xff])("every state of a source, every two operations, CPPR %i", (cppr) => {
    const wrong: string[] = [];
    let compared = 0;
    for (const { server, high } of states)
      for (const first of operations)
        for (const second of operations) {
          const pair = new Pair(cppr);
          pair.source(A, server, high);
          pair.source(B, 0, 5);
          for (const [name, run] of [first, second]) {
            run(pair);
            const [chip, twin] = pair.seen();
            compared++;
            if (JSON.stringify(chip) !== JSON.stringify(twin))
              wrong.push(
                `${server}/${high.toString(16)}: ${first[0]}, ${second[0]}: ${name}: ${JSON.stringify([chip, twin])}`,
              );
          }
        }
    expect(wrong.slice(0, 5)).toEqual([]);
    expect(compared).toBe(96 * 18 * 18 * 2);
  });

  test("every four operations from a source that waits and one that is shown", () => {
    const wrong: string[] = [];
    let compared = 0;
    const few = operations.filter(
      ([name]) => !["line A 0", "H_XIRR 1", "H_CPPR 0", "H_IPI 3"].includes(name),
    );
    const go = (names: Operation[]): void => {
      if (names.length < 4) {
        for (const operation of few) go([...names, operation]);
        return;
      }
      const pair = new Pair(0xff);
      pair.source(A, 0, 5 | PENDING);
      pair.source(B, 0, 5 | PENDING);
      for (const [, run] of names) run(pair);
      const [chip, twin] = pair.seen();
      compared++;
      if (JSON.stringify(chip) !== JSON.stringify(twin)) wrong.push(names.map(([name]) => name).join(", "));
    };
    go([]);
    expect(wrong.slice(0, 5)).toEqual([]);
    expect(compared).toBe(14 ** 4);
  });
});

describe("levels of KVM_IRQ_LINE", () => {
  test.each([
    [0, false],
    [1, true],
    [2, true],
    [SET, true],
    [SET_LEVEL, true],
    [UNSET, false],
  ])("%i raises a level source: %s", (level, up) => {
    const pair = new Pair(0xff);
    pair.source(A, 0, 5 | LSI);
    expect(pair.chip.setIrq(A, level)).toBe(0);
    expect(pair.presenter(0).xisr).toBe(up ? A : 0);
  });
});

describe("numbers of sources", () => {
  const chip = new Xics();
  chip.addPresenter(0, { external: false });
  chip.addBlock(0x12340);

  test("a source is known by all of its 20 bits", () => {
    expect(chip.source(0x12340)!.number).toBe(0x12340);
    expect(chip.source(0x12340 & 0xffff)).toBe(undefined);
    chip.addBlock(0x2340);
    expect(chip.source(0x2340)).not.toBe(chip.source(0x12340));
  });

  test("numbers beyond 0xfffff have no source, up to 32 bits", () => {
    for (const irq of [XICS_SOURCES, 0x10_0010, 0xff_fff0, 0x100_1020, 0xffff_ffff]) {
      expect(chip.source(irq)).toBe(undefined);
      expect(chip.setIrq(irq, 1)).toBe(-EINVAL);
    }
  });

  test("a neighbour in the block of a source is there, but cannot be raised before it is set up", () => {
    expect(chip.source(0x12341)).toMatchObject({ exists: false, priority: XICS_MASKED });
    expect(chip.setIrq(0x12341, 1)).toBe(-EINVAL);
  });

  test("XISR holds 24 bits: the highest number fits", () => {
    const pair = new Pair(0xff);
    pair.source(XICS_SOURCES - 1, 0, 5);
    pair.chip.setIrq(XICS_SOURCES - 1, 1);
    expect(pair.chip.xirr(pair.presenter(0))).toBe(0xff0f_ffff);
  });
});

describe("an interrupt is in exactly one place", () => {
  /** Where a message source that was triggered once is. */
  const places = (pair: Pair, taken: ReadonlySet<number>, irq: number): string[] => {
    const source = pair.chip.source(irq)!;
    return [
      ...[0, 1].filter((server) => pair.presenter(server).xisr === irq).map((server) => `shown by ${server}`),
      ...(source.resend ? ["waits for its presenter"] : []),
      ...(source.maskedPending ? ["behind the mask"] : []),
      ...(taken.has(irq) ? ["with the guest"] : []),
    ];
  };

  test("whatever the guest does in five steps", () => {
    const steps: ((pair: Pair, taken: Set<number>) => void)[] = [
      (pair, taken) => {
        const irq = pair.chip.xirr(pair.presenter(0)) & 0xff_ffff;
        if (irq > XICS_IPI) taken.add(irq);
      },
      (pair) => pair.chip.setCppr(pair.presenter(0), 0xff),
      (pair) => pair.chip.setCppr(pair.presenter(0), 4),
      (pair) => pair.chip.ipi(0, 3),
      (pair) => pair.chip.ipi(0, 0xff),
      (pair) => pair.chip.intOff(A),
      (pair) => pair.chip.intOn(A),
      (pair) => pair.chip.setXive(A, 1, 4),
    ];
    let lost = 0;
    let checked = 0;
    for (let code = 0; code < steps.length ** 5; code++) {
      const pair = new Pair(0xff);
      const taken = new Set<number>();
      pair.source(A, 0, 5);
      pair.source(B, 0, 4);
      pair.chip.setIrq(A, 1);
      pair.chip.setIrq(B, 1);
      for (let i = 0, rest = code; i < 5; i++, rest = Math.floor(rest / steps.length))
        steps[rest % steps.length](pair, taken);
      for (const irq of [A, B]) {
        checked++;
        if (places(pair, taken, irq).length !== 1) lost++;
      }
    }
    expect([checked, lost]).toEqual([2 * 8 ** 5, 0]);
  });
});

/** A presenter's state: CPPR, XISR, MFRR, and the priority of what is shown. */
function presenterState(cppr: number, xisr: number, mfrr: number, priority: number): Uint8Array {
  const bytes = new Uint8Array(8);
  store32(bytes, 0, (mfrr << 24) | (priority << 16));
  store32(bytes, 4, (cppr << 24) | xisr);
  return bytes;
}

describe("a presenter that was restored", () => {
  test("shows a source exactly if that is more favoured than CPPR and MFRR (icp_try_to_deliver)", () => {
    for (const cppr of [4, 5, 6, 0xff])
      for (const mfrr of [4, 5, 6, 0xff]) {
        const pair = new Pair(0xff);
        pair.source(A, 0, 5);
        const state = presenterState(cppr, 0, mfrr, XICS_MASKED);
        expect(pair.chip.restorePresenter(pair.presenter(0), state, 0)).toBe(0);
        pair.chip.setIrq(A, 1);
        expect(pair.presenter(0).xisr).toBe(5 < Math.min(cppr, mfrr) ? A : 0);
      }
  });

  test("shows what was refused if its MFRR got less favoured (kvmppc_xics_set_icp)", () => {
    for (const mfrr of [3, 4, 6, 0xff]) {
      const pair = new Pair(0xff);
      pair.source(A, 0, 5);
      pair.chip.ipi(0, 4);
      pair.chip.setIrq(A, 1);
      expect(pair.presenter(0).xisr).toBe(XICS_IPI);
      const state = presenterState(0xff, 0, mfrr, XICS_MASKED);
      expect(pair.chip.restorePresenter(pair.presenter(0), state, 0)).toBe(0);
      expect(pair.presenter(0).xisr).toBe(mfrr > 5 ? A : 0);
    }
  });
});

test("where room is made, the refused source of the lowest number is shown first, whichever block was refused first", () => {
  const [low, high] = [0x1400, 0x2400];
  for (const order of [
    [low, high],
    [high, low],
  ]) {
    const pair = new Pair(4);
    for (const irq of order) pair.source(irq, 0, 5);
    for (const irq of order) pair.chip.setIrq(irq, 1);
    expect(pair.presenter(0).xisr).toBe(0);
    pair.chip.setCppr(pair.presenter(0), 0xff);
    expect(pair.presenter(0).xisr).toBe(low);
  }
});

test("0 is no interrupt: where nothing had to give way nothing else is shown, whatever source 0 is set to", () => {
  const pair = new Pair(0xff);
  pair.source(16, 0, 5);
  expect(pair.chip.setXive(0, 0, 1)).toBe(0);
  pair.chip.setIrq(16, 1);
  expect(pair.chip.xirr(pair.presenter(0))).toBe(0xff00_0010);
  expect(pair.chip.xirr(pair.presenter(0)) & 0xff_ffff).toBe(0);
});
