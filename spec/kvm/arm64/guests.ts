/** Guests in place of the machine code of the recordings in guest-code folders, and a kernel that runs them. */
import { KVM_RUN } from "../../../lib/abi/kvm.ts";
import {
  ICC_AP0R0_EL1,
  ICC_AP1R0_EL1,
  ICC_BPR0_EL1,
  ICC_BPR1_EL1,
  ICC_CTLR_EL1,
  ICC_DIR_EL1,
  ICC_EOIR0_EL1,
  ICC_EOIR1_EL1,
  ICC_HPPIR0_EL1,
  ICC_HPPIR1_EL1,
  ICC_IAR0_EL1,
  ICC_IAR1_EL1,
  ICC_IGRPEN0_EL1,
  ICC_IGRPEN1_EL1,
  ICC_PMR_EL1,
  ICC_RPR_EL1,
  ICC_SGI1R_EL1,
  ICC_SRE_EL1,
} from "../../../lib/hardware/gic-cpu-interface.ts";
import type { Process } from "../../../lib/kernel/process.ts";
import {
  type Guest,
  load,
  readRegister,
  type Step,
  store,
  wfi,
  writeRegister,
} from "../../../lib/kvm/arm64/guest.ts";
import type { Arm64Vcpu } from "../../../lib/kvm/arm64/vcpu.ts";
import type { KernelFactory } from "../../../lib/trace/replay.ts";
import { archOf, runningGuests } from "../recorded.ts";

const DEVICE = 0x9000_0000;
const CONSOLE = 0x9100_0000;
const GICD = 0x0800_0000;
const SPURIOUS = 1023;

/** The vCPU behind a descriptor. */
export const vcpuOf = (process: Process, fd: number): Arm64Vcpu => archOf(process, fd);

/** A machine whose vCPUs run guests. */
export const withGuests = (guestOf: (vcpu: Arm64Vcpu) => Guest): KernelFactory =>
  runningGuests(KVM_RUN.number, guestOf);

/** Sleeps until there is an interrupt, and acknowledges it. */
export function* takeInterrupt(): Step<number> {
  for (;;) {
    const intid = yield* readRegister(ICC_IAR1_EL1);
    if (intid !== SPURIOUS) return intid;
    yield* wfi();
  }
}

/** guest-code/guest: accesses that hit and miss ioeventfds, then SPI 35 taken and ended. */
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
  yield* writeRegister(ICC_SRE_EL1, 7);
  yield* writeRegister(ICC_PMR_EL1, 0xff);
  yield* writeRegister(ICC_IGRPEN1_EL1, 1);
  yield* store(GICD, 4, 0x12);
  // SPIs 32 to 47 are level-triggered; SPI 35 is enabled
  yield* store(GICD + 0xc08, 4, 0);
  yield* store(GICD + 0x104, 4, 8);
  yield* store(CONSOLE, 4, 0x77);
  const intid = yield* takeInterrupt();
  yield* store(CONSOLE, 4, intid);
  yield* writeRegister(ICC_EOIR1_EL1, intid);
  yield* store(CONSOLE, 4, 0x99);
  for (;;) yield* wfi();
}

const EDU = 0x6000_0000;
const LEVEL_SPIS = 0xc08;
const ENABLE_SPIS = 0x104;
const SPI_35 = 1 << 3;
/** The edu device: its identification, what it wants, raise, acknowledge. */
const [EDU_ID, EDU_STATUS, EDU_RAISE, EDU_ACKNOWLEDGE] = [0, 0x24, 0x60, 0x64];

/** guest-code/vfio-kvm: an assigned edu device raises its level interrupt three times. */
export function* eduInterrupts(): Guest {
  yield* store(CONSOLE, 4, yield* load(EDU + EDU_ID, 4));
  yield* writeRegister(ICC_SRE_EL1, 7);
  yield* writeRegister(ICC_PMR_EL1, 0xff);
  yield* writeRegister(ICC_IGRPEN1_EL1, 1);
  yield* store(GICD, 4, 0x12);
  yield* store(GICD + LEVEL_SPIS, 4, 0);
  yield* store(GICD + ENABLE_SPIS, 4, SPI_35);
  for (let round = 0; round < 3; round++) {
    yield* store(CONSOLE, 4, 0x77);
    yield* store(EDU + EDU_RAISE, 4, 1);
    const intid = yield* takeInterrupt();
    yield* store(CONSOLE, 4, intid);
    yield* store(EDU + EDU_ACKNOWLEDGE, 4, yield* load(EDU + EDU_STATUS, 4));
    yield* writeRegister(ICC_EOIR1_EL1, intid);
    yield* store(CONSOLE, 4, 0x98);
  }
  yield* store(CONSOLE, 4, 0x99);
}

/** Where the mailbox of a vCPU lies: what to do and two arguments, then at 32 the answer. */
const mailbox = (vcpu: Arm64Vcpu): number => 0x4000_2000 + 0x1000 * vcpu.vcpu.id;

/** What a mailbox may ask: loads and stores by their width, reads and writes by their register. */
const stores = new Map([
  [1n, 4],
  [3n, 1],
  [5n, 8],
  [30n, 2],
]);
const loads = new Map([
  [2n, 4],
  [4n, 1],
  [6n, 8],
]);
const reads = new Map([
  [7n, ICC_IAR1_EL1],
  [9n, ICC_IAR0_EL1],
  [12n, ICC_RPR_EL1],
  [13n, ICC_HPPIR1_EL1],
  [14n, ICC_HPPIR0_EL1],
  [15n, ICC_PMR_EL1],
  [17n, ICC_CTLR_EL1],
  [19n, ICC_BPR0_EL1],
  [21n, ICC_BPR1_EL1],
  [23n, ICC_IGRPEN0_EL1],
  [25n, ICC_IGRPEN1_EL1],
  [27n, ICC_AP0R0_EL1],
  [28n, ICC_AP1R0_EL1],
  [31n, ICC_SRE_EL1],
]);
const writes = new Map([
  [8n, ICC_EOIR1_EL1],
  [10n, ICC_EOIR0_EL1],
  [11n, ICC_DIR_EL1],
  [16n, ICC_PMR_EL1],
  [18n, ICC_CTLR_EL1],
  [20n, ICC_BPR0_EL1],
  [22n, ICC_BPR1_EL1],
  [24n, ICC_IGRPEN0_EL1],
  [26n, ICC_IGRPEN1_EL1],
  [29n, ICC_SGI1R_EL1],
]);

/** guest-code/mailbox: for ever, does what its mailbox says, after telling that it waits. */
export function* mailboxes(vcpu: Arm64Vcpu): Guest {
  const own = mailbox(vcpu);
  for (;;) {
    yield* store(CONSOLE, 4, 0x11);
    const action = yield* load(own, 8);
    const a = yield* load(own + 8, 8);
    const b = yield* load(own + 16, 8);
    let answer = 0n;
    if (stores.has(action)) yield* store(Number(a), stores.get(action)!, b);
    else if (loads.has(action)) answer = yield* load(Number(a), loads.get(action)!);
    else if (reads.has(action)) answer = BigInt(yield* readRegister(reads.get(action)!));
    else if (writes.has(action)) yield* writeRegister(writes.get(action)!, a);
    yield* store(own + 32, 8, answer);
  }
}
