/**
 * VFIO_DEVICE_SET_IRQS against a naive twin: a few sets and maps, written from the table of answers, that knows nothing
 * of remapping entries but their number.
 */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { EBADF, EBUSY, EINVAL, ENOMEM, ENOSPC, ENOTTY, ERANGE } from "../../lib/abi/errno.ts";
import type { PciImage } from "../../lib/hardware/pci-image.ts";
import {
  Assigned,
  BOOL,
  ERR,
  EVENTFD,
  INTX,
  MASK,
  MSI,
  MSIX,
  NONE,
  REQ,
  TRIGGER,
  UNMASK,
} from "./assigned.ts";

const VECTORS = 4;
const image: PciImage = {
  pin: 1,
  bars: [{ index: 0, size: 4096, type: "mem", wide: false, prefetchable: false }],
  capabilities: [
    { kind: "exp" },
    { kind: "msi", vectors: VECTORS, wide: true },
    { kind: "msix", vectors: VECTORS, table: [0, 0], pending: [0, 2048] },
  ],
};
const counts = [1, VECTORS, VECTORS, 1, 1];
const BAD = 99;

/** What is on, and which eventfd each vector has; −1 stands for none. */
class Twin {
  readonly dynamic: boolean;
  /** descriptors of eventfds, and of a file that is none */
  readonly eventfds: readonly number[];
  readonly other: number;
  entries = Number.POSITIVE_INFINITY;
  vectors = Number.POSITIVE_INFINITY;
  on = -1;
  size = 0;
  owned = new Set<number>();
  bound = new Map<number, number>();
  intx = -1;
  masked = false;
  unmask = -1;
  singles: Record<number, number> = { [ERR]: -1, [REQ]: -1 };
  signals = new Map<number, number>();

  constructor(dynamic: boolean, eventfds: readonly number[], other: number) {
    this.dynamic = dynamic;
    this.eventfds = eventfds;
    this.other = other;
  }

  signal(fd: number): void {
    if (fd >= 0) this.signals.set(fd, (this.signals.get(fd) ?? 0) + 1);
  }

  fdError(fd: number): number {
    if (this.eventfds.includes(fd)) return 0;
    return fd === this.other ? -EINVAL : -EBADF;
  }

  set(
    index: number,
    flags: number,
    start: number,
    count: number,
    data: readonly number[],
    argsz: number,
  ): number {
    const kind = flags & 7;
    const action = flags & 56;
    const width = kind === EVENTFD ? 4 : kind === BOOL ? 1 : 0;
    if (argsz < 20 || index > 4 || flags > 63 || start >= counts[index] || start + count > counts[index])
      return -EINVAL;
    if (![NONE, BOOL, EVENTFD].includes(kind) || argsz - 20 < width * count) return -EINVAL;
    if (![MASK, UNMASK, TRIGGER].includes(action)) return -ENOTTY;
    if (index !== INTX && action !== TRIGGER) return -ENOTTY;
    if (index === INTX) return this.#line(kind, action, count, data);
    return index >= ERR
      ? this.#single(index, kind, count, data)
      : this.#messages(index, kind, start, count, data);
  }

