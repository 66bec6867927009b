/**
 * The Freescale MPIC, an OpenPIC: interrupt controller of the e500 processors, in the versions 2.0 and 4.2 that KVM
 * emulates. From the source (arch/powerpc/kvm/mpic.c, 6.1) and the documentation (Documentation/virt/kvm/devices/mpic.rst):
 * no recording of a real kernel stands behind this file.
 *
 * 256 sources (0..15 external pins, from 16 on internal and always level-triggered, 224..231 shared messages), then four
 * interrupts between processors and four timers. A source has IVPR (vector @0, priority @16, sense @22, polarity @23,
 * activity @30, mask @31) and IDR (destinations, one bit a CPU). A CPU takes what is more urgent than its CTPR and than
 * what it services; reading IACK starts service, writing EOI ends it.
 *
 * Registers, 32 bits each, in 256 KiB: global from 0x1000, a CPU's own view at 0x40..0xb0, timers from 0x10f0, messages
 * from 0x1600, summary from 0x3800 (reads 0), sources from 0x10000 (32 bytes each), CPUs from 0x20000 (4 KiB each).
 *
 * A write to EOI leaves the number of the ended source in `acked`: the caller tells those who wait for it.
 *
 * Missing, as in KVM: timers never count, summary registers, critical and machine check outputs reach nobody, delivery
 * to one of several CPUs in turn (its bit cannot be set).
 */
import { ENXIO } from "../abi/errno.ts";
import type { ExternalInput } from "./external-input.ts";

export const MPIC_SOURCES = 256;
export const MPIC_MAX_CPUS = 32;
/** bytes of the registers */
export const MPIC_SIZE = 0x40000;
/** where a message is written, among the registers */
export const MPIC_MSIIR = 0x1600 + 0x140;

const EXTERNAL = 16;
const FIRST_MESSAGE = 224;
const MESSAGES = 8;
const FIRST_IPI = MPIC_SOURCES;
const FIRST_TIMER = FIRST_IPI + 4;
const ALL = FIRST_TIMER + 4;

const VECTOR = 0xffff;
const PRIORITY = 0xf_0000;
const SENSE = 1 << 22;
const POLARITY = 1 << 23;
const ACTIVITY = 1 << 30;
const MASK = 0x8000_0000;
const IDR_EP = 0x8000_0000;

const GCR_RESET = 0x8000_0000;
const TBCR_INHIBIT = 0x8000_0000;
const TCCR_TOGGLE = 0x8000_0000;
/** what a register that is not there reads */
const NOTHING = 0xffff_ffff;
/** outputs of a CPU: interrupt, critical interrupt, and as 2 machine check */
const INT = 0;
const CRITICAL = 1;

/** What differs between the versions. */
export interface MpicVersion {
  readonly brr1: number;
  readonly irqs: number;
  /** the modes that GCR can take */
  readonly modes: number;
  /** destinations of critical interrupts are in IDR (else in a register of their own, ILR) */
  readonly criticalInIdr: boolean;
}
export const MPIC_20: MpicVersion = { brr1: 0x0040_0200, irqs: 80, modes: 0x2000_0000, criticalInIdr: true };
export const MPIC_42: MpicVersion = {
  brr1: 0x0040_0402,
  irqs: 196,
  modes: 0x6000_0000,
  criticalInIdr: false,
};

type Kind = "pin" | "internal" | "special";

class Source {
  readonly kind: Kind;
  ivpr = 0;
  idr = 0;
  /** CPUs that it goes to, one bit each */
  destinations = 0;
  output = INT;
  /** the level of its line, or an edge that was not taken yet */
  pending = false;
  level: boolean;
  /** critical interrupts ignore the mask */
  ignoresMask = false;

  constructor(kind: Kind) {
    this.kind = kind;
    this.level = kind === "internal";
  }

  get priority(): number {
    return (this.ivpr & PRIORITY) >>> 16;
  }
}

/** A set of interrupts, with the most urgent one: the first of the highest priority. */
class Queue {
  readonly members = new Set<number>();
  next = -1;
  priority = 0;

  check(sources: readonly Source[]): number {
    this.next = -1;
    this.priority = -1;
    for (let irq = 0; irq < ALL; irq++)
      if (this.members.has(irq) && sources[irq].priority > this.priority) {
        this.next = irq;
        this.priority = sources[irq].priority;
      }
    return this.next;
  }

  reset(): void {
    this.members.clear();
    this.next = -1;
    this.priority = 0;
  }
}

class Cpu {
  input: ExternalInput | undefined;
  ctpr = 15;
  readonly raised = new Queue();
  readonly servicing = new Queue();
}

