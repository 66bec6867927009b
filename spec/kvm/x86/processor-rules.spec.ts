/** Rules of the processor that single instructions show: on pvm (its emulator), on mainline, and on the real kernel. */
import { describe, expect } from "vitest";
import {
  KVM_EXIT_HLT,
  KVM_EXIT_IO,
  KVM_SET_USER_MEMORY_REGION,
  KvmUserspaceMemoryRegion,
} from "../../../lib/abi/kvm.ts";
import {
  KVM_GET_FPU,
  KVM_GET_SREGS,
  KVM_SET_CPUID2,
  KvmCpuid2,
  KvmCpuidEntry2,
  KvmFpu,
  KvmSregs,
} from "../../../lib/abi/kvm-x86.ts";
import { load16, load32, load64, store16, store32, store64 } from "../../../lib/abi/struct.ts";
import { CODE, type Guest } from "./guest.ts";
import { GP, type GuestIn, HANDLERS, HLT, le, outcome, PF, rule, SS, setMsr, sregs, UD } from "./rules.ts";

const FAR = 0x8000_0000_0000n;

describe("arithmetic", () => {
  rule("CMP of 64 bits: carry exactly where the first is below the second", (guestIn) => {
    const values = [0n, 1n, 0x1_2345_6789n, 2n ** 63n, 2n ** 64n - 1n];
    const guest = guestIn("long");
    // cmp rax, rbx; setb cl; sete dl
    guest.code(0x48, 0x39, 0xd8, 0x0f, 0x92, 0xc1, 0x0f, 0x94, 0xc2, HLT);
    for (const rax of values)
      for (const rbx of values) {
        guest.registers({ rax, rbx });
        expect(outcome(guest)).toBe("done");
        expect([rax, rbx, guest.register("rcx"), guest.register("rdx")]).toEqual([
          rax,
          rbx,
          rax < rbx ? 1n : 0n,
          rax === rbx ? 1n : 0n,
        ]);
      }
  });

  const decimal = (opcode: number) => (guestIn: GuestIn) => {
    const guest = guestIn("prot32");
    guest.code(opcode, 0x0f, 0x92, 0xc1, HLT);
    for (let al = 0x90; al < 0xa0; al++) {
      guest.registers({ rax: al });
      expect(outcome(guest)).toBe("done");
      const sign = opcode === 0x27 ? 1 : -1;
      let result = al;
      if ((al & 15) > 9) result += 6 * sign;
      if (al > 0x99) result += 0x60 * sign;
      expect([al, guest.register("rax"), guest.register("rcx")]).toEqual([
        al,
        BigInt(result & 0xff),
        al > 0x99 ? 1n : 0n,
      ]);
    }
  };
  rule("DAS: 0x99 is the highest that stays", decimal(0x2f));
  // KVM's emulator does not know DAA
  rule("DAA: 0x99 is the highest that stays", decimal(0x27), ["mainline"]);

  rule("LOCK goes with NOT and NEG of memory", (guestIn) => {
    for (const [modrm, result] of [
      [0x15, 0xffff_fffa],
      [0x1d, 0xffff_fffb],
    ]) {
      const guest = guestIn("prot32");
      store32(guest.memory, 0x2000, 5);
      guest.code(0xf0, 0xf7, modrm, ...le(0x2000, 4), HLT);
      expect([outcome(guest), load32(guest.memory, 0x2000)]).toEqual(["done", result]);
    }
  });
});

