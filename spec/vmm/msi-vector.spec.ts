import { describe, expect, test } from "vitest";
import { EBUSY, ENOSPC } from "../../lib/abi/errno.ts";
import { X86Vm } from "../../lib/examples/x86-vm.ts";
import { Machine } from "../../lib/machine/machine.ts";
import { Direct, now } from "../../lib/vmm/co.ts";
import { HostBridge } from "../../lib/vmm/host-bridge.ts";
import { Irqchip } from "../../lib/vmm/irqchip.ts";
import { MsiVector } from "../../lib/vmm/msi-vector.ts";

const interrupt = { addressLo: 0xfee0_0000, addressHi: 0, data: 0x41 };
const memory = { addressLo: 0x1000, addressHi: 1, data: 0x1234 };

function world(gsis = 4096) {
  const vm = new X86Vm(new Machine().process());
  const linux = new Direct(vm.kernel);
  const bridge = new HostBridge(new Irqchip(linux, vm.vm, { routing: "table", gsis }));
  const written: [number, number][] = [];
  const vector = (eventfd = now(linux.eventfd2(0, 0))) => ({
    eventfd,
    vector: new MsiVector({
      linux,
      bridge,
      mapper: bridge,
      eventfd,
      write: (address, value) => void written.push([address, value]),
    }),
  });
  return { vm, linux, bridge, written, vector };
}

describe("a vector", () => {
  test("is bound while it is on, and gives its route back", () => {
    const { vm, linux, bridge, vector } = world();
    const { vector: made, eventfd } = vector();
    expect([now(made.enable(interrupt)), made.path, made.gsi]).toEqual([0, "irqfd", 0]);
    now(linux.signal(eventfd));
    expect(vm.requested).toEqual([0x41]);
    now(made.disable());
    expect([made.path, made.gsi, bridge.irqchip.table.messages.size]).toEqual(["off", -1, 0]);
    now(linux.signal(eventfd));
    expect(now(made.serve())).toBe(1);
  });

  test("whose message is no interrupt is a write, of 32 bits at an address of 64, once for each wait", () => {
    const { vm, linux, written, vector } = world();
    const { vector: made, eventfd } = vector();
    expect([now(made.enable(memory)), made.path, made.gsi]).toEqual([0, "memory", -1]);
    now(linux.signal(eventfd));
    now(linux.signal(eventfd));
    expect(now(made.serve())).toBe(2);
    expect(written).toEqual([[0x1_0000_1000, 0x1234]]);
    expect(vm.requested).toEqual([]);
  });

  test("that cannot be had leaves nothing behind", () => {
    const full = world(1);
    expect(now(full.vector().vector.enable(interrupt))).toBe(0);
    expect(now(full.vector().vector.enable(interrupt))).toBe(-ENOSPC);
    const busy = world();
    const first = busy.vector();
    now(first.vector.enable(interrupt));
    const second = busy.vector(first.eventfd).vector;
    expect([now(second.enable(interrupt)), second.path]).toEqual([-EBUSY, "off"]);
    expect(busy.bridge.irqchip.table.messages.size).toBe(1);
  });
});
