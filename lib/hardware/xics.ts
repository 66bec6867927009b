/**
 * XICS, the interrupt controllers of POWER5 to POWER8 as PAPR shows them to a guest: sources in blocks of 1024 (ICS),
 * and one presenter a processor (ICP), named by its server number (arch/powerpc/kvm/book3s_xics.c, 6.1; PAPR 2.9,
 * chapter B.7).
 *
 * Source numbers go from 16 to 0xfffff; 0 is "no interrupt", 2 an interrupt from another processor. A priority is a
 * byte, 0 the most favoured, 0xff masks. The presenter shows one interrupt at a time: XISR, its number, with its
 * priority. A source that cannot be shown remembers that (`resend`) until the presenter has room; a shown one that
 * gives way to a more favoured one is tried again.
 *
 * A message source (edge) counts to two: P(resented), and Q(ueued) for one that came while P; EOI moves Q into P. A
 * level source (LSI) has its line in P; EOI shows it again while the line is up.
 *
 * State of a source, u64: server @0 (32 bits), priority @32 (8 bits), then one bit each: level-sensitive @40,
 * masked @41, pending @42, presented @43, queued @44. State of a presenter, u64: CPPR @56, XISR @32 (24 bits),
 * MFRR @24, pending priority @16. Numbers as large as u64 travel as two halves of 32 bits.
 *
 * Missing: the hypervisor's real mode (book3s_hv_rm_xics.c), in which bare-metal POWER8 does the same faster.
 */
import { EINVAL } from "../abi/errno.ts";
import { load32, store32 } from "../abi/struct.ts";
import type { ExternalInput } from "./external-input.ts";

export const XICS_FIRST_SOURCE = 16;
/** one more than the highest source number */
export const XICS_SOURCES = 1 << 20;
/** the number under which an interrupt of another processor is shown */
export const XICS_IPI = 2;
export const XICS_MASKED = 0xff;

/** answers of the hypercalls (arch/powerpc/include/asm/hvcall.h, 6.1) */
export const H_SUCCESS = 0;
export const H_PARAMETER = -4;

/** sources of a block, as a shift */
const BLOCK = 10;
const IN_BLOCK = (1 << BLOCK) - 1;

const PRESENTED = 1;
const QUEUED = 2;

// bits of the upper half of a source's state
const LEVEL_SENSITIVE = 1 << 8;
const MASKED = 1 << 9;
const PENDING = 1 << 10;
const STATE_PRESENTED = 1 << 11;
const STATE_QUEUED = 1 << 12;

// levels of KVM_IRQ_LINE that are names (arch/powerpc/include/uapi/asm/kvm.h, 6.1); every other one but 0 raises
const INTERRUPT_UNSET = 0xffff_fffe;

/** `present` could not show the interrupt. */
const REFUSED = -1;

/** One interrupt source. */
export class XicsSource {
  readonly number: number;
  /** set once by user space: before, nothing can raise it */
  exists = false;
  server = 0;
  priority = XICS_MASKED;
  /** what ibm,int-on gives back */
  savedPriority = XICS_MASKED;
  levelSensitive = false;
  /** bit 0 P, bit 1 Q */
  pq = 0;
  resend = false;
  maskedPending = false;

  constructor(number: number) {
    this.number = number;
  }

  /** Its state in 8 bytes. book3s_xics.c:xics_get_source (6.1) */
  saveTo(bytes: Uint8Array, at: number): void {
    const masked = this.priority === XICS_MASKED;
    let high = masked ? this.savedPriority | MASKED : this.priority;
    if (this.levelSensitive) high |= LEVEL_SENSITIVE | (this.pq & PRESENTED ? PENDING : 0);
    else if (this.maskedPending || this.resend) high |= PENDING;
    if (this.pq & PRESENTED) high |= STATE_PRESENTED;
    if (this.pq & QUEUED) high |= STATE_QUEUED;
    store32(bytes, at, this.server);
    store32(bytes, at + 4, high);
  }
}

