import { describe, expect, test } from "vitest";
import { attributeBytes } from "../../lib/abi/device-attributes.ts";
import { argumentBytes, buffersBehind, iowr } from "../../lib/abi/ioctl.ts";
import * as iommufd from "../../lib/abi/iommufd.ts";
import * as kvm from "../../lib/abi/kvm.ts";
import * as arm64 from "../../lib/abi/kvm-arm64.ts";
import * as x86 from "../../lib/abi/kvm-x86.ts";
import {
  architectures,
  encodingOf,
  findRequest,
  numberOn,
  requestList,
  requestNamed,
  requestsOf,
} from "../../lib/abi/requests.ts";
import { pointer, struct, u32 } from "../../lib/abi/struct.ts";
import * as vfio from "../../lib/abi/vfio.ts";

describe("the registry", () => {
  test.each(architectures)("of %s knows which files know a request, unless none does", (arch) => {
    const silent = requestList(arch)
      .filter(({ on }) => on.length === 0)
      .map(({ name }) => name);
    // numbers that exist because the shared header defines them
    const none = {
      x86_64: [],
      arm64: [
        "KVM_GET_IRQCHIP",
        "KVM_INTERRUPT",
        "KVM_PRE_FAULT_MEMORY",
        "KVM_SET_IRQCHIP",
        "KVM_SET_PMU_EVENT_FILTER",
      ],
      ppc64le: [
        "KVM_ALLOCATE_RMA",
        "KVM_CLEAR_DIRTY_LOG",
        "KVM_CREATE_GUEST_MEMFD",
        "KVM_CREATE_IRQCHIP",
        "KVM_DIRTY_TLB",
        "KVM_GET_IRQCHIP",
        "KVM_GET_MP_STATE",
        "KVM_GET_REG_LIST",
        "KVM_PRE_FAULT_MEMORY",
        "KVM_REGISTER_COALESCED_MMIO",
        "KVM_SET_GSI_ROUTING",
        "KVM_SET_IRQCHIP",
        "KVM_SIGNAL_MSI",
        "KVM_UNREGISTER_COALESCED_MMIO",
      ],
      riscv64: ["KVM_CREATE_IRQCHIP", "KVM_GET_IRQCHIP", "KVM_SET_IRQCHIP"],
    };
    expect(silent.sort()).toEqual(none[arch]);
  });

  test.each(architectures)("of %s has one request a number on one kind of file", (arch) => {
    const twice: string[] = [];
    for (const named of requestsOf(arch).values()) {
      const kinds = named.flatMap(({ on }) => on);
      if (new Set(kinds).size !== kinds.length)
        twice.push(named.map(({ name, on }) => `${name} ${on}`).join(", "));
    }
    // POWER's container has numbers of the type 1 IOMMU's; its own come first
    expect(twice.map((names) => names.split(" ")[0])).toEqual(
      arch === "ppc64le" ? ["VFIO_IOMMU_SPAPR_TCE_GET_INFO", "VFIO_IOMMU_SPAPR_REGISTER_MEMORY"] : [],
    );
  });

  test.each(architectures)("of %s finds every request by number, kind and name", (arch) => {
    const typeOne = ["VFIO_IOMMU_GET_INFO", "VFIO_IOMMU_DIRTY_PAGES"];
    for (const named of requestList(arch)) {
      expect(named.number).toBe(numberOn(arch, named.request));
      expect(requestNamed(arch, named.name)).toBe(named);
      for (const kind of named.on)
        if (!(arch === "ppc64le" && kind === "vfio-container" && typeOne.includes(named.name)))
          expect(findRequest(arch, named.number, kind)).toBe(named);
    }
  });

  test("the kind of file decides between VFIO's two meanings", () => {
    const name = (kind?: "vfio-device" | "vfio-container" | "iommufd" | "vm") =>
      findRequest("x86_64", 0x3b71, kind)?.name;
    expect([name("vfio-device"), name("vfio-container"), name("iommufd"), name("vm")]).toEqual([
      "VFIO_DEVICE_PCI_HOT_RESET",
      "VFIO_IOMMU_MAP_DMA",
      "VFIO_IOMMU_MAP_DMA",
      undefined,
    ]);
  });

  test("POWER packs its numbers its own way", () => {
    expect(architectures.map(encodingOf)).toEqual(["generic", "generic", "powerpc", "generic"]);
    expect(findRequest("ppc64le", 0x2000ae80)?.name).toBe("KVM_RUN");
    expect(findRequest("ppc64le", 0xae80)).toBe(undefined);
  });

  test("a struct of the architecture makes the number", () => {
    expect(architectures.map((arch) => requestNamed(arch, "KVM_GET_REGS")?.number.toString(16))).toEqual([
      "8090ae81",
      "8360ae81",
      "4188ae81",
      "8000ae81",
    ]);
  });

  test("requests of other architectures and retired ones are named, and no file knows them", () => {
    expect(findRequest("arm64", 0x8400ae8e)).toMatchObject({ name: "KVM_GET_LAPIC", on: [] });
    expect(findRequest("x86_64", 0x8040ae69)).toMatchObject({ name: "KVM_ASSIGN_PCI_DEVICE", on: [] });
    expect(findRequest("x86_64", 0xaeff)).toBe(undefined);
  });

  test("rules name fields that their structs have", () => {
    const wrong: string[] = [];
    for (const arch of architectures)
      for (const { name, request } of requestList(arch)) {
        const behind = Object.entries(request.behind ?? {});
        const fields = [
          request.sized,
          request.count,
          ...behind.map(([path]) => path.split(".")[0]),
          ...behind.map(([, { bytes }]) => bytes),
        ];
        for (const field of fields)
          if (typeof field === "string" && !(field in (request.struct?.fields ?? {})))
            wrong.push(`${arch} ${name} ${field}`);
      }
    expect(wrong).toEqual([]);
  });

  test("a tail follows a head, and has a length", () => {
    for (const arch of architectures)
      for (const { name, request } of requestList(arch))
        if (request.tail !== undefined)
          expect(Number(request.count !== undefined) + Number(request.sized !== undefined), name).toBe(1);
  });
});