  #single(index: number, kind: number, count: number, data: readonly number[]): number {
    const now = this.singles[index];
    if (kind === NONE && now < 0) return -EINVAL;
    if (kind !== NONE && count === 0) return -EINVAL;
    if (kind === NONE && count === 0) this.singles[index] = -1;
    else if (kind === NONE || (kind === BOOL && data[0] !== 0)) this.signal(now);
    else if (kind === EVENTFD) {
      const [fd] = data;
      if (fd < -1) return this.dynamic ? -EINVAL : 0;
      const wrong = fd < 0 ? 0 : this.fdError(fd);
      if (wrong < 0) return wrong;
      this.singles[index] = fd;
    }
    return 0;
  }

  #line(kind: number, action: number, count: number, data: readonly number[]): number {
    const on = this.on === INTX;
    const said = kind === NONE || (kind === BOOL && data[0] !== 0);
    if (action === TRIGGER && on && kind === NONE && count === 0) {
      this.vectors++;
      this.on = this.intx = this.unmask = -1;
      return 0;
    }
    if (count !== 1 || (!on && (this.on >= 0 || action !== TRIGGER || kind !== EVENTFD))) return -EINVAL;
    if (kind !== EVENTFD) {
      if (said && action === MASK) this.masked = true;
      if (said && action === UNMASK) this.masked = false;
      if (said && action === TRIGGER) this.signal(this.intx);
      return 0;
    }
    if (action === MASK) return -ENOTTY;
    const fd = Math.max(data[0], -1);
    const wrong = fd < 0 ? 0 : this.fdError(fd);
    if (wrong < 0) return wrong;
    if (action === UNMASK) {
      if (fd >= 0 && this.unmask >= 0) return -EBUSY;
      this.unmask = fd;
      return 0;
    }
    if (!on) {
      if (this.vectors === 0) return -ENOSPC;
      this.vectors--;
      this.masked = false;
    }
    this.on = INTX;
    this.intx = fd;
    return 0;
  }

  #messages(index: number, kind: number, start: number, count: number, data: readonly number[]): number {
    const on = this.on === index;
    if (!on && this.on >= 0) return -EINVAL;
    if (kind === EVENTFD) {
      if (on) return this.#block(index, start, count, data);
      const turned = this.#turnOn(index, start + count);
      if (turned !== 0) return turned;
      const failed = this.#block(index, start, count, data);
      if (failed < 0) this.#turnOff(index);
      return failed;
    }
    if (!on) return -EINVAL;
    if (kind === NONE && count === 0) this.#turnOff(index);
    else if (!this.dynamic && start + count > this.size) return -EINVAL;
    else
      for (let i = 0; i < count; i++)
        if (kind === NONE || data[i] !== 0) this.signal(this.bound.get(start + i) ?? -1);
    return 0;
  }

  #turnOn(index: number, count: number): number {
    if (count === 0) return -ERANGE;
    if (index === MSIX && this.entries < count) return this.entries === 0 ? -ENOSPC : this.entries;
    if (index === MSI && this.vectors < count) return -ENOSPC;
    if (index === MSIX) this.entries -= count;
    else this.vectors -= count;
    for (let i = 0; i < count; i++) this.owned.add(i);
    this.size = count;
    this.on = index;
    return 0;
  }

  /** MSI has its vectors from the start: those without an eventfd are given back here too. */
  #turnOff(index: number): void {
    if (index === MSIX) this.entries += this.owned.size;
    this.vectors += this.bound.size + (index === MSI ? this.untouched.size : 0);
    this.owned.clear();
    this.bound.clear();
    this.touched.clear();
    this.silent = false;
    this.on = -1;
  }

  /** MSI vectors that were never bound still hold the vector they got when MSI was turned on */
  touched = new Set<number>();
  get untouched(): Set<number> {
    return new Set([...this.owned].filter((each) => !this.touched.has(each)));
  }

  /** The device knows the message of the first MSI vector only: without it none of them is delivered. */
  silent = false;

  #drop(vector: number): void {
    if (!this.bound.delete(vector)) return;
    this.vectors++;
    if (this.on === MSI && vector === 0) this.silent = true;
  }

  #block(index: number, start: number, count: number, data: readonly number[]): number {
    if (!this.dynamic && (start >= this.size || start + count > this.size)) return -EINVAL;
    for (let i = 0; i < count; i++) {
      const failed = this.#bind(index, start + i, data[i]);
      if (failed === 0) continue;
      for (let each = start; each <= start + i; each++) this.#drop(each);
      return failed;
    }
    return 0;
  }

  #bind(index: number, vector: number, fd: number): number {
    this.#drop(vector);
    if (fd < 0) return 0;
    if (!this.owned.has(vector)) {
      if (index === MSI) return -EINVAL;
      if (this.entries === 0) return -ENOSPC;
      this.entries--;
      this.owned.add(vector);
    }
    const wrong = this.fdError(fd);
    if (wrong < 0) return wrong;
    if (index === MSI && !this.touched.has(vector)) this.vectors++;
    this.touched.add(vector);
    if (this.vectors === 0) return -ENOSPC;
    this.vectors--;
    this.bound.set(vector, fd);
    if (vector === 0) this.silent = false;
    return 0;
  }
}

interface Pair {
  real: Assigned;
  twin: Twin;
  eventfds: number[];
}