export class Mpic {
  readonly version: MpicVersion;
  readonly sources: readonly Source[] = Array.from(
    { length: ALL },
    (_, i) => new Source(i < EXTERNAL ? "pin" : i < MPIC_SOURCES ? "internal" : "special"),
  );
  readonly cpus: readonly Cpu[] = Array.from({ length: MPIC_MAX_CPUS }, () => new Cpu());
  /** sources that a guest has ended, oldest first */
  readonly acked: number[] = [];
  #cpuCount = 0;
  #gcr = 0;
  #spve = VECTOR;
  #timerFrequency = 0;
  readonly #timers = Array.from({ length: 4 }, () => ({ count: 0, base: TBCR_INHIBIT }));
  readonly #messages = new Uint32Array(MESSAGES);

  constructor(version: MpicVersion) {
    this.version = version;
    this.reset();
  }

  connect(cpu: number, input: ExternalInput): void {
    this.cpus[cpu].input = input;
    this.#cpuCount = Math.max(this.#cpuCount, cpu + 1);
  }

  reset(): void {
    this.#spve = VECTOR;
    this.#timerFrequency = 0;
    this.sources.forEach((source, irq) => {
      source.ivpr = MASK;
      if (source.kind === "pin") source.level = false;
      if (source.kind === "internal") source.ivpr |= POLARITY;
      this.#setIdr(irq, 1);
    });
    for (const cpu of this.cpus) {
      cpu.ctpr = 15;
      cpu.raised.reset();
      cpu.servicing.reset();
    }
    for (const timer of this.#timers) Object.assign(timer, { count: 0, base: TBCR_INHIBIT });
    this.#gcr = 0;
  }

  // ---- delivery --------------------------------------------------------------------------------------------------

  /** mpic.c:openpic_set_irq (6.1) */
  setIrq(irq: number, level: boolean): void {
    const source = this.sources[irq];
    if (source === undefined) return;
    if (source.level) {
      source.pending = level;
      this.#update(irq);
      return;
    }
    if (level) {
      source.pending = true;
      this.#update(irq);
    }
    if (source.output !== INT) {
      source.pending = false;
      this.#update(irq);
    }
  }

  /** A message: the register of its bank gets a bit, and the bank's source is raised. */
  message(data: number): void {
    const bank = data >>> 29;
    this.#messages[bank] |= 1 << ((data >>> 24) & 31);
    this.setIrq(FIRST_MESSAGE + bank, true);
  }

  /** The registers of a source have changed. mpic.c:openpic_update_irq (6.1) */
  #update(irq: number): void {
    const source = this.sources[irq];
    const active = source.pending && ((source.ivpr & MASK) === 0 || source.ignoresMask);
    const wasActive = (source.ivpr & ACTIVITY) !== 0;
    if (!active && !wasActive) return;
    source.ivpr = active ? source.ivpr | ACTIVITY : source.ivpr & ~ACTIVITY;
    if (source.destinations === 0) return;
    for (let cpu = 0; cpu < this.#cpuCount; cpu++)
      if ((source.destinations >>> cpu) & 1) this.#pipe(cpu, irq, active);
  }

  /** mpic.c:IRQ_local_pipe (6.1): a less urgent one stays raised, for when CTPR goes down. */
  #pipe(number: number, irq: number, active: boolean): void {
    const cpu = this.cpus[number];
    const source = this.sources[irq];
    if (source.output !== INT) return;
    if (active) cpu.raised.members.add(irq);
    else cpu.raised.members.delete(irq);
    cpu.raised.check(this.sources);
    const serviced = cpu.servicing.check(this.sources);
    if (active && source.priority > cpu.ctpr) {
      if (serviced < 0 || source.priority > cpu.servicing.priority) raise(cpu);
    } else if (cpu.raised.priority <= cpu.ctpr || cpu.raised.priority <= cpu.servicing.priority) lower(cpu);
  }

  // ---- registers -------------------------------------------------------------------------------------------------

  /** A register, or −ENXIO where there is none. `cpu` makes the access; −1 for user space. */
  read(address: number, cpu: number): number {
    if (address < 0x10f0) return this.#readGlobal(address, cpu);
    if (address < 0x1310) return this.#readTimer(address - 0x10f0);
    if (address >= 0x1600 && address < 0x1800) return this.#readMessage(address - 0x1600);
    if (address >= 0x3800 && address < 0x4000) return 0;
    if (address >= 0x10000 && address < 0x10000 + MPIC_SOURCES * 0x20) return this.#readSource(address);
    if (inCpus(address)) return this.#readCpu(address, (address & 0x1f000) >> 12);
    return -ENXIO;
  }

