/** Guests in place of the machine code of the recordings in guest-code folders, and a kernel that runs them. */
import { KVM_RUN } from "../../../lib/abi/kvm.ts";
import {
  ICC_EOIR1_EL1,
  ICC_IAR1_EL1,
  ICC_IGRPEN1_EL1,
  ICC_PMR_EL1,
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
import { VcpuFile } from "../../../lib/kvm/vcpu.ts";
import { Machine } from "../../../lib/machine/machine.ts";
import { profileFromHeader } from "../../../lib/machine/profile.ts";
import type { KernelFactory } from "../../../lib/trace/replay.ts";

const DEVICE = 0x9000_0000;
const CONSOLE = 0x9100_0000;
const GICD = 0x0800_0000;
const SPURIOUS = 1023;

/** The vCPU behind a descriptor. */
export function vcpuOf(process: Process, fd: number): Arm64Vcpu {
  const file = process.fds.get(fd);
  if (!(file instanceof VcpuFile)) throw new Error(`descriptor ${fd} is no vCPU`);
  return file.vcpu.arch as Arm64Vcpu;
}

/** A machine as the header describes it, whose vCPUs run guests from the first KVM_RUN on. */
export const withGuests =
  (guestOf: (vcpu: Arm64Vcpu) => Guest): KernelFactory =>
  (header) => {
    const machine = new Machine(profileFromHeader(header));
    const loaded = new Set<Arm64Vcpu>();
    return {
      process: (options) => machine.process(options),
      run(syscalls, fd) {
        const process = syscalls as Process;
        const vcpu = vcpuOf(process, fd);
        if (!loaded.has(vcpu)) vcpu.load(guestOf(vcpu));
        loaded.add(vcpu);
        return process.ioctl(fd, KVM_RUN.number, 0);
      },
    };
  };

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
