/**
 * The operations that a program is made of, in groups: a campaign takes some of them, a program (swarm) some of those.
 * Ids collide on purpose: a handful of eventfds, GSIs, slots and addresses.
 *
 * Left out, because it would harm the host or say nothing:
 * - memory slots of 2^20 to 2^31 pages: the kernel keeps 8 bytes a page, and one program would take gigabytes;
 * - KVM_RUN (see interpreter.ts), KVM_SET_SIGNAL_MASK (the signals of the host program);
 * - KVM_MEMORY_ENCRYPT_*, KVM_SET_NESTED_STATE: this host has neither, and a nested state is large;
 * - KVM_SET_NR_MMU_PAGES: the kernel then frees page after page;
 * - frequencies from 2^31 on that read back as a negative number which is no error;
 * - what the statistics files hold: counters of the real kernel's own work;
 * - timers that fire while a program runs, pointers into the host program (rules.ts).
 */
import fc from "fast-check";
import * as kvm from "../abi/kvm.ts";
import * as x86 from "../abi/kvm-x86.ts";
import { requestList } from "../abi/requests.ts";
import * as apic from "../hardware/lapic-registers.ts";
import type { Edit, Operation, Patch } from "./program.ts";
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
import { vcpuGroups } from "./vcpu-groups.ts";

const PAGE = 0x1000;
const vm = mostly("vm");
const vcpu = mostly("vcpu");
const eventfd = mostly("eventfd");

export const gsi = fc.oneof(
  { weight: 12, arbitrary: fc.constantFrom(0, 1, 2, 3, 4, 8, 9, 10) },
  { weight: 4, arbitrary: fc.integer({ min: 0, max: 25 }) },
  { weight: 1, arbitrary: fc.constantFrom(100, 1023, 1024, 4095, 4096, 0x7fffffff, 0x80000000, 0xffffffff) },
);
export const vector = fc.oneof(
  { weight: 8, arbitrary: fc.constantFrom(0x20, 0x21, 0x30, 0x31, 0x51, 0xfe) },
  { weight: 1, arbitrary: fc.constantFrom(0, 1, 0x0f, 0x10, 0xff) },
  { weight: 1, arbitrary: fc.integer({ min: 0, max: 255 }) },
);

/** A file to be patched in at an offset. */
const fileAt = (at: number, file = eventfd) => file.map((ref) => [{ at, file: ref }] as const);

// --- eventfds and descriptors ---------------------------------------------------------------------------------------

const eventfds: fc.Arbitrary<Operation> = fc.oneof(
  {
    weight: 2,
    arbitrary: fc.record({
      op: fc.constant("eventfd2" as const),
      initval: usually([0, 0, 1, 2, 5], [0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff]),
      flags: usually([0x80800, 0x800, 0x801, 0x80801], [0, 1, 2, 0x80000, 0x10, 0x800000, 0x7fffffff]),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      op: fc.constant("read" as const),
      on: eventfd,
      count: usually([8], [0, 1, 7, 9, 16]),
    }),
  },
  {
    weight: 6,
    arbitrary: fc.record({
      op: fc.constant("write" as const),
      on: eventfd,
      bytes: fc.oneof(
        { weight: 6, arbitrary: fc.constantFrom(1, 1, 1, 2, 0, 7).map((value) => hexValue(value, 8)) },
        {
          weight: 2,
          arbitrary: fc
            .constantFrom(-1n, -2n, -3n, 1n << 63n, 1n << 32n, 0xffffffffn)
            .map((value) => hexValue(value, 8)),
        },
        {
          weight: 1,
          arbitrary: fc.constantFrom(
            "",
            "01",
            "01000000000000",
            "010000000000000000",
            "01000000000000000100000000000000",
          ),
        },
      ),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      op: fc.constant("poll" as const),
      on: fc.array(mostly("eventfd", 5), { minLength: 1, maxLength: 4 }),
      events: usually([1, 4, 5, 0xffff], [0, 8, 16]),
    }),
  },
  { weight: 1, arbitrary: fc.record({ op: fc.constant("dup" as const), on: eventfd }) },
  { weight: 1, arbitrary: fc.record({ op: fc.constant("close" as const), on: eventfd }) },
  {
    weight: 1,
    arbitrary: fc.record({
      op: fc.constant("fcntl" as const),
      on: mostly("any", 12),
      command: usually([1, 2, 3, 4], [99]),
      argument: usually([0, 1, 0x800], [0xffff, 0x2800]),
    }),
  },
);

