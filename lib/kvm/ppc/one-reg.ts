/**
 * KVM_GET_ONE_REG and KVM_SET_ONE_REG on POWER: one register by its 64-bit id, whose bits 52..55 say how many bytes, as
 * a power of two (arch/powerpc/kvm/book3s.c:kvmppc_get_one_reg, book3s_hv.c, book3s_pr.c, 6.1).
 *
 * Most registers are plain: what was written is read. The table says where something else holds. It is what a POWER9
 * in hypervisor mode (pseries and bare metal, 6.12) answered to reads and to writes of all ones and all zeros.
 *
 * Missing: a processor with transactional memory (the TM registers are unknown: EINVAL), a changed ILE that turns the
 * guest's interrupts little-endian, time that runs into TB_OFFSET and DEC_EXPIRY.
 */
import { EFAULT, EINVAL, ENXIO } from "../../abi/errno.ts";
import { KVM_GET_ONE_REG, KVM_SET_ONE_REG, KvmOneReg } from "../../abi/kvm.ts";
import * as ppc from "../../abi/kvm-ppc.ts";
import { load64, store64 } from "../../abi/struct.ts";
import type { Argument } from "../../kernel/argument.ts";
import type { Entry } from "../dispatch.ts";
import type { VcpuFile } from "../vcpu.ts";
import type { PpcVcpu } from "./vcpu.ts";

/** sizes that an id can ask for and KVM has room for: up to 16 bytes */
const MAX_SIZE = 16;
const sizeOf = (id: bigint): number => 2 ** Number((id >> 52n) & 0xfn);

/** LPCR: what user space may change; where interrupts go with translation on, of which only 3 is possible, if at all */
const LPCR_CHANGEABLE = 0x0070_0000_0382_0000n;
const LPCR_AIL = 0x0180_0000n;
/** PVR values that name an architecture level up to 3.00 (arch/powerpc/include/asm/reg.h, 6.1); 0: the host's own */
const ARCH_LEVELS = new Set([0n, 0x0f00_0002n, 0x0f00_0003n, 0x0f10_0003n, 0x0f00_0004n, 0x0f00_0005n]);
/** bytes of one entry of the dispatch trace log */
const DTL_ENTRY = 48n;
/** bytes of a cache line: where the areas of a vCPU may start */
const CACHE_LINE = 128n;

interface Register {
  /** its value before the first write */
  readonly initial?: bigint;
  /** what a write leaves of a value; −errno where it refuses it */
  readonly write?: (value: bigint, before: bigint, registers: OneRegs) => bigint | number;
}

const plain: Register = {};
const masked = (kept: bigint): Register => ({ write: (value) => value & kept });
const readOnly = (initial: bigint): Register => ({ initial, write: () => -EINVAL });

const DABRX_HYP = ~4n;
const DAWRX_HYP = ~4n;

/** LPCR under either id: what may not be changed stays. */
const lpcr = (changeable: bigint): Register => ({
  write: (value, before, registers) => {
    const next = (before & ~changeable) | (value & changeable);
    return registers.ail && (next & LPCR_AIL) === LPCR_AIL ? next : next & ~LPCR_AIL;
  },
});

/** Known in every mode (book3s.c). */
const common: readonly [bigint, Register][] = [
  [ppc.KVM_REG_PPC_DAR, plain],
  [ppc.KVM_REG_PPC_DSISR, plain],
  [ppc.KVM_REG_PPC_FPSCR, plain],
  [ppc.KVM_REG_PPC_VSCR, plain],
  [ppc.KVM_REG_PPC_VRSAVE, plain],
  [ppc.KVM_REG_PPC_FSCR, plain],
  [ppc.KVM_REG_PPC_TAR, plain],
  [ppc.KVM_REG_PPC_EBBHR, plain],
  [ppc.KVM_REG_PPC_EBBRR, plain],
  [ppc.KVM_REG_PPC_BESCR, plain],
  [ppc.KVM_REG_PPC_IC, plain],
  // the instruction that a debugger puts in for a breakpoint
  [ppc.KVM_REG_PPC_DEBUG_INST, readOnly(0x00dd_dd00n)],
  ...range(ppc.KVM_REG_PPC_FPR0, 32),
  ...range(ppc.KVM_REG_PPC_VR0, 32),
  ...range(ppc.KVM_REG_PPC_VSR0, 32),
];

