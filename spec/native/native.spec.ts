import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { afterEach, describe, expect, test } from "vitest";
import { EBADF, EFAULT, EINTR, EINVAL, EMFILE, ENOTTY, errnoName } from "../../lib/abi/errno.ts";
import { O_CLOEXEC, O_RDWR } from "../../lib/abi/fcntl.ts";
import {
  KVM_CHECK_EXTENSION,
  KVM_CREATE_DEVICE,
  KVM_CREATE_IRQCHIP,
  KVM_CREATE_VCPU,
  KVM_CREATE_VM,
  KVM_GET_API_VERSION,
  KVM_GET_VCPU_MMAP_SIZE,
  KVM_IRQFD,
  KVM_RUN,
  KVM_SET_USER_MEMORY_REGION,
  KVM_SIGNAL_MSI,
  KvmCreateDevice,
  KvmIrqfd,
  KvmMsi,
  KvmUserspaceMemoryRegion,
} from "../../lib/abi/kvm.ts";
import {
  KVM_CREATE_PIT2,
  KVM_GET_SREGS,
  KVM_SET_REGS,
  KVM_SET_SREGS,
  KvmPitConfig,
  KvmRegs,
  KvmSregs,
} from "../../lib/abi/kvm-x86.ts";
import { MAP_ANONYMOUS, MAP_SHARED } from "../../lib/abi/mman.ts";
import { nativeKernel } from "../../lib/native/native.ts";
import type { NativeSyscalls } from "../../lib/native/process.ts";

const native = nativeKernel();
const title = native.available ? "the real kernel" : `the real kernel: skipped, ${native.reason}`;

const PROT_READ = 1;
const PROT_READ_WRITE = 3;
const EXIT_IO = 2;
const EXIT_HLT = 5;

test("a device that is missing is a reason, not an exception", () => {
  const missing = nativeKernel({ kvm: "/dev/there-is-no-such-device" });
  expect(missing.available).toBe(false);
  if (!missing.available && native.available)
    expect(missing.reason).toBe("this host has no /dev/there-is-no-such-device");
});

test.skipIf(!native.available)("a device that is not KVM is told", () => {
  const other = nativeKernel({ kvm: "/dev/null" });
  expect(other).toEqual({
    available: false,
    reason: "/dev/null is not KVM: KVM_GET_API_VERSION answers -25",
  });
});