/** Requests that every file knows, and files asked for what they are not. */
const descriptors: fc.Arbitrary<Operation> = fc.oneof(
  {
    weight: 2,
    arbitrary: fc
      .record({
        on: mostly("any", 12),
        request: fc.constantFrom(0x5421, 0x5450, 0x5451, 0x5452, 0x5460, 2, 0x541b),
        on32: percent(50),
      })
      .map(({ on, request, on32 }) => ({
        op: "ioctl" as const,
        on,
        request,
        bytes: on32 ? "01000000" : "00000000",
      })),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      op: fc.constant("ioctl" as const),
      on: mostly("any", 12),
      request: fc.oneof(
        fc.constantFrom(0xae7f, 0xaeff, 0x4008ae99, 0xae81, 0x5401, 0, 0xffffffff),
        fc.integer({ min: 0x8000, max: 0xadff }),
      ),
      value: fc.constantFrom("0x0", "0x1"),
    }),
  },
  { weight: 1, arbitrary: fc.record({ op: fc.constant("dup" as const), on: mostly("any", 12) }) },
  {
    weight: 1,
    arbitrary: fc.record({
      op: fc.constant("read" as const),
      on: mostly("vm"),
      count: fc.constantFrom(0, 8),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      op: fc.constant("write" as const),
      on: mostly("vcpu"),
      bytes: fc.constant("0100000000000000"),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      op: fc.constant("poll" as const),
      on: fc.array(mostly("any", 12), { minLength: 1, maxLength: 3 }),
      events: fc.constantFrom(1, 5, 0xffff),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      op: fc.constant("mmap" as const),
      on: mostly("any", 12),
      length: usually([PAGE, 2 * PAGE, 3 * PAGE], [4 * PAGE, 1]),
      prot: fc.constantFrom(1, 3),
      flags: usually([1], [2, 3]),
      offset: usually([0, PAGE], [3 * PAGE, 64 * PAGE, 1]),
    }),
  },
);

// --- memory -----------------------------------------------------------------------------------------------------

const slotId = usually([0, 1, 2, 3], [0x10000, 0x10001, 0x20000, 0x7ffb, 0x7ffc, 0x7fff, 0xffff, 0xffffffff]);
const guestAddress = usually(
  [0n, 0x1000n, 0x2000n, 0x40000n, 0x41000n, 0x80000n],
  [
    0xfee00000n,
    0xfec00000n,
    0x100000000n,
    1n << 51n,
    (1n << 52n) - 0x1000n,
    1n << 52n,
    (1n << 64n) - 0x1000n,
    0x10n,
  ],
);
const slotSize = usually(
  [0n, 0x1000n, 0x2000n, 0x3000n, 0x40000n, 0x41000n],
  [
    0x80000n,
    0x100000n,
    0x800n,
    0x1001n,
    1n << 43n,
    (1n << 43n) - 0x1000n + 0x1000n,
    1n << 63n,
    (1n << 64n) - 0x1000n,
  ],
);
const slotFlags = usually([0, 1, 1, 2, 4], [3, 5, 6, 8, 0xffffffff]);
const hva = fc.oneof(
  { weight: 12, arbitrary: fc.constantFrom(0, 0x1000, 0x2000, 0x100000).map((guest) => ({ guest })) },
  {
    weight: 1,
    arbitrary: fc
      .constantFrom(0n, 0x1000n, 0x800n, 1n << 63n, (1n << 64n) - 0x1000n, 1n << 47n, 0x7fff_ffff_f000n)
      .map((raw) => ({ raw })),
  },
  { weight: 1, arbitrary: fc.constant({ guest: 0x800 }) },
);

const setRegion = (request: string, size: number): fc.Arbitrary<Operation> =>
  fc
    .record({
      on: vm,
      slot: slotId,
      flags: slotFlags,
      guest_phys_addr: guestAddress,
      memory_size: slotSize,
      hva,
      cut: percent(2),
      rest: percent(5),
      memfd: fc.oneof(
        { weight: 3, arbitrary: mostly("device") },
        { weight: 1, arbitrary: mostly("any", 12) },
      ),
      offset: usually([0n, 0n, 0x1000n], [0x800n, 0x4000n, 1n << 63n, (1n << 64n) - 0x1000n]),
    })
    .map(({ on, slot, flags, guest_phys_addr, memory_size, hva, cut, rest, memfd, offset }) => {
      const head =
        hexValue(slot, 4) + hexValue(flags, 4) + hexValue(guest_phys_addr, 8) + hexValue(memory_size, 8);
      const address = "raw" in hva ? hexValue(hva.raw, 8) : "00".repeat(8);
      const end = size === 32 ? "" : hexValue(offset, 8) + (rest ? "01" : "00").repeat(size - 40);
      const bytes = head + address + end;
      const patches: Patch[] = "guest" in hva ? [{ at: 24, guest: hva.guest }] : [];
      if (size > 32) patches.push({ at: 40, file: memfd });
      return {
        op: "ioctl" as const,
        on,
        request,
        bytes: cut ? bytes.slice(0, -2) : bytes,
        patches,
      };
    });

const bitmap = usually(
  ["", "ffffffffffffffff", "0100000000000000", "00000000000000ff"],
  ["ff".repeat(64), "aa".repeat(16)],
);
const bitmapAt = (at: number) =>
  fc.oneof(
    { weight: 12, arbitrary: bitmap.map((buffer) => [{ at, buffer }]) },
    { weight: 1, arbitrary: fc.constant([]) },
  );