  write(address: number, value: number, cpu: number): number {
    if (address < 0x10f0) return this.#writeGlobal(address, value, cpu);
    if (address < 0x1310) this.#writeTimer(address, value);
    else if (address >= 0x1600 && address < 0x1800) {
      if (address === MPIC_MSIIR) this.message(value);
    } else if (address >= 0x10000 && address < 0x10000 + MPIC_SOURCES * 0x20)
      this.#writeSource(address, value);
    else if (inCpus(address)) this.#writeCpu(address, value, (address & 0x1f000) >> 12);
    else return address >= 0x3800 && address < 0x4000 ? 0 : -ENXIO;
    return 0;
  }

  #readGlobal(address: number, cpu: number): number {
    if ((address & 0xf) !== 0) return NOTHING;
    switch (address) {
      case 0x00:
        return this.version.brr1;
      case 0x1000:
        return (((this.version.irqs - 1) << 16) | ((this.#cpuCount - 1) << 8) | 2) >>> 0;
      case 0x1020:
        return this.#gcr;
      case 0x1080:
      case 0x1090:
        return 0;
      case 0x10e0:
        return this.#spve;
    }
    if (address >= 0x40 && address <= 0xb0) return this.#readCpu(address, cpu);
    if (address >= 0x10a0 && address <= 0x10d0)
      return this.sources[FIRST_IPI + ((address - 0x10a0) >> 4)].ivpr >>> 0;
    return NOTHING;
  }

  /** PIR resets a processor: user space has to. */
  #writeGlobal(address: number, value: number, cpu: number): number {
    if ((address & 0xf) !== 0) return 0;
    if (address >= 0x40 && address <= 0xb0) this.#writeCpu(address, value, cpu);
    else if (address >= 0x10a0 && address <= 0x10d0)
      this.#setIvpr(FIRST_IPI + ((address - 0x10a0) >> 4), value);
    else if (address === 0x1020) this.#setGcr(value);
    else if (address === 0x1090) return -ENXIO;
    else if (address === 0x10e0) this.#spve = value & VECTOR;
    return 0;
  }

  #setGcr(value: number): void {
    if ((value & GCR_RESET) !== 0) this.reset();
    else this.#gcr = (value & this.version.modes) >>> 0;
  }

