/** PUSHF, POPF, and what a program may do to its flags (Intel SDM volume 2, POPF, table 4-16). */
import type { Cpu } from "./cpu.ts";
import {
  AC,
  AF,
  CF,
  DF,
  FLAG_FIXED,
  ID,
  IF,
  IOPL,
  NT,
  OF,
  PF,
  RF,
  SF,
  TF,
  VIF,
  VIP,
  VM,
  ZF,
} from "./state.ts";

/** What POPF and IRET may change. */
export const POPF_FLAGS = CF | PF | AF | ZF | SF | TF | IF | DF | OF | IOPL | NT | RF | AC | ID;

/** The level that may use ports, CLI and STI. */
export const iopl = (flags: number): number => (flags >> 12) & 3;

/** What a program of this privilege may change of its flags. */
export function writableFlags(cpu: Cpu): number {
  let mask = POPF_FLAGS;
  if (cpu.protectedMode) {
    if (cpu.cpl > 0) mask &= ~IOPL;
    if (cpu.cpl > iopl(cpu.flags)) mask &= ~IF;
  }
  return mask;
}

export function pushFlags(cpu: Cpu): void {
  cpu.endFetch();
  // the processor's own IF, which is always set while it runs a guest for pvm
  cpu.push(cpu.stackSize, (cpu.flags & ~(RF | VM)) | (cpu.direct ? IF : 0));
}

export function popFlags(cpu: Cpu): void {
  cpu.endFetch();
  const size = cpu.stackSize;
  const value = size === 8 ? Number(cpu.pop64() & 0xffff_ffffn) : cpu.pop(size);
  let mask = writableFlags(cpu) & ~RF;
  if (size === 2) mask &= 0xffff;
  // a program that may not change IF leaves VIF and VIP alone (live 6.18)
  const keeps = size === 2 || (!cpu.emulated && (mask & IF) === 0);
  cpu.flags = (cpu.flags & ~mask & ~(RF | (keeps ? 0 : VIF | VIP))) | (value & mask) | FLAG_FIXED;
}
