/**
 * An x86 processor that runs a script instead of machine code (guest-script.ts). Addresses are physical; the flags know
 * whether interrupts are on; a vector without a handler shuts the processor down. RIP does not move.
 */
import { load32 } from "../../abi/struct.ts";
import { type Access, type Handlers, type Script, ScriptStack } from "../guest-script.ts";
import type { Bus } from "./bus.ts";
import { Cpu, type CpuOptions } from "./cpu.ts";
import { EXIT_PORT_IN, RUNNING, SHUTDOWN } from "./memory.ts";
import { type CpuState, IF, RFLAGS, SHADOW_STI } from "./state.ts";

const LAPIC_EOI = 0xfee0_00b0;

export class ScriptCpu extends Cpu {
  readonly #stack: ScriptStack;

  constructor(state: CpuState, bus: Bus, options: Partial<CpuOptions>, main: Script, handlers: Handlers) {
    super(state, bus, { ...options, portRestarts: false });
    this.#stack = new ScriptStack(main, handlers);
  }

  /** Makes one access: RUNNING, or why it has to wait. */
  override step(): number {
    const { memory } = this;
    const stack = this.#stack;
    memory.stop = RUNNING;
    memory.logAt = 0;
    if (!this.portAnswered) this.portAt = this.portEnd = 0;
    this.portAnswered = false;
    this.halted = false;
    this.again = false;
    this.refused = false;
    this.shadow = 0;
    const access = stack.pending ?? stack.next((interrupts) => this.#interrupts(interrupts));
    stack.pending = undefined;
    this.#make(access);
    if (memory.stop !== RUNNING) {
      stack.pending = access;
      return memory.stop;
    }
    memory.forget();
    this.state.shadow = this.shadow;
    return RUNNING;
  }

  #interrupts(on: boolean): void {
    if (on) this.r32[2 * RFLAGS] |= IF;
    else this.r32[2 * RFLAGS] &= ~IF;
  }

  #make(access: Access): void {
    const { memory } = this;
    const stack = this.#stack;
    switch (access.does) {
      case "load":
        stack.answer = memory.read(access.address, access.width, 0);
        return;
      case "store":
        if (access.width === 8) memory.write64(access.address, BigInt(access.value), 0);
        else memory.write(access.address, access.width, Number(access.value), 0);
        return;
      case "in":
        return this.#in(access.port, access.width);
      case "out": {
        const { data } = memory;
        for (let i = 0; i < 4; i++) data[i] = access.value >>> (8 * i);
        if (!this.bus.writePort(access.port, access.width, data, 0))
          memory.post(access.port, access.width, 0, true);
        return;
      }
      case "halt":
        this.halted = true;
        return;
      case "interrupts":
        if (access.on && (this.r32[2 * RFLAGS] & IF) === 0) this.shadow = SHADOW_STI;
        return this.#interrupts(access.on);
      case "eoi":
        return memory.write(LAPIC_EOI, 4, 0, 0);
    }
  }

  #in(port: number, width: number): void {
    const { memory, portBuffer } = this;
    if (this.portEnd === 0) {
      portBuffer.fill(0, 0, 4);
      if (!this.bus.readPort(port, width, portBuffer, 0)) return memory.wait(EXIT_PORT_IN, port, width);
    }
    portBuffer.fill(0, width, 4);
    this.#stack.answer = load32(portBuffer, 0);
  }

  override deliver(vector: number): number {
    const on = (this.r32[2 * RFLAGS] & IF) !== 0;
    this.memory.stop = RUNNING;
    if (!this.#stack.interrupt(vector, on)) {
      this.memory.stop = SHUTDOWN;
      return SHUTDOWN;
    }
    this.#interrupts(false);
    this.state.nmiMasked = false;
    this.state.shadow = 0;
    return RUNNING;
  }
}
