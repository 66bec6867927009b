/**
 * The state of a vCPU as operations: registers, FPU, CPUID, MSRs, events, clocks, debugging; and what the system tells
 * about processors. See groups.ts.
 */
import fc from "fast-check";
import type { Request } from "../abi/ioctl.ts";
import * as kvm from "../abi/kvm.ts";
import * as x86 from "../abi/kvm-x86.ts";
import type { StructType } from "../abi/struct.ts";
import type { Operation, Ref } from "./program.ts";
import {
  bytesIoctl,
  edge32,
  edge64,
  editedHex,
  editsOf,
  hexValue,
  leavesOf,
  modify,
  mostly,
  percent,
  structHex,
  usually,
  valueIoctl,
} from "./values.ts";

const vcpu = mostly("vcpu");
const vm = mostly("vm");
const system = mostly("system");

/** A state with a GET and a SET of one struct: changed a little, set anew, read. */
const state = (
  name: string,
  struct: StructType,
  on: fc.Arbitrary<Ref> = vcpu,
  leaves = leavesOf(struct),
): fc.Arbitrary<Operation> =>
  fc.oneof(
    { weight: 5, arbitrary: modify(`KVM_GET_${name}`, `KVM_SET_${name}`, on, struct.size, editsOf(leaves)) },
    { weight: 1, arbitrary: bytesIoctl(`KVM_SET_${name}`, on, editedHex(struct.size, editsOf(leaves, 6))) },
    { weight: 1, arbitrary: bytesIoctl(`KVM_GET_${name}`, on, fc.constant("00".repeat(struct.size))) },
  );

// --- registers --------------------------------------------------------------------------------------------------

const { cr0, cr3, cr4, cr8, efer, apic_base: apicBase, interrupt_bitmap: bitmap } = x86.KvmSregs.offsetOf;
const at = (offset: number, value: fc.Arbitrary<number | bigint>) =>
  value.map((v) => ({ at: offset, bytes: hexValue(v, 8) }));
/** Control registers with values that go together now and then. */
const controls = fc.array(
  fc.oneof(
    at(cr0, usually([0x60000010, 0x11, 0x80000011, 0x80050033], [0x80000000, 0x20000000, 1n << 32n, 0x1])),
    at(cr3, usually([0, 0x1000], [0xfff, 1n << 45n, 1n << 52n, 1n << 63n])),
    at(
      cr4,
      usually(
        [0, 0x20, 0x620],
        [0x100000, 0x200000, 0x40000, 0x1000, 0x2000, 0x20000, 0x400000, 0x80000000, 1n << 32n],
      ),
    ),
    at(cr8, usually([0, 1, 15], [16, 255, 1n << 32n])),
    at(efer, usually([0, 0x500, 0x501, 0x100, 0xd01], [0x400, 0x1000, 0x4000, 1n << 32n])),
    at(
      apicBase,
      usually(
        [0xfee00900n, 0xfee00800n, 0xfee00100n],
        [0xfee00c00n, 0xfee00d00n, 0xfee00400n, 0xfee00801n, 0n, 0xfec00900n, 1n << 40n, 1n << 52n],
      ),
    ),
    at(bitmap, usually([0, 1, 0x300], [1n << 63n])),
  ),
  { minLength: 1, maxLength: 4 },
);
const registers: fc.Arbitrary<Operation> = fc.oneof(
  { weight: 3, arbitrary: state("REGS", x86.KvmRegs) },
  { weight: 3, arbitrary: state("SREGS", x86.KvmSregs) },
  { weight: 4, arbitrary: modify("KVM_GET_SREGS", "KVM_SET_SREGS", vcpu, x86.KvmSregs.size, controls) },
  { weight: 2, arbitrary: state("SREGS2", x86.KvmSregs2) },
  {
    weight: 1,
    arbitrary: bytesIoctl("KVM_TRANSLATE", vcpu, structHex(kvm.KvmTranslation, { linear_address: edge64 })),
  },
);
const fpu: fc.Arbitrary<Operation> = fc.oneof(
  { weight: 3, arbitrary: state("FPU", x86.KvmFpu) },
  {
    weight: 3,
    arbitrary: modify(
      "KVM_GET_XSAVE",
      "KVM_SET_XSAVE",
      vcpu,
      0x1000,
      fc.array(
        fc.oneof(
          {
            weight: 3,
            arbitrary: fc.record({
              at: fc.constantFrom(0, 2, 4, 6, 8, 16, 24, 28),
              bytes: edge32.map((v) => hexValue(v, 4)),
            }),
          },
          {
            weight: 3,
            arbitrary: fc.record({
              at: fc.constantFrom(512, 520, 528, 536),
              bytes: edge64.map((v) => hexValue(v, 8)),
            }),
          },
          {
            weight: 2,
            arbitrary: fc.record({
              at: fc.integer({ min: 0, max: 1023 }).map((n) => 4 * n),
              bytes: edge32.map((v) => hexValue(v, 4)),
            }),
          },
        ),
        { minLength: 1, maxLength: 4 },
      ),
    ),
  },
  {
    weight: 2,
    arbitrary: state(
      "XCRS",
      x86.KvmXcrs,
      vcpu,
      leavesOf(x86.KvmXcrs).filter(({ at }) => at < 8 + 32),
    ),
  },
  { weight: 2, arbitrary: state("DEBUGREGS", x86.KvmDebugregs) },
);

