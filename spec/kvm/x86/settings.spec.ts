/** What user space sets before and beside KVM_RUN, on the fake and on the real kernel: arch/x86/kvm/x86.c (6.18). */
import { describe, expect, test } from "vitest";
import { errnoName } from "../../../lib/abi/errno.ts";
import type { Request } from "../../../lib/abi/ioctl.ts";
import {
  KVM_CAP_DISABLE_QUIRKS2,
  KVM_CAP_ENFORCE_PV_FEATURE_CPUID,
  KVM_CAP_SPLIT_IRQCHIP,
  KVM_CAP_X2APIC_API,
  KVM_CREATE_IRQCHIP,
  KVM_CREATE_VCPU,
  KVM_CREATE_VM,
  KVM_ENABLE_CAP,
  KVM_GET_MP_STATE,
  KVM_GET_ONE_REG,
  KVM_SET_ONE_REG,
  KVM_SET_USER_MEMORY_REGION,
  KVM_SIGNAL_MSI,
  KvmEnableCap,
  KvmMsi,
  KvmOneReg,
  KvmUserspaceMemoryRegion,
} from "../../../lib/abi/kvm.ts";
import {
  KVM_CREATE_PIT2,
  KVM_GET_CLOCK,
  KVM_GET_LAPIC,
  KVM_GET_MSRS,
  KVM_GET_PIT2,
  KVM_GET_SREGS,
  KVM_GET_SREGS2,
  KVM_GET_VCPU_EVENTS,
  KVM_KVMCLOCK_CTRL,
  KVM_SET_CLOCK,
  KVM_SET_CPUID2,
  KVM_SET_LAPIC,
  KVM_SET_MSRS,
  KVM_SET_PIT,
  KVM_SET_PIT2,
  KVM_SET_SREGS,
  KVM_SET_SREGS2,
  KVM_SET_VCPU_EVENTS,
  KVM_VCPUEVENT_VALID_SMM,
  KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK,
  KVM_X86_QUIRK_LINT0_REENABLED,
  KVM_X86_REG_TYPE_MSR,
  KVM_X86_SET_MCE,
  KVM_X86_SETUP_MCE,
  KvmClockData,
  KvmCpuid2,
  KvmCpuidEntry2,
  KvmLapicState,
  KvmMsrEntry,
  KvmMsrs,
  KvmPitConfig,
  KvmPitState,
  KvmPitState2,
  KvmSregs,
  KvmSregs2,
  KvmVcpuEvents,
  KvmX86Mce,
} from "../../../lib/abi/kvm-x86.ts";
import { load32, load64, store32, store64 } from "../../../lib/abi/struct.ts";
import type { Syscalls } from "../../../lib/kernel/syscalls.ts";
import { builtinHosts } from "../../../lib/machine/builtin.ts";
import { Machine } from "../../../lib/machine/machine.ts";
import { profileFromHeader } from "../../../lib/machine/profile.ts";
import { contract } from "../../contract/contract.ts";
import { mainline } from "./vm.ts";

const named = (result: number) => (result < 0 ? errnoName(-result) : result);
const PAGE = 4096;
const SPIV = 0xf0;

/** A VM with memory at 0, and vCPUs; controllers unless it is told otherwise. */
class World {
  readonly process: Syscalls;
  readonly vm: number;
  readonly vcpus: number[];
  readonly memory: Uint8Array;

  constructor(process: Syscalls, { vcpus = 1, irqchip = true, prepare = (_vm: number): void => {} } = {}) {
    this.process = process;
    this.vm = process.ioctl(process.open("/dev/kvm", 2), KVM_CREATE_VM, 0);
    const at = process.mmap(0, 16 * PAGE, 3, 0x22, -1, 0);
    this.memory = process.memory(at, 16 * PAGE)!;
    const slot = { memory_size: BigInt(16 * PAGE), userspace_addr: BigInt(at) };
    process.ioctl(this.vm, KVM_SET_USER_MEMORY_REGION, KvmUserspaceMemoryRegion.encode(slot));
    if (irqchip) process.ioctl(this.vm, KVM_CREATE_IRQCHIP, 0);
    prepare(this.vm);
    this.vcpus = Array.from({ length: vcpus }, (_, id) => process.ioctl(this.vm, KVM_CREATE_VCPU, id));
  }

