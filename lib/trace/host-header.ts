/**
 * The header of a trace: the host profile, asked of the kernel itself by the system calls that a program has for it.
 *
 * Missing: `devices`, `pci` and `host`, which are not KVM's to tell; the facts of other architectures than x86.
 */
import { O_CLOEXEC, O_RDWR } from "../abi/fcntl.ts";
import type { Request } from "../abi/ioctl.ts";
import {
  KVM_CHECK_EXTENSION,
  KVM_CREATE_VCPU,
  KVM_CREATE_VM,
  KVM_GET_DEVICE_ATTR,
  KVM_GET_VCPU_MMAP_SIZE,
  KvmDeviceAttr,
} from "../abi/kvm.ts";
import {
  KVM_GET_EMULATED_CPUID,
  KVM_GET_MSR_FEATURE_INDEX_LIST,
  KVM_GET_MSR_INDEX_LIST,
  KVM_GET_MSRS,
  KVM_GET_SUPPORTED_CPUID,
  KVM_GET_SUPPORTED_HV_CPUID,
  KVM_GET_TSC_KHZ,
  KVM_GET_XSAVE,
  KVM_X86_GET_MCE_CAP_SUPPORTED,
  KVM_X86_GRP_SYSTEM,
  KVM_X86_XCOMP_GUEST_SUPP,
  KvmCpuid2,
  KvmCpuidEntry2,
  KvmMsrEntry,
  KvmMsrList,
  KvmMsrs,
  KvmXsave,
} from "../abi/kvm-x86.ts";
import { load32, load64, store32 } from "../abi/struct.ts";
import type { Syscalls } from "../kernel/syscalls.ts";
import { type TraceHeader, toHex } from "./format.ts";

/** Capability numbers that are asked: 0 to this. */
const LAST_CAPABILITY = 260;
const CPUID_ENTRIES = 256;
/** where the software bytes of an XSAVE area tell which components a process has */
const SOFTWARE_XFEATURES = 464;

/** What the kernel cannot be asked: its name. `hostRelease` of `files.ts` tells it of the host of this program. */
export type Names = Pick<TraceHeader, "kernel" | "arch" | "kvm" | "kernel_build">;

/** The header of what a process of this kernel would record. The process is left as it was. */
export function hostHeader(
  process: Syscalls,
  names: Names,
  about: { scenario?: string; about?: string } = {},
): TraceHeader {
  const header: TraceHeader = {
    format: "kvm-vfio-trace",
    version: 1,
    ...about,
    ...names,
    host: {},
    devices: [],
  };
  const kvm = process.open("/dev/kvm", O_RDWR | O_CLOEXEC);
  if (kvm < 0) return header;
  const vm = process.ioctl(kvm, KVM_CREATE_VM, 0);
  header.capabilities = { system: capabilities(process, kvm), vm: capabilities(process, vm) };
  header.vcpuMmapSize = process.ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE);
  if (names.arch === "x86_64") header.facts = x86Facts(process, kvm, vm);
  process.close(vm);
  process.close(kvm);
  return header;
}

/** Those that answer more than 0. */
function capabilities(process: Syscalls, fd: number): Record<string, number> {
  const answers: Record<string, number> = {};
  for (let number = 0; number <= LAST_CAPABILITY; number++) {
    const value = process.ioctl(fd, KVM_CHECK_EXTENSION, number);
    if (value > 0) answers[number] = value;
  }
  return answers;
}

