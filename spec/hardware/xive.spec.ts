import { expect, test } from "vitest";
import { XIVE_MASKED, XIVE_PRIORITIES, XiveProcessor } from "../../lib/hardware/xive.ts";

test("an acknowledgement takes an interrupt that was raised, once; without one it takes nothing and CPPR stays", () => {
  for (let cppr = 0; cppr <= XIVE_PRIORITIES; cppr++)
    for (let priority = 0; priority < XIVE_PRIORITIES; priority++) {
      const input = { external: false };
      const processor = new XiveProcessor(input);
      processor.cppr = cppr;
      expect([processor.acknowledge(), processor.cppr]).toEqual([-1, cppr]);
      processor.event(priority, 7);
      const raised = priority < cppr;
      expect(input.external).toBe(raised);
      expect(processor.acknowledge()).toBe(raised ? priority : -1);
      expect([processor.acknowledge(), processor.cppr]).toEqual([-1, raised ? priority : cppr]);
      // what was masked is raised when the processor takes less favoured ones
      processor.cppr = XIVE_MASKED;
      expect([input.external, processor.acknowledge()]).toEqual(raised ? [false, -1] : [true, priority]);
    }
});
