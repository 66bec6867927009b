import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { ENOMEM, ENOSPC, ENOSYS } from "../../lib/abi/errno.ts";
import { X86Vm } from "../../lib/examples/x86-vm.ts";
import { Machine } from "../../lib/machine/machine.ts";
import { counted, Direct, now } from "../../lib/vmm/co.ts";
import { Irqchip } from "../../lib/vmm/irqchip.ts";
import { type Message, RouteTable } from "../../lib/vmm/route-table.ts";

const message = (data: number): Message => ({ addressLo: 0xfee0_0000, addressHi: 0, data });
const pins = [{ gsi: 1, irqchip: 2, pin: 1 }];

function world(gsis = 4096, chipPins = pins) {
  const machine = new Machine();
  const vm = new X86Vm(machine.process());
  const linux = new Direct(vm.kernel);
  return {
    machine,
    vm,
    linux,
    irqchip: new Irqchip(linux, vm.vm, { routing: "table", gsis, pins: chipPins }),
  };
}

/** Raises a GSI by an irqfd of its own: the vectors that wait afterwards. */
function raise({ vm, linux, irqchip }: ReturnType<typeof world>, gsi: number): number[] {
  const fd = now(linux.eventfd2(0, 0));
  now(irqchip.addIrqfd(fd, gsi));
  now(linux.signal(fd));
  now(irqchip.removeIrqfd(fd, gsi));
  return vm.requested;
}

describe("a routing table", () => {
  test("the lowest free GSI is taken, freed ones again, pins never", () => {
    const { irqchip } = world();
    const add = () => now(irqchip.addMsiRoute(message(0x41)));
    expect([add(), add(), add(), add()]).toEqual([0, 2, 3, 4]);
    expect([now(irqchip.releaseMsiRoute(2)), now(irqchip.releaseMsiRoute(0))]).toEqual([0, 0]);
    expect([add(), add(), add()]).toEqual([0, 2, 5]);
    expect(now(irqchip.releaseMsiRoute(1))).toBe(-22);
    expect(now(irqchip.updateMsiRoute(9, message(1)))).toBe(-22);
  });

  test("full: ENOSPC, and what is there still works", () => {
    const full = world(4);
    const gsis = [0x41, 0x42, 0x43].map((vector) => now(full.irqchip.addMsiRoute(message(vector))));
    expect(gsis).toEqual([0, 2, 3]);
    expect(now(full.irqchip.addMsiRoute(message(0x44)))).toBe(-ENOSPC);
    expect(full.irqchip.table.messages.size).toBe(3);
    expect([raise(full, 0), raise(full, 2), raise(full, 3)].at(-1)).toEqual([0x41, 0x42, 0x43]);
  });

  test("a commit that the kernel refuses leaves both sides as they were", () => {
    const refused = world();
    now(refused.irqchip.addMsiRoute(message(0x41)));
    refused.machine.kernel.faults.failNth("allocation", 1);
    expect(now(refused.irqchip.addMsiRoute(message(0x42)))).toBe(-ENOMEM);
    expect([...refused.irqchip.table.messages.keys()]).toEqual([0]);
    expect(raise(refused, 2)).toEqual([]);
    expect(raise(refused, 0)).toEqual([0x41]);
    refused.machine.kernel.faults.failNth("allocation", 1);
    expect(now(refused.irqchip.updateMsiRoute(0, message(0x51)))).toBe(-ENOMEM);
    expect(raise(refused, 0)).toEqual([0x41]);
    expect(now(refused.irqchip.addMsiRoute(message(0x42)))).toBe(2);
  });

  test("an update takes effect for the irqfd that is bound", () => {
    const { irqchip, linux, vm } = world();
    const gsi = now(irqchip.addMsiRoute(message(0x41)));
    const fd = now(linux.eventfd2(0, 0));
    now(irqchip.addIrqfd(fd, gsi));
    now(irqchip.updateMsiRoute(gsi, message(0x51)));
    now(linux.signal(fd));
    expect(vm.requested).toEqual([0x51]);
  });

  test("a batch of changes is one commit, and none where one of them fails", () => {
    const { irqchip } = world(6);
    const both = (table: RouteTable) => (table.add(message(1)), table.add(message(2)));
    expect(counted(irqchip.change(both))).toEqual({ value: 2, steps: 1 });
    const four = world(6);
    const edit = (table: RouteTable) => {
      for (let i = 0; i < 7; i++) if (table.add(message(i)) < 0) return -ENOSPC;
      return 0;
    };
    expect(counted(four.irqchip.change(edit))).toEqual({ value: -ENOSPC, steps: 0 });
    expect(four.irqchip.table.messages.size).toBe(0);
  });

  test("any sequence: the table is what a plain map says, and GSIs are never given out twice", () => {
    const operation = fc.oneof(
      fc.record({ add: fc.nat(255) }),
      fc.record({ remove: fc.nat(7) }),
      fc.record({ update: fc.nat(7), data: fc.nat(255) }),
    );
    fc.assert(
      fc.property(fc.array(operation, { maxLength: 30 }), (operations) => {
        const table = new RouteTable(6, pins);
        const model = new Map<number, number>();
        for (const op of operations)
          if ("add" in op) {
            const gsi = table.add(message(op.add));
            const free = [0, 2, 3, 4, 5].filter((n) => !model.has(n));
            expect(gsi).toBe(free.length === 0 ? -ENOSPC : free[0]);
            if (gsi >= 0) model.set(gsi, op.add);
          } else if ("remove" in op) expect(table.remove(op.remove)).toBe(model.delete(op.remove) ? 0 : -22);
          else {
            expect(table.update(op.update, message(op.data))).toBe(model.has(op.update) ? 0 : -22);
            if (model.has(op.update)) model.set(op.update, op.data);
          }
        expect(new Map([...table.messages].map(([gsi, { data }]) => [gsi, data]))).toEqual(model);
        expect(table.encode().length).toBe(8 + 48 * (1 + model.size));
      }),
    );
  });
});

describe("without a table", () => {
  test("linear: every number of 16 bits is itself, everything above loses its upper bits, and no call is made", () => {
    const irqchip = new Irqchip(new Direct(new Machine().process()), -1, { routing: "linear" });
    const gsi = (data: number) => now(irqchip.addMsiRoute(message(data)));
    for (let data = 0; data < 0x1_0000; data++) if (gsi(data) !== data) expect(gsi(data)).toBe(data);
    fc.assert(
      fc.property(fc.integer({ min: 0x1_0000, max: 0xff_ffff }), (data) => gsi(data) === (data & 0xffff)),
    );
    expect(counted(irqchip.addMsiRoute(message(1)))).toEqual({ value: 1, steps: 0 });
    expect(counted(irqchip.updateMsiRoute(1, message(2)))).toEqual({ value: 0, steps: 0 });
    expect(counted(irqchip.releaseMsiRoute(1))).toEqual({ value: 0, steps: 0 });
  });

  test("no routing: ENOSYS", () => {
    const irqchip = new Irqchip(new Direct(new Machine().process()), -1, { routing: "none" });
    expect(now(irqchip.addMsiRoute(message(1)))).toBe(-ENOSYS);
    expect(now(irqchip.updateMsiRoute(0, message(1)))).toBe(-ENOSYS);
    expect(now(irqchip.releaseMsiRoute(0))).toBe(0);
  });
});