/** A slot at a place of its own, so that it can be. */
const regular = fc
  .record({
    on: vm,
    slot: fc.integer({ min: 0, max: 3 }),
    flags: usually([1, 1, 0, 2], [3]),
    pages: fc.constantFrom(1, 64, 65, 200),
    moved: percent(10),
    removed: percent(10),
  })
  .map(({ on, slot, flags, pages, moved, removed }): Operation => {
    const address = 0x100000 * (slot + (moved ? 4 : 0));
    const head = hexValue(slot, 4) + hexValue(flags, 4) + hexValue(address, 8);
    return {
      op: "ioctl",
      on,
      request: "KVM_SET_USER_MEMORY_REGION",
      bytes: head + hexValue(removed ? 0 : pages * PAGE, 8) + "00".repeat(8),
      patches: [{ at: 24, guest: 0x100000 * slot }],
    };
  });

/** KVM itself writes to a guest's memory: the wall clock, at an address that a slot may have. */
const wallClock: fc.Arbitrary<Operation> = bytesIoctl(
  "KVM_SET_MSRS",
  vcpu,
  fc
    .record({
      index: fc.constantFrom(0x11, 0x4b564d00),
      slot: fc.integer({ min: 0, max: 4 }),
      page: fc.constantFrom(0, 1, 2, 63, 64, 199, 255),
      offset: usually([0, 8], [0xffa, 0xffd, 0xfff]),
    })
    .map(
      ({ index, slot, page, offset }) =>
        `0100000000000000${hexValue(index, 4)}00000000${hexValue(0x100000 * slot + PAGE * page + offset, 8)}`,
    ),
);

const memory: fc.Arbitrary<Operation> = fc.oneof(
  { weight: 4, arbitrary: wallClock },
  { weight: 8, arbitrary: regular },
  { weight: 6, arbitrary: setRegion("KVM_SET_USER_MEMORY_REGION", 32) },
  { weight: 2, arbitrary: setRegion("KVM_SET_USER_MEMORY_REGION2", 160) },
  {
    weight: 3,
    arbitrary: bytesIoctl("KVM_GET_DIRTY_LOG", vm, structHex(kvm.KvmDirtyLog, { slot: slotId }), bitmapAt(8)),
  },
  {
    weight: 3,
    arbitrary: bytesIoctl(
      "KVM_CLEAR_DIRTY_LOG",
      vm,
      structHex(kvm.KvmClearDirtyLog, {
        slot: slotId,
        num_pages: usually([64, 1, 2, 3, 65], [0, 63, 128, 0x7fffffff, 0xffffffff]),
        first_page: usually([0n, 64n], [1n, 63n, 128n, 1n << 63n, (1n << 64n) - 64n]),
      }),
      bitmapAt(16),
    ),
  },
  {
    weight: 1,
    arbitrary: bytesIoctl(
      "KVM_ENABLE_CAP",
      vm,
      structHex(kvm.KvmEnableCap, {
        cap: fc.constant(kvm.KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2),
        args: fc.constantFrom(0n, 1n, 3n, 2n, 4n, 1n << 32n).map((value) => [value]),
        flags: usually([0], [1]),
      }),
    ),
  },
  {
    weight: 1,
    arbitrary: bytesIoctl(
      "KVM_SET_MEMORY_ATTRIBUTES",
      vm,
      structHex(kvm.KvmMemoryAttributes, {
        address: guestAddress,
        size: slotSize,
        attributes: fc.constantFrom(0n, 8n, 1n),
      }),
    ),
  },
  {
    weight: 1,
    arbitrary: bytesIoctl(
      "KVM_CREATE_GUEST_MEMFD",
      vm,
      structHex(kvm.KvmCreateGuestMemfd, {
        size: usually([0x1000n, 0x4000n, 0n], [0x800n, 1n << 63n]),
        flags: usually([0n, 1n, 3n], [2n, 4n]),
      }),
    ),
  },
);

// --- ioeventfds and coalesced zones -----------------------------------------------------------------------------

const busAddress = usually(
  [0n, 8n, 0x1000n, 0x1004n, 0xc000n],
  [0xfffen, 0x10000n, 0xfee00000n, (1n << 64n) - 8n, (1n << 64n) - 1n, 1n << 63n],
);

const ioeventfd: fc.Arbitrary<Operation> = bytesIoctl(
  "KVM_IOEVENTFD",
  vm,
  structHex(kvm.KvmIoeventfd, {
    datamatch: usually([0n, 1n, 2n], [0x100n, 1n << 32n, (1n << 64n) - 1n]),
    addr: busAddress,
    len: usually([0, 1, 2, 4, 8], [3, 5, 7, 9, 16, 0xffffffff]),
    flags: usually([0, 1, 2, 3, 4, 5, 6, 7], [8, 9, 12, 13, 16, 20, 32, 0xffffffff]),
  }),
  fileAt(20),
);