const hv: ReadonlyMap<bigint, Register> = new Map([
  ...common,
  [ppc.KVM_REG_PPC_HIOR, { write: (value) => (value === 0n ? 0n : -EINVAL) }],
  [ppc.KVM_REG_PPC_DABR, plain],
  [ppc.KVM_REG_PPC_DABRX, masked(DABRX_HYP)],
  [ppc.KVM_REG_PPC_DSCR, plain],
  [ppc.KVM_REG_PPC_PURR, plain],
  [ppc.KVM_REG_PPC_SPURR, plain],
  [ppc.KVM_REG_PPC_AMR, plain],
  [ppc.KVM_REG_PPC_UAMOR, plain],
  [ppc.KVM_REG_PPC_IAMR, plain],
  [ppc.KVM_REG_PPC_MMCR0, { initial: 0x8000_0000n }],
  [ppc.KVM_REG_PPC_MMCR1, plain],
  [ppc.KVM_REG_PPC_MMCRA, plain],
  [ppc.KVM_REG_PPC_MMCR2, plain],
  [ppc.KVM_REG_PPC_MMCRS, plain],
  [ppc.KVM_REG_PPC_MMCR3, plain],
  ...range(ppc.KVM_REG_PPC_PMC1, 8),
  ...range(ppc.KVM_REG_PPC_SPMC1, 2),
  [ppc.KVM_REG_PPC_SIAR, plain],
  [ppc.KVM_REG_PPC_SDAR, plain],
  [ppc.KVM_REG_PPC_SIER, plain],
  [ppc.KVM_REG_PPC_SIER2, plain],
  [ppc.KVM_REG_PPC_SIER3, plain],
  [ppc.KVM_REG_PPC_PSPB, plain],
  [ppc.KVM_REG_PPC_DPDES, masked(1n)],
  [ppc.KVM_REG_PPC_VTB, plain],
  [ppc.KVM_REG_PPC_DAWR, plain],
  [ppc.KVM_REG_PPC_DAWRX, masked(DAWRX_HYP)],
  [ppc.KVM_REG_PPC_DAWR1, plain],
  [ppc.KVM_REG_PPC_DAWRX1, masked(DAWRX_HYP)],
  // a breakpoint in hypervisor code (the two lowest bits set) is switched off
  [ppc.KVM_REG_PPC_CIABR, { write: (value) => ((value & 3n) === 3n ? value & ~3n : value) }],
  [ppc.KVM_REG_PPC_CSIGR, plain],
  [ppc.KVM_REG_PPC_TACR, plain],
  [ppc.KVM_REG_PPC_TCSCR, plain],
  [ppc.KVM_REG_PPC_PID, masked(0xffff_ffffn)],
  [ppc.KVM_REG_PPC_ACOP, plain],
  [ppc.KVM_REG_PPC_WORT, plain],
  [ppc.KVM_REG_PPC_TIDR, plain],
  [ppc.KVM_REG_PPC_PSSCR, masked(0xf000_0000_0000_03ffn)],
  [ppc.KVM_REG_PPC_VPA_ADDR, { write: vpa }],
  [ppc.KVM_REG_PPC_VPA_SLB, { write: (value, _before, registers) => area(value, 0n, registers) }],
  [ppc.KVM_REG_PPC_VPA_DTL, { write: (value, _before, registers) => area(value, DTL_ENTRY, registers) }],
  // a multiple of 2^24, rounded up
  [ppc.KVM_REG_PPC_TB_OFFSET, { write: (value) => ((value + 0xff_ffffn) >> 24n) << 24n }],
  [ppc.KVM_REG_PPC_LPCR, lpcr(LPCR_CHANGEABLE & 0xffff_ffffn)],
  [ppc.KVM_REG_PPC_LPCR_64, lpcr(LPCR_CHANGEABLE)],
  [ppc.KVM_REG_PPC_PPR, plain],
  [ppc.KVM_REG_PPC_ARCH_COMPAT, { write: (value) => (ARCH_LEVELS.has(value) ? value : -EINVAL) }],
  [ppc.KVM_REG_PPC_DEC_EXPIRY, plain],
  [ppc.KVM_REG_PPC_ONLINE, plain],
  [ppc.KVM_REG_PPC_PTCR, plain],
  [ppc.KVM_REG_PPC_DEXCR, plain],
  [ppc.KVM_REG_PPC_HASHKEYR, plain],
  [ppc.KVM_REG_PPC_HASHPKEYR, plain],
] satisfies [bigint, Register][]);

