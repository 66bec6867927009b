/**
 * The declarations against what the C compiler printed from the uapi headers of two releases (fixtures/layout), both
 * ways: every struct, field, request and constant that is declared stands in a header with the same layout or value, and
 * everything in the headers is declared or stands in `left` below, with the reason.
 */
import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import * as eventfd from "../../lib/abi/eventfd.ts";
import * as fcntl from "../../lib/abi/fcntl.ts";
import * as abi from "../../lib/abi/index.ts";
import { isRequest, isStruct } from "../../lib/abi/ioctl.ts";
import * as iommufd from "../../lib/abi/iommufd.ts";
import * as kvm from "../../lib/abi/kvm.ts";
import * as arm64 from "../../lib/abi/kvm-arm64.ts";
import * as legacy from "../../lib/abi/kvm-legacy.ts";
import * as para from "../../lib/abi/kvm-para.ts";
import * as ppc from "../../lib/abi/kvm-ppc.ts";
import * as riscv from "../../lib/abi/kvm-riscv.ts";
import * as s390 from "../../lib/abi/kvm-s390.ts";
import * as x86 from "../../lib/abi/kvm-x86.ts";
import * as mman from "../../lib/abi/mman.ts";
import * as pci from "../../lib/abi/pci.ts";
import * as poll from "../../lib/abi/poll.ts";
import { type Arch, architectures, numberOn } from "../../lib/abi/requests.ts";
import type { FieldType, StructType } from "../../lib/abi/struct.ts";
import * as vfio from "../../lib/abi/vfio.ts";
import * as spapr from "../../lib/abi/vfio-spapr.ts";

type Module = Readonly<Record<string, unknown>>;
/** offset, size, 1 if signed; or for a bit-field: first byte, mask, "bits" */
type Field = [number, number, (1 | "bits")?];
type Struct = [size: number, align: number, fields: Record<string, Field>];
interface Contents {
  structs: Record<string, Struct>;
  requests: Record<string, number>;
  constants: Record<string, number | string>;
}
type Layout = Record<string, Record<"all" | Arch, Contents | undefined>>;

const read = (release: string): Layout => {
  const { release: _, ...headers } = JSON.parse(
    readFileSync(new URL(`../../fixtures/layout/${release}.json`, import.meta.url), "utf8"),
  );
  return headers;
};
const newest = read("7.3");
const oldest = read("6.1");

const own: Record<Arch, Module> = { x86_64: x86, arm64, ppc64le: ppc, riscv64: riscv };
const modules: Record<string, Module> = {
  kvm,
  x86,
  arm64,
  ppc,
  riscv,
  s390,
  legacy,
  para,
  vfio,
  spapr,
  iommufd,
  pci,
  poll,
  fcntl,
  eventfd,
  mman,
};

/** `kvm_irqfd` is declared as `KvmIrqfd`. */
const pascal = (tag: string): string =>
  tag
    .split("_")
    .map((word) => word.charAt(0).toUpperCase() + word.slice(1))
    .join("");

/** What a C name is declared as: the architecture's own first, then anybody's. */
function declared(arch: Arch, name: string): unknown {
  return [own[arch], ...Object.values(modules)].find((module) => name in module)?.[name];
}
/** x86 alone packs epoll_event. */
const declaredStruct = (arch: Arch, tag: string): unknown =>
  declared(arch, tag === "epoll_event" && arch !== "x86_64" ? "EpollEventAligned" : pascal(tag));

/** What is not declared: a header, names in it, and why. Each line has to be needed. */
const left: readonly [header: RegExp, name: RegExp, reason: string][] = [
  [
    /linux\/kvm/,
    /S390|s390|KVM_PV_|kvm_pv_cmd/,
    "s390 is not modelled; 6.1 had its structs in the shared header",
  ],
  [/linux\/kvm/, /^KVM_TRC_/, "KVM's own tracing, gone since 2.6.31"],
  [
    /fcntl/,
    /^(O|F|LOCK|AT|DN|RWH|RWF|PIDFD|FD|__O)_|FASYNC|f_owner_ex|flock|delegation|OPENAT2/,
    "locks, owners, leases, and what differs by architecture",
  ],
  [/mman/, /^(PROT|MAP|MADV|MS|MCL|MLOCK|MREMAP|OVERCOMMIT|PKEY|SHADOW|cachestat|SHM)/, "not used by a VMM"],
  [/poll/, /POLLFREE|POLL_BUSY_LOOP|EPOLL_URING_WAKE/, "the kernel's own"],
  [
    /pci_regs/,
    /^(CXL|HT|PCI_(AGP|BRIDGE|CARDBUS|CB|CHSWP|IO|MEMORY|PREF|PRIMARY|SEC|SECONDARY|SECPCI|SID|SSVID|SUBORDINATE|X))_/,
    "bridges and other buses",
  ],
  [
    /pci_regs/,
    /^PCI_(DEV3|DLF|DOE|DPA|DVSEC|EA|ERR|EXT_CAP|IDE|L1SS|LTR|NPEM|PL|PTM|PWR|RCEC|SATA|TPH|VC)_/,
    "capabilities that VFIO passes through or hides whole",
  ],
  [/pci_regs/, /^PCI_EXP_(RT|SLT|DPC|LNKCAP2|LNKCTL2)/, "root ports, and link bits nobody looks into"],
];
const leftOut = (header: string, name: string): number =>
  left.findIndex(([h, n]) => h.test(header) && n.test(name));

