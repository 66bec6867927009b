/** A vCPU's first run, its timers' state, and its list of registers (arch/arm64/kvm/arch_timer.c, arm.c, guest.c, 6.12). */
import { describe, expect, test } from "vitest";
import { errnoName } from "../../../lib/abi/errno.ts";
import {
  KVM_EXIT_MMIO,
  KVM_GET_ONE_REG,
  KVM_GET_REG_LIST,
  KVM_RUN,
  KVM_SET_ONE_REG,
  KvmOneReg,
} from "../../../lib/abi/kvm.ts";
import {
  KVM_REG_ARM_PTIMER_CNT,
  KVM_REG_ARM_PTIMER_CTL,
  KVM_REG_ARM_PTIMER_CVAL,
  KVM_REG_ARM_TIMER_CNT,
  KVM_REG_ARM_TIMER_CTL,
  KVM_REG_ARM_TIMER_CVAL,
  KvmRun,
} from "../../../lib/abi/kvm-arm64.ts";
import { load32, load64, store64 } from "../../../lib/abi/struct.ts";
import { store } from "../../../lib/kvm/arm64/guest.ts";
import { GicWorld } from "./gic-world.ts";

const PSCI_0_2 = 1 << 2;
const PMU_V3 = 1 << 3;
/** groups of a vCPU's attributes */
const [PMU, TIMER] = [0, 1];
const [PMU_IRQ, PMU_INIT] = [0, 1];

const named = (result: number) => (result < 0 ? errnoName(-result) : result);

describe("the first run", () => {
  test("an interrupt that the PMU has is none for a timer: EINVAL; from then on the timers keep theirs", () => {
    for (const irq of [20, 26, 27, 28, 30]) {
      const gic = new GicWorld(1, PSCI_0_2 | PMU_V3).initialise();
      const [vcpu] = gic.vcpus;
      expect(gic.set(vcpu, PMU, PMU_IRQ, irq)).toBe(0);
      expect(gic.set(vcpu, PMU, PMU_INIT, 0)).toBe(0);
      // 27 and 30 are the virtual and the physical timer's
      const shared = irq === 27 || irq === 30;
      const change = () => gic.set(vcpu, TIMER, 0, 21);
      expect(change()).toBe(0);
      expect(gic.set(vcpu, TIMER, 0, 27)).toBe(0);
      expect(named(gic.process.ioctl(vcpu, KVM_RUN, 0))).toBe(shared ? "EINVAL" : "EINTR");
      expect(change()).toBe(shared ? 0 : "EBUSY");
    }
  });

  test("with immediate_exit the guest takes no step", () => {
    const gic = new GicWorld().initialise();
    const vcpu = gic.vcpu(0);
    let steps = 0;
    vcpu.load(
      (function* () {
        for (;;) {
          steps++;
          yield* store(0x9000_0000, 4, 1);
        }
      })(),
    );
    const { pages } = vcpu.vcpu;
    const immediate = KvmRun.offsetOf.immediate_exit;
    const run = () => named(gic.process.ioctl(gic.vcpus[0], KVM_RUN, 0));
    pages[immediate] = 1;
    expect([run(), run(), steps]).toEqual(["EINTR", "EINTR", 0]);
    pages[immediate] = 0;
    expect([run(), steps, load32(pages, KvmRun.offsetOf.exit_reason)]).toEqual([0, 1, KVM_EXIT_MMIO]);
  });
});

describe("a timer's control register", () => {
  test.each([
    ["virtual", KVM_REG_ARM_TIMER_CTL, KVM_REG_ARM_TIMER_CVAL, KVM_REG_ARM_TIMER_CNT],
    ["physical", KVM_REG_ARM_PTIMER_CTL, KVM_REG_ARM_PTIMER_CVAL, KVM_REG_ARM_PTIMER_CNT],
  ])(
    "%s: ISTATUS says whether the counter has come to the value, whatever was written",
    (_name, ctl, cval, cnt) => {
      const { process, vcpus } = new GicWorld();
      const bytes = new Uint8Array(8);
      const addr = BigInt(process.addressOf(bytes));
      const access = (request: typeof KVM_GET_ONE_REG, id: bigint, value = 0n) => {
        store64(bytes, 0, value);
        expect(process.ioctl(vcpus[0], request, KvmOneReg.encode({ id, addr }))).toBe(0);
        return load64(bytes, 0);
      };
      access(KVM_SET_ONE_REG, cnt, 1000n);
      for (const compare of [0n, 999n, 1000n, 1001n, 2n ** 63n, 2n ** 64n - 1n])
        for (let control = 0n; control < 8n; control++) {
          access(KVM_SET_ONE_REG, cval, compare);
          access(KVM_SET_ONE_REG, ctl, control);
          expect([compare, access(KVM_GET_ONE_REG, ctl)]).toEqual([
            compare,
            (control & 3n) | (compare <= 1000n ? 4n : 0n),
          ]);
        }
    },
  );
});

describe("KVM_GET_REG_LIST", () => {
  test("EFAULT where the number cannot be written, or the list has no memory; E2BIG where it has no room", () => {
    const { process, vcpus } = new GicWorld();
    const PAGE = 4096;
    const ask = (address: number) => named(process.ioctl(vcpus[0], KVM_GET_REG_LIST, address));
    const area = process.mmap(0, 4 * PAGE, 3, 0x22, -1, 0);
    const bytes = process.memory(area, 4 * PAGE)!;
    expect(ask(area)).toBe("E2BIG");
    const count = Number(load64(bytes, 0));
    expect(count).toBeGreaterThan(100);

    // memory that ends before the list does, by one byte and not at all
    process.munmap(area + 3 * PAGE, PAGE);
    const end = 3 * PAGE;
    for (const [short, expected] of [
      [0, 0],
      [8, "EFAULT"],
      [8 * count, "EFAULT"],
    ] as const) {
      const at = end - 8 - 8 * count + short;
      store64(bytes, at, BigInt(count));
      expect([short, ask(area + at)]).toEqual([short, expected]);
    }
    for (const room of [0, count - 1]) {
      store64(bytes, end - 8, BigInt(room));
      expect(ask(area + end - 8)).toBe("E2BIG");
      expect(load64(bytes, end - 8)).toBe(BigInt(count));
    }

    // memory that can be read only
    const readable = process.mmap(0, PAGE, 1, 0x22, -1, 0);
    expect(ask(readable)).toBe("EFAULT");
  });
});