const eventLeaves = leavesOf(x86.KvmVcpuEvents);
const events: fc.Arbitrary<Operation> = fc.oneof(
  { weight: 3, arbitrary: state("VCPU_EVENTS", x86.KvmVcpuEvents) },
  {
    weight: 3,
    arbitrary: fc
      .record({
        edits: editsOf(eventLeaves, 5),
        flags: usually([0, 1, 2, 4, 8, 0xf], [0x10, 0x20, 0x3f, 0x40]),
      })
      .chain(({ edits, flags }) =>
        modify(
          "KVM_GET_VCPU_EVENTS",
          "KVM_SET_VCPU_EVENTS",
          vcpu,
          x86.KvmVcpuEvents.size,
          fc.constant([...edits, { at: 20, bytes: hexValue(flags, 4) }]),
        ),
      ),
  },
  { weight: 1, arbitrary: valueIoctl("KVM_NMI", vcpu, fc.constant(0)) },
  {
    weight: 1,
    arbitrary: bytesIoctl(
      "KVM_INTERRUPT",
      vcpu,
      structHex(kvm.KvmInterrupt, { irq: usually([0x20, 0x30, 255], [256, 0xffffffff]) }),
    ),
  },
  {
    weight: 1,
    arbitrary: bytesIoctl(
      "KVM_SET_GUEST_DEBUG",
      vcpu,
      editedHex(x86.KvmGuestDebug.size, editsOf(leavesOf(x86.KvmGuestDebug))),
    ),
  },
);

// --- CPUID and MSRs ---------------------------------------------------------------------------------------------

const leaf = usually(
  [0, 1, 2, 4, 6, 7, 0xa, 0xb, 0xd, 0x80000000, 0x80000001, 0x80000008, 0x40000000, 0x40000001],
  [0x14, 0x1e, 0x12, 0x80000007, 0x8000001f, 0x80000021, 0xffffffff, 0x40000010],
);
const cpuidEntry = fc
  .record({
    leaf,
    index: usually([0, 1], [2, 9, 0xffffffff]),
    flags: usually([0, 1], [2, 4, 0xffffffff]),
    values: fc.array(
      fc.oneof(edge32, fc.constantFrom(0x0178bfbf, 0x80000008, 0x00003030, 0x00003024, 0x68747541)),
      { minLength: 4, maxLength: 4 },
    ),
    pad: usually([0], [1]),
  })
  .map(
    (e) =>
      hexValue(e.leaf, 4) +
      hexValue(e.index, 4) +
      hexValue(e.flags, 4) +
      e.values.map((v) => hexValue(v, 4)).join("") +
      hexValue(e.pad, 4) +
      "00".repeat(8),
  );
const oldCpuidEntry = fc
  .record({ leaf, values: fc.array(edge32, { minLength: 4, maxLength: 4 }) })
  .map((e) => hexValue(e.leaf, 4) + e.values.map((v) => hexValue(v, 4)).join("") + "00000000");
const table = (entry: fc.Arbitrary<string>, most: number) =>
  fc
    .record({
      entries: fc.array(entry, { maxLength: most }),
      claim: usually([0], [1, 250, 257, 0xffffff00]),
      pad: usually([0], [1]),
    })
    .map(
      ({ entries, claim, pad }) => hexValue(entries.length + claim, 4) + hexValue(pad, 4) + entries.join(""),
    );
const room = (size: number, most: number) =>
  fc
    .oneof(
      { weight: 3, arbitrary: fc.constant(most) },
      { weight: 1, arbitrary: fc.constantFrom(0, 1, 5, 20) },
    )
    .map((n) => hexValue(n, 4) + "00000000" + "00".repeat(size * n));