/** What 6.1 says differently, and what became of it. */
const changed: Record<string, string> = {
  kvm_svm_nested_state_hdr: "grew: gpat",
  kvm_nested_state: "its hdr.svm grew inside the union",
  kvm_riscv_config: "grew: mvendorid … zicbop_block_size",
  kvm_riscv_csr: "grew: senvcfg",
  kvm_vcpu_pv_apf_data: "shrank: enabled",
  vfio_device_info: "grew: pad",
  kvm_run: "hypercall.pad became the upper half of hypercall.flags",
  KVM_DEV_TYPE_MAX: "an end marker",
  KVM_SEV_NR_MAX: "an end marker",
  KVM_RISCV_ISA_EXT_MAX: "an end marker",
  KVM_DIRTY_LOG_PAGE_OFFSET: "arm64 and riscv got dirty rings",
  PCI_CAP_EXP_ENDPOINT_SIZEOF_V2: "the capability reaches two bytes further",
  PCI_EXT_CAP_ID_MAX: "an end marker",
  PCI_REBAR_CAP_SIZES: "sizes above 128 TB",
  PCI_VSEC_HDR: "renamed: PCI_VNDR_HEADER",
  PCI_VSEC_HDR_LEN_SHIFT: "renamed: PCI_VNDR_HEADER",
  VFIO_TYPE1_NESTING_IOMMU: "renamed: __VFIO_RESERVED_TYPE1_NESTING_IOMMU",
};

