/**
 * The real Linux kernel of this host, behind the interface that the fake has:
 *
 *     const native = nativeKernel();
 *     if (!native.available) console.log(native.reason);
 *     else {
 *       const process = native.process();
 *       const kvm = process.open("/dev/kvm", O_RDWR);
 *       …
 *       process.exit();
 *     }
 *
 * koffi, which makes the calls, is an optional package and is loaded here, not before.
 */
import { EACCES, ENOENT, EPERM, errnoName } from "../abi/errno.ts";
import { O_CLOEXEC, O_RDWR } from "../abi/fcntl.ts";
import { KVM_GET_API_VERSION } from "../abi/kvm.ts";
import { interrupted } from "./alarm.ts";
import { FreshDescriptors } from "./descriptors.ts";
import { loadLibc } from "./libc.ts";
import { NativeProcess, type NativeSyscalls } from "./process.ts";

export interface NativeKernel {
  readonly available: true;
  /** A process object. `descriptors`: "fresh" numbers from 3 on as in a new process (the default), or the host's. */
  process(options?: { descriptors?: "fresh" | "host" }): NativeSyscalls;
  /** Makes a call that −EINTR ends after so many milliseconds: a KVM_RUN that may never return. */
  interrupted(milliseconds: number, call: () => number): number;
}

/** Why there is no real kernel to ask. */
export interface Unavailable {
  readonly available: false;
  readonly reason: string;
}

/** The API version of every kernel since 2.6.22 */
const API_VERSION = 12;

/**
 * The host's kernel, or the reason why it cannot be used. `kvm` is the device that "/dev/kvm" stands for; null for
 * programs that need none.
 */
export function nativeKernel(options: { kvm?: string | null } = {}): NativeKernel | Unavailable {
  const libc = loadLibc();
  if (libc instanceof Error) return { available: false, reason: libc.message };
  const { kvm = "/dev/kvm" } = options;
  if (kvm !== null) {
    const fd = libc.open(kvm, O_RDWR | O_CLOEXEC);
    if (fd < 0) return { available: false, reason: whyNot(kvm, -fd) };
    const version = libc.ioctl(fd, KVM_GET_API_VERSION.number, 0);
    libc.close(fd);
    if (version !== API_VERSION)
      return { available: false, reason: `${kvm} is not KVM: KVM_GET_API_VERSION answers ${version}` };
  }
  return {
    available: true,
    process({ descriptors = "fresh" } = {}) {
      const process = new NativeProcess(libc, { kvm: kvm ?? undefined });
      return descriptors === "host" ? process : new FreshDescriptors(process);
    },
    interrupted: (milliseconds, call) => interrupted(libc, milliseconds, call),
  };
}

function whyNot(path: string, errno: number): string {
  if (errno === ENOENT) return `this host has no ${path}`;
  if (errno === EACCES || errno === EPERM)
    return `${path} may not be opened by this user (group kvm, or root)`;
  return `${path} cannot be opened: ${errnoName(errno)}`;
}