  /** A struct as the vCPU answers it. */
  get(request: Request, size: number, fd = this.vcpus[0]): Uint8Array {
    const bytes = new Uint8Array(size);
    expect(this.process.ioctl(fd, request, bytes)).toBe(0);
    return bytes;
  }

  set(request: Request, bytes: Uint8Array, fd = this.vcpus[0]): number | string {
    return named(this.process.ioctl(fd, request, bytes));
  }

  enable(cap: number, value: number | bigint, fd = this.vm): number | string {
    return this.set(KVM_ENABLE_CAP, KvmEnableCap.encode({ cap, args: [BigInt(value), 0n, 0n, 0n] }), fd);
  }

  /** Whether the write is taken. */
  setMsr(index: number, data: bigint, fd = this.vcpus[0]): boolean {
    const bytes = new Uint8Array(KvmMsrs.size + KvmMsrEntry.size);
    bytes.set(KvmMsrs.encode({ nmsrs: 1 }));
    bytes.set(KvmMsrEntry.encode({ index, data }), KvmMsrs.size);
    return this.process.ioctl(fd, KVM_SET_MSRS, bytes) === 1;
  }

  /** The value, or undefined where the read is refused. */
  msr(index: number, fd = this.vcpus[0]): bigint | undefined {
    const bytes = new Uint8Array(KvmMsrs.size + KvmMsrEntry.size);
    bytes.set(KvmMsrs.encode({ nmsrs: 1 }));
    bytes.set(KvmMsrEntry.encode({ index }), KvmMsrs.size);
    const read = this.process.ioctl(fd, KVM_GET_MSRS, bytes);
    return read === 1 ? KvmMsrEntry.decode(bytes, KvmMsrs.size).data : undefined;
  }

  cpuid(
    leaves: readonly Partial<Parameters<typeof KvmCpuidEntry2.encode>[0]>[],
    fd = this.vcpus[0],
  ): number | string {
    const bytes = new Uint8Array(KvmCpuid2.size + leaves.length * KvmCpuidEntry2.size);
    bytes.set(KvmCpuid2.encode({ nent: leaves.length }));
    leaves.forEach((leaf, i) => {
      bytes.set(KvmCpuidEntry2.encode(leaf), KvmCpuid2.size + i * KvmCpuidEntry2.size);
    });
    return this.set(KVM_SET_CPUID2, bytes, fd);
  }

  /** Switches a local APIC on: from then on messages find it. */
  openLapic(fd = this.vcpus[0]): void {
    const lapic = this.get(KVM_GET_LAPIC, KvmLapicState.size, fd);
    store32(lapic, SPIV, 0x1ff);
    expect(this.set(KVM_SET_LAPIC, lapic, fd)).toBe(0);
  }

  /** A message: to how many local APICs it went. */
  message(destination: number, data: number): number {
    const message = { address_lo: (0xfee0_0000 | (destination << 12)) >>> 0, data };
    return this.process.ioctl(this.vm, KVM_SIGNAL_MSI, KvmMsi.encode(message));
  }
}