const cpuid: fc.Arbitrary<Operation> = fc.oneof(
  { weight: 4, arbitrary: bytesIoctl("KVM_SET_CPUID2", vcpu, table(cpuidEntry, 6)) },
  { weight: 1, arbitrary: bytesIoctl("KVM_SET_CPUID", vcpu, table(oldCpuidEntry, 4)) },
  { weight: 2, arbitrary: bytesIoctl("KVM_GET_CPUID2", vcpu, room(40, 80)) },
  { weight: 1, arbitrary: bytesIoctl("KVM_GET_SUPPORTED_CPUID", system, room(40, 100)) },
  { weight: 1, arbitrary: bytesIoctl("KVM_GET_EMULATED_CPUID", system, room(40, 10)) },
  {
    weight: 3,
    arbitrary: fc.record({
      op: fc.constant("cpuid" as const),
      on: vcpu,
      edits: fc.array(
        fc
          .record({
            entry: fc.integer({ min: 0, max: 60 }),
            register: fc.constantFrom(12, 16, 20, 24),
            value: edge32,
          })
          .map(({ entry, register, value }) => ({
            at: 8 + 40 * entry + register,
            bytes: hexValue(value, 4),
          })),
        { maxLength: 2 },
      ),
    }),
  },
);

const msrIndex = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.constantFrom(
      0x10,
      0x1b,
      0x3a,
      0x3b,
      0x48,
      0x8b,
      0xce,
      0xfe,
      0x10a,
      0x140,
      0x174,
      0x175,
      0x176,
      0x179,
      0x17a,
      0x17b,
      0x198,
      0x19a,
      0x1a0,
      0x1c4,
      0x1d9,
      0x200,
      0x201,
      0x250,
      0x268,
      0x277,
      0x2ff,
      0x345,
      0x38d,
      0x38f,
      0x390,
      0x400,
      0x401,
      0x402,
      0x403,
      0x404,
      0x47f,
      0x480,
      0x600,
      0x6e0,
      0x802,
      0x808,
      0x80d,
      0x80f,
      0x830,
      0x832,
      0xda0,
      0x11,
      0x12,
      0x4b564d00,
      0x4b564d01,
      0x4b564d02,
      0x4b564d03,
      0x4b564d04,
      0x4b564d05,
      0x4b564d06,
      0x4b564d07,
      0x4b564df0,
      0xc0000080,
      0xc0000081,
      0xc0000082,
      0xc0000083,
      0xc0000084,
      0xc0000100,
      0xc0000101,
      0xc0000102,
      0xc0000103,
      0xc0010015,
      0xc001001f,
      0xc0010010,
      0xc0010114,
      0xc0010117,
    ),
  },
  { weight: 1, arbitrary: edge32 },
  { weight: 1, arbitrary: fc.integer({ min: 0, max: 0x1fff }) },
  { weight: 1, arbitrary: fc.integer({ min: 0xc0000000, max: 0xc0011fff }) },
);
const msrEntry = fc
  .record({
    index: msrIndex,
    value: fc.oneof(
      { weight: 3, arbitrary: edge64 },
      {
        weight: 1,
        arbitrary: fc.constantFrom(
          0n,
          1n,
          0x0007040600070406n,
          0x0606060606060606n,
          0xfee00900n,
          0xd01n,
          0x7fff_ffff_f000n,
        ),
      },
    ),
  })
  .map(({ index, value }) => hexValue(index, 4) + "00000000" + hexValue(value, 8));
const msrs: fc.Arbitrary<Operation> = fc.oneof(
  { weight: 3, arbitrary: bytesIoctl("KVM_SET_MSRS", vcpu, table(msrEntry, 4)) },
  { weight: 3, arbitrary: bytesIoctl("KVM_GET_MSRS", vcpu, table(msrEntry, 4)) },
  { weight: 1, arbitrary: bytesIoctl("KVM_GET_MSRS", system, table(msrEntry, 3)) },
  {
    weight: 1,
    arbitrary: bytesIoctl(
      "KVM_GET_MSR_INDEX_LIST",
      system,
      fc.constantFrom(0, 10, 300).map((n) => hexValue(n, 4) + "00".repeat(4 * n)),
    ),
  },
  {
    weight: 1,
    arbitrary: bytesIoctl(
      "KVM_GET_MSR_FEATURE_INDEX_LIST",
      system,
      fc.constantFrom(0, 5, 100).map((n) => hexValue(n, 4) + "00".repeat(4 * n)),
    ),
  },
);

// --- the rest ---------------------------------------------------------------------------------------------------