const zone = structHex(kvm.KvmCoalescedMmioZone, {
  addr: usually([0n, 0x1000n, 0x1008n, 0x2000n], [0xa0000n, 1n << 63n, (1n << 64n) - 1n]),
  size: usually([0x1000, 8, 4, 0x2000], [0, 1, 0x7fffffff, 0x80000000, 0xffffffff]),
  pio: usually([0, 0, 1], [2, 0xffffffff]),
});
const coalesced: fc.Arbitrary<Operation> = fc.oneof(
  { weight: 20, arbitrary: bytesIoctl("KVM_REGISTER_COALESCED_MMIO", vm, zone) },
  { weight: 20, arbitrary: bytesIoctl("KVM_UNREGISTER_COALESCED_MMIO", vm, zone) },
  // a bus has room for a thousand
  {
    weight: 1,
    arbitrary: fc.record({
      op: fc.constant("repeat" as const),
      times: fc.constantFrom(10, 999, 1001),
      operation: bytesIoctl("KVM_REGISTER_COALESCED_MMIO", vm, zone),
    }),
  },
);

// --- interrupts -------------------------------------------------------------------------------------------------

export const msiAddress = fc
  .record({
    destination: usually([0, 1, 2, 3, 0xff], [4, 8, 0x10, 0x0f, 0xf0, 0x11, 0x80]),
    logical: percent(40),
    hint: percent(20),
    base: usually([0xfee00000], [0, 0xfec00000, 0xffe00000]),
  })
  .map(
    ({ destination, logical, hint, base }) =>
      (base | (destination << 12) | (hint ? 8 : 0) | (logical ? 4 : 0)) >>> 0,
  );
export const msiAddressHigh = usually([0, 0, 0, 0x100], [1, 0xff, 0x80000000, 0xffffff00, 0xffffffff]);
export const msiData = fc
  .record({
    vector,
    mode: usually([0, 0, 1], [2, 3, 4, 5, 6, 7]),
    level: percent(30),
    trigger: percent(30),
    more: usually([0], [0x800, 0x10000, 0xffff0000]),
  })
  .map(
    ({ vector, mode, level, trigger, more }) =>
      (vector | (mode << 8) | (level ? 0x4000 : 0) | (trigger ? 0x8000 : 0) | more) >>> 0,
  );

const signalMsi: fc.Arbitrary<Operation> = bytesIoctl(
  "KVM_SIGNAL_MSI",
  vm,
  structHex(kvm.KvmMsi, {
    address_lo: msiAddress,
    address_hi: msiAddressHigh,
    data: msiData,
    flags: usually([0], [1, 2, 0xffffffff]),
    devid: usually([0], [1]),
  }),
);

const route = fc
  .record({
    gsi,
    type: usually([1, 1, 1, 2, 2], [0, 3, 4, 5, 6, 0xffffffff]),
    flags: usually([0], [1, 2]),
    chip: usually([0, 1, 2, 2], [3, 0xffffffff]),
    pin: usually([0, 1, 2, 3, 4], [7, 8, 9, 23, 24, 0xffffffff]),
    low: msiAddress,
    high: msiAddressHigh,
    data: msiData,
  })
  .map((r) => {
    const head = hexValue(r.gsi, 4) + hexValue(r.type, 4) + hexValue(r.flags, 4) + hexValue(0, 4);
    const body =
      r.type === 1
        ? hexValue(r.chip, 4) + hexValue(r.pin, 4)
        : hexValue(r.low, 4) + hexValue(r.high, 4) + hexValue(r.data, 4);
    return (head + body).padEnd(96, "0");
  });

const routing: fc.Arbitrary<Operation> = fc
  .record({
    on: vm,
    routes: fc.array(route, { maxLength: 6 }),
    flags: usually([0], [1, 0xffffffff]),
    /** more entries claimed than there are */
    claim: usually([0], [1, 2, 5000, 0xfffffff0]),
  })
  .map(({ on, routes, flags, claim }) => ({
    op: "ioctl" as const,
    on,
    request: "KVM_SET_GSI_ROUTING",
    bytes: hexValue(routes.length + claim, 4) + hexValue(flags, 4) + routes.join(""),
  }));

const line = structHex(kvm.KvmIrqLevel, { irq: gsi, level: usually([0, 1], [2, 0xffffffff]) });
const irqLine: fc.Arbitrary<Operation> = fc.oneof(
  bytesIoctl("KVM_IRQ_LINE", vm, line),
  bytesIoctl("KVM_IRQ_LINE_STATUS", vm, line),
);

