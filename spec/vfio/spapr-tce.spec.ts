import { describe, expect, test } from "vitest";
import {
  EBUSY,
  EFAULT,
  EINVAL,
  EIO,
  ENODEV,
  ENOENT,
  ENOMEM,
  ENOSPC,
  ENOTTY,
  ENXIO,
  EPERM,
  ERANGE,
} from "../../lib/abi/errno.ts";
import { MAP_ANONYMOUS, MAP_PRIVATE } from "../../lib/abi/mman.ts";
import {
  VFIO_CHECK_EXTENSION,
  VFIO_GROUP_SET_CONTAINER,
  VFIO_IOMMU_DISABLE,
  VFIO_IOMMU_ENABLE,
  VFIO_IOMMU_MAP_DMA,
  VFIO_IOMMU_UNMAP_DMA,
  VfioIommuType1DmaMap,
  VfioIommuType1DmaUnmap,
} from "../../lib/abi/vfio.ts";
import {
  VFIO_EEH_PE_INJECT_ERR,
  VFIO_EEH_PE_OP,
  VFIO_IOMMU_SPAPR_REGISTER_MEMORY,
  VFIO_IOMMU_SPAPR_TCE_CREATE,
  VFIO_IOMMU_SPAPR_TCE_GET_INFO,
  VFIO_IOMMU_SPAPR_TCE_REMOVE,
  VFIO_IOMMU_SPAPR_UNREGISTER_MEMORY,
  VfioIommuSpaprRegisterMemory,
  VfioIommuSpaprTceCreate,
  VfioIommuSpaprTceInfo,
  VfioIommuSpaprTceRemove,
} from "../../lib/abi/vfio-spapr.ts";
import { type Process, RLIMIT_MEMLOCK } from "../../lib/kernel/process.ts";
import type { TceDescription } from "../../lib/vfio/host.ts";
import { spaprRequests } from "../../lib/vfio/requests.ts";
import { container, fakeHost, int, processOn } from "./fake-host.ts";

const PAGE = 4096;
const WINDOW = 0x10_0000;

const tce = {
  size: BigInt(WINDOW),
  pageSizes: 0x1_1000n,
  windows: 2,
  levels: 2,
  eeh: false,
  hypervisor: false,
};

