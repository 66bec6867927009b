/**
 * Programs as plain data: a list of operations that prints, that is kept in a file, and that means the same on every
 * kernel. Descriptors are named by what they are and in which order they were made ("the second eventfd"), memory by its
 * place in the program's one mapping, so nothing in a program depends on the answers of a kernel.
 */
import { requestNamed, requestsOf } from "../abi/requests.ts";

/** What a program can hold open. `any`: whatever is open, in the order of its making. */
export type Kind = "system" | "vm" | "vcpu" | "device" | "eventfd" | "any";

/** A descriptor: the n-th open one of a kind (counted round and round), or a plain number. */
export type Ref = { readonly kind: Kind; readonly index: number } | { readonly fd: number };

/** What is put into the bytes of an argument where the program runs. */
export type Patch =
  /** a descriptor number, 32 bits */
  | { readonly at: number; readonly file: Ref }
  /** an address in the program's mapping */
  | { readonly at: number; readonly guest: number }
  /** the address of a buffer that holds these bytes, in hex */
  | { readonly at: number; readonly buffer: string };

/** A change to bytes: hex that is put at an offset. */
export interface Edit {
  readonly at: number;
  readonly bytes: string;
}

/** What a full read-back looks at. */
export type Part =
  | "chips"
  | "extensions"
  | "lapic"
  | "mp-state"
  | "dirty-log"
  | "counters"
  | "registers"
  /** FPU, XCRs, XSAVE, CPUID */
  | "processor"
  /** FPU and XCRs: after a guest ran, it follows the host's processor which parts XSAVE calls in use */
  | "fpu";

/** One operation of a random program. */
export type Operation =
  | {
      readonly op: "ioctl";
      readonly on: Ref;
      /** by name, or by number where it has none */
      readonly request: string | number;
      /** a plain value, in hex; without it `bytes` counts */
      readonly value?: string;
      /** what the argument points to, in hex */
      readonly bytes?: string;
      readonly patches?: readonly Patch[];
    }
  /** reads a state, changes some bytes of it, and sets it again */
  | {
      readonly op: "modify";
      readonly on: Ref;
      readonly get: string;
      readonly set: string;
      readonly size: number;
      /** the first bytes before the read: which chip */
      readonly head: string;
      readonly edits: readonly Edit[];
    }
  /** gives a vCPU what the system supports, with some bytes changed */
  | { readonly op: "cpuid"; readonly on: Ref; readonly edits: readonly Edit[] }
  | { readonly op: "open"; readonly path: string; readonly flags: number }
  | { readonly op: "eventfd2"; readonly initval: number; readonly flags: number }
  | { readonly op: "read"; readonly on: Ref; readonly count: number }
  | { readonly op: "write"; readonly on: Ref; readonly bytes: string }
  | { readonly op: "poll"; readonly on: readonly Ref[]; readonly events: number }
  | { readonly op: "close"; readonly on: Ref }
  | { readonly op: "dup"; readonly on: Ref }
  | { readonly op: "fcntl"; readonly on: Ref; readonly command: number; readonly argument: number }
  | {
      readonly op: "mmap";
      readonly on: Ref;
      readonly length: number;
      readonly prot: number;
      readonly flags: number;
      readonly offset: number;
    }
  /** the same again and again: limits are far away */
  | { readonly op: "repeat"; readonly times: number; readonly operation: Operation }
  | { readonly op: "readback"; readonly parts: readonly Part[] }
  /** puts bytes into the guest memory */
  | { readonly op: "poke"; readonly at: number; readonly bytes: string }
  /** puts machine code into the guest memory, instruction by instruction */
  | { readonly op: "code"; readonly at: number; readonly instructions: readonly string[] }
  /**
   * KVM_RUN, and again while user space has an answer to its exit, up to `times`: what a guest reads comes from `answers`,
   * over and over. `page` is put into the kvm_run page before the first.
   */
  | {
      readonly op: "run";
      readonly on: Ref;
      readonly times: number;
      readonly page: readonly Edit[];
      readonly answers: string;
      /** what is looked at after each KVM_RUN, the page and the memory aside */
      readonly parts: readonly Part[];
    };

/** A random program: plain data. */
export type Program = readonly Operation[];

/** A program as text, one operation a line. */
export const formatProgram = (program: Program): string =>
  program.map((operation) => `${JSON.stringify(operation)}\n`).join("");

/** The program that a text holds. */
export const parseProgram = (source: string): Program =>
  source
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as Operation);

/** The number of a request that a program names. */
export function numberOf(request: string | number): number {
  if (typeof request === "number") return request;
  const named = requestNamed("x86_64", request);
  if (named === undefined) throw new TypeError(`${request} is not a request of x86_64`);
  return named.number;
}

/** What a request is called, for reports. */
export const nameOf = (request: string | number): string =>
  typeof request === "string"
    ? request
    : (requestsOf("x86_64").get(request)?.[0].name ?? `0x${request.toString(16)}`);