/** The presenter of one processor. */
export class XicsPresenter {
  readonly server: number;
  readonly input: ExternalInput;
  /** the processor takes what is more favoured than this; 0: nothing */
  cppr = 0;
  /** the interrupt shown, 0: none */
  xisr = 0;
  /** the priority of a wanted interrupt from another processor; 0xff: none wanted */
  mfrr = XICS_MASKED;
  pendingPriority = XICS_MASKED;
  /** something waits in one of the blocks `resends` until there is room */
  needResend = false;
  readonly resends = new Set<number>();

  constructor(server: number, input: ExternalInput) {
    this.server = server;
    this.input = input;
  }

  /** CPPR in the top byte, XISR below it: what H_XIRR answers. */
  get xirr(): number {
    return ((this.cppr << 24) | this.xisr) >>> 0;
  }

  /** Shows an interrupt if it wins: the number that had to give way, 0 where none did, or REFUSED. */
  present(irq: number, priority: number): number {
    const wins = this.cppr > priority && this.mfrr > priority && this.pendingPriority > priority;
    const displaced = wins ? this.xisr : REFUSED;
    if (wins) {
      this.xisr = irq;
      this.pendingPriority = priority;
    } else this.needResend = true;
    this.signal();
    return displaced;
  }

  /** Shows an interrupt from another processor, at the priority of MFRR. */
  presentIpi(): void {
    this.pendingPriority = this.mfrr;
    this.xisr = XICS_IPI;
  }

  /** Raises the processor's input if what is shown is favoured enough. */
  signal(): void {
    if (this.xisr !== 0 && this.pendingPriority < this.cppr) this.input.external = true;
  }

  takeNeedResend(): boolean {
    const needed = this.needResend;
    this.needResend = false;
    return needed;
  }
}

export class Xics {
  readonly #blocks: (XicsSource[] | undefined)[] = [];
  readonly #presenters = new Map<number, XicsPresenter>();

  presenter(server: number): XicsPresenter | undefined {
    return this.#presenters.get(server);
  }

  /** A presenter for a processor; the caller has made sure that the server number is free. */
  addPresenter(server: number, input: ExternalInput): XicsPresenter {
    const presenter = new XicsPresenter(server, input);
    this.#presenters.set(server, presenter);
    return presenter;
  }

  removePresenter(presenter: XicsPresenter): void {
    this.#presenters.delete(presenter.server);
  }

