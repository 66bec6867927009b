/** Mapping a vCPU: its pages, its dirty ring, and what lies around them. */
import { KVM_CREATE_VCPU, KVM_CREATE_VM, KVM_ENABLE_CAP, KvmEnableCap } from "../../lib/abi/kvm.ts";
import { type Answers, agreement, named } from "./contract.ts";

const PAGE = 4096;
const EXEC = 4;
const SHARED = 1;
const PRIVATE = 2;
const KVM_CAP_DIRTY_LOG_RING = 192;
/** KVM_DIRTY_LOG_PAGE_OFFSET */
const RING = 64;

agreement(
  "every place, length, protection and kind of mapping, with a ring of two pages and without",
  (process) => {
    const answers: Answers = {};
    for (const ring of [0, 2 * PAGE]) {
      const vm = process.ioctl(process.open("/dev/kvm", 2), KVM_CREATE_VM, 0);
      if (ring !== 0)
        answers.enable = named(
          process.ioctl(
            vm,
            KVM_ENABLE_CAP,
            KvmEnableCap.encode({ cap: KVM_CAP_DIRTY_LOG_RING, args: [BigInt(ring), 0n, 0n, 0n] }),
          ),
        );
      const vcpu = process.ioctl(vm, KVM_CREATE_VCPU, 0);
      for (const at of [0, 1, 2, 3, RING - 1, RING, RING + 1, RING + 2, RING + 3])
        for (const pages of [1, 2, 3])
          for (const protection of [1, 3, 1 | EXEC])
            for (const kind of [SHARED, PRIVATE]) {
              const address = process.mmap(0, pages * PAGE, protection, kind, vcpu, at * PAGE);
              const name = `ring ${ring}, page ${at}, ${pages} pages, protection ${protection}, ${kind}`;
              if (address < 0) answers[name] = named(address);
              else {
                answers[name] = Array.from({ length: pages }, (_, i) =>
                  String(process.load(address + i * PAGE + PAGE - 8, 4)),
                );
                process.munmap(address, pages * PAGE);
              }
            }
    }
    return answers;
  },
);
