/**
 * Whether the TSCs of a VM's vCPUs agree (arch/x86/kvm/x86.c:kvm_synchronize_tsc, 6.18): only then can the VM's clock be
 * tied to the host's TSC. User space writes TSCs one vCPU after the other; a write that continues the one before (zero,
 * or within a second of where that one is now) is taken for the same time, and joins its generation.
 *
 * Missing: hosts whose TSC is unstable.
 */
import { hostTsc } from "./clock.ts";
import type { X86Vcpu } from "./vcpu.ts";

const KHZ = 1000n;
const NANOSECONDS = 1_000_000_000n;

export class TscSync {
  #generation = 0;
  /** vCPUs that joined the generation after its first */
  #joined = 0;
  #offset = 0n;
  #lastOffset = 0n;
  #lastKhz = 0;
  #lastWrite = 0n;
  #lastTime = 0;
  #setByUser = false;

  /** Whether so many vCPUs are all in one generation. */
  agrees(vcpus: number): boolean {
    return this.#joined + 1 === vcpus;
  }

  /** A vCPU is created (`value` undefined), or user space writes its TSC. */
  synchronize(vcpu: X86Vcpu, value?: bigint): void {
    const now = vcpu.vcpu.vm.kernel.clock.now;
    const data = value ?? 0n;
    let continues = data === 0n;
    if (!continues && (this.#setByUser || !vcpu.vcpu.vm.host.behaviour.tscOfUserFirst)) {
      const hertz = BigInt(vcpu.tscKhz) * KHZ;
      const elapsed = (BigInt(Math.floor(now - this.#lastTime)) * hertz) / NANOSECONDS;
      const expected = BigInt.asUintN(64, this.#lastWrite + elapsed);
      continues = data < BigInt.asUintN(64, expected + hertz) && BigInt.asUintN(64, data + hertz) > expected;
    }
    if (value !== undefined) this.#setByUser = true;
    const matched = continues && vcpu.tscKhz === this.#lastKhz;
    const offset = matched ? this.#offset : BigInt.asUintN(64, data - hostTsc(vcpu.vcpu.vm.host));
    this.#write(vcpu, offset, data, matched);
  }

  /** KVM_VCPU_TSC_OFFSET. */
  setOffset(vcpu: X86Vcpu, offset: bigint): void {
    const matched = this.#lastKhz === vcpu.tscKhz && this.#lastOffset === offset;
    this.#setByUser = true;
    this.#write(vcpu, offset, BigInt.asUintN(64, hostTsc(vcpu.vcpu.vm.host) + offset), matched);
  }

  #write(vcpu: X86Vcpu, offset: bigint, value: bigint, matched: boolean): void {
    this.#lastTime = vcpu.vcpu.vm.kernel.clock.now;
    this.#lastWrite = value;
    this.#lastKhz = vcpu.tscKhz;
    this.#lastOffset = offset;
    vcpu.setTscOffset(offset);
    if (!matched) {
      this.#generation++;
      this.#offset = offset;
      this.#joined = 0;
    } else if (vcpu.tscGeneration !== this.#generation) this.#joined++;
    vcpu.tscGeneration = this.#generation;
    // kvm_track_tsc_matching
    const { vm } = vcpu;
    if (vm.clock.master || this.agrees(vm.vm.vcpus.length)) vcpu.updatesClock = true;
  }
}
