/**
 * /dev/kvm (virt/kvm/kvm_main.c:kvm_dev_ioctl, 6.1). An argument where none belongs answers EINVAL, and so does a
 * request that is not known: this file never answers ENOTTY.
 */
import { EINVAL, EMFILE, ENOMEM, EOPNOTSUPP } from "../abi/errno.ts";
import {
  KVM_API_VERSION,
  KVM_CHECK_EXTENSION,
  KVM_CREATE_VM,
  KVM_GET_API_VERSION,
  KVM_GET_VCPU_MMAP_SIZE,
} from "../abi/kvm.ts";
import { KVM_TRACE_DISABLE, KVM_TRACE_ENABLE, KVM_TRACE_PAUSE } from "../abi/kvm-legacy.ts";
import type { Argument } from "../kernel/argument.ts";
import { File } from "../kernel/file.ts";
import type { Process } from "../kernel/process.ts";
import type { KvmArch } from "./arch.ts";
import { type Entry, handlerOf, type Table, table } from "./dispatch.ts";
import type { KvmHost } from "./host.ts";
import { Vm, VmFile } from "./vm.ts";

export class KvmSystem extends File {
  readonly name = "/dev/kvm";
  override readonly stream = false;
  readonly host: KvmHost;
  readonly #handlers: Table<KvmSystem>;

  constructor(host: KvmHost, flags: number) {
    super(host.kernel, flags);
    this.host = host;
    this.#handlers = systemIoctls(host.arch);
  }

  override ioctl(process: Process, request: number, user: Argument): number {
    const handler = handlerOf(this.#handlers, request);
    return handler === undefined ? -EINVAL : handler(this, user, process);
  }
}

/** KVM_CREATE_VM: EMFILE before the type is looked at, EINVAL for a type that cannot be, ENOMEM. */
function createVm(file: KvmSystem, user: Argument, process: Process): number {
  if (process.fds.lowestFree() < 0) return -EMFILE;
  const refused = file.host.arch.checkVmType(user.value, file.host);
  if (refused < 0) return refused;
  if (file.kernel.faults.allocation("kvm")) return -ENOMEM;
  return process.install(new VmFile(new Vm(file.host, process.mm, user.low)), true);
}

/** Tracing, gone since 2.6.29: known by name until it was forgotten. */
const trace = ({ host }: KvmSystem): number => (host.behaviour.kvmTraceForgotten ? -EINVAL : -EOPNOTSUPP);

const common: readonly Entry<KvmSystem>[] = [
  [KVM_GET_API_VERSION, (_file, user) => (user.value !== 0 ? -EINVAL : KVM_API_VERSION)],
  [KVM_CREATE_VM, createVm],
  [
    KVM_CHECK_EXTENSION,
    (file, user) => (user.value > 0xffff_ffff ? 0 : (file.host.systemCapabilities.get(user.low) ?? 0)),
  ],
  ...[KVM_TRACE_ENABLE, KVM_TRACE_PAUSE, KVM_TRACE_DISABLE].map((request) => [request, trace] as const),
  [KVM_GET_VCPU_MMAP_SIZE, (file, user) => (user.value !== 0 ? -EINVAL : file.host.vcpuMmapSize)],
];

const tables = new WeakMap<KvmArch, Table<KvmSystem>>();

/** The table of an architecture: the common requests, then its own. */
export function systemIoctls(arch: KvmArch): Table<KvmSystem> {
  let found = tables.get(arch);
  if (found === undefined) tables.set(arch, (found = table(arch.encoding, ...common, ...arch.systemIoctls)));
  return found;
}
