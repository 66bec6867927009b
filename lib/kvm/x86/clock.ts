/**
 * Time: KVM_GET/SET_CLOCK (the kvmclock of a VM), KVM_GET/SET_TSC_KHZ on a VM and a vCPU, KVM_KVMCLOCK_CTRL
 * (arch/x86/kvm/x86.c:get_kvmclock, kvm_set_tsc_khz, 6.1 and 6.18). All of it follows the virtual clock.
 *
 * `struct kvm_clock_data`, 48 bytes: clock u64 in nanoseconds, flags u32 @8, realtime u64 @16, host_tsc u64 @24.
 * Realtime and host_tsc are told once the VM's clock is tied to the host's TSC (the "master clock").
 */
import { EFAULT, EINVAL } from "../../abi/errno.ts";
import {
  KVM_CLOCK_HOST_TSC,
  KVM_CLOCK_REALTIME,
  KVM_CLOCK_TSC_STABLE,
  KVM_GET_CLOCK,
  KVM_GET_TSC_KHZ,
  KVM_KVMCLOCK_CTRL,
  KVM_SET_CLOCK,
  KVM_SET_TSC_KHZ,
  KvmClockData,
} from "../../abi/kvm-x86.ts";
import type { Argument } from "../../kernel/argument.ts";
import type { Clock } from "../../kernel/clock.ts";
import { answering } from "../copy-out.ts";
import type { Entry } from "../dispatch.ts";
import type { KvmHost } from "../host.ts";
import type { VcpuFile } from "../vcpu.ts";
import type { VmFile } from "../vm.ts";
import type { X86Vcpu } from "./vcpu.ts";
import type { X86Vm } from "./vm.ts";

const MASTER_CLOCK = KVM_CLOCK_TSC_STABLE | KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC;
/** how far a frequency may be from the host's without scaling: 250 ppm */
const TOLERANCE = 250;
const MILLION = 1_000_000;
/** a host that does not tell */
const DEFAULT_TSC_KHZ = 2_000_000;

export const hostTscKhz = (host: KvmHost): number => host.facts.tscKhz ?? DEFAULT_TSC_KHZ;

/** The host's TSC now. */
export const hostTsc = (host: KvmHost): bigint =>
  (BigInt(Math.floor(host.kernel.clock.now)) * BigInt(hostTscKhz(host))) / BigInt(MILLION);

/** The kvmclock of a VM: the host's clock plus an offset. */
export class KvmClock {
  readonly #clock: Clock;
  #offset: bigint;
  /** tied to the host's TSC: from the first KVM_SET_CLOCK or KVM_RUN on, if every vCPU's TSC agrees */
  master = false;

  constructor(clock: Clock) {
    this.#clock = clock;
    this.#offset = -this.#monotonic;
  }

  get #monotonic(): bigint {
    return BigInt(Math.floor(this.#clock.now));
  }
  get now(): bigint {
    return BigInt.asUintN(64, this.#monotonic + this.#offset);
  }
  set now(value: bigint) {
    this.#offset = value - this.#monotonic;
  }
  get realtime(): bigint {
    return BigInt(this.#clock.bootTime) + this.#monotonic;
  }
}

const getClock = answering(KvmClockData.size, (file: VmFile, bytes, at) => {
  const { clock } = file.vm.arch as X86Vm;
  bytes.fill(0, at, at + KvmClockData.size);
  const data = KvmClockData.at(bytes, at);
  data.clock = clock.now;
  if (!clock.master) return;
  data.flags = MASTER_CLOCK;
  data.realtime = clock.realtime;
  data.host_tsc = hostTsc(file.vm.host);
});

/** EFAULT; EINVAL for unknown flags. With KVM_CLOCK_REALTIME the time since then is added. */
function setClock(file: VmFile, user: Argument): number {
  if (!user.readable(KvmClockData.size)) return -EFAULT;
  const { vm } = file;
  const { clock } = vm.arch as X86Vm;
  const data = KvmClockData.at(user.bytes, user.at);
  if ((data.flags & ~MASTER_CLOCK) !== 0) return -EINVAL;
  clock.master = (vm.arch as X86Vm).tscSync.agrees(vm.vcpus.length);
  const elapsed = clock.realtime - data.realtime;
  clock.now = data.clock + ((data.flags & KVM_CLOCK_REALTIME) !== 0 && elapsed > 0n ? elapsed : 0n);
  return 0;
}

/** The frequency that new vCPUs get. EINVAL once there is one, since 6.17. */
function setVmTscKhz(file: VmFile, user: Argument): number {
  if (file.vm.vcpus.length !== 0 && file.vm.host.behaviour.settledByVcpus) return -EINVAL;
  (file.vm.arch as X86Vm).tscKhz = user.low === 0 ? hostTscKhz(file.vm.host) : user.low;
  return 0;
}

/**
 * EINVAL for a frequency below the host's that would need scaling. It is kept all the same, as in Linux; a higher one
 * is taken: the guest's clock catches up.
 */
function setVcpuTscKhz(file: VcpuFile, user: Argument): number {
  const vcpu = file.vcpu.arch as X86Vcpu;
  const host = hostTscKhz(file.vcpu.vm.host);
  vcpu.tscKhz = user.low === 0 ? host : user.low;
  return vcpu.tscKhz < Math.floor((host * (MILLION - TOLERANCE)) / MILLION) ? -EINVAL : 0;
}

/** EINVAL while the guest has no kvmclock. */
function kvmclockCtrl(file: VcpuFile): number {
  return (file.vcpu.arch as X86Vcpu).msrs.kvmclockOn ? 0 : -EINVAL;
}

/** The frequency is answered as an `int`: one of 2^31 and more is negative, and looks like an error. */
export const clockVmIoctls: readonly Entry<VmFile>[] = [
  [KVM_GET_CLOCK, getClock],
  [KVM_SET_CLOCK, setClock],
  [KVM_SET_TSC_KHZ, setVmTscKhz],
  [KVM_GET_TSC_KHZ, (file) => (file.vm.arch as X86Vm).tscKhz | 0],
];
export const clockVcpuIoctls: readonly Entry<VcpuFile>[] = [
  [KVM_SET_TSC_KHZ, setVcpuTscKhz],
  [KVM_GET_TSC_KHZ, (file) => (file.vcpu.arch as X86Vcpu).tscKhz | 0],
  [KVM_KVMCLOCK_CTRL, kvmclockCtrl],
];