const picLeaves = leavesOf(x86.KvmPicState, 8);
const ioapicHead = leavesOf(x86.KvmIoapicState, 8).filter(({ at }) => at < 8 + 24);
const redirection = fc
  .record({
    pin: fc.constantFrom(0, 1, 2, 3, 4, 8, 9, 10, 23),
    vector,
    mode: usually([0, 0, 0, 1], [2, 3, 4, 5, 6, 7]),
    logical: percent(30),
    status: percent(10),
    polarity: percent(20),
    remote: percent(30),
    level: percent(40),
    masked: percent(30),
    destination: usually([0, 0, 1, 0xff], [2, 3, 4, 0x0f, 0x80]),
    reserved: usually([0], [1, 0xff]),
  })
  .map((r): Edit => {
    const low =
      r.vector |
      (r.mode << 8) |
      (Number(r.logical) << 11) |
      (Number(r.status) << 12) |
      (Number(r.polarity) << 13) |
      (Number(r.remote) << 14) |
      (Number(r.level) << 15) |
      (Number(r.masked) << 16) |
      (r.reserved << 17);
    return { at: 8 + 24 + 8 * r.pin, bytes: hexValue(low >>> 0, 4) + "000000" + hexValue(r.destination, 1) };
  });
const ioapicEdits = fc
  .tuple(
    fc.array(redirection, { maxLength: 4 }),
    fc.oneof({ weight: 2, arbitrary: fc.constant([]) }, { weight: 1, arbitrary: editsOf(ioapicHead, 2) }),
  )
  .map(([entries, head]) => [...entries, ...head]);

const KVM_IRQCHIP = x86.KvmIrqchip.size;
const chips: fc.Arbitrary<Operation> = fc.oneof(
  {
    weight: 3,
    arbitrary: modify(
      "KVM_GET_IRQCHIP",
      "KVM_SET_IRQCHIP",
      vm,
      KVM_IRQCHIP,
      editsOf(picLeaves),
      fc.constantFrom("00000000", "01000000"),
    ),
  },
  {
    weight: 5,
    arbitrary: modify(
      "KVM_GET_IRQCHIP",
      "KVM_SET_IRQCHIP",
      vm,
      KVM_IRQCHIP,
      ioapicEdits,
      fc.constant("02000000"),
    ),
  },
  {
    weight: 1,
    arbitrary: bytesIoctl(
      "KVM_SET_IRQCHIP",
      vm,
      editedHex(KVM_IRQCHIP, editsOf([{ at: 0, size: 4 }, ...picLeaves], 3)),
    ),
  },
  {
    weight: 1,
    arbitrary: bytesIoctl("KVM_GET_IRQCHIP", vm, editedHex(KVM_IRQCHIP, editsOf([{ at: 0, size: 4 }], 1))),
  },
  { weight: 1, arbitrary: valueIoctl("KVM_CREATE_IRQCHIP", vm, usually([0], [1])) },
);

const register = (at: number, value: fc.Arbitrary<number>): fc.Arbitrary<Edit> =>
  value.map((v) => ({ at, bytes: hexValue(v, 4) }));
const vectorBit = vector.map((v) => ({ word: v >> 5, bit: v & 31 }));
const bitIn = (base: number): fc.Arbitrary<Edit> =>
  vectorBit.map(({ word, bit }) => ({ at: base + 16 * word, bytes: hexValue((1 << bit) >>> 0, 4) }));
const lvt = fc
  .record({
    vector,
    mode: usually([0, 0, 4, 7], [1, 2, 5]),
    masked: percent(40),
    trigger: percent(20),
    more: usually([0], [0x1000, 0x2000, 0x4000, 0x20000, 0x40000, 0xfff00000]),
  })
  .map(
    (l) => (l.vector | (l.mode << 8) | (Number(l.trigger) << 15) | (Number(l.masked) << 16) | l.more) >>> 0,
  );
