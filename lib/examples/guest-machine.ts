/**
 * Three guests of machine code, and the smallest VMM that runs them: 128 KiB of memory, one vCPU, and what the guest writes
 * to port 0x3f8 is its output. On the fake, or on a real kernel; a kernel that cannot run one of them says so by its exit.
 */
import {
  KVM_CREATE_VCPU,
  KVM_CREATE_VM,
  KVM_EXIT_IO,
  KVM_GET_VCPU_MMAP_SIZE,
  KVM_RUN,
  KVM_SET_USER_MEMORY_REGION,
  KvmUserspaceMemoryRegion,
} from "../abi/kvm.ts";
import { KVM_GET_SREGS, KVM_SET_REGS, KVM_SET_SREGS, KvmRegs, KvmSregs } from "../abi/kvm-x86.ts";
import { load32, store64 } from "../abi/struct.ts";
import type { Syscalls } from "../kernel/syscalls.ts";

const MEMORY = 0x20000;
const CODE = 0x1000;
const STACK = 0x8000;
const TABLES = 0x10000;
const EXIT_REASON = 8;
const IO_DATA = 4096;
const MOST_EXITS = 100;

export interface ExampleGuest {
  readonly name: string;
  readonly about: string;
  /** what it writes where it can run */
  readonly output: string;
  readonly memory: readonly (readonly [at: number, bytes: readonly number[]])[];
  /** starts in 64-bit mode, with the page tables that `memory` holds at 0x10000 */
  readonly long?: boolean;
  readonly registers?: Readonly<Record<string, number>>;
}

/** mov dx, 0x3f8 in 16-bit code */
const PORT16 = [0xba, 0xf8, 0x03];
/** mov dx, 0x3f8 in 32- and 64-bit code */
const PORT32 = [0x66, 0xba, 0xf8, 0x03];
/** mov al, character; out dx, al */
const say = (character: string): number[] => [0xb0, character.charCodeAt(0), 0xee];
const quad = (value: bigint): number[] =>
  Array.from({ length: 8 }, (_, i) => Number((value >> BigInt(8 * i)) & 0xffn));

export const guests: readonly ExampleGuest[] = [
  {
    name: "2 + 2",
    about: "real mode: adds two registers and writes the digit",
    output: "4\n",
    registers: { rax: 2, rbx: 2 },
    memory: [[CODE, [...PORT16, 0x00, 0xd8, 0x04, 0x30, 0xee, ...say("\n"), 0xf4]]],
  },
  {
    name: "protected mode",
    about: "goes from real mode to protected mode, sets up an IDT, and takes INT 0x30",
    output: "PIM\n",
    memory: [
      // null, code and data of 32 bits
      [0x800, [...quad(0n), ...quad(0x00cf_9b00_0000_ffffn), ...quad(0x00cf_9300_0000_ffffn)]],
      [0x880, [0x17, 0x00, 0x00, 0x08, 0x00, 0x00]], // GDTR
      [0x888, [0xff, 0x07, 0x00, 0x20, 0x00, 0x00]], // IDTR
      [0x2000 + 8 * 0x30, quad(0x0000_8e00_0008_1100n)], // the gate of vector 0x30
      [
        CODE,
        [
          ...[0xfa, 0x0f, 0x01, 0x16, 0x80, 0x08], // cli; lgdt [0x880]
          ...[0x0f, 0x20, 0xc0, 0x0c, 0x01, 0x0f, 0x22, 0xc0], // mov eax, cr0; or al, 1; mov cr0, eax
          ...[0xea, 0x40, 0x10, 0x08, 0x00], // jmp 8:0x1040
        ],
      ],
      [
        0x1040,
        [
          ...[0xb8, 0x10, 0x00, 0x00, 0x00, 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0], // ds, es, ss = 0x10
          ...[0x0f, 0x01, 0x1d, 0x88, 0x08, 0x00, 0x00], // lidt [0x888]
          ...PORT32,
          ...say("P"),
          ...[0xcd, 0x30], // int 0x30
          ...say("M"),
          ...say("\n"),
          0xf4,
        ],
      ],
      [0x1100, [...say("I"), 0xcf]], // the handler; iret
    ],
  },
  {
    name: "64-bit",
    about: "64-bit mode with four levels of page tables: the same memory in both halves of the address space",
    output: "LH\n",
    long: true,
    memory: [
      [TABLES, quad(BigInt(TABLES + 0x1003))], // PML4, entry 0
      [TABLES + 8 * 256, quad(BigInt(TABLES + 0x1003))], // and entry 256: 0xffff800000000000
      [TABLES + 0x1000, quad(BigInt(TABLES + 0x2003))],
      [TABLES + 0x2000, quad(0x83n)], // 2 MiB from 0 on
      [
        CODE,
        [
          ...PORT32,
          ...say("L"),
          ...[0x48, 0xb8, ...quad(0xffff_8000_0000_1080n)], // mov rax, the code below in the upper half
          ...[0xff, 0xe0], // jmp rax
        ],
      ],
      [
        0x1080,
        [
          ...[0x8a, 0x05, 0x7a, 0x00, 0x00, 0x00, 0xee], // mov al, [rip + 0x7a]; out dx, al
          ...say("\n"),
          0xf4,
        ],
      ],
      [0x1100, ["H".charCodeAt(0)]],
    ],
  },
];