interface Flat {
  readonly at: number;
  readonly field: FieldType;
}
/** The field at a C path such as `u.msi.data` or `redirtbl[0].fields.mask`. */
function follow(struct: StructType, path: string): Flat | undefined {
  let current: Flat = { at: 0, field: struct };
  for (const step of path.split(".")) {
    const name = step.replace(/\[.*/, "");
    const inside = current.field.struct;
    if (inside === undefined || !(name in inside.fields)) return undefined;
    current = { at: current.at + inside.offsetOf[name], field: inside.fields[name] };
    for (const _ of step.matchAll(/\[0\]/g)) current = { at: current.at, field: current.field.element! };
  }
  return current;
}

/** The layout of what is declared, in the words of the fixture: the same paths, if they exist. */
function ours(struct: StructType, fields: Record<string, Field>): Struct {
  const result: Record<string, Field> = {};
  for (const path of Object.keys(fields)) {
    const found = follow(struct, path);
    if (found === undefined) continue;
    const { at, field } = found;
    if (field.width !== undefined)
      result[path] = [at + (field.shift! >> 3), (2 ** field.width - 1) * 2 ** (field.shift! & 7), "bits"];
    else result[path] = field.signed ? [at, field.size, 1] : [at, field.size];
  }
  return [struct.size, struct.align, result];
}

/** Paths that are declared and not in C. A named C struct is looked into where it is declared itself. */
function* extra(struct: StructType, fields: Record<string, Field>, prefix = ""): Generator<string> {
  for (const [name, field] of Object.entries(struct.fields)) {
    const path = prefix + name;
    if (!(path in fields)) yield path;
    let inner: FieldType = field;
    let steps = path;
    for (; inner.element !== undefined; inner = inner.element) steps += "[0]";
    if (inner.struct !== undefined && Object.keys(fields).some((p) => p.startsWith(`${steps}.`)))
      yield* extra(inner.struct, fields, `${steps}.`);
  }
}

/** Calls back for everything in a release's headers, once for each architecture it is there for. */
function each<K extends keyof Contents>(
  layout: Layout,
  kind: K,
  visit: (header: string, arch: Arch, name: string, value: Contents[K][string]) => void,
): void {
  for (const [header, parts] of Object.entries(layout))
    for (const arch of architectures)
      for (const part of [parts.all, parts[arch]])
        for (const [name, value] of Object.entries(part?.[kind] ?? {}))
          visit(header, arch, name, value as Contents[K][string]);
}

const numberIn = (value: unknown, arch: Arch): bigint | undefined =>
  isRequest(value)
    ? BigInt(numberOn(arch, value))
    : typeof value === "number" || typeof value === "bigint"
      ? BigInt(value)
      : undefined;

describe.each([
  ["7.3", newest],
  ["6.1", oldest],
])("the headers of %s", (release, layout) => {
  const isNewest = release === "7.3";
  const known = (header: string, name: string) =>
    leftOut(header, name) >= 0 || (!isNewest && name in changed);

  test("every struct is declared with C's size, alignment and fields", () => {
    const differences: unknown[] = [];
    each(layout, "structs", (header, arch, tag, c) => {
      const struct = declaredStruct(arch, tag);
      if (!isStruct(struct)) {
        if (!known(header, tag)) differences.push({ arch, tag, problem: "not declared" });
        return;
      }
      if (!isNewest && tag in changed) return;
      const [size, align, fields] = ours(struct, c[2]);
      if (size !== c[0] || align !== c[1]) differences.push({ arch, tag, size, align, c: c.slice(0, 2) });
      for (const path of Object.keys(c[2]))
        if (JSON.stringify(fields[path]) !== JSON.stringify(c[2][path]))
          differences.push({ arch, tag, path, ours: fields[path], c: c[2][path] });
      if (isNewest)
        for (const path of extra(struct, c[2])) differences.push({ arch, tag, path, c: "has none" });
    });
    expect(differences).toEqual([]);
  });

  test("every request is declared with C's number", () => {
    const differences: unknown[] = [];
    each(layout, "requests", (header, arch, name, number) => {
      const request = declared(arch, name);
      if (!isRequest(request)) {
        if (!known(header, name)) differences.push({ arch, name, problem: "not declared" });
      } else if (numberOn(arch, request) !== number)
        differences.push({ arch, name, ours: numberOn(arch, request), c: number });
    });
    expect(differences).toEqual([]);
  });

  test("every constant is declared with C's value", () => {
    const differences: unknown[] = [];
    each(layout, "constants", (header, arch, name, value) => {
      const mine = numberIn(declared(arch, name), arch);
      if (mine === undefined) {
        if (!known(header, name)) differences.push({ arch, header, name, problem: "not declared" });
      } else if (mine !== BigInt(value) && (isNewest || !(name in changed)))
        differences.push({ arch, header, name, ours: mine, c: value });
    });
    expect(differences).toEqual([]);
  });
});

describe("the other way round", () => {
  const tags = new Set<string>(["EpollEventAligned"]);
  const numbers = new Set<string>();
  for (const layout of [newest, oldest]) {
    each(layout, "structs", (_header, _arch, tag) => tags.add(pascal(tag)));
    each(layout, "requests", (_header, _arch, name) => numbers.add(name));
    each(layout, "constants", (_header, _arch, name) => numbers.add(name));
  }

  test.each(Object.entries(modules))("%s declares nothing that is in no header", (_name, module) => {
    const unknown = Object.entries(module)
      .filter(([name, value]) =>
        isStruct(value)
          ? !tags.has(name)
          : isRequest(value) || typeof value === "number" || typeof value === "bigint"
            ? !numbers.has(name)
            : false,
      )
      .map(([name]) => name);
    expect(unknown).toEqual([]);
  });

  test("what the architectures share, the architectures do not declare again", () => {
    for (const module of [...Object.values(own), vfio, iommufd, pci, poll])
      expect(Object.keys(module).filter((name) => name in kvm)).toEqual([]);
  });

  test("the index exports everything that has a name of its own", () => {
    const flat = [kvm, x86, para, vfio, iommufd, pci, poll, fcntl, eventfd, mman];
    for (const module of flat)
      for (const [name, value] of Object.entries(module)) expect((abi as Module)[name], name).toBe(value);
    expect([abi.x86, abi.arm64, abi.ppc, abi.riscv, abi.s390, abi.legacy, abi.spapr]).toEqual([
      x86,
      arm64,
      ppc,
      riscv,
      s390,
      legacy,
      spapr,
    ]);
  });

  test("every line of the two lists is needed", () => {
    const used = new Set<number>();
    const differs = new Set<string>();
    for (const layout of [newest, oldest])
      for (const kind of ["structs", "requests", "constants"] as const)
        each(layout, kind, (header, arch, name, value) => {
          const mine = kind === "structs" ? declaredStruct(arch, name) : declared(arch, name);
          if (mine === undefined) used.add(leftOut(header, name));
          if (layout !== oldest) return;
          if (kind !== "structs") {
            if (numberIn(mine, arch) !== BigInt(value as number)) differs.add(name);
          } else if (
            isStruct(mine) &&
            JSON.stringify(ours(mine, (value as Struct)[2])) !== JSON.stringify(value)
          )
            differs.add(name);
        });
    expect(left.filter((_, i) => !used.has(i)).map(([, name]) => name)).toEqual([]);
    expect(Object.keys(changed).filter((name) => !differs.has(name))).toEqual([]);
  });
});