describe.skipIf(!native.available)(title, () => {
  const processes: NativeSyscalls[] = [];
  afterEach(() => {
    for (const process of processes.splice(0)) process.exit();
  });
  const start = (descriptors: "fresh" | "host" = "fresh"): NativeSyscalls => {
    if (!native.available) throw new Error(native.reason);
    const process = native.process({ descriptors });
    processes.push(process);
    return process;
  };
  /** /dev/kvm, a VM, one page of memory at 0 with the program, a vCPU in real mode at 0. */
  const machine = (process: NativeSyscalls, program: number[]) => {
    const kvm = process.open("/dev/kvm", O_RDWR | O_CLOEXEC);
    const vm = process.ioctl(kvm, KVM_CREATE_VM);
    const memory = process.mmap(0, 4096, PROT_READ_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    process.memory(memory, 4096)!.set(program);
    const region = KvmUserspaceMemoryRegion.encode({ memory_size: 4096, userspace_addr: memory });
    expect(process.ioctl(vm, KVM_SET_USER_MEMORY_REGION, region)).toBe(0);
    const vcpu = process.ioctl(vm, KVM_CREATE_VCPU, 0);
    const size = process.ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE);
    const run = process.mmap(0, size, PROT_READ_WRITE, MAP_SHARED, vcpu, 0);
    const sregs = new Uint8Array(KvmSregs.size);
    expect(process.ioctl(vcpu, KVM_GET_SREGS, sregs)).toBe(0);
    KvmSregs.at(sregs).cs.base = 0n;
    KvmSregs.at(sregs).cs.selector = 0;
    expect(process.ioctl(vcpu, KVM_SET_SREGS, sregs)).toBe(0);
    expect(process.ioctl(vcpu, KVM_SET_REGS, KvmRegs.encode({ rip: 0, rflags: 2 }))).toBe(0);
    const exitReason = () => process.load(run + 8, 4);
    return { kvm, vm, vcpu, run, memory, exitReason };
  };

  test("eventfd: count, semaphore, EAGAIN, EINVAL", () => {
    const process = start();
    const fd = process.eventfd2(3, 0x800);
    expect(fd).toBe(3);
    const buffer = new Uint8Array(8);
    expect(process.read(fd, buffer)).toBe(8);
    expect(buffer[0]).toBe(3);
    expect(errnoName(-process.read(fd, buffer))).toBe("EAGAIN");
    expect(process.read(fd, new Uint8Array(7))).toBe(-EINVAL);
    expect(process.close(fd)).toBe(0);
    expect(process.close(fd)).toBe(-EBADF);
  });

  test("numbers are those of a fresh process, or the host's", () => {
    const fresh = start();
    const host = start("host");
    expect([fresh.eventfd2(0, 0), fresh.eventfd2(0, 0), fresh.eventfd2(0, 0)]).toEqual([3, 4, 5]);
    expect(fresh.close(4)).toBe(0);
    expect(fresh.dup(5)).toBe(4);
    expect(host.eventfd2(0, 0)).toBeGreaterThan(5);
  });

  test("a number that is not open here is EBADF, though the host has it open", () => {
    const process = start();
    const host = start("host").eventfd2(0, 0);
    expect(process.read(host, new Uint8Array(8))).toBe(-EBADF);
    expect(process.dup(host)).toBe(-EBADF);
  });

  test("KVM_GET_API_VERSION is 12", () => {
    const process = start();
    expect(process.ioctl(process.open("/dev/kvm", O_RDWR), KVM_GET_API_VERSION)).toBe(12);
  });

  test("a VM and a vCPU are descriptors 4 and 5", () => {
    const process = start();
    const kvm = process.open("/dev/kvm", O_RDWR);
    const vm = process.ioctl(kvm, KVM_CREATE_VM);
    expect([kvm, vm, process.ioctl(vm, KVM_CREATE_VCPU, 0)]).toEqual([3, 4, 5]);
    expect(process.ioctl(vm, KVM_GET_API_VERSION)).toBe(-ENOTTY);
  });

  test("a descriptor that comes in a struct is translated too", () => {
    const process = start();
    const vm = process.ioctl(process.open("/dev/kvm", O_RDWR), KVM_CREATE_VM);
    const KVM_DEV_TYPE_VFIO = 4;
    const create = KvmCreateDevice.encode({ type: KVM_DEV_TYPE_VFIO });
    expect(process.ioctl(vm, KVM_CREATE_DEVICE, create)).toBe(0);
    expect(KvmCreateDevice.at(create).fd).toBe(5);
    const asked = KvmCreateDevice.encode({ type: KVM_DEV_TYPE_VFIO, fd: 99, flags: 1 });
    expect(process.ioctl(vm, KVM_CREATE_DEVICE, asked)).toBe(0);
    expect(KvmCreateDevice.at(asked).fd).toBe(99);
    expect(process.eventfd2(0, 0)).toBe(6);
  });

  test("the kvm_run page shows the exit reason", () => {
    const process = start();
    const { vcpu, run, exitReason } = machine(process, [0xf4]);
    expect(process.ioctl(vcpu, KVM_RUN)).toBe(0);
    expect(exitReason()).toBe(EXIT_HLT);
    expect(process.memory(run, 12)![8]).toBe(EXIT_HLT);
  });

  test("EFAULT ends where the bytes end", () => {
    const process = start();
    const { vcpu } = machine(process, []);
    expect(process.ioctl(vcpu, KVM_GET_SREGS, new Uint8Array(KvmSregs.size))).toBe(0);
    expect(process.ioctl(vcpu, KVM_GET_SREGS, new Uint8Array(KvmSregs.size - 1))).toBe(-EFAULT);
    expect(process.ioctl(vcpu, KVM_GET_SREGS, 0)).toBe(-EFAULT);
  });

  test("an address of the program's bytes is real memory", () => {
    const process = start();
    const { vcpu } = machine(process, []);
    const bytes = new Uint8Array(KvmSregs.size + 8);
    const address = process.addressOf(bytes.subarray(8));
    expect(process.addressOf(bytes)).toBe(address - 8);
    expect(process.ioctl(vcpu, KVM_GET_SREGS, address)).toBe(0);
    const direct = new Uint8Array(KvmSregs.size);
    process.ioctl(vcpu, KVM_GET_SREGS, direct);
    expect(bytes.subarray(8)).toEqual(direct);
    expect(process.load(address, 1)).toBe(direct[0]);
  });

  test("a load or store outside of the mappings is a signal by name", () => {
    const process = start();
    const { vcpu } = machine(process, []);
    const page = process.mmap(0, 4096, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    expect(process.load(page, 4)).toBe(0);
    expect(process.store(page, 4, 1)).toBe("SIGSEGV");
    expect(process.load(page + 4094, 4)).toBe("SIGSEGV");
    expect(process.load(0x1000, 4)).toBe("SIGSEGV");
    const long = process.mmap(0, 64 * 4096, PROT_READ_WRITE, MAP_SHARED, vcpu, 0);
    expect(process.load(long + 63 * 4096, 4)).toBe("SIGBUS");
    expect(process.memory(long, 64 * 4096)).toBe(undefined);
    expect(process.munmap(page, 4096)).toBe(0);
    expect(process.load(page, 4)).toBe("SIGSEGV");
  });

  test("memory of the host program is out of reach of munmap and MAP_FIXED", () => {
    const process = start();
    const MAP_FIXED = 0x10;
    const EEXIST = 17;
    const other = start();
    const page = other.mmap(0, 4096, PROT_READ_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    other.store(page, 4, 77);
    expect(process.munmap(page, 4096)).toBe(0);
    expect(process.mmap(page, 4096, PROT_READ_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0)).toBe(
      -EEXIST,
    );
    expect(other.load(page, 4)).toBe(77);
  });

  test("an irqfd takes a translated eventfd, and KVM_SIGNAL_MSI an MSI", () => {
    const process = start();
    const vm = process.ioctl(process.open("/dev/kvm", O_RDWR), KVM_CREATE_VM);
    expect(process.ioctl(vm, KVM_CREATE_IRQCHIP)).toBe(0);
    expect(process.ioctl(vm, KVM_CREATE_PIT2, KvmPitConfig.encode())).toBe(0);
    expect(process.ioctl(vm, KVM_CREATE_VCPU, 0)).toBeGreaterThan(vm);
    const fd = process.eventfd2(0, 0);
    expect(process.ioctl(vm, KVM_IRQFD, KvmIrqfd.encode({ fd, gsi: 5 }))).toBe(0);
    expect(process.ioctl(vm, KVM_IRQFD, KvmIrqfd.encode({ fd, gsi: 5 }))).toBe(-16);
    expect(process.ioctl(vm, KVM_IRQFD, KvmIrqfd.encode({ fd: 77, gsi: 5 }))).toBe(-EBADF);
    expect(process.ioctl(vm, KVM_IRQFD, KvmIrqfd.encode({ fd: vm, gsi: 5 }))).toBe(-EINVAL);
    expect(process.write(fd, Uint8Array.of(1, 0, 0, 0, 0, 0, 0, 0))).toBe(8);
    process.settle();
    const msi = KvmMsi.encode({ address_lo: 0xfee00000, data: 0x40 });
    expect(process.ioctl(vm, KVM_SIGNAL_MSI, msi)).toBe(0);
  });

  test("KVM_RUN on a thread of its own: out, then hlt", async () => {
    const process = start();
    // mov al, 0x41; out 0x10, al; hlt
    const { vcpu, exitReason } = machine(process, [0xb0, 0x41, 0xe6, 0x10, 0xf4]);
    expect(await process.run(vcpu)).toBe(0);
    expect(exitReason()).toBe(EXIT_IO);
    expect(await process.run(vcpu)).toBe(0);
    expect(exitReason()).toBe(EXIT_HLT);
    expect(await process.run(99)).toBe(-EBADF);
  });

  test("a guest that spins leaves when it is kicked, and the event loop ran meanwhile", async () => {
    const process = start();
    // inc word [0x800]; jmp -6
    const { vcpu, memory, run } = machine(process, [0xff, 0x06, 0x00, 0x08, 0xeb, 0xfa]);
    const result = process.run(vcpu);
    while (process.load(memory + 0x800, 2) === 0) await new Promise((resolve) => setImmediate(resolve));
    process.kick(vcpu);
    expect(await result).toBe(-EINTR);
    expect(process.load(run + 1, 1)).toBe(0);
  });

  test("a kick before the run is not lost, and is used up by it", async () => {
    const process = start();
    const { vcpu, exitReason } = machine(process, [0xf4]);
    process.kick(vcpu);
    expect(await process.run(vcpu)).toBe(-EINTR);
    expect(await process.run(vcpu)).toBe(0);
    expect(exitReason()).toBe(EXIT_HLT);
  });

  test("several vCPUs spin at once, exit ends them all", async () => {
    const process = start();
    const { vm, vcpu } = machine(process, [0xeb, 0xfe]);
    const others = [1, 2, 3, 4, 5].map((id) => process.ioctl(vm, KVM_CREATE_VCPU, id));
    const results = [vcpu, ...others].map((fd) => process.run(fd));
    process.exit();
    const answers = await Promise.all(results);
    expect(answers).toEqual(answers.map(() => -EINTR));
  });

  test("readable waits for an eventfd without blocking, and leaves its flags alone", async () => {
    const process = start();
    const F_GETFL = 3;
    const fd = process.eventfd2(0, 0);
    const woken = process.readable(fd);
    setImmediate(() => process.write(fd, Uint8Array.of(1, 0, 0, 0, 0, 0, 0, 0)));
    expect(await woken).toBe(0);
    expect(process.fcntl(fd, F_GETFL)).toBe(O_RDWR);
    expect(await process.readable(fd)).toBe(0);
    expect(await process.readable(99)).toBe(-EBADF);
  });

  test("closing a descriptor wakes who waits for it", async () => {
    const process = start();
    const fd = process.eventfd2(0, 0);
    const woken = process.readable(fd);
    process.close(fd);
    expect(await woken).toBe(0);
  });

  test("the limit of descriptors is the process object's own", () => {
    const RLIMIT_NOFILE = 7;
    const process = start();
    const before = readFileSync("/proc/self/limits", "utf8");
    expect(process.setrlimit(RLIMIT_NOFILE, 5)).toBe(0);
    expect(readFileSync("/proc/self/limits", "utf8")).toBe(before);
    expect([process.eventfd2(0, 0), process.eventfd2(0, 0), process.eventfd2(0, 0)]).toEqual([3, 4, -EMFILE]);
    expect(process.eventfd2(0, 0x40)).toBe(-EINVAL);
    expect(readFileSync("/proc/self/limits", "utf8")).toBe(before);
  });

  test("fork is refused with a reason", () => {
    expect(() => start().fork()).toThrow("fork is not supported on the real kernel");
  });

  test("everything is released by exit", async () => {
    /** what is open or mapped and has to do with KVM or eventfds */
    const held = () => {
      const fds = readdirSync("/proc/self/fd").flatMap((fd) => {
        try {
          return [readlinkSync(`/proc/self/fd/${fd}`)];
        } catch {
          return []; // the descriptor that read the directory
        }
      });
      const maps = readFileSync("/proc/self/maps", "utf8").split("\n");
      return [...fds, ...maps].filter((line) => /kvm/.test(line)).length;
    };
    const before = held();
    const process = start();
    const { kvm, vm, vcpu } = machine(process, [0xf4]);
    expect(await process.run(vcpu)).toBe(0);
    expect(process.ioctl(kvm, KVM_CHECK_EXTENSION, 0)).toBe(1);
    process.dup(vm);
    expect(process.ioctl(vm, KVM_CREATE_DEVICE, KvmCreateDevice.encode({ type: 4 }))).toBe(0);
    // /dev/kvm, VM, vCPU, duplicate, device; the mapping of kvm_run
    expect(held()).toBe(before + 6);
    process.exit();
    expect(held()).toBe(before);
  });
});