/** Not the values that read back as a negative number which is no error. */
const tscKhz = fc.oneof(
  { weight: 3, arbitrary: fc.constantFrom(0, 1_000_000, 2_000_000, 3_000_000, 0xffffffff, 0xfffffff4) },
  { weight: 1, arbitrary: edge32.filter((khz) => khz < 2 ** 31) },
);
const clocks: fc.Arbitrary<Operation> = fc.oneof(
  { weight: 2, arbitrary: bytesIoctl("KVM_GET_CLOCK", vm, fc.constant("00".repeat(48))) },
  {
    weight: 1,
    arbitrary: bytesIoctl(
      "KVM_SET_CLOCK",
      vm,
      structHex(x86.KvmClockData, {
        clock: fc.constantFrom(0n, 1n << 40n),
        flags: usually([0, 2, 4], [1, 8, 14, 16]),
      }),
    ),
  },
  { weight: 1, arbitrary: valueIoctl("KVM_SET_TSC_KHZ", fc.oneof(vm, vcpu), tscKhz) },
  { weight: 2, arbitrary: valueIoctl("KVM_GET_TSC_KHZ", fc.oneof(vm, vcpu), usually([0], [1])) },
  { weight: 1, arbitrary: valueIoctl("KVM_KVMCLOCK_CTRL", vcpu, fc.constant(0)) },
);

const attribute = (request: string, on: fc.Arbitrary<Ref>): fc.Arbitrary<Operation> =>
  bytesIoctl(
    request,
    on,
    structHex(kvm.KvmDeviceAttr, {
      group: usually([0, 1], [2, 0xffffffff]),
      attr: usually([0n, 1n], [2n, 1n << 32n]),
      flags: usually([0], [1]),
    }),
    usually([[{ at: 16, buffer: "0000000000000000" }]], [[]]),
  );
const simple = (name: string, on: fc.Arbitrary<Ref>, request: Request): fc.Arbitrary<Operation> => {
  const struct = request.struct;
  return struct === undefined
    ? bytesIoctl(
        name,
        on,
        edge64.map((v) => hexValue(v, 8)),
      )
    : bytesIoctl(name, on, editedHex(struct.size, editsOf(leavesOf(struct), 3)));
};
const misc: fc.Arbitrary<Operation> = fc.oneof(
  simple("KVM_X86_SETUP_MCE", vcpu, x86.KVM_X86_SETUP_MCE),
  simple("KVM_X86_SET_MCE", vcpu, x86.KVM_X86_SET_MCE),
  simple("KVM_X86_GET_MCE_CAP_SUPPORTED", system, x86.KVM_X86_GET_MCE_CAP_SUPPORTED),
  simple("KVM_TPR_ACCESS_REPORTING", vcpu, x86.KVM_TPR_ACCESS_REPORTING),
  simple("KVM_SET_VAPIC_ADDR", vcpu, x86.KVM_SET_VAPIC_ADDR),
  attribute("KVM_HAS_DEVICE_ATTR", fc.oneof(vcpu, system)),
  attribute("KVM_GET_DEVICE_ATTR", fc.oneof(vcpu, system)),
  attribute("KVM_SET_DEVICE_ATTR", vcpu),
  simple("KVM_X86_SET_MSR_FILTER", vm, x86.KVM_X86_SET_MSR_FILTER),
  simple("KVM_XEN_HVM_CONFIG", vm, x86.KVM_XEN_HVM_CONFIG),
  simple("KVM_HYPERV_EVENTFD", vm, x86.KVM_HYPERV_EVENTFD),
  bytesIoctl(
    "KVM_SET_PMU_EVENT_FILTER",
    vm,
    fc
      .record({
        action: usually([0, 1], [2]),
        n: usually([0, 1, 2], [301, 0xffffffff]),
        flags: usually([0], [1, 2]),
        more: percent(50),
      })
      .map(
        (f) =>
          hexValue(f.action, 4) +
          hexValue(f.n, 4) +
          "00000000" +
          hexValue(f.flags, 4) +
          "00".repeat(16) +
          (f.more ? "00".repeat(16) : ""),
      ),
  ),
  bytesIoctl(
    "KVM_GET_NESTED_STATE",
    vcpu,
    fc.constantFrom(128, 0, 4096).map((n) => `00000000${hexValue(n, 4)}${"00".repeat(120)}`),
  ),
);

export const vcpuGroups: Readonly<Record<string, fc.Arbitrary<Operation>>> = {
  registers,
  fpu,
  events,
  cpuid,
  msrs,
  clock: clocks,
  misc,
};