function setup(type: 2 | 7, options: Partial<TceDescription> = {}) {
  const iommu = { kind: "spapr", interruptRemapping: true, cpus: 1, tce: { ...tce, ...options } } as const;
  const process = processOn(fakeHost("6.12", { arch: "ppc64le", iommu }));
  const { fd, answer } = container(process, type, "1");
  expect(answer).toBe(0);
  const memory = process.mmap(0, 16 * PAGE, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return { process, fd, memory };
}

type Setup = ReturnType<typeof setup>;

const map = (
  { process, fd, memory }: Setup,
  iova: number | bigint,
  size: number,
  flags = 3,
  vaddr = memory,
) =>
  process.ioctl(fd, VFIO_IOMMU_MAP_DMA, VfioIommuType1DmaMap.encode({ argsz: 32, flags, vaddr, iova, size }));
const unmap = ({ process, fd }: Setup, iova: number | bigint, size: number, flags = 0) =>
  process.ioctl(fd, VFIO_IOMMU_UNMAP_DMA, VfioIommuType1DmaUnmap.encode({ argsz: 24, flags, iova, size }));
const register = ({ process, fd }: Setup, vaddr: number, size: number) =>
  process.ioctl(
    fd,
    VFIO_IOMMU_SPAPR_REGISTER_MEMORY,
    VfioIommuSpaprRegisterMemory.encode({ argsz: 24, vaddr, size }),
  );
const unregister = ({ process, fd }: Setup, vaddr: number, size: number) =>
  process.ioctl(
    fd,
    VFIO_IOMMU_SPAPR_UNREGISTER_MEMORY,
    VfioIommuSpaprRegisterMemory.encode({ argsz: 24, vaddr, size }),
  );
/** The window's address, or −errno. */
function create(
  { process, fd }: Setup,
  page_shift: number,
  window_size: number,
  levels = 1,
): bigint | number {
  const bytes = VfioIommuSpaprTceCreate.encode({ argsz: 40, page_shift, window_size, levels });
  const result = process.ioctl(fd, VFIO_IOMMU_SPAPR_TCE_CREATE, bytes);
  return result < 0 ? result : VfioIommuSpaprTceCreate.decode(bytes).start_addr;
}
const remove = ({ process, fd }: Setup, start_addr: number | bigint) =>
  process.ioctl(fd, VFIO_IOMMU_SPAPR_TCE_REMOVE, VfioIommuSpaprTceRemove.encode({ argsz: 16, start_addr }));
const limit = (process: Process, pages: number) => {
  process.dropped.add("CAP_IPC_LOCK");
  process.setrlimit(RLIMIT_MEMLOCK, pages * PAGE);
};

describe("both versions", () => {
  test("extensions", () => {
    for (const eeh of [false, true]) {
      const { process, fd } = setup(2, { eeh });
      const known = Array.from({ length: 13 }, (_, n) => n).filter(
        (n) => process.ioctl(fd, VFIO_CHECK_EXTENSION, n) === 1,
      );
      expect(known).toEqual(eeh ? [2, 5, 7] : [2, 7]);
    }
  });

  test.each([
    [2, 0],
    [7, 1],
  ] as const)("information of type %i, every argsz", (type, flags) => {
    const { process, fd } = setup(type);
    for (let argsz = 0; argsz <= 40; argsz++) {
      const bytes = new Uint8Array(48).fill(0xee);
      new DataView(bytes.buffer).setUint32(0, argsz, true);
      expect(process.ioctl(fd, VFIO_IOMMU_SPAPR_TCE_GET_INFO, bytes)).toBe(argsz < 16 ? -EINVAL : 0);
      if (argsz < 16) continue;
      const end = argsz >= 32 ? 32 : 16;
      const info = VfioIommuSpaprTceInfo.decode(bytes);
      expect(info).toMatchObject({ argsz, flags, dma32_window_start: 0, dma32_window_size: WINDOW });
      if (end === 32)
        expect(info.ddw).toEqual(
          flags === 1
            ? { pgsizes: 0x1_1000n, max_dynamic_windows_supported: 2, levels: 2 }
            : { pgsizes: 0n, max_dynamic_windows_supported: 0, levels: 0 },
        );
      expect(bytes.subarray(end).every((byte) => byte === 0xee)).toBe(true);
    }
  });

  test("requests of the other version are ENOTTY", () => {
    const one = setup(2);
    expect(register(one, one.memory, PAGE)).toBe(-ENOTTY);
    expect(create(one, 12, WINDOW)).toBe(-ENOTTY);
    const two = setup(7);
    expect(two.process.ioctl(two.fd, VFIO_IOMMU_ENABLE)).toBe(-ENOTTY);
    expect(two.process.ioctl(two.fd, VFIO_IOMMU_DISABLE)).toBe(-ENOTTY);
  });
});

describe("version 1", () => {
  test("enabled once, charged for the whole window, one group", () => {
    const one = setup(2);
    const { process, fd } = one;
    expect(map(one, 0, PAGE)).toBe(-EPERM);
    expect(unmap(one, 0, PAGE)).toBe(-EPERM);
    limit(process, WINDOW / PAGE - 1);
    expect(process.ioctl(fd, VFIO_IOMMU_ENABLE)).toBe(-ENOMEM);
    limit(process, WINDOW / PAGE);
    expect(process.ioctl(fd, VFIO_IOMMU_ENABLE)).toBe(0);
    expect(process.ioctl(fd, VFIO_IOMMU_ENABLE)).toBe(-EBUSY);
    const second = process.open("/dev/vfio/2", 2);
    expect(process.ioctl(second, VFIO_GROUP_SET_CONTAINER, int(fd))).toBe(-EBUSY);
    expect(process.ioctl(fd, VFIO_IOMMU_DISABLE)).toBe(0);
    expect(process.ioctl(fd, VFIO_IOMMU_DISABLE)).toBe(0);
    expect(process.ioctl(fd, VFIO_IOMMU_ENABLE)).toBe(0);
  });

  test("entries are written over and cleared again and again", () => {
    const one = setup(2);
    one.process.ioctl(one.fd, VFIO_IOMMU_ENABLE);
    expect([map(one, 0, PAGE), map(one, 0, 4 * PAGE), unmap(one, 0, PAGE), unmap(one, 0, PAGE)]).toEqual([
      0, 0, 0, 0,
    ]);
    expect([map(one, WINDOW, PAGE), unmap(one, WINDOW, PAGE)]).toEqual([-ENXIO, -ENXIO]);
    expect([map(one, 0, PAGE, 0), map(one, 0, PAGE, 4)]).toEqual([-EINVAL, -EINVAL]);
    expect(map(one, 0, PAGE, 3, 0)).toBe(-EFAULT);
    expect(unmap(one, WINDOW - PAGE, 2 * PAGE)).toBe(0);
  });

  test("an unaligned bus address answers 1; memory is pinned to be written, whatever the flags", () => {
    const one = setup(2);
    const { process } = one;
    process.ioctl(one.fd, VFIO_IOMMU_ENABLE);
    expect([map(one, 1, PAGE), unmap(one, 1, PAGE), map(one, 1, 1)]).toEqual([1, 1, -EINVAL]);
    const readOnly = process.mmap(0, PAGE, 1, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    expect([1, 2, 3].map((flags) => map(one, 0, PAGE, flags, readOnly))).toEqual(Array(3).fill(-EFAULT));
  });

  test("past the end of the window: the hypervisor's refusal, where there is one", () => {
    for (const hypervisor of [false, true]) {
      const one = setup(2, { hypervisor });
      one.process.ioctl(one.fd, VFIO_IOMMU_ENABLE);
      expect(map(one, WINDOW - PAGE, PAGE)).toBe(0);
      expect(map(one, WINDOW - PAGE, 2 * PAGE)).toBe(hypervisor ? -4 : 0);
    }
  });
});

describe("version 2", () => {
  test("memory is registered to the byte, once a container, and not twice by halves", () => {
    const two = setup(7);
    const { memory } = two;
    expect(unregister(two, memory, PAGE)).toBe(-EPERM);
    expect(register(two, memory + 1, PAGE)).toBe(-EINVAL);
    expect(register(two, memory, PAGE + 1)).toBe(-EINVAL);
    expect(register(two, memory, 4 * PAGE)).toBe(0);
    expect(register(two, memory, 4 * PAGE)).toBe(-EBUSY);
    expect(register(two, memory + PAGE, PAGE)).toBe(-EINVAL);
    expect(register(two, 0, PAGE)).toBe(-EFAULT);
    expect(unregister(two, memory, PAGE)).toBe(-ENOENT);
    expect(unregister(two, memory, 4 * PAGE)).toBe(0);
    expect(unregister(two, memory, 4 * PAGE)).toBe(-ENOENT);
  });

  test("only registered memory is mapped; mapped memory leaves the container, and stays registered", () => {
    const two = setup(7);
    const { memory } = two;
    expect(map(two, 0, PAGE)).toBe(-EPERM);
    register(two, memory, 4 * PAGE);
    expect(map(two, 0, 8 * PAGE)).toBe(-EINVAL);
    expect(unregister(two, memory, 4 * PAGE)).toBe(0);
    register(two, memory, 4 * PAGE);
    expect(map(two, 0, 4 * PAGE)).toBe(0);
    expect(map(two, 0, 2 * PAGE, 3, memory + PAGE)).toBe(0);
    expect(unregister(two, memory, 4 * PAGE)).toBe(0);
    expect(unregister(two, memory, 4 * PAGE)).toBe(-ENOENT);
    expect(map(two, 0x8000, PAGE)).toBe(0);
    expect(register(two, memory + PAGE, PAGE)).toBe(-EINVAL);
    expect(register(two, memory, 4 * PAGE)).toBe(0);
    expect(unmap(two, 0, WINDOW)).toBe(0);
    expect(unregister(two, memory, 4 * PAGE)).toBe(0);
  });

  test("two windows; wrong sizes; removed by any address in them", () => {
    const two = setup(7);
    const { memory } = two;
    expect(create(two, 12, WINDOW + 1)).toBe(-EINVAL);
    expect(create(two, 13, WINDOW)).toBe(-EINVAL);
    expect(create(two, 12, WINDOW, 0)).toBe(-EINVAL);
    expect(create(two, 12, WINDOW, 3)).toBe(-EINVAL);
    expect(create(two, 16, 2 * WINDOW)).toBe(1n << 59n);
    expect(create(two, 12, WINDOW)).toBe(-ENOSPC);
    register(two, memory, 4 * PAGE);
    expect(map(two, 1n << 59n, PAGE)).toBe(-EINVAL);
    expect(remove(two, (1n << 59n) + 5n)).toBe(0);
    expect(remove(two, 1n << 59n)).toBe(-EINVAL);
    expect(map(two, 1n << 59n, PAGE)).toBe(-ENXIO);
    expect(remove(two, 0)).toBe(0);
    expect(create(two, 12, WINDOW)).toBe(0n);
  });

  test("the first window is removed before it was ever made", () => {
    const two = setup(7);
    expect(remove(two, 0)).toBe(0);
    expect(remove(two, 0)).toBe(-EINVAL);
    expect(create(two, 12, 2 * WINDOW)).toBe(0n);
  });

  test("under a hypervisor: one window beside the default one; a refusal bars the device for good", () => {
    const two = setup(7, { hypervisor: true, levels: 1 });
    expect(create(two, 16, 2 * WINDOW)).toBe(1n << 59n);
    expect(remove(two, 0)).toBe(0);
    expect(create(two, 16, 2 * WINDOW)).toBe(-EPERM);
    expect(create(two, 12, WINDOW)).toBe(-EPERM);
    expect(remove(two, 1n << 59n)).toBe(0);
    expect(create(two, 16, 2 * WINDOW)).toBe(1n << 59n);
    expect(create(two, 16, WINDOW)).toBe(-ENODEV);
    expect(remove(two, 1n << 59n)).toBe(0);
    expect(create(two, 12, WINDOW)).toBe(-ENODEV);
  });

  test("another process is refused", () => {
    const two = setup(7);
    register(two, two.memory, PAGE);
    const child = { ...two, process: two.process.fork() };
    expect(register(child, two.memory, PAGE)).toBe(-EPERM);
    expect(child.process.ioctl(two.fd, VFIO_IOMMU_SPAPR_TCE_GET_INFO, new Uint8Array(16))).toBe(-EPERM);
  });
});

test("no windows, no driver", () => {
  const iommu = { kind: "spapr", interruptRemapping: true, cpus: 1 } as const;
  const process = processOn(fakeHost("6.12", { arch: "ppc64le", iommu }));
  expect(container(process, 2, "1").answer).toBe(-ENODEV);
});

describe("error handling", () => {
  const operate = (
    { process, fd }: Setup,
    op: number,
    argsz = 40,
    flags = 0,
    error: readonly number[] = [],
  ) => {
    const bytes = new Uint8Array(40);
    new Uint32Array(bytes.buffer).set([argsz, flags, op, 0, ...error]);
    return process.ioctl(fd, VFIO_EEH_PE_OP, bytes);
  };

  test("every operation but an injection succeeds, and what is none is refused", () => {
    const made = setup(7, { eeh: true });
    const answers = Array.from({ length: 12 }, (_, op) => operate(made, op, 12));
    expect(answers).toEqual([0, 0, 0, 0, 0, 0, 0, 0, 0, -EINVAL, -EINVAL, -EINVAL]);
  });

  test("sizes, flags and pointers", () => {
    const made = setup(7, { eeh: true });
    expect([0, 11, 12, 39, 40].map((argsz) => operate(made, 4, argsz))).toEqual([-EINVAL, -EINVAL, 0, 0, 0]);
    expect(operate(made, 4, 40, 1)).toBe(-EINVAL);
    expect(made.process.ioctl(made.fd, VFIO_EEH_PE_OP, 0)).toBe(-EFAULT);
  });

  test.each([
    [0, 0, EIO],
    [1, 19, EIO],
    [2, 19, ERANGE],
    [2, 20, EINVAL],
    [0, 20, EINVAL],
  ])("an error of type %i into function %i is refused", (type, func, errno) => {
    const made = setup(7, { eeh: true });
    expect(operate(made, VFIO_EEH_PE_INJECT_ERR, 40, 0, [type, func])).toBe(-errno);
    expect(operate(made, VFIO_EEH_PE_INJECT_ERR, 39, 0, [type, func])).toBe(-EINVAL);
  });

  test("a group that is no unit of it: not even the pointer is looked at", () => {
    const { process, fd } = setup(7);
    expect(process.ioctl(fd, VFIO_EEH_PE_OP, 0)).toBe(-ENODEV);
  });
});

test("what is listed as answered is known to one version or the other", () => {
  const answers = spaprRequests.map((request) =>
    ([2, 7] as const).map((type) => {
      const { process, fd } = setup(type);
      return process.ioctl(fd, request, 0) !== -ENOTTY;
    }),
  );
  expect(answers.map((known) => known.includes(true))).toEqual(spaprRequests.map(() => true));
});