function pair(release: string, limits: { entries?: number; vectors?: number } = {}): Pair {
  const real = new Assigned({ image, release });
  const eventfds = Array.from({ length: 4 }, () => real.eventfd());
  const twin = new Twin(release !== "6.1", eventfds, real.container);
  real.device.writeConfig(4, 2, real.device.command | 4);
  const { matrix, remapping } = real.irqs;
  if (limits.vectors !== undefined) {
    while (matrix.free > limits.vectors) matrix.allocate();
    twin.vectors = limits.vectors;
  }
  if (limits.entries !== undefined) {
    for (let left = 65_536 - remapping.inUse("") - limits.entries; left > 0; left--)
      remapping.allocate("x", 1);
    twin.entries = limits.entries;
  }
  return { real, twin, eventfds };
}

/** Both get the same call; then every vector, line and trigger is raised in both, and every eventfd read. */
function step({ real, twin, eventfds }: Pair, call: Call): void {
  const { index, flags, start, count, data } = call;
  const argsz = call.argsz ?? 20 + data.length * ((flags & EVENTFD) !== 0 ? 4 : (flags & BOOL) !== 0 ? 1 : 0);
  const got = real.setIrqs(index, flags, start, count, data, argsz);
  expect({ call, got }).toEqual({ call, got: twin.set(index, flags, start, count, data, argsz) });
  const { device } = real;
  expect([device.msi!.enabled, device.msix!.enabled]).toEqual([twin.on === MSI, twin.on === MSIX]);
  for (let vector = 0; vector < VECTORS; vector++) {
    // a device raises no more MSI vectors than it was given
    if (device.msix!.enabled) device.msix!.raise(vector);
    else if (vector < device.msi!.inUse) device.msi!.raise(vector);
    if ((twin.on === MSI && !twin.silent) || twin.on === MSIX) twin.signal(twin.bound.get(vector) ?? -1);
  }
  // what an unbound vector latched must not come out later: the twin has no pending bits
  device.msix!.pending.fill(0);
  device.setIntx(true);
  if (twin.on === INTX && !twin.masked) {
    twin.signal(twin.intx);
    twin.masked = true;
  }
  device.setIntx(false);
  const counted = eventfds.map((fd) => real.count(fd));
  expect({ call, counted }).toEqual({ call, counted: eventfds.map((fd) => twin.signals.get(fd) ?? 0) });
  twin.signals.clear();
}

interface Call {
  index: number;
  flags: number;
  start: number;
  count: number;
  data: readonly number[];
  argsz?: number;
}

const off: Call[] = [INTX, MSI, MSIX].map((index) => ({
  index,
  flags: NONE | TRIGGER,
  start: 0,
  count: 0,
  data: [],
}));

/** How each state is reached, with descriptors by their place in the list. */
const states = {
  off: [],
  intx: [{ index: INTX, flags: EVENTFD | TRIGGER, start: 0, count: 1, data: [0] }],
  msi: [{ index: MSI, flags: EVENTFD | TRIGGER, start: 0, count: 2, data: [0, 1] }],
  msix: [{ index: MSIX, flags: EVENTFD | TRIGGER, start: 0, count: 2, data: [0, 1] }],
};

/** Back to nothing on and no trigger set. */
function leave(both: Pair): void {
  const { twin } = both;
  if (twin.on >= 0) step(both, { index: twin.on, flags: NONE | TRIGGER, start: 0, count: 0, data: [] });
  for (const index of [ERR, REQ])
    if (twin.singles[index] >= 0) step(both, { index, flags: NONE | TRIGGER, start: 0, count: 0, data: [] });
}