/** One register of the LAPIC's page with a value that it may see. */
export const lapicEdit: fc.Arbitrary<Edit> = fc.oneof(
  {
    weight: 2,
    arbitrary: register(apic.APIC_ID, usually([0, 0x1000000, 0x2000000, 1], [0xff000000, 0xffffffff])),
  },
  {
    weight: 3,
    arbitrary: register(apic.APIC_SPIV, usually([0x1ff, 0x10f, 0xff], [0, 0x11ff, 0x3ff, 0xffffffff])),
  },
  {
    weight: 2,
    arbitrary: register(apic.APIC_TASKPRI, usually([0, 0x20, 0x30, 0xf0], [0xff, 0x1ff, 0xffffffff])),
  },
  {
    weight: 2,
    arbitrary: register(
      apic.APIC_LDR,
      usually([0x1000000, 0x2000000, 0x11000000], [0, 0xff000000, 0xffffffff]),
    ),
  },
  { weight: 1, arbitrary: register(apic.APIC_DFR, usually([0xffffffff, 0x0fffffff], [0, 0x7fffffff])) },
  { weight: 2, arbitrary: bitIn(apic.APIC_IRR) },
  { weight: 2, arbitrary: bitIn(apic.APIC_ISR) },
  { weight: 1, arbitrary: bitIn(apic.APIC_TMR) },
  ...[
    apic.APIC_LVTT,
    apic.APIC_LVTTHMR,
    apic.APIC_LVTPC,
    apic.APIC_LVT0,
    apic.APIC_LVT1,
    apic.APIC_LVTERR,
  ].map((at) => ({
    weight: 1,
    arbitrary: register(at, lvt),
  })),
  { weight: 1, arbitrary: register(apic.APIC_TMICT, fc.constantFrom(0, 0x40000000, 0xffffffff)) },
  { weight: 1, arbitrary: register(apic.APIC_TDCR, fc.constantFrom(0, 1, 0xb, 8, 0xff)) },
  { weight: 1, arbitrary: register(apic.APIC_ICR, msiData) },
  { weight: 1, arbitrary: register(apic.APIC_ICR2, edge32) },
  { weight: 1, arbitrary: register(apic.APIC_ESR, edge32) },
  { weight: 1, arbitrary: fc.integer({ min: 0, max: 63 }).chain((n) => register(16 * n, edge32)) },
  { weight: 1, arbitrary: fc.integer({ min: 0, max: 255 }).chain((n) => register(4 * n, edge32)) },
);
const lapic: fc.Arbitrary<Operation> = fc.oneof(
  {
    weight: 8,
    arbitrary: modify(
      "KVM_GET_LAPIC",
      "KVM_SET_LAPIC",
      vcpu,
      0x400,
      fc.array(lapicEdit, { minLength: 1, maxLength: 5 }),
    ),
  },
  {
    weight: 1,
    arbitrary: bytesIoctl("KVM_SET_LAPIC", vcpu, editedHex(0x400, fc.array(lapicEdit, { maxLength: 6 }))),
  },
);

const irqfd: fc.Arbitrary<Operation> = fc.oneof({
  weight: 6,
  arbitrary: bytesIoctl(
    "KVM_IRQFD",
    vm,
    structHex(kvm.KvmIrqfd, {
      gsi,
      flags: usually([0, 0, 0, 1, 1], [4, 8, 0xfffffffc, 0x80000000]),
      pad: usually([[0]], [[1]]),
    }),
    fileAt(0),
  ),
});
const resample: fc.Arbitrary<Operation> = bytesIoctl(
  "KVM_IRQFD",
  vm,
  structHex(kvm.KvmIrqfd, { gsi, flags: usually([2, 2, 2, 3], [6]) }),
  fc.tuple(eventfd, eventfd).map(([fd, resamplefd]) => [
    { at: 0, file: fd },
    { at: 12, file: resamplefd },
  ]),
);

const pitChannel = leavesOf(x86.KvmPitState2);
const pit: fc.Arbitrary<Operation> = fc.oneof(
  {
    weight: 2,
    arbitrary: bytesIoctl(
      "KVM_CREATE_PIT2",
      vm,
      structHex(x86.KvmPitConfig, { flags: usually([0, 1], [2, 0xffffffff]) }),
    ),
  },
  { weight: 1, arbitrary: valueIoctl("KVM_CREATE_PIT", vm, usually([0], [1])) },
  {
    weight: 5,
    arbitrary: modify("KVM_GET_PIT2", "KVM_SET_PIT2", vm, x86.KvmPitState2.size, editsOf(pitChannel)),
  },
  {
    weight: 2,
    arbitrary: modify(
      "KVM_GET_PIT",
      "KVM_SET_PIT",
      vm,
      x86.KvmPitState.size,
      editsOf(leavesOf(x86.KvmPitState)),
    ),
  },
  {
    weight: 1,
    arbitrary: bytesIoctl(
      "KVM_REINJECT_CONTROL",
      vm,
      structHex(x86.KvmReinjectControl, { pit_reinject: usually([0, 1], [255]) }),
    ),
  },
);

// --- VMs, devices, capabilities ---------------------------------------------------------------------------------

const devices: fc.Arbitrary<Operation> = fc.oneof(
  {
    weight: 3,
    arbitrary: bytesIoctl(
      "KVM_CREATE_DEVICE",
      vm,
      structHex(kvm.KvmCreateDevice, {
        type: usually([4, 4, 4], [0, 1, 5, 7, 9, 11, 20, 0xffffffff]),
        flags: usually([0, 0, 1], [2, 0xffffffff]),
        fd: usually([0], [0xffffffff]),
      }),
    ),
  },
  {
    weight: 4,
    arbitrary: fc
      .record({
        on: fc.oneof({ weight: 3, arbitrary: mostly("device") }, { weight: 1, arbitrary: mostly("any", 12) }),
        request: fc.constantFrom("KVM_SET_DEVICE_ATTR", "KVM_GET_DEVICE_ATTR", "KVM_HAS_DEVICE_ATTR"),
        group: usually([1, 0], [2, 0xffffffff]),
        attr: usually([1n, 2n, 3n, 0n], [4n, 1n << 32n, (1n << 64n) - 1n]),
        flags: usually([0], [1]),
        // numbers behind a pointer are not translated for the real kernel: none that may be open
        buffer: usually(["00000000", "ffffffff"], [""]),
        pointed: percent(90),
      })
      .map(({ on, request, group, attr, flags, buffer, pointed }) => ({
        op: "ioctl" as const,
        on,
        request,
        bytes: hexValue(flags, 4) + hexValue(group, 4) + hexValue(attr, 8) + "00".repeat(8),
        ...(pointed && { patches: [{ at: 16, buffer }] }),
      })),
  },
);