describe("bytes of the argument", () => {
  test("the struct's, without a rule; none for a value; the number's where there is no struct", () => {
    expect(argumentBytes(kvm.KVM_IRQFD, kvm.KvmIrqfd.encode())).toBe(32);
    expect(argumentBytes(kvm.KVM_RUN, new Uint8Array(0))).toBe(0);
    expect(argumentBytes(x86.KVM_SET_IDENTITY_MAP_ADDR, new Uint8Array(8))).toBe(8);
  });

  test("a counted tail, by 32-bit and 64-bit counts", () => {
    expect(argumentBytes(kvm.KVM_SET_GSI_ROUTING, kvm.KvmIrqRouting.encode({ nr: 3 }))).toBe(8 + 3 * 48);
    expect(argumentBytes(x86.KVM_GET_MSR_INDEX_LIST, x86.KvmMsrList.encode({ nmsrs: 5 }))).toBe(4 + 5 * 4);
    expect(argumentBytes(kvm.KVM_GET_REG_LIST, kvm.KvmRegList.encode({ n: 2 }))).toBe(8 + 2 * 8);
    expect(argumentBytes(kvm.KVM_SET_SIGNAL_MASK, kvm.KvmSignalMask.encode({ len: 8 }))).toBe(12);
  });

  test("argsz, never below the head, and beyond it only where a tail may follow", () => {
    const irqs = (argsz: number) =>
      argumentBytes(vfio.VFIO_DEVICE_SET_IRQS, vfio.VfioIrqSet.encode({ argsz }));
    expect([irqs(0), irqs(20), irqs(28)]).toEqual([20, 20, 28]);
    const status = (argsz: number) =>
      argumentBytes(vfio.VFIO_GROUP_GET_STATUS, vfio.VfioGroupStatus.encode({ argsz }));
    expect([status(0), status(8), status(0xffff_ffff)]).toEqual([8, 8, 8]);
  });

  test("an older header's shorter struct will do", () => {
    const info = (argsz: number) =>
      argumentBytes(vfio.VFIO_DEVICE_GET_INFO, vfio.VfioDeviceInfo.encode({ argsz }));
    expect([info(0), info(16), info(20), info(24), info(200)]).toEqual([16, 16, 20, 24, 200]);
  });

  test("facts from outside", () => {
    expect(argumentBytes(x86.KVM_GET_XSAVE2, new Uint8Array(4096), { capability: () => 11008 })).toBe(11008);
    expect(argumentBytes(x86.KVM_GET_XSAVE2, new Uint8Array(4096))).toBe(4096);
  });
});