  #readTimer(offset: number): number {
    if ((offset & 0xf) !== 0) return NOTHING;
    if (offset === 0) return this.#timerFrequency;
    const number = (offset >> 6) & 3;
    switch (offset & 0x30) {
      case 0x00:
        return this.#timers[number].count >>> 0;
      case 0x10:
        return this.#timers[number].base >>> 0;
      case 0x20:
        return this.sources[FIRST_TIMER + number].ivpr >>> 0;
      default:
        return this.sources[FIRST_TIMER + number].idr >>> 0;
    }
  }

  /** Reads count from the first timer register, writes from the start of the page: KVM's own asymmetry. */
  #writeTimer(address: number, value: number): void {
    if ((address & 0xf) !== 0) return;
    if (address === 0x10f0) {
      this.#timerFrequency = value;
      return;
    }
    const number = (address >> 6) & 3;
    const timer = this.#timers[number];
    switch (address & 0x30) {
      case 0x10:
        if (timer.count & TCCR_TOGGLE && !(value & TBCR_INHIBIT) && timer.base & TBCR_INHIBIT)
          timer.count &= ~TCCR_TOGGLE;
        timer.base = value;
        return;
      case 0x20:
        this.#setIvpr(FIRST_TIMER + number, value);
        return;
      case 0x30:
        this.#setIdr(FIRST_TIMER + number, value);
    }
  }

  /** Reading a bank clears it, and lowers its source. */
  #readMessage(offset: number): number {
    if ((offset & 0xf) !== 0) return -ENXIO;
    const bank = offset >> 4;
    if (bank < MESSAGES) {
      const bits = this.#messages[bank];
      this.#messages[bank] = 0;
      this.setIrq(FIRST_MESSAGE + bank, false);
      return bits;
    }
    if (offset !== 0x120) return 0;
    return this.#messages.reduce((set, bits, i) => (bits === 0 ? set : set | (1 << i)), 0);
  }

  #readSource(address: number): number {
    const source = this.sources[(address & 0xffff) >> 5];
    switch (address & 0x1f) {
      case 0x00:
        return source.ivpr >>> 0;
      case 0x10:
        return source.idr >>> 0;
      case 0x18:
        return this.version.criticalInIdr ? NOTHING : source.output;
    }
    return NOTHING;
  }

  #writeSource(address: number, value: number): void {
    const irq = (address & 0xffff) >> 5;
    switch (address & 0x1f) {
      case 0x00:
        this.#setIvpr(irq, value);
        return;
      case 0x10:
        this.#setIdr(irq, value);
        return;
      case 0x18:
        if (!this.version.criticalInIdr) this.sources[irq].output = value & 0xff;
    }
  }

  /** Activity is read-only; internal interrupts have no sense bit, special ones no polarity either. */
  #setIvpr(irq: number, value: number): void {
    const source = this.sources[irq];
    let kept = MASK | PRIORITY | VECTOR | POLARITY | SENSE;
    if (source.kind !== "pin") kept &= ~SENSE;
    if (source.kind === "special") kept &= ~POLARITY;
    source.ivpr = (source.ivpr & ACTIVITY) | (value & kept);
    if (source.kind === "pin") source.level = (source.ivpr & SENSE) !== 0;
    this.#update(irq);
  }

  /** Destinations from bit 0 on; in version 2.0 those of critical interrupts from bit 30 down. */
  #setIdr(irq: number, value: number): void {
    const source = this.sources[irq];
    const count = this.#cpuCount;
    const normal = count === 32 ? -1 : (1 << count) - 1;
    if (!this.version.criticalInIdr) {
      source.idr = value & normal;
      source.destinations = source.idr;
      return;
    }
    const critical = normal << (31 - count);
    source.idr = value & (normal | critical | IDR_EP);
    source.ignoresMask = (source.idr & critical) !== 0;
    source.output = source.ignoresMask ? CRITICAL : INT;
    source.destinations = source.idr & normal;
    if (!source.ignoresMask) return;
    source.destinations = 0;
    for (let cpu = 0; cpu < count; cpu++)
      if ((source.idr >>> (30 - cpu)) & 1) source.destinations |= 1 << cpu;
  }

  // ---- a CPU's registers -----------------------------------------------------------------------------------------

  #readCpu(address: number, number: number): number {
    if (number < 0 || (address & 0xf) !== 0) return NOTHING;
    switch (address & 0xff0) {
      case 0x80:
        return this.cpus[number].ctpr;
      case 0x90:
        return number;
      case 0xa0:
        return this.#acknowledge(number);
      case 0xb0:
        return 0;
    }
    return NOTHING;
  }

  #writeCpu(address: number, value: number, number: number): void {
    if (number < 0 || (address & 0xf) !== 0) return;
    const register = address & 0xff0;
    if (register >= 0x40 && register <= 0x70) this.#sendIpi((register - 0x40) >> 4, value);
    else if (register === 0x80) this.#setCtpr(this.cpus[number], value & 0xf);
    else if (register === 0xb0) this.#endOfInterrupt(this.cpus[number]);
  }

  /** Each CPU named takes it once: those that did not yet stay in the destinations. */
  #sendIpi(ipi: number, cpus: number): void {
    this.sources[FIRST_IPI + ipi].destinations |= cpus;
    this.setIrq(FIRST_IPI + ipi, true);
    this.setIrq(FIRST_IPI + ipi, false);
  }

  #setCtpr(cpu: Cpu, ctpr: number): void {
    cpu.ctpr = ctpr;
    if (cpu.raised.priority <= ctpr) lower(cpu);
    else if (cpu.raised.priority > cpu.servicing.priority) raise(cpu);
  }

  /** The vector of what is taken into service, or the spurious one. mpic.c:openpic_iack (6.1) */
  #acknowledge(number: number): number {
    const cpu = this.cpus[number];
    lower(cpu);
    const irq = cpu.raised.check(this.sources);
    if (irq < 0) return this.#spve;
    const source = this.sources[irq];
    let vector = this.#spve;
    if ((source.ivpr & ACTIVITY) === 0 || source.priority <= cpu.ctpr) this.#update(irq);
    else {
      cpu.servicing.members.add(irq);
      vector = source.ivpr & VECTOR;
    }
    if (!source.level) {
      source.ivpr &= ~ACTIVITY;
      source.pending = false;
      cpu.raised.members.delete(irq);
    }
    if (irq >= FIRST_IPI && irq < FIRST_TIMER) {
      source.destinations &= ~(1 << number);
      if (source.destinations !== 0 && !source.level) {
        this.setIrq(irq, true);
        this.setIrq(irq, false);
        source.ivpr |= ACTIVITY;
      }
    }
    return vector;
  }

  #endOfInterrupt(cpu: Cpu): void {
    const ended = cpu.servicing.check(this.sources);
    if (ended < 0) return;
    cpu.servicing.members.delete(ended);
    const serviced = cpu.servicing.check(this.sources);
    const next = cpu.raised.check(this.sources);
    if (next >= 0 && (serviced < 0 || this.sources[next].priority > cpu.servicing.priority)) raise(cpu);
    this.acked.push(ended);
  }
}

const inCpus = (address: number): boolean =>
  address >= 0x20000 && address < 0x20000 + 0x100 + (MPIC_MAX_CPUS - 1) * 0x1000;

function raise(cpu: Cpu): void {
  if (cpu.input !== undefined) cpu.input.external = true;
}

function lower(cpu: Cpu): void {
  if (cpu.input !== undefined) cpu.input.external = false;
}