describe("addresses", () => {
  rule("base and index are added in 64 bits, whichever registers they are", (guestIn) => {
    const names = ["rax", "rcx", "rdx", "rbx", undefined, "rbp", "rsi", "rdi"] as const;
    for (let base = 0; base < 8; base++)
      for (let index = 0; index < 8; index++) {
        const [first, second] = [names[base], names[index]];
        if (first === undefined || second === undefined || base === index) continue;
        const guest = guestIn("long");
        store32(guest.memory, 0x2000, 0x1234_5678);
        // mov eax, [base + index]
        guest.code(0x8b, 0x44, (index << 3) | base, 0, HLT);
        guest.registers({ [first]: 0x3_0000_1000n, [second]: 2n ** 64n - 0x2_ffff_f000n });
        expect([first, second, outcome(guest), guest.register("rax")]).toEqual([
          first,
          second,
          "done",
          0x1234_5678n,
        ]);
      }
  });

  rule(
    "an address with RBP as its base is the stack's: #SS where it is not canonical, else #GP",
    (guestIn, kernel) => {
      for (const [bytes, vector] of [
        [[0x8b, 0x44, 0x0d, 0], SS], // [rbp + rcx]
        [[0x8b, 0x45, 0], SS], // [rbp]
        [[0x8b, 0x44, 0x0b, 0], GP], // [rbx + rcx]
        [[0x8b, 0x44, 0x2b, 0], GP], // [rbx + rbp]
        // a prefix of DS does not count in 64-bit mode, but for KVM's emulator
        [[0x3e, 0x8b, 0x44, 0x0d, 0], kernel === "mainline" ? SS : GP],
      ] as [number[], number][]) {
        const guest = guestIn("long");
        guest.code(...bytes, HLT);
        guest.registers({ rbp: FAR, rbx: bytes.includes(0x2b) ? 0 : FAR });
        expect([bytes, outcome(guest)]).toEqual([bytes, vector]);
      }
    },
  );

  rule("SGDT and LGDT: ten bytes in a row, across the first 4 GiB too", (guestIn) => {
    for (const at of [0xffff_fffd, 0xffff_fffe, 0xffff_ffff, 0x1_0000_0000])
      for (const prefix of at < 2 ** 32 ? [[], [0x67]] : [[]]) {
        const guest = guestIn("long");
        const { memory } = guest;
        // the last page below 4 GiB lies at 0x5000, the first above at 0x6000
        store64(memory, 0x11000 + 8 * 3, 0x13007);
        store64(memory, 0x13000 + 8 * 511, 0x14007);
        store64(memory, 0x14000 + 8 * 511, 0x5007);
        store64(memory, 0x11000 + 8 * 4, 0x15007);
        store64(memory, 0x15000, 0x16007);
        store64(memory, 0x16000, 0x6007);
        const physical = at - 0xffff_f000 + 0x5000;
        memory.fill(0xee, 0x5ff0, 0x6020);
        guest.code(...prefix, 0x0f, 0x01, 0x00, HLT);
        guest.registers({ rax: at });
        expect([at, prefix, outcome(guest)]).toEqual([at, prefix, "done"]);
        const table = KvmSregs.decode(guest.get(KVM_GET_SREGS.number, KvmSregs.size)).gdt;
        expect([at, prefix, load16(memory, physical), load64(memory, physical + 2)]).toEqual([
          at,
          prefix,
          table.limit,
          table.base,
        ]);
        store16(memory, physical, 0x77);
        store64(memory, physical + 2, 0x8888);
        guest.code(...prefix, 0x0f, 0x01, 0x10, HLT);
        guest.registers({ rax: at });
        expect([at, prefix, outcome(guest)]).toEqual([at, prefix, "done"]);
        const { base, limit } = KvmSregs.decode(guest.get(KVM_GET_SREGS.number, KvmSregs.size)).gdt;
        expect([at, base, limit]).toEqual([at, 0x8888n, 0x77]);
      }
  });

  rule("a far pointer comes from memory: LSS, LFS and LGS of a register are #UD", (guestIn) => {
    for (const opcode of [0xb2, 0xb4, 0xb5]) {
      const guest = guestIn("prot32");
      guest.code(0x0f, opcode, 0xc3, HLT);
      expect(outcome(guest)).toBe(UD);
    }
  });
});

