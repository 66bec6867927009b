/**
 * Between the structs of the interface and the processor that runs: registers go in before the guest runs, and come out
 * when it stops. While it runs, the processor's are the truth.
 */
import { KvmDebugregs, KvmSegment, KvmSregs } from "../../abi/kvm-x86.ts";
import { load16, load32, store16, store32 } from "../../abi/struct.ts";
import {
  APIC_BASE,
  type CpuState,
  CR0,
  CR2,
  CR3,
  CR4,
  CR8,
  CS,
  CSTAR,
  type DescriptorTable,
  DR0,
  DR6,
  DR7,
  DS,
  EFER,
  ES,
  FS,
  GS,
  KERNEL_GS_BASE,
  LDTR,
  LSTAR,
  RAX,
  RBP,
  RBX,
  RCX,
  RDI,
  RDX,
  RFLAGS,
  RIP,
  RSI,
  RSP,
  type Segment,
  SS,
  STAR,
  SYSCALL_MASK,
  SYSENTER_CS,
  SYSENTER_EIP,
  SYSENTER_ESP,
  TR,
  TSC_AUX,
  XCR0,
} from "../../hardware/x86/state.ts";
import type { X86Vcpu } from "./vcpu.ts";

/** The registers of struct kvm_regs in its order, by the processor's numbers. */
const ORDER = [RAX, RBX, RCX, RDX, RSI, RDI, RSP, RBP, 8, 9, 10, 11, 12, 13, 14, 15, RIP, RFLAGS];
const SEGMENTS = [CS, DS, ES, FS, GS, SS, TR, LDTR];
const SEGMENT = KvmSegment.size;
const { gdt, idt, cr0, cr2, cr3, cr4, efer, apic_base: apicBase } = KvmSregs.offsetOf;
const { dr6, dr7 } = KvmDebugregs.offsetOf;

/** MSRs that instructions look at. */
const MSRS: readonly [index: number, place: number][] = [
  [0x174, SYSENTER_CS],
  [0x175, SYSENTER_ESP],
  [0x176, SYSENTER_EIP],
  [0xc000_0081, STAR],
  [0xc000_0082, LSTAR],
  [0xc000_0083, CSTAR],
  [0xc000_0084, SYSCALL_MASK],
  [0xc000_0102, KERNEL_GS_BASE],
  [0xc000_0103, TSC_AUX],
];

/** Whether a segment that was loaded with a null selector is usable is said by the struct. */
function loadSegment(bytes: Uint8Array, at: number, into: Segment): void {
  into.baseLo = load32(bytes, at);
  into.baseHi = load32(bytes, at + 4);
  into.limit = load32(bytes, at + 8);
  into.selector = load16(bytes, at + 12);
  into.type = bytes[at + 14];
  into.present = bytes[at + 15];
  into.dpl = bytes[at + 16];
  into.db = bytes[at + 17];
  into.s = bytes[at + 18];
  into.l = bytes[at + 19];
  into.g = bytes[at + 20];
  into.avl = bytes[at + 21];
  into.unusable = bytes[at + 22];
}

function storeSegment(bytes: Uint8Array, at: number, from: Segment): void {
  store32(bytes, at, from.baseLo);
  store32(bytes, at + 4, from.baseHi);
  store32(bytes, at + 8, from.limit);
  store16(bytes, at + 12, from.selector);
  bytes[at + 14] = from.type;
  bytes[at + 15] = from.present;
  bytes[at + 16] = from.dpl;
  bytes[at + 17] = from.db;
  bytes[at + 18] = from.s;
  bytes[at + 19] = from.l;
  bytes[at + 20] = from.g;
  bytes[at + 21] = from.avl;
  bytes[at + 22] = from.unusable;
}

function loadTable(bytes: Uint8Array, at: number, into: DescriptorTable): void {
  into.baseLo = load32(bytes, at);
  into.baseHi = load32(bytes, at + 4);
  into.limit = load16(bytes, at + 8);
}

