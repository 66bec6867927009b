/**
 * What a processor sees of the machine around it. Addresses are guest physical, plain numbers below 2^52. Whoever owns
 * the processor implements it; the processor knows nothing else.
 */

export interface Bus {
  /** the bytes of the frame that `page` found, and where it starts in them */
  bytes: Uint8Array;
  at: number;
  /** every write to the frame that `page` found is to be told by `page`: it is not remembered */
  eachWrite: boolean;
  /**
   * Looks up a frame (an address divided by 4096): true with `bytes` and `at` set. `forWriting` marks it dirty.
   * False: no memory is there, or, for writing, only memory that cannot be written.
   */
  page(frame: number, forWriting: boolean): boolean;

  /** Offers a read of up to 8 bytes, inside one page: true once the bytes stand in `data` from `at` on. */
  readMmio(address: number, length: number, data: Uint8Array, at: number): boolean;
  writeMmio(address: number, length: number, data: Uint8Array, at: number): boolean;
  readPort(port: number, length: number, data: Uint8Array, at: number): boolean;
  writePort(port: number, length: number, data: Uint8Array, at: number): boolean;

  /** bits that CR4 takes */
  allowedCr4(): number;
  /** CPUID into eax…edx of `out` */
  cpuid(leaf: number, subleaf: number, out: Uint32Array): void;
  /** RDMSR: the value, undefined for #GP, or MSR_EXIT where user space is to be asked */
  readMsr(index: number): bigint | undefined | typeof MSR_EXIT;
  /** WRMSR: 0, MSR_FAULT for #GP, MSR_EXIT */
  writeMsr(index: number, value: bigint): number | typeof MSR_EXIT;
  readTsc(): bigint;
  readPmc(index: number): bigint | undefined;
  /** the registers of the FPU and SSE, in the layout of XSAVE */
  fpuArea(): Uint8Array;
  /** task priority, where a local APIC in the kernel has it; else the register of the state is used */
  readCr8(): number;
  writeCr8(value: number): void;
  /** whether the hypercall of another maker's processors is written anew as that of this one */
  fixesHypercalls(): boolean;
  /** VMCALL, VMMCALL: the result for RAX, or undefined where the hypercall became an exit */
  hypercall(): bigint | undefined;
}

export const MSR_EXIT = "exit";
export const MSR_FAULT = 1;
