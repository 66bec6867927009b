/** A host under AMD's module (7.2): nested state, encrypted guests, TSCs; and a VM's clock over time. */
import { describe, expect, test } from "vitest";
import { errnoName } from "../../../lib/abi/errno.ts";
import {
  KVM_CAP_VM_COPY_ENC_CONTEXT_FROM,
  KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM,
  KVM_CREATE_VCPU,
  KVM_ENABLE_CAP,
  KVM_GET_DEVICE_ATTR,
  KvmDeviceAttr,
  KvmEnableCap,
} from "../../../lib/abi/kvm.ts";
import {
  KVM_GET_CLOCK,
  KVM_GET_NESTED_STATE,
  KVM_SET_CLOCK,
  KVM_SET_MSRS,
  KVM_VCPU_TSC_CTRL,
  KVM_VCPU_TSC_OFFSET,
  KvmClockData,
  KvmMsrEntry,
  KvmMsrs,
  KvmNestedState,
} from "../../../lib/abi/kvm-x86.ts";
import { load32, load64, store32 } from "../../../lib/abi/struct.ts";
import { builtinHosts } from "../../../lib/machine/builtin.ts";
import { profileFromHeader } from "../../../lib/machine/profile.ts";
import { mainline, X86 } from "./vm.ts";

const svm = profileFromHeader(builtinHosts.x86_64_7_2_svm);
const named = (result: number) => (result < 0 ? errnoName(-result) : result);

test("nested state: the room that the caller names decides, each time", () => {
  const { process, vcpu } = new X86({ profile: svm });
  const size = KvmNestedState.size;
  const memory = process.mmap(0, 0x4000, 3, 0x22, -1, 0);
  const bytes = process.memory(memory, 0x4000)!;
  const ask = (at: number, room: number) => {
    store32(bytes, at + 4, room);
    return [named(process.ioctl(vcpu, KVM_GET_NESTED_STATE, memory + at)), load32(bytes, at + 4)];
  };
  for (const [at, room] of [
    [0, size],
    [0x1000, size - 1],
    [0x2000, 0x1000],
    [0x1000, 8],
    [0x2ff8, 0],
    [0, 0x2000],
  ])
    expect([at, room, ...ask(at, room)]).toEqual([at, room, room < size ? "E2BIG" : 0, size]);
  expect(named(process.ioctl(vcpu, KVM_GET_NESTED_STATE, memory + 0x3ffc))).toBe("EFAULT");
});

test("another VM's encryption: EBADF and EINVAL for what is none, and EINVAL for flags before all", () => {
  const { process, vm } = new X86({ profile: svm });
  const enable = (cap: number, fd: number, flags = 0) =>
    named(
      process.ioctl(vm, KVM_ENABLE_CAP, KvmEnableCap.encode({ cap, flags, args: [BigInt(fd), 0n, 0n, 0n] })),
    );
  const closed = process.eventfd2(0, 0);
  process.close(closed);
  for (const cap of [KVM_CAP_VM_COPY_ENC_CONTEXT_FROM, KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM]) {
    expect(enable(cap, closed)).toBe("EBADF");
    expect(enable(cap, closed, 1)).toBe("EINVAL");
  }
});

describe("clocks", () => {
  test("KVM_SET_CLOCK, after any time: from there on it counts nanoseconds", () => {
    const { machine, process, vm } = new X86({ profile: mainline });
    const read = () => {
      const bytes = new Uint8Array(KvmClockData.size);
      expect(process.ioctl(vm, KVM_GET_CLOCK, bytes)).toBe(0);
      return KvmClockData.decode(bytes).clock;
    };
    for (const value of [5n, 1_000_000_000_000n, 0n]) {
      machine.kernel.clock.advance(3_000_000_000);
      expect(process.ioctl(vm, KVM_SET_CLOCK, KvmClockData.encode({ clock: value }))).toBe(0);
      expect(read()).toBe(value);
      machine.kernel.clock.advance(7);
      expect(read()).toBe(value + 7n);
    }
  });

  test("a TSC that is written where the one before is now, within a second, is the same time (kvm_synchronize_tsc)", () => {
    const hertz = BigInt(mainline.facts.tscKhz!) * 1000n;
    for (const [ahead, same] of [
      [0n, true],
      [hertz - 1n, true],
      [hertz, false],
      [-(hertz - 1n), true],
      [-hertz, false],
    ] as const) {
      const x86 = new X86({ profile: mainline });
      const { machine, process, vm, vcpu } = x86;
      const other = process.ioctl(vm, KVM_CREATE_VCPU, 1);
      const write = (fd: number, data: bigint) => {
        const bytes = new Uint8Array(KvmMsrs.size + KvmMsrEntry.size);
        bytes.set(KvmMsrs.encode({ nmsrs: 1 }));
        bytes.set(KvmMsrEntry.encode({ index: 0x10, data }), KvmMsrs.size);
        expect(process.ioctl(fd, KVM_SET_MSRS, bytes)).toBe(1);
      };
      const offset = (fd: number) => {
        const value = new Uint8Array(8);
        const argument = KvmDeviceAttr.encode({
          group: KVM_VCPU_TSC_CTRL,
          attr: BigInt(KVM_VCPU_TSC_OFFSET),
          addr: BigInt(process.addressOf(value)),
        });
        expect(process.ioctl(fd, KVM_GET_DEVICE_ATTR, argument)).toBe(0);
        return load64(value, 0);
      };
      const first = 1_000_000_000_000n;
      write(vcpu, first);
      machine.kernel.clock.advance(5_000_000_000);
      write(other, first + 5n * hertz + ahead);
      expect([ahead, offset(vcpu) === offset(other)]).toEqual([ahead, same]);
    }
  });
});
