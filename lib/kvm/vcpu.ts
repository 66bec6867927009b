/**
 * A virtual CPU: what every architecture shares of it, and its file (virt/kvm/kvm_main.c:kvm_vcpu_ioctl, 6.1 and
 * 6.18). Its mapping holds `struct kvm_run` in the first page, on x86 the data of port accesses in the second and the
 * coalesced ring in the third, and from page 64 on the dirty ring, if there is one.
 */
import { EFAULT, EINTR, EINVAL, EIO, EPERM } from "../abi/errno.ts";
import { O_RDWR } from "../abi/fcntl.ts";
import { KVM_ENABLE_CAP, KVM_RUN, KVMIO, KvmEnableCap } from "../abi/kvm.ts";
import { PROT_EXEC } from "../abi/mman.ts";
import { type Backing, PAGE_SIZE, SIGBUS } from "../kernel/address-space.ts";
import type { Argument } from "../kernel/argument.ts";
import { File } from "../kernel/file.ts";
import type { Process } from "../kernel/process.ts";
import type { Signals } from "../kernel/signals.ts";
import type { KvmArch, VcpuArch } from "./arch.ts";
import { DirtyRing } from "./dirty-ring.ts";
import { type Entry, handlerOf, type Table, table } from "./dispatch.ts";
import { checkAnnouncedIrqchip } from "./irqchip-type.ts";
import { signalMaskIoctls } from "./signal-mask.ts";
import type { Vm } from "./vm.ts";

/** KVM_DIRTY_LOG_PAGE_OFFSET on x86 and arm64, in pages */
const DIRTY_RING_PAGE = 64;
const EEXIST = 17;

export class Vcpu {
  readonly vm: Vm;
  readonly id: number;
  /** its place in the order of creation */
  index = 0;
  arch: VcpuArch | undefined;
  /** the signals that may end its KVM_RUN, and which of them are blocked meanwhile, where that was said */
  signals: Signals | undefined;
  signalMask: bigint | undefined;
  /** its KVM_RUN on a thread of its own has to return */
  kicked = false;
  /** what it waits for while it sleeps in KVM_RUN, else empty */
  waitsFor = "";
  #pages: Uint8Array | undefined;
  #dirtyRing: DirtyRing | undefined;

  constructor(vm: Vm, id: number) {
    this.vm = vm;
    this.id = id;
  }

  /** Makes the architecture's part: 0 or −errno. A used id is found last, as in Linux. */
  create(): number {
    const arch = this.vm.host.arch.createVcpu(this.vm, this);
    if (typeof arch === "number") return arch;
    this.arch = arch;
    if (this.vm.vcpuById.has(this.id)) {
      arch.destroy();
      return -EEXIST;
    }
    return 0;
  }

  /** The bytes of the mapping, made at the first use: kvm_run at 0. */
  get pages(): Uint8Array {
    this.#pages ??= new Uint8Array(this.vm.host.vcpuMmapSize);
    return this.#pages;
  }

  /** A signal ends KVM_RUN. */
  get interrupted(): boolean {
    return this.kicked || this.signals?.interrupts(this.signalMask) === true;
  }

  /** Only where the VM has dirty rings. */
  get dirtyRing(): DirtyRing {
    this.#dirtyRing ??= new DirtyRing(this.vm.dirtyRingSize);
    return this.#dirtyRing;
  }
}

export class VcpuFile extends File {
  readonly vcpu: Vcpu;
  readonly #handlers: Table<VcpuFile>;

  /** a KVM_RUN on a thread of its own is under way: other calls wait for its end */
  #running = false;

  constructor(vcpu: Vcpu) {
    super(vcpu.vm.kernel, O_RDWR);
    this.vcpu = vcpu;
    this.#handlers = vcpuIoctls(vcpu.vm.host.arch);
    vcpu.vm.get();
  }

  get name(): string {
    return `anon_inode:kvm-vcpu:${this.vcpu.id}`;
  }

  override ioctl(process: Process, request: number, user: Argument): number {
    const vm = this.vcpu.vm;
    if (vm.mm !== process.mm || vm.dead) return -EIO;
    if (((request >>> 8) & 0xff) !== KVMIO) return -EINVAL;
    if (this.#running) {
      vm.kernel.deadlocks.push(`a call waits for the KVM_RUN of vCPU ${this.vcpu.id}`);
      return -EINTR;
    }
    const handler = handlerOf(this.#handlers, request);
    return handler === undefined ? -EINVAL : handler(this, user, process);
  }

  override begin(process: Process): number {
    const { vcpu } = this;
    const { vm } = vcpu;
    if (vm.mm !== process.mm || vm.dead) return -EIO;
    const refused = checkAnnouncedIrqchip(vcpu);
    if (refused < 0) return refused;
    vcpu.signals = process.signals;
    this.#running = true;
    return this.#step(vcpu.arch!.run(true));
  }

  override resume(): number {
    return this.#step(this.vcpu.arch!.resume!());
  }

  #step(answer: number): number {
    if (answer > 0) return answer;
    this.#running = false;
    this.vcpu.kicked = false;
    return answer;
  }

