/**
 * KVM_GET_STATS_FD: a file with the counters of a VM or a vCPU (virt/kvm/binary_stats.c:kvm_stats_read, 6.1;
 * Documentation/virt/kvm/api.rst 4.133).
 *
 * Header, 24 bytes: flags, name_size (48), num_desc, id_offset (24), desc_offset, data_offset, u32 each. The id, 48 bytes:
 * "kvm-PID" or "kvm-PID/vcpu-N". A descriptor, 64 bytes: flags u32 (type, unit, base), exponent s16, size u16 in values,
 * offset u32 into the data, bucket_size u32, name[48]. Then the data, u64 a value.
 *
 * Missing: the process id (there is none here: "kvm-1"), and counting: all values are 0 but those that someone sets in
 * `values`.
 */
import { EFAULT } from "../abi/errno.ts";
import { O_RDONLY } from "../abi/fcntl.ts";
import {
  KVM_GET_STATS_FD,
  KVM_STATS_TYPE_INSTANT,
  KVM_STATS_TYPE_LOG_HIST,
  KVM_STATS_UNIT_BOOLEAN,
  KVM_STATS_UNIT_SECONDS,
  KvmStatsDesc,
  KvmStatsHeader,
} from "../abi/kvm.ts";
import { store64 } from "../abi/struct.ts";
import type { Argument } from "../kernel/argument.ts";
import { File } from "../kernel/file.ts";
import type { Entry } from "./dispatch.ts";
import type { KvmHost } from "./host.ts";
import type { VcpuFile } from "./vcpu.ts";
import type { Vm, VmFile } from "./vm.ts";

/** One counter of a kind of file. Offsets are given: their order need not be that of the descriptors. */
export interface StatDescriptor {
  readonly name: string;
  /** KVM_STATS_TYPE_*, _UNIT_*, _BASE_* */
  readonly flags: number;
  readonly exponent: number;
  /** how many values: 1, or the buckets of a histogram */
  readonly size: number;
  /** bytes from the start of the data */
  readonly offset: number;
}

const NAME_SIZE = 48;
const LOG_HISTOGRAM_BUCKETS = 32;

/** Counters of one value each that follow what is in front of them. */
export function counters(before: readonly StatDescriptor[], names: readonly string[]): StatDescriptor[] {
  const start = Math.max(0, ...before.map(({ offset, size }) => offset + size * 8));
  return names.map((name, i) => ({ name, flags: 0, exponent: 0, size: 1, offset: start + i * 8 }));
}

/** What every architecture counts for a VM (include/linux/kvm_host.h:KVM_GENERIC_VM_STATS, 6.1). */
export const genericVmStats: readonly StatDescriptor[] = counters(
  [],
  ["remote_tlb_flush", "remote_tlb_flush_requests"],
);

const polls = counters(
  [],
  ["halt_successful_poll", "halt_attempted_poll", "halt_poll_invalid", "halt_wakeup"],
);
const nanoseconds = { flags: KVM_STATS_UNIT_SECONDS, exponent: -9 };
const times = counters(polls, ["halt_poll_success_ns", "halt_poll_fail_ns", "halt_wait_ns"]).map((stat) => ({
  ...stat,
  ...nanoseconds,
}));
const histograms = ["halt_poll_success_hist", "halt_poll_fail_hist", "halt_wait_hist"].map((name, i) => ({
  name,
  flags: KVM_STATS_TYPE_LOG_HIST | KVM_STATS_UNIT_SECONDS,
  exponent: -9,
  size: LOG_HISTOGRAM_BUCKETS,
  offset: 8 * (polls.length + times.length + i * LOG_HISTOGRAM_BUCKETS),
}));
const waits = [...polls, ...times, ...histograms];
/** What every architecture counts for a vCPU (include/linux/kvm_host.h:KVM_GENERIC_VCPU_STATS, 6.1). */
export const genericVcpuStats: readonly StatDescriptor[] = [
  ...waits,
  ...counters(waits, ["blocking"]).map((stat) => ({
    ...stat,
    flags: KVM_STATS_TYPE_INSTANT | KVM_STATS_UNIT_BOOLEAN,
  })),
];