describe.each(["6.1", "6.12"])("on %s", (release) => {
  test.each(Object.keys(states) as (keyof typeof states)[])("every call in state %s", (state) => {
    const both = pair(release);
    const [a, b, c] = both.eventfds;
    const fds = [a, b, c, both.eventfds[3]];
    let calls = 0;
    for (let index = 0; index <= 5; index++)
      for (let flags = 0; flags < 64; flags++)
        for (const start of [0, 1, 3, 4, 0xffff_ffff])
          for (const count of [0, 1, 2, 5]) {
            const lists =
              (flags & 7) === EVENTFD
                ? [
                    [c, c],
                    [-1, c],
                    [-2, -1],
                    [BAD, c],
                    [c, BAD],
                    [both.real.container, c],
                  ]
                : [[1, 0]];
            for (const list of lists) {
              const data = Array.from({ length: count }, (_, i) => list[i % list.length]);
              for (const enter of states[state])
                step(both, { ...enter, data: enter.data.map((place) => fds[place]) });
              step(both, { index, flags, start, count, data });
              leave(both);
              calls++;
            }
          }
    expect(calls).toBe(6 * (56 + 8 * 6) * 5 * 4);
  });

  test("random histories with few vectors", () => {
    fc.assert(
      fc.property(fc.nat(5), fc.infiniteStream(fc.nat(2 ** 30)), (vectors, stream) => {
        const both = pair(release, { vectors });
        walk(both, stream, 40, [INTX, MSI, MSIX]);
        finish(both, vectors);
      }),
      { numRuns: 60 },
    );
  });

  test("random histories with few remapping entries", () => {
    fc.assert(
      fc.property(fc.nat(4), fc.infiniteStream(fc.nat(2 ** 30)), (entries, stream) => {
        const both = pair(release, { entries });
        walk(both, stream, 40, [INTX, MSIX]);
        for (const call of off) step(both, call);
        expect(65_536 - both.real.irqs.remapping.inUse("")).toBe(entries);
      }),
      { numRuns: 20 },
    );
  });

  /** Calls that mostly mean something, drawn from a stream of numbers. */
  function walk(both: Pair, stream: fc.Stream<number>, length: number, indices: readonly number[]): void {
    const choose = <T>(...from: readonly T[]): T => from[stream.next().value! % from.length];
    for (let i = 0; i < length; i++) {
      const index = choose(...indices, ...indices, ERR, REQ);
      const kind = choose(EVENTFD, EVENTFD, EVENTFD, NONE, BOOL);
      const action = index === INTX ? choose(TRIGGER, TRIGGER, MASK, UNMASK) : TRIGGER;
      const start = choose(0, 0, 1, 2, 3);
      const count = choose(0, 1, 1, 2, 3, 4);
      // One eventfd is for unmasking only: what unmasks is read by the kernel, and the twin has no such reader.
      const eventfds = action === UNMASK ? both.eventfds.slice(3) : both.eventfds.slice(0, 3);
      const fd = () => choose(...eventfds, ...eventfds, -1, -1, -2, BAD, both.real.container);
      const data = Array.from({ length: count }, () => (kind === EVENTFD ? fd() : choose(0, 1, 255)));
      step(both, { index, flags: kind | action, start, count, data });
    }
  }

  function finish(both: Pair, vectors: number): void {
    for (const call of off) step(both, call);
    expect(both.real.irqs.matrix.free).toBe(vectors);
    expect(both.real.irqs.matrix.reserved).toBe(0);
  }

  test("a failed allocation anywhere on the way leaks nothing, and answers ENOMEM or ENOSPC", () => {
    fc.assert(
      fc.property(
        fc.constantFrom(INTX, MSI, MSIX),
        fc.integer({ min: 1, max: 14 }),
        fc.boolean(),
        (index, nth, extend) => {
          const { real, eventfds } = pair(release);
          const { matrix, remapping, kernel } = real.irqs;
          const before = [matrix.free, remapping.inUse(""), matrix.reserved];
          const count = index === INTX ? 1 : 2;
          if (extend && index === MSIX) real.setIrqs(MSIX, EVENTFD | TRIGGER, 0, 1, [eventfds[0]]);
          kernel.faults.failNth("allocation", nth);
          const result = real.setIrqs(index, EVENTFD | TRIGGER, 0, count, eventfds.slice(0, count));
          const hit = kernel.faults.hits.length;
          kernel.faults.clear();
          if (hit !== 0) expect(result === -ENOMEM || result === -ENOSPC || result === 1).toBe(true);
          else if (release === "6.1" && extend && index === MSIX) expect(result).toBe(-EINVAL);
          else expect(result).toBe(0);
          real.setIrqs(index, NONE | TRIGGER, 0, 0);
          expect([matrix.free, remapping.inUse(""), matrix.reserved]).toEqual(before);
        },
      ),
      { numRuns: 80 },
    );
  });

  test("closing the device gives everything back", () => {
    fc.assert(
      fc.property(fc.infiniteStream(fc.nat(2 ** 30)), (stream) => {
        const both = pair(release);
        const { matrix, remapping } = both.real.irqs;
        const before = [matrix.free, matrix.reserved];
        walk(both, stream, 12, [INTX, MSI, MSIX]);
        both.real.process.close(both.real.fd);
        expect([matrix.free, matrix.reserved]).toEqual(before);
        expect(remapping.inUse("")).toBe(15);
      }),
      { numRuns: 40 },
    );
  });
});