describe("local APICs", () => {
  const LVT0 = 0x350;
  const IRR = 0x200;

  contract(
    "LINT0 takes the PIC's interrupts of the bootstrap processor, unless that quirk is disabled",
    (process) => {
      for (const disabled of [0, KVM_X86_QUIRK_LINT0_REENABLED]) {
        const world = new World(process, { irqchip: true, vcpus: 0 });
        expect(world.enable(KVM_CAP_DISABLE_QUIRKS2, disabled)).toBe(0);
        const lvt0 = [0, 1].map((id) => {
          const vcpu = process.ioctl(world.vm, KVM_CREATE_VCPU, id);
          return load32(world.get(KVM_GET_LAPIC, KvmLapicState.size, vcpu), LVT0);
        });
        expect(lvt0).toEqual([disabled === 0 ? 0x700 : 0x1_0000, 0x1_0000]);
      }
    },
  );

  contract("a message to 0xff is a broadcast for x2APIC too, unless that quirk is disabled", (process) => {
    for (const quirk of [true, false]) {
      const world = new World(process, { vcpus: 2 });
      if (!quirk) expect(world.enable(KVM_CAP_X2APIC_API, KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK)).toBe(0);
      for (const vcpu of world.vcpus) {
        expect(world.cpuid([{ function: 1, ecx: 1 << 21 }], vcpu)).toBe(0);
        const sregs = world.get(KVM_GET_SREGS, KvmSregs.size, vcpu);
        const at = KvmSregs.offsetOf.apic_base;
        store64(sregs, at, load64(sregs, at) | 0xc00n);
        expect(world.set(KVM_SET_SREGS, sregs, vcpu)).toBe(0);
        world.openLapic(vcpu);
      }
      world.message(0xff, 0x41);
      const requested = world.vcpus.map(
        (vcpu) => load32(world.get(KVM_GET_LAPIC, KvmLapicState.size, vcpu), IRR + 0x20) & 2,
      );
      expect(requested).toEqual(quirk ? [2, 2] : [0, 0]);
    }
  });

  // no host of this flavour has a system management mode
  test("an SMI that came as a message waits until user space takes it back", () => {
    const world = new World(new Machine(profileFromHeader(builtinHosts.x86_64_7_2_svm)).process());
    const pending = () =>
      KvmVcpuEvents.decode(world.get(KVM_GET_VCPU_EVENTS, KvmVcpuEvents.size)).smi.pending;
    world.openLapic();
    world.message(0, 2 << 8);
    const sent = pending();
    for (const value of [0, 1, 0]) {
      const events = world.get(KVM_GET_VCPU_EVENTS, KvmVcpuEvents.size);
      events[KvmVcpuEvents.offsetOf.smi + 1] = value;
      store32(events, KvmVcpuEvents.offsetOf.flags, KVM_VCPUEVENT_VALID_SMM);
      expect(world.set(KVM_SET_VCPU_EVENTS, events)).toBe(0);
      expect(pending()).toBe(value);
    }
    expect(sent).toBe(1);
  });
});

describe("MSRs", () => {
  contract(
    "with KVM_CAP_ENFORCE_PV_FEATURE_CPUID a paravirtual MSR is there exactly if CPUID shows its feature",
    (process) => {
      const CLOCK = 1 << 0;
      const CLOCK2 = 1 << 3;
      const msrs: [index: number, feature: number, value: bigint][] = [
        [0x11, CLOCK, 0x2000n],
        [0x12, CLOCK, 0x3001n],
        [0x4b56_4d00, CLOCK2, 0x2000n],
        [0x4b56_4d01, CLOCK2, 0x3001n],
        [0x4b56_4d02, 1 << 4, 0x4001n],
        [0x4b56_4d03, 1 << 5, 0x5001n],
        [0x4b56_4d04, 1 << 6, 0x6001n],
        [0x4b56_4d05, 1 << 12, 1n],
      ];
      for (const base of [0x4000_0000, 0x4000_0100])
        for (const feature of [0, CLOCK, CLOCK2, 1 << 4, 1 << 5, 1 << 6, 1 << 12]) {
          const world = new World(process);
          const signature = { ebx: 0x4b4d_564b, ecx: 0x564b_4d56, edx: 0x4d };
          const leaves = [
            { function: base, eax: base + 1, ...signature },
            { function: base + 1, eax: feature },
          ];
          expect(world.cpuid(leaves)).toBe(0);
          expect(world.enable(KVM_CAP_ENFORCE_PV_FEATURE_CPUID, 1, world.vcpus[0])).toBe(0);
          // user space may write 0 to all of them
          expect(msrs.map(([index]) => world.setMsr(index, 0n))).toEqual(msrs.map(() => true));
          const taken = msrs.filter(([index, , value]) => world.setMsr(index, value)).map(([index]) => index);
          expect([base, feature, taken]).toEqual([
            base,
            feature,
            msrs.filter((each) => each[1] === feature).map(([index]) => index),
          ]);
        }
    },
  );

  contract("the wall clock is written where the guest wants it, and nowhere for address 0", (process) => {
    const world = new World(process);
    const written = () => world.memory.findIndex((byte) => byte !== 0);
    for (const index of [0x11, 0x4b56_4d00]) {
      world.memory.fill(0);
      expect([world.setMsr(index, 0n), written()]).toEqual([true, -1]);
      expect([world.setMsr(index, 0x2000n), written()]).toEqual([true, 0x2000]);
      expect(load32(world.memory, 0x2000) % 2).toBe(0);
    }
  });

  contract("MSR 0 is one as others are, by KVM_GET_ONE_REG and KVM_SET_ONE_REG", (process) => {
    const world = new World(process);
    const value = new Uint8Array(8);
    const at = process.mmap(0, PAGE, 3, 0x22, -1, 0);
    const access = (request: Request, index: number, addr: number) =>
      world.set(
        request,
        KvmOneReg.encode({
          id: 0x2030_0000_0000_0000n | (BigInt(KVM_X86_REG_TYPE_MSR) << 32n) | BigInt(index),
          addr: BigInt(addr),
        }),
      );
    for (const index of [0, 1, 0xc000_0081]) {
      process.memory(at, 8)!.fill(0xee);
      expect([index, access(KVM_GET_ONE_REG, index, at)]).toEqual([index, 0]);
      value.set(process.memory(at, 8)!);
      expect(load64(value, 0)).toBe(world.msr(index));
      expect([access(KVM_GET_ONE_REG, index, 8), access(KVM_SET_ONE_REG, index, 8)]).toEqual([
        "EFAULT",
        "EFAULT",
      ]);
    }
  });

  contract("INIT ends what the guest agreed with KVM: its clock is off", (process) => {
    const world = new World(process, { vcpus: 2 });
    const [, second] = world.vcpus;
    const tell = () => named(process.ioctl(second, KVM_KVMCLOCK_CTRL, 0));
    expect(tell()).toBe("EINVAL");
    expect(world.setMsr(0x4b56_4d01, 0x3001n, second)).toBe(true);
    expect(tell()).toBe(0);
    world.openLapic(second);
    expect(world.message(1, 5 << 8)).toBe(1);
    // who is asked for the state has to look at INIT first
    process.ioctl(second, KVM_GET_MP_STATE, new Uint8Array(4));
    expect(tell()).toBe("EINVAL");
  });
});