/** Everything in front of the data. */
function describe(id: string, descriptors: readonly StatDescriptor[]): Uint8Array {
  const descriptorSize = KvmStatsDesc.size + NAME_SIZE;
  const descOffset = KvmStatsHeader.size + NAME_SIZE;
  const dataOffset = descOffset + descriptors.length * descriptorSize;
  const end = Math.max(0, ...descriptors.map(({ offset, size }) => offset + size * 8));
  const bytes = new Uint8Array(dataOffset + end);
  bytes.set(
    KvmStatsHeader.encode({
      name_size: NAME_SIZE,
      num_desc: descriptors.length,
      id_offset: KvmStatsHeader.size,
      desc_offset: descOffset,
      data_offset: dataOffset,
    }),
  );
  writeName(bytes, KvmStatsHeader.size, id);
  descriptors.forEach(({ name, flags, exponent, size, offset }, i) => {
    const at = descOffset + i * descriptorSize;
    bytes.set(KvmStatsDesc.encode({ flags, exponent, size, offset }), at);
    writeName(bytes, at + KvmStatsDesc.size, name);
  });
  return bytes;
}

function writeName(bytes: Uint8Array, at: number, name: string): void {
  for (let i = 0; i < name.length && i < NAME_SIZE - 1; i++) bytes[at + i] = name.charCodeAt(i);
}

/** The counters of every host, or what a host has. */
type Descriptors = readonly StatDescriptor[] | ((host: KvmHost) => readonly StatDescriptor[]);
const descriptorsOf = (descriptors: Descriptors, host: KvmHost): readonly StatDescriptor[] =>
  typeof descriptors === "function" ? descriptors(host) : descriptors;

export class StatsFile extends File {
  readonly name: string;
  override readonly stream = false;
  readonly #vm: Vm;
  readonly #content: Uint8Array;

  constructor(vm: Vm, name: string, id: string, descriptors: readonly StatDescriptor[]) {
    super(vm.kernel, O_RDONLY);
    this.#vm = vm.get();
    this.name = name;
    this.#content = describe(id, descriptors);
  }

  /** Sets one value, for whoever counts. */
  set(offset: number, value: number | bigint): void {
    const dataOffset = KvmStatsHeader.at(this.#content).data_offset;
    store64(this.#content, dataOffset + offset, value);
  }

  /** Up to the end; 0 behind it. EFAULT. */
  override read(user: Argument, count: number, offset: number): number {
    const length = Math.max(0, Math.min(count, this.#content.length - offset));
    if (length === 0) return 0;
    if (!user.writable(length)) return -EFAULT;
    user.bytes.set(this.#content.subarray(offset, offset + length), user.at);
    return length;
  }

  override release(): void {
    this.#vm.put();
  }
}

/** KVM_GET_STATS_FD on a VM with these counters. */
export const statsVmIoctls = (descriptors: Descriptors): readonly Entry<VmFile>[] => [
  [
    KVM_GET_STATS_FD,
    ({ vm }, _user, process) =>
      process.install(
        new StatsFile(vm, "anon_inode:kvm-vm-stats", "kvm-1", descriptorsOf(descriptors, vm.host)),
        true,
      ),
  ],
];

/** KVM_GET_STATS_FD on a vCPU with these counters. */
export const statsVcpuIoctls = (descriptors: Descriptors): readonly Entry<VcpuFile>[] => [
  [
    KVM_GET_STATS_FD,
    ({ vcpu: { vm, id } }, _user, process) => {
      const name = `anon_inode:kvm-vcpu-stats:${id}`;
      return process.install(
        new StatsFile(vm, name, `kvm-1/vcpu-${id}`, descriptorsOf(descriptors, vm.host)),
        true,
      );
    },
  ],
];
