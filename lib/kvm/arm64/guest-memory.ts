/**
 * Guest memory as the ITS reads and writes it: through the VM's slots into the memory of the program
 * (virt/kvm/kvm_main.c:kvm_read_guest, kvm_write_guest, 6.1).
 */
import { KVM_MEM_READONLY } from "../../abi/kvm.ts";
import type { GuestMemory } from "../../hardware/its.ts";
import type { Vm } from "../vm.ts";

const PAGE = 4096;

export class SlotMemory implements GuestMemory {
  readonly #vm: Vm;

  constructor(vm: Vm) {
    this.#vm = vm;
  }

  read(address: number, into: Uint8Array): boolean {
    for (let done = 0; done < into.length; ) {
      const part = Math.min(into.length - done, PAGE - ((address + done) % PAGE));
      const from = this.#vm.slots.userAddress(address + done);
      const bytes = from < 0 ? null : this.#vm.mm.copyIn(from, part);
      if (bytes === null) return false;
      into.set(bytes, done);
      done += part;
    }
    return true;
  }

  /** A slot that is read-only refuses. `marks`: the pages go into the bitmap of dirty ones, not into a vCPU's ring. */
  write(address: number, from: Uint8Array, marks = true): boolean {
    for (let done = 0; done < from.length; ) {
      const part = Math.min(from.length - done, PAGE - ((address + done) % PAGE));
      const frame = Math.floor((address + done) / PAGE);
      const slot = this.#vm.slots.find(frame);
      if (slot === undefined || (slot.flags & KVM_MEM_READONLY) !== 0) return false;
      const to = this.#vm.slots.userAddress(address + done);
      if (!this.#vm.mm.copyOut(to, from.subarray(done, done + part))) return false;
      if (marks) this.#vm.slots.markDirty(frame);
      done += part;
    }
    return true;
  }

  visible(address: number): boolean {
    return this.#vm.slots.find(Math.floor(address / PAGE)) !== undefined;
  }
}
