import { describe, expect, test } from "vitest";
import { EINVAL } from "../../lib/abi/errno.ts";
import { KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KvmIrqRoutingEntry } from "../../lib/abi/kvm.ts";
import { RoutingTable } from "../../lib/kvm/routing-table.ts";

type Entry = Parameters<typeof KvmIrqRoutingEntry.encode>[0];

const pin = (gsi: number, irqchip: number, pin: number): Entry => ({
  gsi,
  type: KVM_IRQ_ROUTING_IRQCHIP,
  u: { irqchip: { irqchip, pin } },
});
const message = (gsi: number, data: number): Entry => ({
  gsi,
  type: KVM_IRQ_ROUTING_MSI,
  u: { msi: { address_lo: 0xfee0_0000, data } },
});
const everything = { checkRoute: () => 0 };

function fill(table: RoutingTable, entries: readonly Entry[], at = 0, check = everything): number {
  const bytes = new Uint8Array(at + entries.length * KvmIrqRoutingEntry.size);
  entries.forEach((entry, i) => {
    bytes.set(KvmIrqRoutingEntry.encode(entry), at + i * KvmIrqRoutingEntry.size);
  });
  table.copy(bytes, at, entries.length);
  return table.index(table.highestGsi, check);
}

/** What a GSI leads to: [irqchip, pin] or the data of a message. */
function leadsTo(table: RoutingTable, gsi: number): unknown[] {
  const found: unknown[] = [];
  for (let route = table.routes(gsi); route !== undefined; route = route.next)
    found.push(route.type === KVM_IRQ_ROUTING_MSI ? route.data : [route.irqchip, route.pin]);
  return found;
}

describe("a table", () => {
  test("the entries of a GSI in the order of the table, wherever they stand in memory", () => {
    for (const at of [0, 1, 8]) {
      const table = new RoutingTable();
      expect(fill(table, [pin(5, 2, 7), message(3, 0x41), pin(5, 0, 1), pin(5, 1, 2)], at)).toBe(0);
      expect(leadsTo(table, 5)).toEqual([
        [2, 7],
        [0, 1],
        [1, 2],
      ]);
      expect(leadsTo(table, 3)).toEqual([0x41]);
      expect([4, 6, 4095, 4096, 0xffff_ffff].map((gsi) => leadsTo(table, gsi))).toEqual([[], [], [], [], []]);
    }
  });

  test("the last GSI that leads to a pin has it", () => {
    const table = new RoutingTable();
    fill(table, [pin(5, 2, 7), pin(9, 2, 7), message(7, 2)]);
    expect(table.gsiOf(2, 7)).toBe(9);
    expect(table.gsiOf(2, 6)).toBe(-1);
    expect(table.gsiOf(0, 7)).toBe(-1);
  });

  test("filled again it knows nothing of before", () => {
    const table = new RoutingTable();
    fill(table, [pin(5, 2, 7), pin(5, 0, 7), message(40, 1)]);
    expect([leadsTo(table, 5).length, table.gsiOf(2, 7)]).toEqual([2, 5]);
    expect(fill(table, [message(5, 0x33), pin(6, 2, 3)])).toBe(0);
    expect([leadsTo(table, 5), leadsTo(table, 40)]).toEqual([[0x33], []]);
    expect([table.gsiOf(2, 7), table.gsiOf(2, 3)]).toEqual([-1, 6]);
    expect(fill(table, [])).toBe(0);
    expect([leadsTo(table, 5), table.highestGsi]).toEqual([[], -1]);
  });

  test("a table of 4,096 after one of one", () => {
    const table = new RoutingTable();
    fill(table, [message(0, 1)]);
    expect(
      fill(
        table,
        Array.from({ length: 4096 }, (_, i) => message(4095 - i, i)),
      ),
    ).toBe(0);
    expect(Array.from({ length: 4096 }, (_, gsi) => table.routes(gsi)!.data)).toEqual(
      Array.from({ length: 4096 }, (_, gsi) => 4095 - gsi),
    );
  });
});

describe("refused", () => {
  test.each([
    ["a message beside a message", [message(5, 1), message(5, 2)]],
    ["a message beside a pin", [pin(5, 0, 1), message(5, 2)]],
    ["a pin beside a message", [message(5, 2), pin(5, 0, 1)]],
    ["two pins of one controller", [pin(5, 0, 1), pin(5, 2, 1), pin(5, 0, 3)]],
    ["a flag", [{ ...pin(5, 0, 1), flags: 1 }]],
    ["a flag that messages do not have", [{ ...message(5, 1), flags: 2 }]],
  ])("%s", (_, entries) => {
    expect(fill(new RoutingTable(), entries)).toBe(-EINVAL);
  });

  test("what the architecture does not know, and it is asked with both fields", () => {
    const asked: number[][] = [];
    const check = {
      checkRoute: (...args: number[]) => {
        asked.push(args);
        return asked.length === 2 ? -EINVAL : 0;
      },
    };
    const entries = [pin(5, 0, 1), message(6, 3), pin(7, 2, 9)];
    expect(fill(new RoutingTable(), entries, 0, check)).toBe(-EINVAL);
    expect(asked).toEqual([
      [KVM_IRQ_ROUTING_IRQCHIP, 0, 1],
      [KVM_IRQ_ROUTING_MSI, 0xfee0_0000, 0],
    ]);
  });

  test("a device id of a message is none of it", () => {
    expect(fill(new RoutingTable(), [{ ...message(5, 1), flags: 1 }])).toBe(0);
  });
});
