/**
 * How irqfd resampling works, step by step, with a guest that really takes the interrupt; in a browser too. On the fake
 * a KVM_RUN that nothing can ever wake answers EINTR; on a real kernel it would sleep until a signal.
 *
 * The guest initialises the PIC for level-triggered IRQ 5 and sleeps. Its handler tells the device (port 0x3f8, an exit
 * to the VMM) and ends the interrupt; only then is the resamplefd signalled, and only then is the line down again.
 */
import { EINTR } from "../abi/errno.ts";
import { EFD_NONBLOCK } from "../abi/eventfd.ts";
import { O_RDWR } from "../abi/fcntl.ts";
import {
  KVM_CREATE_IRQCHIP,
  KVM_CREATE_VCPU,
  KVM_CREATE_VM,
  KVM_GET_VCPU_MMAP_SIZE,
  KVM_IRQFD,
  KVM_IRQFD_FLAG_DEASSIGN,
  KVM_IRQFD_FLAG_RESAMPLE,
  KVM_RUN,
  KVM_SET_USER_MEMORY_REGION,
  KvmIrqfd,
  KvmUserspaceMemoryRegion,
} from "../abi/kvm.ts";
import { KVM_GET_SREGS, KVM_SET_REGS, KVM_SET_SREGS, KvmRegs, KvmSregs } from "../abi/kvm-x86.ts";
import { MAP_SHARED } from "../abi/mman.ts";
import { load32 } from "../abi/struct.ts";
import type { Syscalls } from "../kernel/syscalls.ts";

const PROT_RW = 3;
const MAP_SHARED_ANONYMOUS = 0x21;
const MEMORY = 0x10000;
const GSI = 5;
/** the vector of IRQ 5 behind ICW2 = 0x20 */
const VECTOR = 0x25;
const CODE = 0x1000;
const HANDLER = 0x1100;
const STACK = 0x8000;
const EXIT_REASON = 8;
const KVM_EXIT_IO = 2;

/** mov al, value; out port, al */
const out8 = (port: number, value: number): number[] => [0xb0, value, 0xe6, port];
/** mov dx, port; mov al, value; out dx, al */
const out16 = (port: number, value: number): number[] => [0xba, port & 0xff, port >> 8, 0xb0, value, 0xee];

const code = [
  0xfa, // cli
  ...[0x11, 0x20, 0x04, 0x01].flatMap((value, i) => out8(i === 0 ? 0x20 : 0x21, value)), // ICW1 to ICW4
  ...out8(0x21, ~(1 << GSI) & 0xff), // all masked but IRQ 5
  ...out16(0x4d0, 1 << GSI), // IRQ 5 is level triggered
  0xfb, // sti
  0xf4, // hlt
  0xeb, // jmp back to hlt
  0xfd,
];
const handler = [...out16(0x3f8, 0x21), ...out8(0x20, 0x20), 0xcf]; // tell the device, end of interrupt, iret

/** Runs it; each step in words, with what was seen. */
export function resampling(kernel: Syscalls): string[] {
  const steps: string[] = [];
  const kvm = kernel.open("/dev/kvm", O_RDWR);
  const vm = kernel.ioctl(kvm, KVM_CREATE_VM, 0);
  kernel.ioctl(vm, KVM_CREATE_IRQCHIP, 0);

  const memory = kernel.mmap(0, MEMORY, PROT_RW, MAP_SHARED_ANONYMOUS, -1, 0);
  const guest = kernel.memory(memory, MEMORY)!;
  guest.set(code, CODE);
  guest.set(handler, HANDLER);
  guest.set([HANDLER & 0xff, HANDLER >> 8, 0, 0], 4 * VECTOR);
  const region = { slot: 0, guest_phys_addr: 0, memory_size: MEMORY, userspace_addr: memory };
  kernel.ioctl(vm, KVM_SET_USER_MEMORY_REGION, KvmUserspaceMemoryRegion.encode(region));

  const vcpu = kernel.ioctl(vm, KVM_CREATE_VCPU, 0);
  const size = kernel.ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
  const page = kernel.mmap(0, size, PROT_RW, MAP_SHARED, vcpu, 0);
  const run = kernel.memory(page, size)!;
  const sregs = new Uint8Array(KvmSregs.size);
  kernel.ioctl(vcpu, KVM_GET_SREGS, sregs);
  const { cs } = KvmSregs.at(sregs);
  cs.base = 0n;
  cs.selector = 0;
  kernel.ioctl(vcpu, KVM_SET_SREGS, sregs);
  kernel.ioctl(vcpu, KVM_SET_REGS, KvmRegs.encode({ rip: CODE, rsp: STACK, rflags: 2 }));

  const trigger = kernel.eventfd2(0, EFD_NONBLOCK);
  const resample = kernel.eventfd2(0, EFD_NONBLOCK);
  const binding = { fd: trigger, gsi: GSI, flags: KVM_IRQFD_FLAG_RESAMPLE, resamplefd: resample };
  kernel.ioctl(vm, KVM_IRQFD, KvmIrqfd.encode(binding));
  const resampled = (): number => {
    const buffer = new Uint8Array(8);
    return kernel.read(resample, buffer) < 0 ? 0 : load32(buffer, 0);
  };
  const enter = (): string => {
    const result = kernel.ioctl(vcpu, KVM_RUN, 0);
    if (result === -EINTR) return "the guest sleeps";
    if (load32(run, EXIT_REASON) === KVM_EXIT_IO) return "the handler runs and tells the device";
    return `exit ${load32(run, EXIT_REASON)}, result ${result}`;
  };

  steps.push(`KVM_RUN: ${enter()}`);
  kernel.write(trigger, Uint8Array.of(1, 0, 0, 0, 0, 0, 0, 0));
  steps.push(`the device signals its eventfd: the line of GSI ${GSI} is up; resamplefd: ${resampled()}`);
  steps.push(`KVM_RUN: ${enter()}; resamplefd: ${resampled()}`);
  steps.push(`KVM_RUN: the handler ends the interrupt, ${enter()}; resamplefd: ${resampled()}`);
  steps.push(`KVM_RUN: nothing is raised again, ${enter()}; resamplefd: ${resampled()}`);

  kernel.ioctl(vm, KVM_IRQFD, KvmIrqfd.encode({ ...binding, flags: KVM_IRQFD_FLAG_DEASSIGN }));
  kernel.munmap(page, size);
  kernel.munmap(memory, MEMORY);
  for (const fd of [trigger, resample, vcpu, vm, kvm]) kernel.close(fd);
  return steps;
}
