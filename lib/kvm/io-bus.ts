/**
 * Where a guest's port and memory accesses are offered before they become an exit: registered ranges in the order of
 * their addresses (virt/kvm/kvm_main.c:kvm_io_bus_write, 6.1). ioeventfds, coalesced zones and the in-kernel chips
 * stand on these buses.
 */
import { ENOSPC } from "../abi/errno.ts";

/** NR_IOBUS_DEVS (include/linux/kvm_host.h, 6.1): ioeventfds are not counted */
const MAX_DEVICES = 1000;

/** Something on a bus. `write` and `read` answer whether they took the access. */
export interface IoDevice {
  /** start and length in bytes; a length of 0 matches every access that starts at the address */
  readonly address: number;
  readonly length: number;
  readonly isIoeventfd: boolean;
  write?(address: number, length: number, data: Uint8Array, at: number): boolean;
  read?(address: number, length: number, data: Uint8Array, at: number): boolean;
}

export class IoBus {
  #devices: IoDevice[] = [];
  #counted = 0;

  get devices(): readonly IoDevice[] {
    return this.#devices;
  }

  /** Adds a device before the first that starts or ends behind it: 0, or −ENOSPC. */
  register(device: IoDevice): number {
    if (this.#counted > MAX_DEVICES - 1) return -ENOSPC;
    const devices = this.#devices;
    let at = 0;
    while (at < devices.length && compare(devices[at].address, devices[at].length, device) <= 0) at++;
    devices.splice(at, 0, device);
    if (!device.isIoeventfd) this.#counted++;
    return 0;
  }

  /** Registers ranges that answer elsewhere, the chips of the kernel: all of them and 0, or none and −ENOSPC. */
  hold(ranges: readonly IoDevice[]): number {
    if (this.#counted + ranges.length > MAX_DEVICES) return -ENOSPC;
    for (const range of ranges) this.register(range);
    return 0;
  }

  release(ranges: readonly IoDevice[]): void {
    for (const range of ranges) this.unregister(range);
  }

  unregister(device: IoDevice): void {
    const index = this.#devices.indexOf(device);
    if (index < 0) return;
    this.#devices.splice(index, 1);
    if (!device.isIoeventfd) this.#counted--;
  }

  /** Offers a write to the devices whose range holds it, until one takes it. */
  write(address: number, length: number, data: Uint8Array, at: number): boolean {
    for (let i = this.#first(address, length); i < this.#devices.length; i++) {
      const device = this.#devices[i];
      if (compare(address, length, device) !== 0) break;
      if (device.write?.(address, length, data, at) === true) return true;
    }
    return false;
  }

  read(address: number, length: number, data: Uint8Array, at: number): boolean {
    for (let i = this.#first(address, length); i < this.#devices.length; i++) {
      const device = this.#devices[i];
      if (compare(address, length, device) !== 0) break;
      if (device.read?.(address, length, data, at) === true) return true;
    }
    return false;
  }

  /**
   * Where the devices begin whose range holds the access, or the end. Ranges may lie in one another, and then they
   * need not stand side by side: which run of them is found depends on how the search halves, so it halves as Linux
   * does (lib/bsearch.c, virt/kvm/kvm_main.c:kvm_io_bus_get_first_dev, 6.1).
   */
  #first(address: number, length: number): number {
    const devices = this.#devices;
    let base = 0;
    for (let count = devices.length; count > 0; ) {
      const pivot = base + (count >> 1);
      const order = compare(address, length, devices[pivot]);
      if (order === 0) {
        let first = pivot;
        while (first > 0 && compare(address, length, devices[first - 1]) === 0) first--;
        return first;
      }
      if (order > 0) {
        base = pivot + 1;
        count--;
      }
      count >>= 1;
    }
    return devices.length;
  }
}

/** 0: the access lies in the device's range (or starts where a range without length does); kvm_io_bus_cmp (6.1). */
function compare(address: number, length: number, device: IoDevice): number {
  if (address < device.address) return -1;
  const past =
    device.length === 0 ? address > device.address : address + length > device.address + device.length;
  return past ? 1 : 0;
}

/** The range of a chip that answers elsewhere. */
export const heldRange = (address: number, length: number): IoDevice => ({
  address,
  length,
  isIoeventfd: false,
});