function storeTable(bytes: Uint8Array, at: number, from: DescriptorTable): void {
  store32(bytes, at, from.baseLo);
  store32(bytes, at + 4, from.baseHi);
  store16(bytes, at + 8, from.limit);
}

/** The processor takes the registers of a vCPU. */
export function loadRegisters(state: CpuState, vcpu: X86Vcpu): void {
  const { r32, c32, c64 } = state;
  const { regsBytes, sregsBytes } = vcpu.registers;
  for (let i = 0; i < ORDER.length; i++) {
    r32[2 * ORDER[i]] = load32(regsBytes, 8 * i);
    r32[2 * ORDER[i] + 1] = load32(regsBytes, 8 * i + 4);
  }
  for (let i = 0; i < SEGMENTS.length; i++) loadSegment(sregsBytes, SEGMENT * i, state.segments[SEGMENTS[i]]);
  loadTable(sregsBytes, gdt, state.gdt);
  loadTable(sregsBytes, idt, state.idt);
  copyIn(c32, CR0, sregsBytes, cr0);
  copyIn(c32, CR2, sregsBytes, cr2);
  copyIn(c32, CR3, sregsBytes, cr3);
  copyIn(c32, CR4, sregsBytes, cr4);
  copyIn(c32, EFER, sregsBytes, efer);
  copyIn(c32, APIC_BASE, sregsBytes, apicBase);
  c32[2 * CR8] = vcpu.registers.cr8;
  const debug = vcpu.debug.bytes;
  for (let i = 0; i < 4; i++) copyIn(c32, DR0 + i, debug, 8 * i);
  copyIn(c32, DR6, debug, dr6);
  copyIn(c32, DR7, debug, dr7);
  c32[2 * XCR0] = vcpu.fpu.xcr0;
  const { values } = vcpu.msrs;
  if (values.size !== 0) for (const [index, place] of MSRS) c64[place] = values.get(index) ?? 0n;
  state.shadow = vcpu.events.shadow;
  state.nmiMasked = vcpu.events.nmi.masked;
}

/** The vCPU takes the registers of the processor back. */
export function storeRegisters(state: CpuState, vcpu: X86Vcpu): void {
  const { r32, c32, c64 } = state;
  const { regsBytes, sregsBytes } = vcpu.registers;
  for (let i = 0; i < ORDER.length; i++) {
    store32(regsBytes, 8 * i, r32[2 * ORDER[i]]);
    store32(regsBytes, 8 * i + 4, r32[2 * ORDER[i] + 1]);
  }
  for (let i = 0; i < SEGMENTS.length; i++)
    storeSegment(sregsBytes, SEGMENT * i, state.segments[SEGMENTS[i]]);
  storeTable(sregsBytes, gdt, state.gdt);
  storeTable(sregsBytes, idt, state.idt);
  copyOut(c32, CR0, sregsBytes, cr0);
  copyOut(c32, CR2, sregsBytes, cr2);
  copyOut(c32, CR3, sregsBytes, cr3);
  copyOut(c32, CR4, sregsBytes, cr4);
  copyOut(c32, EFER, sregsBytes, efer);
  const debug = vcpu.debug.bytes;
  for (let i = 0; i < 4; i++) copyOut(c32, DR0 + i, debug, 8 * i);
  copyOut(c32, DR6, debug, dr6);
  copyOut(c32, DR7, debug, dr7);
  const { values } = vcpu.msrs;
  if (values.has(0xc000_0102) || c64[KERNEL_GS_BASE] !== 0n) values.set(0xc000_0102, c64[KERNEL_GS_BASE]);
  vcpu.events.shadow = state.shadow;
  vcpu.events.nmi.masked = state.nmiMasked;
}

function copyIn(c32: Uint32Array, place: number, bytes: Uint8Array, at: number): void {
  c32[2 * place] = load32(bytes, at);
  c32[2 * place + 1] = load32(bytes, at + 4);
}

function copyOut(c32: Uint32Array, place: number, bytes: Uint8Array, at: number): void {
  store32(bytes, at, c32[2 * place]);
  store32(bytes, at + 4, c32[2 * place + 1]);
}