describe("buffers behind pointers", () => {
  test("a dirty log: a bit a page of the slot", () => {
    const log = kvm.KvmDirtyLog.encode({ slot: 7, dirty_bitmap: 0x1000 });
    const slotPages = (slot: number) => (slot === 7 ? 65 : 0);
    expect(buffersBehind(kvm.KVM_GET_DIRTY_LOG, log, { slotPages })).toEqual([
      { at: 8, bytes: 16, copy: "out" },
    ]);
    expect(buffersBehind(kvm.KVM_GET_DIRTY_LOG, log)).toEqual([]);
    const clear = kvm.KvmClearDirtyLog.encode({ num_pages: 64, dirty_bitmap: 0x1000 });
    expect(buffersBehind(kvm.KVM_CLEAR_DIRTY_LOG, clear)).toEqual([{ at: 16, bytes: 8, copy: "in" }]);
  });

  test("one register: its size is in its id", () => {
    const bytesOf = (id: bigint) =>
      buffersBehind(kvm.KVM_SET_ONE_REG, kvm.KvmOneReg.encode({ id, addr: 8 })).map(({ bytes }) => bytes);
    expect([0n, 1n, 2n, 3n, 4n, 5n, 6n, 7n, 8n].map((n) => bytesOf(n << 52n))).toEqual(
      [1, 2, 4, 8, 16, 32, 64, 128, 256].map((n) => [n]),
    );
  });

  test("a null pointer has nothing behind it", () => {
    expect(buffersBehind(kvm.KVM_GET_ONE_REG, kvm.KvmOneReg.encode({ id: 3n << 52n }))).toEqual([]);
  });

  test("a pointer in each element of an array", () => {
    const filter = x86.KvmMsrFilter.encode({
      ranges: [{ nmsrs: 1, bitmap: 0x1000 }, {}, { nmsrs: 65, bitmap: 0x2000 }],
    });
    expect(buffersBehind(x86.KVM_X86_SET_MSR_FILTER, filter)).toEqual([
      { at: 24, bytes: 8, copy: "in" },
      { at: 72, bytes: 16, copy: "in" },
    ]);
  });

  test("a pointer beyond the struct, if a flag says so and the caller gave the room", () => {
    const argument = new Uint8Array(48);
    const unmap = vfio.VfioIommuType1DmaUnmap.at(argument);
    unmap.argsz = 48;
    const bitmap = vfio.VfioBitmap.at(argument, 24);
    bitmap.size = 128n;
    bitmap.data = 0x1000n;
    const behind = () => buffersBehind(vfio.VFIO_IOMMU_UNMAP_DMA, argument);
    expect(behind()).toEqual([]);
    unmap.flags = vfio.VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP;
    expect(behind()).toEqual([{ at: 40, bytes: 128, copy: "out" }]);
    expect(buffersBehind(vfio.VFIO_IOMMU_UNMAP_DMA, argument.subarray(0, 24))).toEqual([]);
  });

  test("a length in a field, or made of two", () => {
    const alloc = iommufd.IommuHwptAlloc.encode({ data_uptr: 1, data_len: 24 });
    expect(buffersBehind(iommufd.IOMMU_HWPT_ALLOC, alloc)).toEqual([{ at: 32, bytes: 24, copy: "in" }]);
    const invalidate = iommufd.IommuHwptInvalidate.encode({ data_uptr: 1, entry_len: 24, entry_num: 3 });
    expect(buffersBehind(iommufd.IOMMU_HWPT_INVALIDATE, invalidate)).toEqual([
      { at: 8, bytes: 72, copy: "in" },
    ]);
    const S = struct({ n: u32, p: pointer() });
    const request = iowr(1, 1, S, { behind: { p: { copy: "inout", bytes: 5 } } });
    expect(buffersBehind(request, S.encode({ p: 1 }))).toEqual([{ at: 8, bytes: 5, copy: "inout" }]);
  });

  test("an attribute: who knows the device says", () => {
    const attr = kvm.KvmDeviceAttr.encode({ group: 1, attr: 9, addr: 1 });
    const facts = { attributeBytes: (group: number, attr: bigint) => (group === 1 && attr === 9n ? 12 : 0) };
    expect(buffersBehind(kvm.KVM_GET_DEVICE_ATTR, attr, facts)).toEqual([{ at: 16, bytes: 12, copy: "out" }]);
    expect(buffersBehind(kvm.KVM_HAS_DEVICE_ATTR, attr, facts)).toEqual([]);
  });
});