/** Capabilities that KVM_ENABLE_CAP knows somewhere on x86, and others. */
const enableable = [
  kvm.KVM_CAP_SPLIT_IRQCHIP,
  kvm.KVM_CAP_X2APIC_API,
  kvm.KVM_CAP_DISABLE_QUIRKS,
  kvm.KVM_CAP_DISABLE_QUIRKS2,
  kvm.KVM_CAP_X86_DISABLE_EXITS,
  kvm.KVM_CAP_MSR_PLATFORM_INFO,
  kvm.KVM_CAP_EXCEPTION_PAYLOAD,
  kvm.KVM_CAP_X86_USER_SPACE_MSR,
  kvm.KVM_CAP_X86_BUS_LOCK_EXIT,
  kvm.KVM_CAP_EXIT_HYPERCALL,
  kvm.KVM_CAP_EXIT_ON_EMULATION_FAILURE,
  kvm.KVM_CAP_X86_TRIPLE_FAULT_EVENT,
  kvm.KVM_CAP_MAX_VCPU_ID,
  kvm.KVM_CAP_X86_NOTIFY_VMEXIT,
  kvm.KVM_CAP_HALT_POLL,
  kvm.KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
  kvm.KVM_CAP_DIRTY_LOG_RING,
  kvm.KVM_CAP_DIRTY_LOG_RING_ACQ_REL,
  kvm.KVM_CAP_PMU_CAPABILITY,
  kvm.KVM_CAP_VM_DISABLE_NX_HUGE_PAGES,
  kvm.KVM_CAP_X86_APIC_BUS_CYCLES_NS,
  kvm.KVM_CAP_X86_GUEST_MODE,
  kvm.KVM_CAP_ENFORCE_PV_FEATURE_CPUID,
  kvm.KVM_CAP_SGX_ATTRIBUTE,
  kvm.KVM_CAP_HYPERV_SYNIC,
];
const capability = fc.oneof(
  { weight: 8, arbitrary: fc.constantFrom(...enableable) },
  { weight: 1, arbitrary: fc.integer({ min: 0, max: 260 }) },
  { weight: 1, arbitrary: edge32 },
);
const enableCap: fc.Arbitrary<Operation> = bytesIoctl(
  "KVM_ENABLE_CAP",
  fc.oneof({ weight: 4, arbitrary: vm }, { weight: 1, arbitrary: vcpu }),
  structHex(kvm.KvmEnableCap, {
    cap: capability,
    flags: usually([0], [1, 0xffffffff]),
    args: fc
      .oneof(
        { weight: 5, arbitrary: fc.constantFrom(0n, 1n, 2n, 3n, 4n, 24n, 0x1000n) },
        { weight: 1, arbitrary: edge64 },
      )
      .map((value) => [value]),
  }),
);

const systemOrVm = fc.oneof(mostly("system"), vm);
const extensions: fc.Arbitrary<Operation> = fc.oneof(
  {
    weight: 6,
    arbitrary: valueIoctl(
      "KVM_CHECK_EXTENSION",
      systemOrVm,
      fc.oneof({ weight: 8, arbitrary: fc.integer({ min: 0, max: 260 }) }, { weight: 1, arbitrary: edge64 }),
    ),
  },
  { weight: 1, arbitrary: valueIoctl("KVM_GET_API_VERSION", mostly("system"), usually([0], [1])) },
  { weight: 1, arbitrary: valueIoctl("KVM_GET_VCPU_MMAP_SIZE", mostly("system"), usually([0], [1])) },
  {
    weight: 1,
    arbitrary: valueIoctl("KVM_CREATE_VM", mostly("system"), usually([2, 3, 32], [0x80000000, 1n << 32n])),
  },
);

const vcpuId = usually([0, 1, 2, 3], [7, 255, 256, 1023, 1024, 4095, 4096, 0xffffffff, 1n << 32n]);
const vcpus: fc.Arbitrary<Operation> = fc.oneof(
  { weight: 4, arbitrary: valueIoctl("KVM_CREATE_VCPU", vm, vcpuId) },
  { weight: 1, arbitrary: valueIoctl("KVM_SET_BOOT_CPU_ID", vm, vcpuId) },
  {
    weight: 1,
    arbitrary: valueIoctl(
      "KVM_SET_TSS_ADDR",
      vm,
      usually([0xfffbd000], [0, 0xffffd000, 0xffffe000, 0xfffffffe, 1n << 32n]),
    ),
  },
  {
    weight: 1,
    arbitrary: bytesIoctl(
      "KVM_SET_IDENTITY_MAP_ADDR",
      vm,
      usually([hexValue(0xfffbc000, 8)], ["00".repeat(8), "ff".repeat(8)]),
    ),
  },
  { weight: 1, arbitrary: valueIoctl("KVM_GET_NR_MMU_PAGES", vm, fc.constant(0)) },
  { weight: 1, arbitrary: fc.record({ op: fc.constant("close" as const), on: vcpu }) },
);

