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

  /** Adds a device behind those of the same range: 0, or −ENOSPC. */
  register(device: IoDevice): number {
    if (this.#counted > MAX_DEVICES - 1) return -ENOSPC;
    const devices = this.#devices;
    let at = devices.length;
    while (at > 0 && compare(devices[at - 1], device) > 0) at--;
    devices.splice(at, 0, device);
    if (!device.isIoeventfd) this.#counted++;
    return 0;
  }

  unregister(device: IoDevice): void {
    const index = this.#devices.indexOf(device);
    if (index < 0) return;
    this.#devices.splice(index, 1);
    if (!device.isIoeventfd) this.#counted--;
  }

  /** Offers a write to every device whose range holds it, until one takes it. */
  write(address: number, length: number, data: Uint8Array, at: number): boolean {
    for (let i = this.#first(address, length); i < this.#devices.length; i++) {
      const device = this.#devices[i];
      if (!holds(device, address, length)) break;
      if (device.write?.(address, length, data, at) === true) return true;
    }
    return false;
  }

  read(address: number, length: number, data: Uint8Array, at: number): boolean {
    for (let i = this.#first(address, length); i < this.#devices.length; i++) {
      const device = this.#devices[i];
      if (!holds(device, address, length)) break;
      if (device.read?.(address, length, data, at) === true) return true;
    }
    return false;
  }

  /** The first device whose range holds the access, or the end. */
  #first(address: number, length: number): number {
    const index = this.#devices.findIndex((device) => holds(device, address, length));
    return index < 0 ? this.#devices.length : index;
  }
}

/** Whether an access lies in a device's range (kvm_io_bus_cmp). */
const holds = (device: IoDevice, address: number, length: number): boolean =>
  address >= device.address &&
  (device.length === 0 ? address === device.address : address + length <= device.address + device.length);

const compare = (a: IoDevice, b: IoDevice): number =>
  a.address - b.address || a.address + a.length - (b.address + b.length);