  /** Makes room for the block that a source lies in. */
  addBlock(irq: number): void {
    const block = irq >>> BLOCK;
    while (this.#blocks.length < block) this.#blocks.push(undefined);
    this.#blocks[block] ??= [];
  }

  /** A source of a block that there is, set up or not; undefined without its block, or beyond the highest number. */
  source(irq: number): XicsSource | undefined {
    const block = this.#blocks[irq >>> BLOCK];
    return block === undefined ? undefined : (block[irq & IN_BLOCK] ??= new XicsSource(irq));
  }

  /**
   * Sets a source up from 8 bytes: 0, or −EINVAL where it is not masked by priority and its server has no presenter.
   * PENDING and PRESENTED both set P; PENDING shows it too. Unknown bits are ignored. book3s_xics.c:xics_set_source (6.1)
   */
  restoreSource(source: XicsSource, bytes: Uint8Array, at: number): number {
    const server = load32(bytes, at);
    const high = load32(bytes, at + 4);
    const priority = high & 0xff;
    if (priority !== XICS_MASKED && !this.#presenters.has(server)) return -EINVAL;
    source.server = server;
    source.savedPriority = priority;
    source.priority = high & MASKED ? XICS_MASKED : priority;
    source.resend = false;
    source.maskedPending = false;
    source.levelSensitive = (high & LEVEL_SENSITIVE) !== 0;
    source.pq = (high & (STATE_PRESENTED | PENDING) ? PRESENTED : 0) | (high & STATE_QUEUED ? QUEUED : 0);
    source.exists = true;
    if (high & PENDING) this.#deliver(source.number, false);
    return 0;
  }

  /**
   * A line or a message: `level` is the number of KVM_IRQ_LINE. 0, or −EINVAL for a source that was never set up. A
   * message has no low level. book3s_xics.c:ics_deliver_irq (6.1)
   */
  setIrq(irq: number, level: number): number {
    const source = this.source(irq);
    if (source?.exists !== true) return -EINVAL;
    const up = level !== 0 && level >>> 0 !== INTERRUPT_UNSET;
    if (source.levelSensitive) {
      if (up && source.pq & PRESENTED) return 0;
      source.pq = up ? PRESENTED : 0;
    } else {
      if (!up) return 0;
      source.pq = ((source.pq << 1) & (PRESENTED | QUEUED)) | PRESENTED;
    }
    if (source.pq === PRESENTED) this.#deliver(irq, false);
    return 0;
  }

  /** Shows an interrupt, and whoever has to give way for it, and so on. book3s_xics.c:icp_deliver_irq (6.1) */
  #deliver(irq: number, onlyResends: boolean): void {
    for (;;) {
      const source = this.source(irq);
      const presenter = source && this.#presenters.get(source.server);
      if (source === undefined || presenter === undefined) return;
      if (onlyResends && !source.resend) return;
      source.resend = false;
      if (source.priority === XICS_MASKED) {
        source.maskedPending = true;
        return;
      }
      const displaced = presenter.present(irq, source.priority);
      if (displaced === REFUSED) {
        source.resend = true;
        presenter.resends.add(irq >>> BLOCK);
        return;
      }
      if (displaced === 0 || displaced === XICS_IPI) return;
      irq = displaced;
      onlyResends = false;
    }
  }

  /** What was refused by a presenter is shown again, by number. */
  #resend(presenter: XicsPresenter): void {
    const blocks = [...presenter.resends].sort((a, b) => a - b);
    for (const block of blocks) {
      presenter.resends.delete(block);
      for (const source of this.#blocks[block] ?? []) if (source?.resend) this.#deliver(source.number, true);
    }
  }

  // ---- hypercalls of the processor a presenter belongs to ---------------------------------------------------------

  /** H_XIRR: accepts the interrupt shown, and answers it with the CPPR that was. */
  xirr(presenter: XicsPresenter): number {
    presenter.input.external = false;
    const xirr = presenter.xirr;
    if (presenter.xisr !== 0) {
      presenter.cppr = presenter.pendingPriority;
      presenter.pendingPriority = XICS_MASKED;
      presenter.xisr = 0;
    }
    return xirr;
  }

  /** H_CPPR: what is shown and not favoured enough any more gives way. book3s_xics.c:kvmppc_h_cppr (6.1) */
  setCppr(presenter: XicsPresenter, cppr: number): void {
    if (cppr === presenter.cppr) return;
    if (cppr > presenter.cppr) this.#lowerCppr(presenter, cppr & 0xff);
    presenter.input.external = false;
    let displaced = 0;
    presenter.cppr = cppr & 0xff;
    if (cppr <= presenter.pendingPriority) {
      displaced = presenter.xisr;
      presenter.xisr = 0;
      presenter.pendingPriority = XICS_MASKED;
    }
    presenter.signal();
    if (displaced !== 0 && displaced !== XICS_IPI) this.#deliver(displaced, false);
  }

  /** The processor takes less favoured interrupts from now on. book3s_xics.c:icp_down_cppr (6.1) */
  #lowerCppr(presenter: XicsPresenter, cppr: number): void {
    presenter.cppr = cppr;
    if (presenter.mfrr < cppr && presenter.mfrr <= presenter.pendingPriority) presenter.presentIpi();
    const resend = presenter.takeNeedResend();
    presenter.signal();
    if (resend) this.#resend(presenter);
  }

  /**
   * H_EOI: CPPR from the top byte, then the end of the source below it. H_PARAMETER for a number without a block. After
   * H_SUCCESS the caller tells those who wait for the end of the source, unless it is XICS_IPI, which has none.
   * book3s_xics.c:kvmppc_h_eoi, ics_eoi (6.1)
   */
  eoi(presenter: XicsPresenter, xirr: number): number {
    this.#lowerCppr(presenter, (xirr >>> 24) & 0xff);
    const irq = xirr & 0xff_ffff;
    if (irq === XICS_IPI) return H_SUCCESS;
    const source = this.source(irq);
    if (source === undefined) return H_PARAMETER;
    if (!source.levelSensitive) source.pq >>= 1;
    if (source.pq & PRESENTED) this.#deliver(irq, false);
    return H_SUCCESS;
  }

