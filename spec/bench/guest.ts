/** A VM whose vCPU runs a few bytes of real-mode code at 0x1000. */
import {
  KVM_CREATE_IRQCHIP,
  KVM_CREATE_VCPU,
  KVM_CREATE_VM,
  KVM_GET_VCPU_MMAP_SIZE,
  KVM_SET_USER_MEMORY_REGION,
  KvmMsi,
  KvmUserspaceMemoryRegion,
} from "../../lib/abi/kvm.ts";
import {
  KVM_GET_LAPIC,
  KVM_GET_SREGS,
  KVM_SET_LAPIC,
  KVM_SET_REGS,
  KVM_SET_SREGS,
  KvmLapicState,
  KvmRegs,
  KvmSregs,
} from "../../lib/abi/kvm-x86.ts";
import { store32 } from "../../lib/abi/struct.ts";
import type { Syscalls } from "../../lib/kernel/syscalls.ts";

const MEMORY = 0x10000;
const CODE = 0x1000;
const PROT_RW = 3;
const MAP_SHARED = 1;
const MAP_SHARED_ANONYMOUS = 0x21;

/** mov al, 1; again: out 0x80, al; jmp again */
export const portLoop = [0xb0, 0x01, 0xe6, 0x80, 0xeb, 0xfc];
/** again: mov cx, 0xffff; inner: dec cx; jnz inner; out 0x80, al; jmp again */
export const countLoop = [0xb9, 0xff, 0xff, 0x49, 0x75, 0xfd, 0xe6, 0x80, 0xeb, 0xf6];
/** instructions of `countLoop` from exit to exit */
export const COUNT_LOOP_LENGTH = 2 * 0xffff + 3;

/** again: sti; hlt; jmp again */
const waitLoop = [0xfb, 0xf4, 0xeb, 0xfc];
const VECTOR = 0x45;
const HANDLER = 0x2000;
/** mov dword es:[0xb0], 0; out 0x80, al; iret: ES reaches the local APIC */
const handler = [0x26, 0x66, 0xc7, 0x06, 0xb0, 0, 0, 0, 0, 0, 0xe6, 0x80, 0xcf];
/** an MSI for the local APIC of vCPU 0 */
export const message = KvmMsi.encode({ address_lo: 0xfee0_0000, data: VECTOR });

/**
 * A guest that waits for interrupts, ends each at its local APIC, and then tells it by a port: the VM's descriptor and the
 * vCPU's.
 */
export function interruptedGuest(process: Syscalls): { vm: number; vcpu: number } {
  const { vm, vcpu } = guestOf(process, waitLoop, (vm, memory) => {
    process.ioctl(vm, KVM_CREATE_IRQCHIP, 0);
    memory.set(handler, HANDLER);
    memory.set([HANDLER & 0xff, HANDLER >> 8, 0, 0], 4 * VECTOR);
  });
  const sregs = new Uint8Array(KvmSregs.size);
  process.ioctl(vcpu, KVM_GET_SREGS, sregs);
  KvmSregs.at(sregs).es.base = 0xfee0_0000n;
  process.ioctl(vcpu, KVM_SET_SREGS, sregs);
  process.ioctl(vcpu, KVM_SET_REGS, KvmRegs.encode({ rip: CODE, rflags: 2, rsp: 0x8000 }));
  const lapic = new Uint8Array(KvmLapicState.size);
  process.ioctl(vcpu, KVM_GET_LAPIC, lapic);
  store32(lapic, 0xf0, 0x1ff); // SPIV: enabled
  process.ioctl(vcpu, KVM_SET_LAPIC, lapic);
  return { vm, vcpu };
}

/** The descriptors of the VM and the vCPU, and its kvm_run. `prepare` runs before there is a vCPU. */
export function guestOf(
  process: Syscalls,
  code: readonly number[],
  prepare: (vm: number, memory: Uint8Array) => void = () => {},
): { vm: number; vcpu: number; run: Uint8Array } {
  const kvm = process.open("/dev/kvm", 0x80002);
  const vm = process.ioctl(kvm, KVM_CREATE_VM, 0);
  const memory = process.mmap(0, MEMORY, PROT_RW, MAP_SHARED_ANONYMOUS, -1, 0);
  process.memory(memory, MEMORY)!.set(code, CODE);
  const region = { slot: 0, guest_phys_addr: 0, memory_size: MEMORY, userspace_addr: memory };
  process.ioctl(vm, KVM_SET_USER_MEMORY_REGION, KvmUserspaceMemoryRegion.encode(region));
  prepare(vm, process.memory(memory, MEMORY)!);
  const vcpu = process.ioctl(vm, KVM_CREATE_VCPU, 0);
  const size = process.ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
  const run = process.memory(process.mmap(0, size, PROT_RW, MAP_SHARED, vcpu, 0), size)!;
  const sregs = new Uint8Array(KvmSregs.size);
  process.ioctl(vcpu, KVM_GET_SREGS, sregs);
  const { cs } = KvmSregs.at(sregs);
  cs.base = 0n;
  cs.selector = 0;
  process.ioctl(vcpu, KVM_SET_SREGS, sregs);
  process.ioctl(vcpu, KVM_SET_REGS, KvmRegs.encode({ rip: CODE, rflags: 2 }));
  return { vm, vcpu, run };
}