const mpState: fc.Arbitrary<Operation> = fc.oneof(
  {
    weight: 3,
    arbitrary: bytesIoctl(
      "KVM_SET_MP_STATE",
      vcpu,
      structHex(kvm.KvmMpState, { mp_state: usually([0, 1, 2, 3, 4], [5, 9, 10, 0xffffffff]) }),
    ),
  },
  { weight: 2, arbitrary: bytesIoctl("KVM_GET_MP_STATE", vcpu, fc.constant("00000000")) },
  { weight: 1, arbitrary: valueIoctl("KVM_NMI", vcpu, usually([0], [1])) },
  { weight: 1, arbitrary: valueIoctl("KVM_SMI", vcpu, usually([0], [1])) },
  {
    weight: 1,
    arbitrary: bytesIoctl(
      "KVM_INTERRUPT",
      vcpu,
      structHex(kvm.KvmInterrupt, { irq: fc.oneof(vector, edge32) }),
    ),
  },
);

/** Requests of the other kinds of file, on this one: no file answers them. */
const misplaced: fc.Arbitrary<Operation> = fc.oneof(
  ...(["system", "vm", "vcpu", "device"] as const).map((kind) => {
    const foreign = requestList("x86_64").filter(
      ({ on, request }) => !on.includes(kind) && request.type === kvm.KVMIO,
    );
    return fc
      .record({ on: mostly(kind), which: fc.constantFrom(...foreign) })
      .filter(({ which }) => which.name !== "KVM_RUN")
      .map(
        ({ on, which }): Operation => ({
          op: "ioctl",
          on,
          request: which.name,
          bytes: "00".repeat(Math.max(8, Math.min(which.request.struct?.size ?? 0, 0x1000))),
        }),
      );
  }),
);

const untouched = new Set([
  "KVM_RUN",
  "KVM_SET_SIGNAL_MASK",
  "KVM_SET_NR_MMU_PAGES",
  "KVM_SET_NESTED_STATE",
  "KVM_MEMORY_ENCRYPT_OP",
  "KVM_MEMORY_ENCRYPT_REG_REGION",
  "KVM_MEMORY_ENCRYPT_UNREG_REGION",
  "KVM_SET_TSC_KHZ",
]);
const word = fc.oneof(edge32, vector, msiData);
/** Bytes that mean nothing, of about the right length; and addresses where nothing is. */
const hostile: fc.Arbitrary<Operation> = fc.oneof(
  ...(["system", "vm", "vcpu", "device"] as const).map((kind) => {
    const own = requestList("x86_64").filter(
      ({ name, on, request }) => on.includes(kind) && request.copy !== "value" && !untouched.has(name),
    );
    return fc
      .record({
        on: mostly(kind),
        which: fc.constantFrom(...own),
        words: fc.array(word, { minLength: 1, maxLength: 40, size: "max" }),
        more: usually([0], [4, 16, 96]),
        nowhere: fc.oneof(
          { weight: 9, arbitrary: fc.constant("") },
          {
            weight: 2,
            arbitrary: fc.constantFrom(
              "0x0",
              "0x1",
              "0xfff",
              "0x7ffffffffff8",
              "0x8000000000000000",
              "0xffffffffffffffff",
            ),
          },
        ),
      })
      .map(({ on, which, words, more, nowhere }): Operation => {
        const size = Math.min((which.request.struct?.size ?? which.request.size) + more, 0x1000);
        const digits = words.map((value) => hexValue(value, 4)).join("");
        const bytes = digits.repeat(Math.ceil((2 * size) / digits.length)).slice(0, 2 * size);
        return { op: "ioctl", on, request: which.name, ...(nowhere === "" ? { bytes } : { value: nowhere }) };
      });
  }),
);

/** Every group by its name. */
export const groups: Readonly<Record<string, fc.Arbitrary<Operation>>> = {
  eventfd: eventfds,
  descriptor: descriptors,
  memory,
  ioeventfd,
  coalesced,
  routing,
  "irq-line": irqLine,
  irqchip: chips,
  lapic,
  msi: signalMsi,
  irqfd,
  resample,
  pit,
  device: devices,
  "enable-cap": enableCap,
  extension: extensions,
  vcpu: vcpus,
  "mp-state": mpState,
  misplaced,
  hostile,
  ...vcpuGroups,
};

/** The names of the groups of operations that random programs draw from. */
export const groupNames: readonly string[] = Object.keys(groups);
