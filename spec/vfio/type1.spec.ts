import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  EACCES,
  EBUSY,
  EEXIST,
  EFAULT,
  EINVAL,
  ENOENT,
  ENOMEM,
  ENOSPC,
  EOVERFLOW,
} from "../../lib/abi/errno.ts";
import { MAP_ANONYMOUS, MAP_PRIVATE } from "../../lib/abi/mman.ts";
import { load16, load32, load64, store64 } from "../../lib/abi/struct.ts";
import {
  VFIO_GROUP_SET_CONTAINER,
  VFIO_GROUP_UNSET_CONTAINER,
  VFIO_IOMMU_DIRTY_PAGES,
  VFIO_IOMMU_GET_INFO,
  VFIO_IOMMU_MAP_DMA,
  VFIO_IOMMU_UNMAP_DMA,
  VfioIommuType1DirtyBitmap,
  VfioIommuType1DirtyBitmapGet,
  VfioIommuType1DmaMap,
  VfioIommuType1DmaUnmap,
} from "../../lib/abi/vfio.ts";
import { type Process, RLIMIT_MEMLOCK } from "../../lib/kernel/process.ts";
import type { VfioHost } from "../../lib/vfio/host.ts";
import { container, fakeHost, int, processOn } from "./fake-host.ts";

const PAGE = 4096;
const READ_WRITE = 3;

interface Setup {
  host: VfioHost;
  process: Process;
  fd: number;
  groups: number[];
  /** 64 pages of memory */
  memory: number;
}