const sinceDexcr = new Set([ppc.KVM_REG_PPC_DEXCR, ppc.KVM_REG_PPC_HASHKEYR, ppc.KVM_REG_PPC_HASHPKEYR]);

/** User mode knows little of its own (book3s_pr.c). From the source: no recording has these. */
const pr: ReadonlyMap<bigint, Register> = new Map([
  ...common,
  [ppc.KVM_REG_PPC_HIOR, plain],
  [ppc.KVM_REG_PPC_VTB, plain],
  [ppc.KVM_REG_PPC_LPCR, masked(0x0200_0000n)],
  [ppc.KVM_REG_PPC_LPCR_64, masked(0x0200_0000n)],
] satisfies [bigint, Register][]);

function range(first: bigint, count: number): [bigint, Register][] {
  return Array.from({ length: count }, (_, i) => [first + BigInt(i), plain]);
}

/** Registers that are parts of others, or appear under two ids: where a value lives. */
function homeOf(id: bigint): bigint {
  if (id === ppc.KVM_REG_PPC_LPCR) return ppc.KVM_REG_PPC_LPCR_64;
  return id;
}

/** The processor's area in guest memory cannot go while those that need it are there. */
function vpa(value: bigint, _before: bigint, registers: OneRegs): bigint | number {
  const needed = registers.value(ppc.KVM_REG_PPC_VPA_SLB) | registers.value(ppc.KVM_REG_PPC_VPA_DTL);
  if (value === 0n && (needed & MASK64) !== 0n) return -EINVAL;
  return value % CACHE_LINE !== 0n ? -EINVAL : value;
}

/** An address and a length of 64 bits each: whole entries, and not without the processor's area. */
function area(value: bigint, entry: bigint, registers: OneRegs): bigint | number {
  const address = value & MASK64;
  const length = value >> 64n;
  if (address === 0n) return 0n;
  if (length < entry || registers.value(ppc.KVM_REG_PPC_VPA_ADDR) === 0n) return -EINVAL;
  if (address % CACHE_LINE !== 0n) return -EINVAL;
  return ((entry === 0n ? length : length - (length % entry)) << 64n) | address;
}

const MASK64 = 0xffff_ffff_ffff_ffffn;

/** The values of one vCPU. */
export class OneRegs {
  readonly #table: ReadonlyMap<bigint, Register>;
  readonly #values = new Map<bigint, bigint>();
  /** whether the release knows DEXCR and its kin */
  readonly #dexcr: boolean;

  /** whether interrupts may be taken with translation on (KVM_CAP_PPC_AIL_MODE_3) */
  readonly ail: boolean;

  constructor(hypervisor: boolean, lpcr: bigint, ail: boolean, dexcr: boolean) {
    this.ail = ail;
    this.#dexcr = dexcr;
    this.#table = hypervisor ? hv : pr;
    if (hypervisor) this.#values.set(ppc.KVM_REG_PPC_LPCR_64, lpcr);
  }

  has(id: bigint): boolean {
    return this.#table.has(id) && (this.#dexcr || !sinceDexcr.has(id));
  }

  value(id: bigint): bigint {
    const fpr = this.#fprOf(id);
    if (fpr !== undefined) return this.value(fpr) >> 64n;
    const home = homeOf(id);
    return this.#values.get(home) ?? this.#table.get(home)?.initial ?? 0n;
  }