describe("machine checks", () => {
  const MCG_CTL_P = 1n << 8n;
  const [MCG_STATUS, MCG_CTL, MC0] = [0x17a, 0x17b, 0x400];
  const ALL = 2n ** 64n - 1n;
  const [VALID, UNCORRECTED, ACTION] = [1n << 63n, 1n << 61n, 1n << 56n];

  const banks = (world: World, count: number, control: boolean) => {
    const cap = new Uint8Array(8);
    store64(cap, 0, BigInt(count) | (control ? MCG_CTL_P : 0n));
    return world.set(KVM_X86_SETUP_MCE, cap);
  };

  contract("exactly the banks that were set up have MSRs", (process) => {
    for (const count of [1, 2, 9]) {
      const world = new World(process);
      expect(banks(world, count, true)).toBe(0);
      const there = Array.from({ length: 4 * 12 }, (_, i) => i).filter((i) => world.setMsr(MC0 + i, 0n));
      expect(there).toEqual(Array.from({ length: 4 * count }, (_, i) => i));
      const read = Array.from({ length: 4 * 12 }, (_, i) => i).filter(
        (i) => world.msr(MC0 + i) !== undefined,
      );
      expect(read).toEqual(there);
    }
  });

  contract(
    "an uncorrected error is ignored where reporting is off: in MCG_CTL, if there is one, or in the bank",
    (process) => {
      for (const control of [true, false])
        for (const mcgCtl of control ? [0n, ALL] : [0n])
          for (const bankCtl of [0n, ALL])
            for (const uncorrected of [true, false]) {
              const world = new World(process);
              banks(world, 2, control);
              expect(world.setMsr(MCG_CTL, mcgCtl)).toBe(true);
              expect(world.setMsr(MC0 + 4, bankCtl)).toBe(true);
              const sregs = world.get(KVM_GET_SREGS, KvmSregs.size);
              store64(sregs, KvmSregs.offsetOf.cr4, load64(sregs, KvmSregs.offsetOf.cr4) | 0x40n);
              expect(world.set(KVM_SET_SREGS, sregs)).toBe(0);
              const status = VALID | ACTION | (uncorrected ? UNCORRECTED : 0n);
              const error = KvmX86Mce.encode({ status, addr: 0x1234n, mcg_status: 4n, bank: 1 });
              expect(world.set(KVM_X86_SET_MCE, error)).toBe(0);
              const taken = !uncorrected || (bankCtl === ALL && (!control || mcgCtl === ALL));
              expect([
                control,
                mcgCtl,
                bankCtl,
                uncorrected,
                world.msr(MC0 + 5),
                world.msr(MC0 + 6),
                world.msr(MCG_STATUS),
              ]).toEqual([
                control,
                mcgCtl,
                bankCtl,
                uncorrected,
                taken ? status : 0n,
                taken ? 0x1234n : 0n,
                taken && uncorrected ? 4n : 0n,
              ]);
            }
    },
  );
});