describe("counters", () => {
  rule("JCXZ and LOOP count in CX, ECX or RCX, as wide as addresses are", (guestIn) => {
    for (const [mode, prefix, bits] of [
      ["real", [], 16],
      ["real", [0x67], 32],
      ["prot16", [], 16],
      ["prot16", [0x67], 32],
      ["prot32", [], 32],
      ["prot32", [0x67], 16],
      ["long", [], 64],
      ["long", [0x67], 32],
    ] as const) {
      const guest = guestIn(mode);
      for (const rcx of [0n, 1n, 0x1_0000n, 0x1_0001n, 0x1_0000_0000n, 0x1_0000_0001n]) {
        if (mode !== "long" && rcx >> 32n !== 0n) continue;
        const counter = BigInt.asUintN(bits, rcx);
        // jcxz +1; hlt; hlt
        guest.code(...prefix, 0xe3, 1, HLT, HLT);
        guest.registers({ rcx });
        const start = BigInt(CODE + prefix.length + 2);
        expect(outcome(guest)).toBe("done");
        expect([mode, bits, rcx, guest.register("rip") - start]).toEqual([
          mode,
          bits,
          rcx,
          counter === 0n ? 2n : 1n,
        ]);
        // loop +1; hlt; hlt
        guest.code(...prefix, 0xe2, 1, HLT, HLT);
        guest.registers({ rcx });
        expect(outcome(guest)).toBe("done");
        expect([mode, bits, rcx, guest.register("rip") - start]).toEqual([
          mode,
          bits,
          rcx,
          counter !== 1n ? 2n : 1n,
        ]);
      }
    }
  });
});

describe("ports", () => {
  rule("OUT of a wide register is of four bytes, REX.W or not", (guestIn) => {
    for (const bytes of [
      [0xe7, 0x80],
      [0x48, 0xe7, 0x80],
      [0x48, 0xef],
    ]) {
      const guest = guestIn("long");
      guest.code(...bytes, HLT);
      guest.registers({ rax: 0x1122_3344_5566_7788n, rdx: 0x80 });
      expect([guest.enter(), guest.exitReason]).toEqual([0, KVM_EXIT_IO]);
      const { run } = guest;
      expect([run[32], run[33], load16(run, 34), load32(run, 36), load32(run, 0x1000)]).toEqual([
        1, 4, 0x80, 1, 0x5566_7788,
      ]);
    }
  });

  rule("INS without REP leaves RCX, in its upper half too", (guestIn) => {
    for (const prefix of [[], [0x67]]) {
      const guest = guestIn("long");
      guest.code(...prefix, 0x6c, HLT);
      guest.registers({ rcx: 0x1_0000_0005n, rdx: 0x80, rdi: 0x2000 });
      expect([guest.enter(), guest.exitReason]).toEqual([0, KVM_EXIT_IO]);
      guest.run[0x1000] = 0x5a;
      expect([outcome(guest), guest.memory[0x2000], guest.register("rcx"), guest.register("rdi")]).toEqual([
        "done",
        0x5a,
        0x1_0000_0005n,
        0x2001n,
      ]);
    }
  });

  rule("at CPL 3 beyond IOPL the bits of the TSS decide, all of an access", (guestIn) => {
    const TSS = 0x7000;
    const BITMAP = 0x68;
    for (const [limit, unusable] of [
      [0x68 + 0x20, 0],
      [0x66, 0],
      [0x68 + 0x20, 1],
    ])
      for (const set of [undefined, 0x7f, 0x80, 0x81, 0x82])
        for (const width of [1, 2, 4]) {
          const guest = guestIn("prot32");
          const { memory } = guest;
          store32(memory, TSS + 4, 0x8800);
          store16(memory, TSS + 8, 0x10);
          store16(memory, TSS + 102, BITMAP);
          memory.fill(0, TSS + BITMAP, TSS + BITMAP + 0x30);
          if (set !== undefined) memory[TSS + BITMAP + (set >> 3)] |= 1 << (set & 7);
          const ring3 = (bytes: Uint8Array, at: number, selector: number) => {
            store16(bytes, at + 12, selector);
            bytes[at + 16] = 3; // DPL
          };
          const { cs, ds, es, fs, gs, ss, tr } = KvmSregs.offsetOf;
          const done = sregs(guest, (bytes) => {
            ring3(bytes, cs, 0x43);
            for (const at of [ds, es, fs, gs, ss]) ring3(bytes, at, 0x4b);
            store64(bytes, tr, TSS);
            store32(bytes, tr + 8, limit);
            store16(bytes, tr + 12, 0x30);
            bytes.set([11, 1, 0, 0, 0, 0, 0, 0, unusable], tr + 14);
          });
          expect(done).toBe(0);
          // in al, 0x80; in ax, 0x80; in eax, 0x80
          guest.code(...(width === 1 ? [0xe4] : width === 2 ? [0x66, 0xe5] : [0xe5]), 0x80, HLT);
          guest.registers({});
          const allowed =
            limit > 0x67 && unusable === 0 && (set === undefined || set < 0x80 || set >= 0x80 + width);
          const result = guest.enter();
          const name = [limit, unusable, set, width, result];
          if (allowed)
            expect([...name, guest.exitReason]).toEqual([limit, unusable, set, width, 0, KVM_EXIT_IO]);
          else
            expect([...name, guest.exitReason, (Number(guest.register("rip")) - HANDLERS) >> 5]).toEqual([
              limit,
              unusable,
              set,
              width,
              0,
              KVM_EXIT_HLT,
              GP,
            ]);
        }
  });
});

