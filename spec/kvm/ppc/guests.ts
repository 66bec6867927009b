/** Guests in place of the machine code of the recordings in guest-code folders, and a kernel that runs them. */
import { KVM_RUN } from "../../../lib/abi/kvm.ts";
import { load64, store64 } from "../../../lib/abi/struct.ts";
import type { Process } from "../../../lib/kernel/process.ts";
import { type Guest, hypercall, load, store } from "../../../lib/kvm/ppc/guest.ts";
import { H_CPPR, H_EOI, H_XIRR } from "../../../lib/kvm/ppc/hypercalls.ts";
import type { PpcVcpu } from "../../../lib/kvm/ppc/vcpu.ts";
import type { KernelFactory } from "../../../lib/trace/replay.ts";
import { archOf, runningGuests } from "../recorded.ts";

const DEVICE = 0x9000_0000;
const CONSOLE = 0x9100_0000;

/** The vCPU behind a descriptor. */
export const vcpuOf = (process: Process, fd: number): PpcVcpu => archOf(process, fd);

/** A machine whose vCPUs run guests. */
export const withGuests = (guestOf: (vcpu: PpcVcpu) => Guest): KernelFactory =>
  runningGuests(KVM_RUN.powerpc, guestOf);

/** guest-code/guest: accesses that hit and miss ioeventfds, then one interrupt taken and ended. */
export function* ioeventfdsAndInterrupt(): Guest {
  yield* store(DEVICE, 4, 1);
  yield* store(DEVICE, 2, 1);
  yield* store(DEVICE + 0x10, 4, 5);
  yield* store(DEVICE + 0x10, 4, 6);
  yield* store(DEVICE + 0x20, 2, 6);
  yield* store(DEVICE + 0x20, 4, 6);
  for (const width of [1, 2, 8]) yield* store(DEVICE + 0x30, width, 6);
  yield* store(DEVICE + 0x40, 8, 0x1122_3344_5566_7788n);
  yield* store(DEVICE + 0x40, 4, 0x5566_7788);
  yield* store(DEVICE + 0x50, 1, 0x7f);
  yield* load(DEVICE, 4);
  yield* store(DEVICE + 4, 4, 0x7f);
  yield* load(DEVICE, 4);
  yield* store(DEVICE, 4, 0x7f00_0000);
  yield* hypercall(H_CPPR, 0xff);
  yield* store(CONSOLE, 4, 0x77);
  let xirr = 0;
  while ((xirr & 0xff_ffff) === 0) [, xirr] = yield* hypercall(H_XIRR);
  yield* store(CONSOLE, 4, xirr);
  yield* hypercall(H_EOI, xirr);
  yield* store(CONSOLE, 4, 0x99);
}

const EDU = 0x6000_0000;

/** guest-code/vfio-kvm: an assigned edu device raises its interrupt three times. */
export function* eduInterrupts(): Guest {
  yield* store(CONSOLE, 4, yield* load(EDU, 4));
  yield* hypercall(H_CPPR, 0xff);
  for (let round = 0; round < 3; round++) {
    yield* store(CONSOLE, 4, 0x77);
    yield* store(EDU + 0x60, 4, 1);
    let xirr = 0;
    while ((xirr & 0xff_ffff) === 0) [, xirr] = yield* hypercall(H_XIRR);
    yield* store(CONSOLE, 4, xirr);
    yield* store(EDU + 0x64, 4, yield* load(EDU + 0x24, 4));
    yield* hypercall(H_EOI, xirr);
    yield* store(CONSOLE, 4, 0x98);
  }
  yield* store(CONSOLE, 4, 0x99);
}

/** Where the mailbox of a vCPU lies in guest memory: number and two arguments, then at 32 the answers. */
const mailbox = (vcpu: PpcVcpu): number => 0x2000 + 0x1000 * vcpu.vcpu.id;

/** guest-code/hypercalls: for ever, makes the hypercall in the mailbox, after telling that it waits for one. */
export function* mailboxes(vcpu: PpcVcpu): Guest {
  const { slots, mm } = vcpu.vcpu.vm;
  for (;;) {
    yield* store(CONSOLE, 4, 0x11);
    const address = slots.userAddress(mailbox(vcpu));
    const request = mm.copyIn(address, 32)!;
    const word = (at: number) => Number(load64(request, at));
    const answers = yield* hypercall(word(0), word(8), word(16), word(24));
    const bytes = new Uint8Array(24);
    answers.forEach((answer, i) => {
      store64(bytes, 8 * i, BigInt(answer));
    });
    mm.copyOut(address + 32, bytes);
  }
}
