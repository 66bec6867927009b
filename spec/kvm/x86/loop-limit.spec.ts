import { expect, onTestFinished, test } from "vitest";
import { Guest, handlerAt } from "./guest.ts";
import { kernels } from "./kernels.ts";

for (const [name, start] of kernels)
  test.skipIf(start === undefined)(
    `a LOOP to beyond the limit leaves the counter as it was (${name})`,
    () => {
      const process = start!();
      onTestFinished(() => process.exit());
      const guest = new Guest(process, "real");
      // mov cx, 5; jmp 0xfff0; there a loop with an instruction pointer of 32 bits
      const at = 0xfff0;
      guest.code(0xb9, 5, 0, 0xe9, (at - 0x1006) & 0xff, (at - 0x1006) >> 8);
      guest.memory.set([0x66, 0xe2, 0x7f], at);
      const handler = handlerAt(13);
      guest.memory.set([handler & 0xff, handler >> 8, 0, 0], 4 * 13);
      guest.memory.set([0xe6, 0x80, 0xf4], handler); // #GP: out 0x80, al
      expect(guest.enter()).toBe(0);
      expect([guest.exitReason, guest.register("rcx")]).toEqual([2, 5n]);
    },
  );