describe("control and debug registers", () => {
  rule("paging without protection is #GP", (guestIn) => {
    for (const [cr0, vector] of [
      [0x8000_0010, GP],
      [0x0000_0011, "done"],
    ] as const) {
      const guest = guestIn("prot32");
      guest.code(0xb8, ...le(cr0, 4), 0x0f, 0x22, 0xc0, HLT);
      expect([cr0, outcome(guest)]).toEqual([cr0, vector]);
    }
  });

  rule("DR4 and DR5 are DR6 and DR7, or #UD with CR4.DE", (guestIn) => {
    for (const register of [4, 5])
      for (const extensions of [0, 8]) {
        const guest = guestIn("prot32");
        guest.code(0xb8, ...le(extensions, 4), 0x0f, 0x22, 0xe0, 0x0f, 0x21, 0xc0 | (register << 3), HLT);
        expect([register, extensions, outcome(guest)]).toEqual([
          register,
          extensions,
          extensions ? UD : "done",
        ]);
        if (extensions === 0) expect(guest.register("rax")).toBe(register === 4 ? 0xffff_0ff0n : 0x400n);
      }
  });
});

describe("segments and stacks that fault", () => {
  rule("a selector whose load faults is not taken", (guestIn) => {
    const guest = guestIn("real");
    // mov ax, 0x123; mov ds, ax; mov ds, [0xffff]
    guest.code(0xb8, 0x23, 0x01, 0x8e, 0xd8, 0x8e, 0x1e, 0xff, 0xff, HLT);
    expect(outcome(guest)).toBe(GP);
    expect(KvmSregs.decode(guest.get(KVM_GET_SREGS.number, KvmSregs.size)).ds.selector).toBe(0x123);
  });
});