  /** 0 or −errno */
  set(id: bigint, value: bigint): number {
    const fpr = this.#fprOf(id);
    if (fpr !== undefined) {
      this.#values.set(fpr, (this.value(fpr) & MASK64) | (value << 64n));
      return 0;
    }
    if (id === ppc.KVM_REG_PPC_MMCR3 && !this.#dexcr) return 0;
    const write = this.#table.get(id)!.write;
    const kept = write === undefined ? value : write(value, this.value(id), this);
    if (typeof kept === "number") return kept;
    this.#values.set(homeOf(id), kept);
    return 0;
  }

  /** FPR n is the second half of VSR n in memory order. */
  #fprOf(id: bigint): bigint | undefined {
    const n = id - ppc.KVM_REG_PPC_FPR0;
    return n >= 0n && n < 32n ? ppc.KVM_REG_PPC_VSR0 + n : undefined;
  }
}

function load(bytes: Uint8Array, at: number, size: number): bigint {
  const low = load64(bytes, at);
  if (size === 4) return low & 0xffff_ffffn;
  return size === 8 ? low : (load64(bytes, at + 8) << 64n) | low;
}

function store(bytes: Uint8Array, at: number, size: number, value: bigint): void {
  if (size === 4)
    return void bytes.set(new Uint8Array(new Uint32Array([Number(value & 0xffff_ffffn)]).buffer), at);
  store64(bytes, at, value & MASK64);
  if (size === 16) store64(bytes, at + 8, value >> 64n);
}

/** EFAULT; EINVAL: no such register, or a value that it cannot hold; ENXIO: the vCPU lacks the controller. */
function getOneReg(file: VcpuFile, user: Argument): number {
  if (!user.readable(KvmOneReg.size)) return -EFAULT;
  const { id, addr } = KvmOneReg.decode(user.bytes, user.at);
  const vcpu = file.vcpu.arch as PpcVcpu;
  const size = sizeOf(id);
  if (size > MAX_SIZE) return -EINVAL;
  const answer = new Uint8Array(size);
  const result = read(vcpu, id, answer);
  if (result < 0) return result;
  return user.pointer(Number(addr)).copyOut(answer) ? 0 : -EFAULT;
}

function read(vcpu: PpcVcpu, id: bigint, answer: Uint8Array): number {
  if (id === ppc.KVM_REG_PPC_ICP_STATE) return vcpu.presenter?.saveIcp(answer, 0) ?? -ENXIO;
  if (id === ppc.KVM_REG_PPC_VP_STATE) {
    const state = vcpu.presenter?.vpState ?? -ENXIO;
    if (typeof state === "number") return state;
    answer.set(state);
    return 0;
  }
  if (!vcpu.oneRegs.has(id)) return -EINVAL;
  store(answer, 0, answer.length, vcpu.oneRegs.value(id));
  return 0;
}

function setOneReg(file: VcpuFile, user: Argument): number {
  if (!user.readable(KvmOneReg.size)) return -EFAULT;
  const { id, addr } = KvmOneReg.decode(user.bytes, user.at);
  const vcpu = file.vcpu.arch as PpcVcpu;
  const size = sizeOf(id);
  if (size > MAX_SIZE) return -EINVAL;
  const value = user.pointer(Number(addr));
  if (!value.readable(size)) return -EFAULT;
  const bytes = new Uint8Array(MAX_SIZE);
  bytes.set(value.bytes.subarray(value.at, value.at + size));
  if (id === ppc.KVM_REG_PPC_ICP_STATE) return vcpu.presenter?.restoreIcp(bytes, 0) ?? -ENXIO;
  if (id === ppc.KVM_REG_PPC_VP_STATE) {
    const state = vcpu.presenter?.vpState ?? -ENXIO;
    if (typeof state === "number") return state;
    state.set(bytes.subarray(0, state.length));
    return 0;
  }
  return vcpu.oneRegs.has(id) ? vcpu.oneRegs.set(id, load(bytes, 0, size)) : -EINVAL;
}

export const oneRegIoctls: readonly Entry<VcpuFile>[] = [
  [KVM_GET_ONE_REG, getOneReg],
  [KVM_SET_ONE_REG, setOneReg],
];