  override get waitsFor(): string {
    return this.vcpu.waitsFor;
  }

  override kick(): void {
    this.vcpu.kicked = true;
    this.kernel.stir();
  }

  /** Any range may be mapped; a page with nothing behind it takes SIGBUS. The dirty ring must be shared, and no code. */
  override mmap(offset: number, length: number, prot: number, shared: boolean): Backing | number {
    const vm = this.vcpu.vm;
    if ((prot & PROT_EXEC) !== 0 && vm.host.behaviour.anonymousNoexec) return -EPERM;
    const ringStart = DIRTY_RING_PAGE * PAGE_SIZE;
    const inRing = (at: number) => at >= ringStart && at < ringStart + vm.dirtyRingSize;
    const asPages = shared && (prot & PROT_EXEC) === 0;
    if ((inRing(offset) || inRing(offset + length - PAGE_SIZE)) && !asPages) return -EINVAL;
    const pages = this.vcpu.pages;
    if (vm.dirtyRingSize === 0 || offset + length <= ringStart)
      return { bytes: pages.subarray(offset, offset + length) };
    const ring = this.vcpu.dirtyRing.bytes;
    if (offset >= ringStart) return { bytes: ring.subarray(offset - ringStart, offset - ringStart + length) };
    return { device: either(beyond(pages, offset), beyond(ring, offset - ringStart)) };
  }

  override release(): void {
    this.vcpu.vm.put();
  }
}

/** A mapping that reaches from the pages of a vCPU to its dirty ring, as far as one of them goes. */
function beyond(pages: Uint8Array, offset: number) {
  const inside = (at: number, width: number) => offset + at >= 0 && offset + at + width <= pages.length;
  return {
    load(at: number, width: number): number | bigint | typeof SIGBUS {
      if (!inside(at, width)) return SIGBUS;
      let value = 0n;
      for (let i = width - 1; i >= 0; i--) value = (value << 8n) | BigInt(pages[offset + at + i]);
      return width === 8 ? value : Number(value);
    },
    store(at: number, width: number, value: number | bigint): typeof SIGBUS | 0 {
      if (!inside(at, width)) return SIGBUS;
      for (let i = 0; i < width; i++)
        pages[offset + at + i] = Number((BigInt(value) >> BigInt(8 * i)) & 0xffn);
      return 0;
    },
  };
}

type Beyond = ReturnType<typeof beyond>;

/** Where the first has nothing, the second. */
function either(first: Beyond, second: Beyond): Beyond {
  return {
    load(at, width) {
      const value = first.load(at, width);
      return value === SIGBUS ? second.load(at, width) : value;
    },
    store(at, width, value) {
      return first.store(at, width, value) === SIGBUS ? second.store(at, width, value) : 0;
    },
  };
}

/** KVM_ENABLE_CAP on a vCPU: the architecture decides. */
function enableCap(file: VcpuFile, user: Argument, process: Process): number {
  if (!user.readable(KvmEnableCap.size)) return -EFAULT;
  const { cap, flags, args } = KvmEnableCap.decode(user.bytes, user.at);
  return file.vcpu.arch!.enableCap!(cap, flags, args, process);
}
/** For architectures whose vCPUs know it. */
export const vcpuCapIoctls: readonly Entry<VcpuFile>[] = [[KVM_ENABLE_CAP, enableCap]];

const common: readonly Entry<VcpuFile>[] = [
  [
    KVM_RUN,
    ({ vcpu }, user, process) => {
      if (user.value !== 0) return -EINVAL;
      const refused = checkAnnouncedIrqchip(vcpu);
      if (refused < 0) return refused;
      vcpu.signals = process.signals;
      const result = vcpu.arch!.run(false);
      vcpu.kicked = false;
      return result;
    },
  ],
  ...signalMaskIoctls,
];

const tables = new WeakMap<KvmArch, Table<VcpuFile>>();

/** The table of an architecture: the common requests, then its own. */
export function vcpuIoctls(arch: KvmArch): Table<VcpuFile> {
  let found = tables.get(arch);
  if (found === undefined) tables.set(arch, (found = table(arch.encoding, ...common, ...arch.vcpuIoctls)));
  return found;
}