  /** H_IPI: sets the MFRR of a server. H_PARAMETER: there is no such server. book3s_xics.c:kvmppc_h_ipi (6.1) */
  ipi(server: number, mfrr: number): number {
    const presenter = this.#presenters.get(server);
    if (presenter === undefined) return H_PARAMETER;
    const before = presenter.mfrr;
    presenter.mfrr = mfrr & 0xff;
    let displaced = 0;
    if (mfrr < presenter.cppr && mfrr <= presenter.pendingPriority) {
      displaced = presenter.xisr;
      presenter.presentIpi();
    }
    const resend = mfrr > before && presenter.takeNeedResend();
    presenter.signal();
    if (displaced !== 0 && displaced !== XICS_IPI) this.#deliver(displaced, false);
    if (resend) this.#resend(presenter);
    return H_SUCCESS;
  }

  // ---- the processor's firmware (RTAS) ---------------------------------------------------------------------------

  /** ibm,set-xive: server and priority of a source. −EINVAL. */
  setXive(irq: number, server: number, priority: number): number {
    const source = this.source(irq);
    if (source === undefined || !this.#presenters.has(server)) return -EINVAL;
    this.#configure(source, server, priority, priority);
    return 0;
  }

  /** ibm,int-off: masks a source and remembers its priority. −EINVAL. */
  intOff(irq: number): number {
    const source = this.source(irq);
    if (source === undefined) return -EINVAL;
    this.#configure(source, source.server, XICS_MASKED, source.priority);
    return 0;
  }

  /** ibm,int-on: the priority that was. −EINVAL. */
  intOn(irq: number): number {
    const source = this.source(irq);
    if (source === undefined || !this.#presenters.has(source.server)) return -EINVAL;
    this.#configure(source, source.server, source.savedPriority, source.savedPriority);
    return 0;
  }

  /** book3s_xics.c:write_xive (6.1): what waited behind the mask is shown. */
  #configure(source: XicsSource, server: number, priority: number, savedPriority: number): void {
    source.server = server >>> 0;
    source.priority = priority & 0xff;
    source.savedPriority = savedPriority & 0xff;
    if ((!source.maskedPending && !source.resend) || priority === XICS_MASKED) return;
    source.maskedPending = false;
    source.resend = false;
    this.#deliver(source.number, false);
  }

  // ---- state of a presenter --------------------------------------------------------------------------------------

  /** Its state in 8 bytes. book3s_xics.c:kvmppc_xics_get_icp (6.1) */
  savePresenter(presenter: XicsPresenter, bytes: Uint8Array, at: number): void {
    store32(bytes, at, (presenter.mfrr << 24) | (presenter.pendingPriority << 16));
    store32(bytes, at + 4, presenter.xirr);
  }

  /**
   * Takes a state over: −EINVAL where it contradicts itself, or shows a source without a block. What it displaces is
   * not shown again: the source's own state says it. book3s_xics.c:kvmppc_xics_set_icp (6.1)
   */
  restorePresenter(presenter: XicsPresenter, bytes: Uint8Array, at: number): number {
    const low = load32(bytes, at);
    const high = load32(bytes, at + 4);
    const cppr = high >>> 24;
    const xisr = high & 0xff_ffff;
    const mfrr = low >>> 24;
    const pendingPriority = (low >>> 16) & 0xff;
    if (xisr === 0) {
      if (pendingPriority !== XICS_MASKED) return -EINVAL;
    } else if (xisr === XICS_IPI) {
      if (pendingPriority !== mfrr || pendingPriority >= cppr) return -EINVAL;
    } else if (pendingPriority >= mfrr || pendingPriority >= cppr || this.source(xisr) === undefined)
      return -EINVAL;

    presenter.input.external = false;
    const resend = mfrr > presenter.mfrr && presenter.takeNeedResend();
    presenter.cppr = cppr;
    presenter.xisr = xisr;
    presenter.mfrr = mfrr;
    presenter.pendingPriority = pendingPriority;
    presenter.signal();
    if (resend) this.#resend(presenter);
    return 0;
  }
}