describe("XMM registers", () => {
  const xmm = (guest: Guest, register: number) => {
    const fpu = guest.get(KVM_GET_FPU.number, KvmFpu.size);
    const at = KvmFpu.offsetOf.xmm + 16 * register;
    return [...fpu.subarray(at, at + 16)];
  };
  /** Lets the guest use them. */
  const enable = (guest: Guest) => {
    sregs(guest, (bytes) => {
      store64(bytes, KvmSregs.offsetOf.cr4, load64(bytes, KvmSregs.offsetOf.cr4) | 0x600n);
    });
  };

  rule("a load that faults changes none, and the next one loads the register that it names", (guestIn) => {
    const row = (first: number) => Array.from({ length: 16 }, (_, i) => first + i);
    // movups xmm0 to xmm7, [rcx + 16 * i]
    const fill = Array.from({ length: 8 }, (_, i) => [0x0f, 0x10, 0x41 | (i << 3), 16 * i]).flat();
    for (let register = 0; register < 8; register++) {
      const guest = guestIn("long");
      enable(guest);
      for (let i = 0; i < 8; i++) guest.memory.set(row(0x10 * i), 0x2000 + 16 * i);
      guest.memory.set(row(0xa0), 0x2100);
      // movups xmm, [rbx]
      guest.code(...fill, 0x0f, 0x10, 0x03 | (register << 3), HLT);
      for (const [rbx, expected] of [
        [0x2000_0000_0000n, PF],
        [0x2100, "done"],
      ] as const) {
        guest.registers({ rbx, rcx: 0x2000 });
        expect(outcome(guest)).toBe(expected);
        for (let other = 0; other < 8; other++)
          expect(xmm(guest, other)).toEqual(
            row(expected === "done" && other === register ? 0xa0 : 0x10 * other),
          );
      }
    }
  });

  rule(
    "an MMX store marks the registers as used, where it faults KVM's emulator alone",
    (guestIn, kernel) => {
      const guest = guestIn("long");
      enable(guest);
      // movq [rbx], mm0
      guest.code(0x0f, 0x7f, 0x03, HLT);
      const used = () => guest.get(KVM_GET_FPU.number, KvmFpu.size)[KvmFpu.offsetOf.ftwx];
      const seen = [used()];
      for (const [rbx, expected] of [
        [0x2000_0000_0000n, PF],
        [0x2000, "done"],
      ] as const) {
        guest.registers({ rbx });
        expect(outcome(guest)).toBe(expected);
        seen.push(used());
      }
      expect(seen).toEqual([0, kernel === "mainline" ? 0 : 0xff, 0xff]);
    },
  );

  rule(
    "MOVAPS and MOVDQA ask for 16 bytes in a row, loads and stores; MOVUPS and MOVDQU do not",
    (guestIn) => {
      for (const [bytes, aligned] of [
        [[0x0f, 0x28, 0x03], true],
        [[0x0f, 0x29, 0x03], true],
        [[0x66, 0x0f, 0x6f, 0x03], true],
        [[0x66, 0x0f, 0x7f, 0x03], true],
        [[0x0f, 0x10, 0x03], false],
        [[0x0f, 0x11, 0x03], false],
        [[0xf3, 0x0f, 0x6f, 0x03], false],
        [[0xf3, 0x0f, 0x7f, 0x03], false],
      ] as const)
        for (const at of [0x2000, 0x2008, 0x200f]) {
          const guest = guestIn("long");
          enable(guest);
          guest.code(...bytes, HLT);
          guest.registers({ rbx: at });
          expect([bytes, at, outcome(guest)]).toEqual([bytes, at, aligned && at % 16 !== 0 ? GP : "done"]);
        }
    },
  );
});

rule(
  "page directories of PAE may lie above 4 GiB",
  (guestIn) => {
    const guest = guestIn("prot32");
    const { kernel, memory } = guest;
    const at = kernel.mmap(0, 0x1000, 3, 0x22, -1, 0);
    const slot = {
      slot: 1,
      guest_phys_addr: 0x2_0000_0000n,
      memory_size: 0x1000n,
      userspace_addr: BigInt(at),
    };
    expect(kernel.ioctl(guest.vm, KVM_SET_USER_MEMORY_REGION, KvmUserspaceMemoryRegion.encode(slot))).toBe(0);
    // the first 2 MiB as they are
    store64(kernel.memory(at, 0x1000)!, 0, 0x83n);
    store64(memory, 0xf000, 0x2_0000_0001n);
    const { cr0, cr3, cr4 } = KvmSregs.offsetOf;
    expect(
      sregs(guest, (bytes) => {
        store64(bytes, cr3, 0xf000);
        store64(bytes, cr4, load64(bytes, cr4) | 0x20n);
        store64(bytes, cr0, load64(bytes, cr0) | 0x8000_0000n);
      }),
    ).toBe(0);
    // mov eax, [0x2000]
    store32(memory, 0x2000, 0x5566_7788);
    guest.code(0xa1, ...le(0x2000, 4), HLT);
    guest.registers({});
    expect([outcome(guest), guest.register("rax")]).toEqual(["done", 0x5566_7788n]);
  },
  ["mainline"],
);