describe("clock and PIT", () => {
  contract("KVM_SET_CLOCK: from there on it counts", (process) => {
    const world = new World(process);
    for (const value of [0n, 1_000_000_000_000n, 2n ** 62n]) {
      const data = KvmClockData.encode({ clock: value });
      expect(world.set(KVM_SET_CLOCK, data, world.vm)).toBe(0);
      const { clock } = KvmClockData.decode(world.get(KVM_GET_CLOCK, KvmClockData.size, world.vm));
      expect(clock >= value && clock < value + 10_000_000_000n).toBe(true);
    }
  });

  contract("flags of the PIT are KVM_SET_PIT2's; KVM_SET_PIT leaves them", (process) => {
    for (const flags of [0, 1, 2, 3]) {
      const world = new World(process);
      expect(world.set(KVM_CREATE_PIT2, KvmPitConfig.encode({ flags: 0 }), world.vm)).toBe(0);
      const state = world.get(KVM_GET_PIT2, KvmPitState2.size, world.vm);
      store32(state, KvmPitState.size, flags);
      expect(world.set(KVM_SET_PIT2, state, world.vm)).toBe(0);
      const read = () => load32(world.get(KVM_GET_PIT2, KvmPitState2.size, world.vm), KvmPitState.size);
      expect(read()).toBe(flags);
      expect(world.set(KVM_SET_PIT, state.slice(0, KvmPitState.size), world.vm)).toBe(0);
      expect(read()).toBe(flags);
    }
  });
});

// pvm knows no paging of 32 bits
test("page directory pointers are read when paging with PAE is on, from the CR3 of then", () => {
  const PDPTRS_VALID = 1;
  const TABLE = 0x3000;
  const [PG, PAE] = [0x8000_0001n, 0x20n];
  const { cr0, cr3, cr4, flags, pdptrs } = KvmSregs2.offsetOf;
  for (const request of [KVM_SET_SREGS, KVM_SET_SREGS2]) {
    const world = new World(new Machine(mainline).process());
    for (let i = 0; i < 4; i++) store64(world.memory, TABLE + 8 * i, BigInt(0x4001 + i * 0x1000));
    const enter = (paging: boolean, table: number) => {
      const wide = world.get(KVM_GET_SREGS2, KvmSregs2.size);
      store32(wide, flags, 0);
      const bytes = request === KVM_SET_SREGS ? world.get(KVM_GET_SREGS, KvmSregs.size) : wide;
      const old = load64(bytes, cr0) & ~PG;
      store64(bytes, cr0, paging ? old | PG : old);
      store64(bytes, cr3, table);
      store64(bytes, cr4, paging ? PAE : 0n);
      const answer = world.set(request, bytes);
      const after = world.get(KVM_GET_SREGS2, KvmSregs2.size);
      return [
        answer,
        load32(after, flags) & PDPTRS_VALID,
        ...[0, 1, 2, 3].map((i) => load64(after, pdptrs + 8 * i)),
      ];
    };
    const none = [0n, 0n, 0n, 0n];
    const read = [0x4001n, 0x5001n, 0x6001n, 0x7001n];
    // without paging nothing is read, and nothing of it is left for later
    expect(enter(false, TABLE)).toEqual([0, 0, ...none]);
    expect(enter(true, 0x10_0000)).toEqual([0, 1, ...none]);
    expect(enter(true, TABLE)).toEqual([0, 1, ...read]);
    expect(enter(false, 0)).toEqual([0, 0, ...none]);
  }
});

contract("a split irqchip takes what is enabled, once", (process) => {
  const world = new World(process, { irqchip: false, vcpus: 0 });
  expect([world.enable(KVM_CAP_SPLIT_IRQCHIP, 24), world.enable(KVM_CAP_SPLIT_IRQCHIP, 24)]).toEqual([
    0,
    "EEXIST",
  ]);
});