describe("bytes behind device attributes", () => {
  test.each([
    ["x86_64", "device", kvm.KVM_DEV_TYPE_VFIO, kvm.KVM_DEV_VFIO_FILE, 1n, 4],
    ["ppc64le", "device", kvm.KVM_DEV_TYPE_VFIO, kvm.KVM_DEV_VFIO_FILE, 3n, 8],
    ["arm64", "device", kvm.KVM_DEV_TYPE_ARM_VGIC_V3, arm64.KVM_DEV_ARM_VGIC_GRP_ADDR, 2n, 8],
    ["arm64", "device", kvm.KVM_DEV_TYPE_ARM_VGIC_V3, arm64.KVM_DEV_ARM_VGIC_GRP_DIST_REGS, 0n, 4],
    ["arm64", "device", kvm.KVM_DEV_TYPE_ARM_VGIC_V3, arm64.KVM_DEV_ARM_VGIC_GRP_CTRL, 0n, 0],
    ["arm64", "device", kvm.KVM_DEV_TYPE_ARM_VGIC_ITS, arm64.KVM_DEV_ARM_VGIC_GRP_ITS_REGS, 0n, 8],
    ["ppc64le", "device", kvm.KVM_DEV_TYPE_XICS, 1, 0x1000n, 8],
    ["ppc64le", "device", kvm.KVM_DEV_TYPE_XICS, 2, 1n, 4],
    ["ppc64le", "device", kvm.KVM_DEV_TYPE_XIVE, 4, 0n, 64],
    ["riscv64", "device", kvm.KVM_DEV_TYPE_RISCV_AIA, 0, 0n, 4],
    ["arm64", "vcpu", 0, arm64.KVM_ARM_VCPU_PVTIME_CTRL, 0n, 8],
    ["arm64", "vcpu", 0, arm64.KVM_ARM_VCPU_PMU_V3_CTRL, 0n, 4],
    ["arm64", "vcpu", 0, arm64.KVM_ARM_VCPU_PMU_V3_CTRL, 1n, 0],
    ["arm64", "vm", 0, arm64.KVM_ARM_VM_SMCCC_CTRL, 0n, 24],
    ["x86_64", "vcpu", 0, x86.KVM_VCPU_TSC_CTRL, 0n, 8],
    ["x86_64", "device", 99, 0, 0n, 0],
  ] as const)("%s %s %d, group %d, attribute %d: %d", (arch, on, type, group, attr, bytes) => {
    expect(attributeBytes(arch, on, type, group, attr)).toBe(bytes);
  });
});

describe("descriptors that other fields tell apart", () => {
  const { descriptors: ofIrqs } = vfio.VFIO_DEVICE_SET_IRQS;
  const irqSet = (flags: number, count: number, room: number) => {
    const argument = new Uint8Array(20 + room);
    argument.set(vfio.VfioIrqSet.encode({ flags, count }));
    return ofIrqs?.(argument);
  };
  test("eventfds of VFIO_DEVICE_SET_IRQS", () => {
    expect(irqSet(vfio.VFIO_IRQ_SET_DATA_EVENTFD, 3, 12)).toEqual([20, 24, 28]);
    expect(irqSet(vfio.VFIO_IRQ_SET_DATA_EVENTFD, 3, 8)).toEqual([20, 24]);
    expect(irqSet(vfio.VFIO_IRQ_SET_DATA_EVENTFD, 0xffff_ffff, 4)).toEqual([20]);
    expect(irqSet(vfio.VFIO_IRQ_SET_DATA_BOOL, 3, 12)).toEqual([]);
  });
  test("capabilities that take one", () => {
    const of = (cap: number) => kvm.KVM_ENABLE_CAP.descriptors?.(kvm.KvmEnableCap.encode({ cap }));
    expect([of(kvm.KVM_CAP_IRQ_XICS), of(kvm.KVM_CAP_SPLIT_IRQCHIP)]).toEqual([[8], []]);
  });
});