function setup(version: 1 | 2, release = "6.12", host = fakeHost(release)): Setup {
  const process = processOn(host);
  const { fd, groups } = container(process, version === 1 ? 1 : 3, "1");
  const memory = process.mmap(0, 64 * PAGE, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return { host, process, fd, groups, memory };
}

const map = (
  { process, fd, memory }: Setup,
  iova: number | bigint,
  size: number | bigint,
  flags = READ_WRITE,
  vaddr: number | bigint = memory,
): number =>
  process.ioctl(
    fd,
    VFIO_IOMMU_MAP_DMA,
    VfioIommuType1DmaMap.encode({ argsz: 32, flags, vaddr: BigInt(vaddr), iova, size }),
  );

/** How many bytes were unmapped, or −errno. */
function unmap({ process, fd }: Setup, iova: number | bigint, size: number | bigint, flags = 0): number {
  const bytes = VfioIommuType1DmaUnmap.encode({ argsz: 24, flags, iova, size });
  const result = process.ioctl(fd, VFIO_IOMMU_UNMAP_DMA, bytes);
  return result < 0 ? result : Number(VfioIommuType1DmaUnmap.decode(bytes).size);
}

const FLAG_ALL = 2;
const FLAG_VADDR = 4;

describe("VFIO_IOMMU_GET_INFO", () => {
  test.each([
    ["6.1", 116],
    ["6.12", 120],
  ])("every argsz from 0 to past the end, on %s", (release, whole) => {
    const { process, fd } = setup(1, release);
    for (let argsz = 0; argsz <= whole + 8; argsz++) {
      const bytes = new Uint8Array(256).fill(0xee);
      new DataView(bytes.buffer).setUint32(0, argsz, true);
      const result = process.ioctl(fd, VFIO_IOMMU_GET_INFO, bytes);
      if (argsz < 16) {
        expect(result).toBe(-EINVAL);
        continue;
      }
      expect(result).toBe(0);
      const fits = argsz >= whole;
      expect(load32(bytes, 0)).toBe(fits ? argsz : whole);
      expect(load32(bytes, 4)).toBe(3);
      expect(load64(bytes, 8)).toBe(0x4020_1000n);
      expect(load32(bytes, 16)).toBe(argsz < 20 ? 0xeeee_eeee : fits ? 24 : 0);
      // nothing beyond what argsz allows is touched
      const end = fits ? whole : argsz >= 20 ? 20 : 16;
      expect(bytes.subarray(end).every((byte) => byte === 0xee)).toBe(true);
    }
  });

  test("the chain of capabilities", () => {
    const { process, fd } = setup(2);
    const bytes = new Uint8Array(256);
    bytes[1] = 1;
    process.ioctl(fd, VFIO_IOMMU_GET_INFO, bytes);
    const chain: [number, number, number][] = [];
    for (let at = load32(bytes, 16); at !== 0; at = load32(bytes, at + 4))
      chain.push([load16(bytes, at), load16(bytes, at + 2), at]);
    expect(chain).toEqual([
      [2, 1, 24],
      [3, 1, 56],
      [1, 1, 72],
    ]);
    expect(load64(bytes, 24 + 16)).toBe(4096n);
    expect(load64(bytes, 24 + 24)).toBe(1n << 28n);
    expect(load32(bytes, 56 + 8)).toBe(65535);
    const ranges = [0, 1].map((i) => [load64(bytes, 72 + 16 + i * 16), load64(bytes, 72 + 24 + i * 16)]);
    expect(load32(bytes, 72 + 8)).toBe(2);
    expect(ranges).toEqual([
      [0n, 0xfedf_ffffn],
      [0xfef0_0000n, 0xffff_ffff_ffffn],
    ]);
  });

  test("EFAULT for an unreadable struct", () => {
    const { process, fd } = setup(1);
    expect(process.ioctl(fd, VFIO_IOMMU_GET_INFO, 0)).toBe(-EFAULT);
    expect(process.ioctl(fd, VFIO_IOMMU_GET_INFO, new Uint8Array(15))).toBe(-EFAULT);
  });
});

describe("VFIO_IOMMU_MAP_DMA", () => {
  test("every flag", () => {
    const one = setup(1);
    const answers = Array.from({ length: 32 }, (_, flags) => {
      const result = map(one, 0x10_0000, PAGE, flags);
      if (result === 0) unmap(one, 0x10_0000, PAGE);
      return result;
    });
    const expected = Array.from({ length: 32 }, (_, flags) =>
      flags >= 8 || flags === 0 || flags > 4 ? -EINVAL : flags === 4 ? -ENOENT : 0,
    );
    expect(answers).toEqual(expected);
  });

  test("argsz below 32, and every misalignment", () => {
    const one = setup(1);
    for (const argsz of [0, 31])
      expect(
        one.process.ioctl(
          one.fd,
          VFIO_IOMMU_MAP_DMA,
          VfioIommuType1DmaMap.encode({ argsz, flags: 3, vaddr: one.memory, iova: PAGE, size: PAGE }),
        ),
      ).toBe(-EINVAL);
    for (const off of [1, 0x100, 0x800, 0xfff]) {
      expect(map(one, PAGE + off, PAGE)).toBe(-EINVAL);
      expect(map(one, PAGE, PAGE + off)).toBe(-EINVAL);
      expect(map(one, PAGE, PAGE, 3, one.memory + off)).toBe(-EINVAL);
    }
    expect(map(one, PAGE, 0)).toBe(-EINVAL);
  });

  test.each([
    ["6.12", EINVAL],
    ["7.2", EOVERFLOW],
  ])("ranges that wrap around on %s", (release, errno) => {
    const one = setup(1, release);
    const top = 0xffff_ffff_ffff_f000n;
    expect(map(one, top, 2 * PAGE)).toBe(-errno);
    expect(map(one, PAGE, top)).toBe(-errno);
    expect(map(one, PAGE, 2 * PAGE, 3, top)).toBe(-errno);
    expect(unmap(one, top, 2 * PAGE)).toBe(-errno);
    expect(map(one, top, PAGE)).toBe(-EINVAL);
  });

  test("the interrupt window and what lies past the aperture", () => {
    const one = setup(1);
    const answers = [0xfee0_0000, 0xfeef_f000, 0xfedf_f000, 0xfef0_0000].map((iova) => map(one, iova, PAGE));
    expect(answers).toEqual([-EINVAL, -EINVAL, 0, 0]);
    expect(map(one, 0xfedf_e000, 3 * PAGE)).toBe(-EEXIST);
    expect(map(one, 1n << 48n, PAGE)).toBe(-EINVAL);
    expect(map(one, (1n << 48n) - 4096n, PAGE)).toBe(0);
  });

  test("memory that the device may not have is EFAULT, and nothing stays charged", () => {
    const one = setup(2);
    const { process } = one;
    const readOnly = process.mmap(0, 2 * PAGE, 1, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    const none = process.mmap(0, 2 * PAGE, 0, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    process.dropped.add("CAP_IPC_LOCK");
    process.setrlimit(RLIMIT_MEMLOCK, 2 * PAGE);
    expect(map(one, PAGE, PAGE, 3, readOnly)).toBe(-EFAULT);
    expect(map(one, PAGE, PAGE, 2, readOnly)).toBe(-EFAULT);
    expect(map(one, PAGE, PAGE, 1, none)).toBe(-EFAULT);
    expect(map(one, PAGE, PAGE, 3, 0)).toBe(-EFAULT);
    expect(map(one, PAGE, PAGE, 3, 0xffff_8000_0000_0000n)).toBe(-EFAULT);
    expect(map(one, PAGE, 2 * PAGE, 3, one.memory + 63 * PAGE)).toBe(-EFAULT);
    expect(map(one, PAGE, 2 * PAGE, 1, readOnly)).toBe(0);
  });

  test("exactly as many mappings as the module option says", () => {
    const host = fakeHost("6.12", { modules: { dma_entry_limit: 3 } });
    const one = setup(2, "6.12", host);
    const answers = [1, 2, 3, 4].map((n) => map(one, n * PAGE, PAGE));
    expect(answers).toEqual([0, 0, 0, -ENOSPC]);
    expect(map(one, PAGE, PAGE)).toBe(-EEXIST);
    unmap(one, PAGE, PAGE);
    expect(map(one, 9 * PAGE, PAGE)).toBe(0);
    expect(map(one, 10 * PAGE, PAGE)).toBe(-ENOSPC);
  });

  test("a failed allocation is ENOMEM and changes nothing", () => {
    const one = setup(2);
    one.host.kernel.faults.failNth("allocation", 1);
    expect(map(one, PAGE, PAGE)).toBe(-ENOMEM);
    expect(unmap(one, 0, 0, FLAG_ALL)).toBe(0);
    expect(map(one, PAGE, PAGE)).toBe(0);
  });
});

describe("an IOMMU that reaches the top of the address space", () => {
  const iommu = { kind: "amd", interruptRemapping: true, cpus: 1 } as const;
  const top = 0xffff_ffff_ffff_f000n;

  test("before 6.18 a mapping that ends at 2^64 meets nothing", () => {
    const one = setup(2, "6.12", fakeHost("6.12", { iommu }));
    expect([map(one, top, PAGE), map(one, top, PAGE)]).toEqual([0, 0]);
    expect(unmap(one, top, PAGE)).toBe(0);
    expect(map(one, PAGE, PAGE)).toBe(0);
    expect(unmap(one, 0, 0, FLAG_ALL)).toBe(3 * PAGE);
  });

  test("later it is one like any other", () => {
    const one = setup(2, "7.2", fakeHost("7.2", { iommu }));
    expect([map(one, top, PAGE), map(one, top, PAGE)]).toEqual([0, -EEXIST]);
    expect(unmap(one, top, PAGE)).toBe(PAGE);
    expect(unmap(one, 0, 0, FLAG_ALL)).toBe(0);
  });
});

/** A naive twin: one cell a page. */
class Twin {
  readonly #version: number;
  /** the first page of the mapping that owns each page */
  readonly #owner: (number | undefined)[] = Array(16).fill(undefined);

  constructor(version: number) {
    this.#version = version;
  }

  map(page: number, pages: number): number {
    if (this.#owner.slice(page, page + pages).some((owner) => owner !== undefined)) return -EEXIST;
    this.#owner.fill(page, page, page + pages);
    return 0;
  }

  unmap(page: number, pages: number): number {
    const inside = new Set(this.#owner.slice(page, page + pages).filter((owner) => owner !== undefined));
    const size = (owner: number) => this.#owner.filter((other) => other === owner).length;
    if (this.#version === 2) {
      for (const owner of inside) if (owner < page || owner + size(owner) > page + pages) return -EINVAL;
    } else if ([...inside].some((owner) => owner < page)) return 0;
    let unmapped = 0;
    for (const owner of inside) {
      unmapped += size(owner);
      this.#owner.forEach((other, i) => {
        if (other === owner) this.#owner[i] = undefined;
      });
    }
    return unmapped * PAGE;
  }
}

describe("mappings against a naive twin", () => {
  const operation = fc.record({
    unmap: fc.boolean(),
    page: fc.nat(11),
    pages: fc.integer({ min: 1, max: 4 }),
  });

  test.each([1, 2] as const)("version %i", (version) => {
    fc.assert(
      fc.property(fc.array(operation, { maxLength: 30 }), (operations) => {
        const real = setup(version);
        const twin = new Twin(version);
        for (const { unmap: taking, page, pages } of operations)
          expect(taking ? unmap(real, page * PAGE, pages * PAGE) : map(real, page * PAGE, pages * PAGE)).toBe(
            taking ? twin.unmap(page, pages) : twin.map(page, pages),
          );
      }),
      { numRuns: 200 },
    );
  });

  test("two mappings and every unmap over them", () => {
    for (const version of [1, 2] as const)
      for (let page = 0; page < 10; page++)
        for (let pages = 1; pages <= 10 - page; pages++) {
          const real = setup(version);
          const twin = new Twin(version);
          for (const [at, size] of [
            [2, 3],
            [6, 2],
          ])
            expect(map(real, at * PAGE, size * PAGE)).toBe(twin.map(at, size));
          expect(unmap(real, page * PAGE, pages * PAGE)).toBe(twin.unmap(page, pages));
        }
  });
});

describe("VFIO_IOMMU_UNMAP_DMA", () => {
  test("every flag; the size is written only on success", () => {
    for (let flags = 0; flags < 16; flags++) {
      const one = setup(2);
      map(one, PAGE, PAGE);
      const all = (flags & FLAG_ALL) !== 0;
      const bytes = VfioIommuType1DmaUnmap.encode({
        argsz: 24,
        flags,
        iova: all ? 0 : PAGE,
        size: all ? 0 : PAGE,
      });
      const before = bytes.slice();
      const expected = flags === 0 || flags === 2 || flags === 4 || flags === 6 ? 0 : -EINVAL;
      expect(one.process.ioctl(one.fd, VFIO_IOMMU_UNMAP_DMA, bytes)).toBe(expected);
      if (expected < 0) expect(bytes).toEqual(before);
      else expect(VfioIommuType1DmaUnmap.decode(bytes).size).toBe(4096n);
    }
  });

  test("everything: only from 0 with size 0", () => {
    const one = setup(2);
    map(one, PAGE, 2 * PAGE);
    expect(unmap(one, PAGE, 0, FLAG_ALL)).toBe(-EINVAL);
    expect(unmap(one, 0, PAGE, FLAG_ALL)).toBe(-EINVAL);
    expect(unmap(one, 0, 0, FLAG_ALL)).toBe(2 * PAGE);
    expect(unmap(one, 0, 0, FLAG_ALL)).toBe(0);
  });

  test("an address taken away is told again, to the byte, and by nobody twice", () => {
    const one = setup(2);
    map(one, PAGE, 2 * PAGE);
    expect(unmap(one, PAGE, 2 * PAGE, FLAG_VADDR)).toBe(2 * PAGE);
    expect(unmap(one, PAGE, 2 * PAGE, FLAG_VADDR)).toBe(-EINVAL);
    const second = one.process.open("/dev/vfio/2", 2);
    expect(one.process.ioctl(second, VFIO_GROUP_SET_CONTAINER, int(one.fd))).toBe(-EBUSY);
    expect(map(one, PAGE, PAGE, 4)).toBe(-EINVAL);
    expect(map(one, 9 * PAGE, PAGE, 4)).toBe(-ENOENT);
    expect(map(one, PAGE, 2 * PAGE, 4)).toBe(0);
    expect(map(one, PAGE, 2 * PAGE, 4)).toBe(-EINVAL);
    expect(one.process.ioctl(second, VFIO_GROUP_SET_CONTAINER, int(one.fd))).toBe(0);
  });
});

describe("RLIMIT_MEMLOCK", () => {
  const limited = (pages: number): Setup => {
    const one = setup(2);
    one.process.dropped.add("CAP_IPC_LOCK");
    one.process.setrlimit(RLIMIT_MEMLOCK, pages * PAGE);
    return one;
  };

  test("exactly the limit; what is unmapped can be mapped again; the same memory counts twice", () => {
    const one = limited(8);
    expect(map(one, 0, 9 * PAGE)).toBe(-ENOMEM);
    expect(map(one, 0, 8 * PAGE)).toBe(0);
    expect(map(one, 0x10_0000, PAGE)).toBe(-ENOMEM);
    unmap(one, 0, 8 * PAGE);
    expect(map(one, 0, 4 * PAGE)).toBe(0);
    expect(map(one, 0x10_0000, 4 * PAGE)).toBe(0);
    expect(map(one, 0x20_0000, PAGE)).toBe(-ENOMEM);
  });

  test("the containers of a process share it; closing one gives its share back", () => {
    const one = limited(8);
    const other = { ...one, ...container(one.process, 3, "2") };
    expect(map(one, 0, 5 * PAGE)).toBe(0);
    expect(map(other, 0, 4 * PAGE)).toBe(-ENOMEM);
    expect(map(other, 0, 3 * PAGE)).toBe(0);
    one.process.ioctl(one.groups[0], VFIO_GROUP_UNSET_CONTAINER);
    expect(map(other, 0x10_0000, 5 * PAGE)).toBe(0);
    expect(map(other, 0x20_0000, PAGE)).toBe(-ENOMEM);
  });

  test("with CAP_IPC_LOCK there is none; without a limit set it is 8 MiB", () => {
    const one = setup(2);
    one.process.setrlimit(RLIMIT_MEMLOCK, 0);
    expect(map(one, 0, 64 * PAGE)).toBe(0);
    const two = setup(2);
    two.process.dropped.add("CAP_IPC_LOCK");
    const large = two.process.mmap(0, 9 << 20, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    expect(map(two, 0, (8 << 20) + PAGE, 3, large)).toBe(-ENOMEM);
    expect(map(two, 0, 8 << 20, 3, large)).toBe(0);
  });

  test.each([
    ["6.1", 0],
    ["6.12", -ENOMEM],
  ])("memory that was never written, mapped to be read, on %s", (release, answer) => {
    const one = setup(2, release);
    one.process.dropped.add("CAP_IPC_LOCK");
    one.process.setrlimit(RLIMIT_MEMLOCK, PAGE);
    expect(map(one, 0, 64 * PAGE, 1)).toBe(answer);
  });
});

describe("VFIO_IOMMU_DIRTY_PAGES", () => {
  const START = 1;
  const STOP = 2;
  const dirty = ({ process, fd }: Setup, flags: number, argsz = 8): number =>
    process.ioctl(fd, VFIO_IOMMU_DIRTY_PAGES, VfioIommuType1DirtyBitmap.encode({ argsz, flags }));

  function report(one: Setup, iova: number, size: number, words: bigint[], bytes = words.length * 8): number {
    const buffer = new Uint8Array(words.length * 8);
    for (const [i, word] of words.entries()) store64(buffer, i * 8, word);
    const address = one.process.addressOf(buffer);
    const argument = new Uint8Array(48);
    argument.set(VfioIommuType1DirtyBitmap.encode({ argsz: 48, flags: 4 }));
    const bitmap = { pgsize: PAGE, size: bytes, data: BigInt(address) };
    argument.set(VfioIommuType1DirtyBitmapGet.encode({ iova, size, bitmap }), 8);
    const result = one.process.ioctl(one.fd, VFIO_IOMMU_DIRTY_PAGES, argument);
    for (let i = 0; i < words.length; i++) words[i] = load64(buffer, i * 8);
    return result;
  }

  test("version 1 has none", () => {
    const one = setup(1);
    for (let flags = 0; flags < 16; flags++) expect(dirty(one, flags)).toBe(-EACCES);
    expect(one.process.ioctl(one.fd, VFIO_IOMMU_DIRTY_PAGES, 0)).toBe(-EACCES);
  });

  test("exactly one flag, and a report only while it is on", () => {
    const one = setup(2);
    map(one, PAGE, 4 * PAGE);
    expect(dirty(one, START, 7)).toBe(-EINVAL);
    expect(report(one, PAGE, 4 * PAGE, [0n])).toBe(-EINVAL);
    expect([START, START, STOP, STOP].map((flags) => dirty(one, flags))).toEqual([0, 0, 0, 0]);
    expect([0, 3, 4, 5, 6, 7, 8].map((flags) => dirty(one, flags))).toEqual(Array(7).fill(-EINVAL));
    dirty(one, START);
    const words = [0n];
    expect(report(one, PAGE, 4 * PAGE, words)).toBe(0);
    expect(words).toEqual([0xfn]);
  });

  test("a range must hold mappings whole; a bitmap must be large enough and not absurd", () => {
    const one = setup(2);
    map(one, 4 * PAGE, 4 * PAGE);
    dirty(one, START);
    expect(report(one, 4 * PAGE, PAGE, [0n])).toBe(-EINVAL);
    expect(report(one, 5 * PAGE, 3 * PAGE, [0n])).toBe(-EINVAL);
    expect(report(one, 4 * PAGE, 0, [0n])).toBe(-EINVAL);
    expect(report(one, 4 * PAGE, 4 * PAGE, [0n], 0)).toBe(-EINVAL);
    expect(report(one, 4 * PAGE, 4 * PAGE, [0n], 7)).toBe(-EINVAL);
    expect(report(one, 4 * PAGE, 4 * PAGE, [0n], 2 ** 28 + 1)).toBe(-EINVAL);
    expect(report(one, 4 * PAGE, 4 * PAGE, [0n], 2 ** 20)).toBe(0);
    expect(report(one, 100 * PAGE, 4 * PAGE, [0n])).toBe(0);
  });

  test("mappings fall together in one bitmap, with the bits below a shifted one kept", () => {
    const one = setup(2);
    map(one, 2 * PAGE, 2 * PAGE);
    map(one, 6 * PAGE, PAGE);
    map(one, 70 * PAGE, 2 * PAGE);
    dirty(one, START);
    const words = [1n << 63n, 0n];
    expect(report(one, 0, 128 * PAGE, words)).toBe(0);
    expect(words).toEqual([(1n << 63n) | 0b100_1100n, 0b1100_0000n]);
  });

  test("bits shifted out above a mapping show again in its next report", () => {
    const one = setup(2);
    map(one, PAGE, 4 * PAGE);
    dirty(one, START);
    const shifted = [0n];
    report(one, 0, 6 * PAGE, shifted);
    const words = [0n];
    report(one, PAGE, 4 * PAGE, words);
    expect([shifted, words]).toEqual([[0x1en], [0x1fn]]);
  });

  test("a mapping made while it is on is dirty too; a full unmap with a report takes it away", () => {
    const one = setup(2);
    dirty(one, START);
    map(one, PAGE, 3 * PAGE);
    const buffer = new Uint8Array(8);
    const argument = new Uint8Array(48);
    argument.set(VfioIommuType1DmaUnmap.encode({ argsz: 48, flags: 1, iova: PAGE, size: 3 * PAGE }));
    store64(argument, 24, PAGE);
    store64(argument, 32, 8);
    store64(argument, 40, one.process.addressOf(buffer));
    expect(one.process.ioctl(one.fd, VFIO_IOMMU_UNMAP_DMA, argument)).toBe(0);
    expect(load64(buffer, 0)).toBe(7n);
    expect(unmap(one, 0, 0, FLAG_ALL)).toBe(0);
  });
});
