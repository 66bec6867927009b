/**
 * KVM_REGISTER_COALESCED_MMIO: writes of a guest into such a zone are collected in a ring and cause no exit
 * (virt/kvm/coalesced_mmio.c, 6.1).
 *
 * The zone, `struct kvm_coalesced_mmio_zone`, 16 bytes: addr u64 @0, size u32 @8, pio u32 @12 (1: a port).
 * The ring, one page of every vCPU's mapping: first u32, last u32, then entries of 24 bytes: phys_addr u64, len u32,
 * pio u32, data[8]. A ring with one free entry left is full, and the write becomes an exit.
 */
import { EFAULT, EINVAL, ENOMEM } from "../abi/errno.ts";
import { KvmCoalescedMmio, KvmCoalescedMmioZone } from "../abi/kvm.ts";
import { load32, store32, store64 } from "../abi/struct.ts";
import type { Argument } from "../kernel/argument.ts";
import type { IoDevice } from "./io-bus.ts";
import type { Vm, VmFile } from "./vm.ts";

const HEADER = 8;

export class CoalescedZone implements IoDevice {
  readonly isIoeventfd = false;
  readonly #vm: Vm;
  readonly address: number;
  readonly length: number;
  readonly pio: boolean;
  readonly #start: bigint;
  /** modulo 2^64: a zone that wraps holds nothing */
  readonly #end: bigint;
  readonly #limit: number;

  constructor(vm: Vm, start: bigint, length: number, pio: boolean) {
    this.#vm = vm;
    this.#start = start;
    this.#end = BigInt.asUintN(64, start + BigInt(length));
    this.#limit = Number(this.#end);
    this.address = Number(start);
    this.length = length;
    this.pio = pio;
  }

  /** Whether a range lies in the zone; a range that wraps, or whose length is negative as an `int`, does not. */
  holds(start: bigint, length: number): boolean {
    const end = BigInt.asUintN(64, start + BigInt(length));
    return length >= 0 && end >= start && start >= this.#start && end <= this.#end;
  }

  /** An access of a guest: its address has 52 bits at most. */
  write(address: number, length: number, data: Uint8Array, at: number): boolean {
    if (address < this.address || address + length > this.#limit) return false;
    const ring = this.#vm.coalescedRing;
    const entries = Math.floor((ring.length - HEADER) / KvmCoalescedMmio.size);
    const last = load32(ring, 4);
    if (last >= entries) return false;
    const first = load32(ring, 0);
    // older releases count modulo 2^32 first: with 170 entries a ring that nobody empties is full at 85
    const free = this.#vm.host.behaviour.coalescedRingWhole
      ? (first - last - 1 + entries) % entries
      : ((first - last - 1) >>> 0) % entries;
    if (free === 0) return false;
    const entry = HEADER + last * KvmCoalescedMmio.size;
    store64(ring, entry, address);
    store32(ring, entry + 8, length);
    store32(ring, entry + 12, this.pio ? 1 : 0);
    ring.set(data.subarray(at, at + length), entry + 16);
    store32(ring, 4, (last + 1) % entries);
    return true;
  }
}

/** EFAULT, EINVAL for `pio` other than 0 or 1, ENOSPC, ENOMEM. The same zone twice is legal. */
export function registerCoalescedMmio(file: VmFile, user: Argument): number {
  if (!user.readable(KvmCoalescedMmioZone.size)) return -EFAULT;
  const { addr, size, pio } = KvmCoalescedMmioZone.at(user.bytes, user.at);
  if (pio > 1) return -EINVAL;
  const vm = file.vm;
  if (vm.kernel.faults.allocation("kvm_coalesced_mmio_dev")) return -ENOMEM;
  const zone = new CoalescedZone(vm, addr, size, pio === 1);
  const registered = vm.buses[zone.pio ? "pio" : "mmio"].register(zone);
  if (registered < 0) return registered;
  vm.coalescedZones.push(zone);
  return 0;
}

/** Removes every zone that holds the given range. Removing nothing is no error. EFAULT, EINVAL for a bad `pio`. */
export function unregisterCoalescedMmio(file: VmFile, user: Argument): number {
  if (!user.readable(KvmCoalescedMmioZone.size)) return -EFAULT;
  const { addr, size, pio } = KvmCoalescedMmioZone.at(user.bytes, user.at);
  if (pio > 1) return -EINVAL;
  const vm = file.vm;
  for (const zone of vm.coalescedZones.slice()) {
    if (zone.pio !== (pio === 1) || !zone.holds(addr, size | 0)) continue;
    vm.buses[zone.pio ? "pio" : "mmio"].unregister(zone);
    vm.coalescedZones.splice(vm.coalescedZones.indexOf(zone), 1);
  }
  return 0;
}