export interface GuestResult {
  readonly output: string;
  /** of the last KVM_RUN: KVM_EXIT_HLT if all went well */
  readonly exitReason: number;
  /** what it answered, 0 or −errno */
  readonly result: number;
}

/** Runs a guest until it halts, or until something else than output comes. */
export function runGuest(kernel: Syscalls, guest: ExampleGuest): GuestResult {
  const kvm = kernel.open("/dev/kvm", 2);
  const vm = kernel.ioctl(kvm, KVM_CREATE_VM, 0);
  const address = kernel.mmap(0, MEMORY, 3, 0x21, -1, 0);
  const memory = kernel.memory(address, MEMORY)!;
  for (const [at, bytes] of guest.memory) memory.set(bytes, at);
  const region = { slot: 0, guest_phys_addr: 0, memory_size: MEMORY, userspace_addr: address };
  kernel.ioctl(vm, KVM_SET_USER_MEMORY_REGION, KvmUserspaceMemoryRegion.encode(region));
  const vcpu = kernel.ioctl(vm, KVM_CREATE_VCPU, 0);
  const size = kernel.ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
  const page = kernel.mmap(0, size, 3, 1, vcpu, 0);
  const run = kernel.memory(page, size)!;
  start(kernel, vcpu, guest);

  let output = "";
  let result = 0;
  for (let i = 0; i < MOST_EXITS; i++) {
    result = kernel.ioctl(vcpu, KVM_RUN, 0);
    if (result < 0 || load32(run, EXIT_REASON) !== KVM_EXIT_IO) break;
    output += String.fromCharCode(run[IO_DATA]);
  }
  const exitReason = load32(run, EXIT_REASON);
  kernel.munmap(page, size);
  for (const fd of [vcpu, vm, kvm]) kernel.close(fd);
  kernel.munmap(address, MEMORY);
  return { output, exitReason, result };
}

/** Code at 0x1000, in real mode or in 64-bit mode. */
function start(kernel: Syscalls, vcpu: number, guest: ExampleGuest): void {
  const bytes = new Uint8Array(KvmSregs.size);
  kernel.ioctl(vcpu, KVM_GET_SREGS, bytes);
  const sregs = KvmSregs.at(bytes);
  sregs.cs.base = 0n;
  sregs.cs.selector = 0;
  if (guest.long === true) {
    for (const name of ["cs", "ds", "es", "ss"] as const) {
      const segment = sregs[name];
      segment.selector = name === "cs" ? 8 : 0x10;
      segment.limit = 0xffff_ffff;
      segment.g = 1;
    }
    sregs.cs.type = 11;
    sregs.cs.l = 1;
    sregs.cr3 = BigInt(TABLES);
    sregs.cr4 |= 1n << 5n;
    sregs.cr0 |= 0x8000_0001n;
    sregs.efer |= 0x500n;
  }
  kernel.ioctl(vcpu, KVM_SET_SREGS, bytes);
  const regs = new Uint8Array(KvmRegs.size);
  const values = { rip: CODE, rsp: STACK, rflags: 2, ...guest.registers };
  for (const [name, value] of Object.entries(values))
    store64(regs, KvmRegs.offsetOf[name as keyof typeof KvmRegs.offsetOf], value);
  kernel.ioctl(vcpu, KVM_SET_REGS, regs);
}
