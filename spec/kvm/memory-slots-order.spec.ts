/** Slots in order of their frames against a naive twin that looks at all of them. */
import fc from "fast-check";
import { expect, test } from "vitest";
import { KVM_CREATE_VM, KVM_SET_USER_MEMORY_REGION, KvmUserspaceMemoryRegion } from "../../lib/abi/kvm.ts";
import { VmFile } from "../../lib/kvm/vm.ts";
import { Machine } from "../../lib/machine/machine.ts";

const EEXIST = 17;
const EINVAL = 22;
const PAGE = 4096;
const LAST_FRAME = 24;

interface Slot {
  id: number;
  base: number;
  pages: number;
}

/** What the kernel answers, and the slots afterwards. */
function naive(slots: readonly Slot[], { id, base, pages }: Slot): [answer: number, after: readonly Slot[]] {
  const old = slots.find((slot) => slot.id === id);
  const others = slots.filter((slot) => slot.id !== id);
  if (pages === 0) return old === undefined ? [-EINVAL, slots] : [0, others];
  if (old !== undefined && old.pages !== pages) return [-EINVAL, slots];
  if (old?.base === base) return [0, slots];
  if (others.some((slot) => slot.base < base + pages && base < slot.base + slot.pages))
    return [-EEXIST, slots];
  return [0, [...others, { id, base, pages }]];
}

const change = fc.record({
  id: fc.nat({ max: 6 }),
  base: fc.nat({ max: LAST_FRAME - 4 }),
  pages: fc.nat({ max: 4 }),
});

test("any sequence of creating, moving and removing", () => {
  fc.assert(
    fc.property(fc.array(change, { minLength: 1, maxLength: 60 }), (changes) => {
      const linux = new Machine().process();
      const fd = linux.ioctl(linux.open("/dev/kvm", 2), KVM_CREATE_VM, 0);
      const { vm } = linux.fds.get(fd) as VmFile;
      expect(linux.fds.get(fd)).toBeInstanceOf(VmFile);
      let slots: readonly Slot[] = [];
      for (const { id, base, pages } of changes) {
        const [answer, after] = naive(slots, { id, base, pages });
        const region = { slot: id, guest_phys_addr: base * PAGE, memory_size: pages * PAGE };
        expect(linux.ioctl(fd, KVM_SET_USER_MEMORY_REGION, KvmUserspaceMemoryRegion.encode(region))).toBe(
          answer,
        );
        slots = after;
        for (let frame = 0; frame <= LAST_FRAME; frame++)
          expect(vm.slots.find(frame)?.id).toBe(
            slots.find((slot) => slot.base <= frame && frame < slot.base + slot.pages)?.id,
          );
      }
    }),
  );
});