function x86Facts(process: Syscalls, kvm: number, vm: number): Record<string, unknown> {
  const hyperv = cpuid(process, kvm, KVM_GET_SUPPORTED_HV_CPUID);
  const msrFeatureIndices = indices(process, kvm, KVM_GET_MSR_FEATURE_INDEX_LIST);
  return {
    supportedCpuid: cpuid(process, kvm, KVM_GET_SUPPORTED_CPUID),
    emulatedCpuid: cpuid(process, kvm, KVM_GET_EMULATED_CPUID),
    ...(hyperv !== "" && { hypervCpuid: hyperv }),
    msrIndices: toHex(indices(process, kvm, KVM_GET_MSR_INDEX_LIST)),
    msrFeatureIndices: toHex(msrFeatureIndices),
    msrFeatureValues: featureValues(process, kvm, msrFeatureIndices),
    ...processorFacts(process, kvm, vm),
  };
}

/** The TSC's frequency, machine checks, the components of XSAVE: what the host's processor is to a vCPU. */
function processorFacts(process: Syscalls, kvm: number, vm: number): Record<string, unknown> {
  const vcpu = process.ioctl(vm, KVM_CREATE_VCPU, 0);
  const tscKhz = process.ioctl(vcpu, KVM_GET_TSC_KHZ, 0);
  const mceCap = new Uint8Array(8);
  const hasMce = process.ioctl(kvm, KVM_X86_GET_MCE_CAP_SUPPORTED, mceCap) >= 0;
  const guestXcr0 = guestComponents(process, kvm);
  const xsave = new Uint8Array(KvmXsave.size);
  const hasXsave = process.ioctl(vcpu, KVM_GET_XSAVE, xsave) >= 0;
  process.close(vcpu);
  return {
    ...(tscKhz > 0 && { tscKhz }),
    ...(hasMce && { mceCap: `0x${load64(mceCap, 0).toString(16)}` }),
    ...(guestXcr0 !== undefined && { guestXcr0 }),
    ...(hasXsave && { userXfeatures: load32(xsave, SOFTWARE_XFEATURES) }),
  };
}

function guestComponents(process: Syscalls, kvm: number): number | undefined {
  const value = new Uint8Array(8);
  const attribute = KvmDeviceAttr.encode({
    group: KVM_X86_GRP_SYSTEM,
    attr: KVM_X86_XCOMP_GUEST_SUPP,
    addr: process.addressOf(value),
  });
  return process.ioctl(kvm, KVM_GET_DEVICE_ATTR, attribute) < 0 ? undefined : load32(value, 0);
}

/** The entries, as many as the kernel says that it filled. */
function cpuid(process: Syscalls, kvm: number, request: Request): string {
  const bytes = new Uint8Array(KvmCpuid2.size + CPUID_ENTRIES * KvmCpuidEntry2.size);
  store32(bytes, 0, CPUID_ENTRIES);
  if (process.ioctl(kvm, request, bytes) < 0) return "";
  return toHex(bytes.subarray(KvmCpuid2.size, KvmCpuid2.size + load32(bytes, 0) * KvmCpuidEntry2.size));
}

/** Asked with no room the kernel says how many there are (E2BIG), then it gives them. */
function indices(process: Syscalls, kvm: number, request: Request): Uint8Array {
  const head = new Uint8Array(KvmMsrList.size);
  process.ioctl(kvm, request, head);
  const bytes = new Uint8Array(KvmMsrList.size + 4 * load32(head, 0));
  bytes.set(head);
  return process.ioctl(kvm, request, bytes) < 0 ? new Uint8Array(0) : bytes.subarray(KvmMsrList.size);
}

/** MSR by MSR: one that cannot be read is left out. */
function featureValues(process: Syscalls, kvm: number, list: Uint8Array): Record<string, string> {
  const values: Record<string, string> = {};
  for (let at = 0; at < list.length; at += 4) {
    const index = load32(list, at);
    const bytes = new Uint8Array(KvmMsrs.size + KvmMsrEntry.size);
    store32(bytes, 0, 1);
    store32(bytes, KvmMsrs.size, index);
    if (process.ioctl(kvm, KVM_GET_MSRS, bytes) === 1)
      values[`0x${index.toString(16)}`] = toHex(bytes.subarray(KvmMsrs.size + 8));
  }
  return values;
}