describe("SYSENTER and SYSEXIT", () => {
  const started = (guestIn: GuestIn, selector: number) => {
    const guest = guestIn("prot32");
    setMsr(guest, 0x174, BigInt(selector));
    setMsr(guest, 0x175, 0x7800n);
    setMsr(guest, 0x176, 0x9000n);
    guest.memory[0x9000] = HLT;
    return guest;
  };

  rule("SYSENTER goes where the MSRs say, and is #GP without a selector", (guestIn) => {
    for (const selector of [0, 3, 8]) {
      const guest = started(guestIn, selector).code(0x0f, 0x34, HLT);
      expect([selector, outcome(guest)]).toEqual([selector, selector < 4 ? GP : "done"]);
      if (selector === 8) expect([guest.register("rip"), guest.register("rsp")]).toEqual([0x9001n, 0x7800n]);
    }
  });

  rule(
    "SYSEXIT goes to CPL 3 at EDX with the stack of ECX, and is #GP there and without a selector",
    (guestIn) => {
      for (const selector of [0, 3, 8]) {
        const guest = started(guestIn, selector).code(0x0f, 0x35, HLT);
        // at CPL 3: mov eax, cs; mov ebx, esp; sysenter
        guest.memory.set([0x8c, 0xc8, 0x89, 0xe3, 0x0f, 0x34], 0xa000);
        guest.registers({ rdx: 0xa000, rcx: 0x7000 });
        expect([selector, outcome(guest)]).toEqual([selector, selector < 4 ? GP : "done"]);
        if (selector === 8)
          expect([guest.register("rip"), guest.register("rax"), guest.register("rbx")]).toEqual([
            0x9001n,
            0x1bn,
            0x7000n,
          ]);
      }
      const guest = started(guestIn, 8).code(0x0f, 0x35, HLT);
      const TSS = 0x7000;
      store32(guest.memory, TSS + 4, 0x8800);
      store16(guest.memory, TSS + 8, 0x10);
      sregs(guest, (bytes) => {
        const { tr } = KvmSregs.offsetOf;
        store64(bytes, tr, TSS);
        store32(bytes, tr + 8, 0x67);
        store16(bytes, tr + 12, 0x30);
        bytes.set([11, 1, 0, 0, 0, 0, 0, 0, 0], tr + 14);
      });
      guest.memory.set([0x0f, 0x35, HLT], 0xa000);
      guest.registers({ rdx: 0xa000, rcx: 0x7000 });
      expect(outcome(guest)).toBe(GP);
    },
  );
});

rule(
  "with CR4.PCIDE bit 63 of what is written to CR3 asks for no flush, and is not kept",
  (guestIn) => {
    const guest = guestIn("long");
    const cpuid = new Uint8Array(KvmCpuid2.size + KvmCpuidEntry2.size);
    cpuid.set(KvmCpuid2.encode({ nent: 1 }));
    cpuid.set(KvmCpuidEntry2.encode({ function: 1, ecx: 1 << 17 }), KvmCpuid2.size);
    expect(guest.kernel.ioctl(guest.vcpu, KVM_SET_CPUID2, cpuid)).toBe(0);
    const { cr3, cr4 } = KvmSregs.offsetOf;
    for (const pcide of [0n, 0x2_0000n]) {
      expect(sregs(guest, (bytes) => store64(bytes, cr4, 0x20n | pcide))).toBe(0);
      // mov cr3, rax
      guest.code(0x0f, 0x22, 0xd8, HLT);
      guest.registers({ rax: (1n << 63n) | 0x1_0000n });
      expect([pcide, outcome(guest)]).toEqual([pcide, pcide === 0n ? GP : "done"]);
      expect(load64(guest.get(KVM_GET_SREGS.number, KvmSregs.size), cr3)).toBe(0x1_0000n);
    }
  },
  ["mainline"],
);
