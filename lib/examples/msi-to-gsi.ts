/**
 * Thread 000: which GSI is a message? Two designs, three kinds of kernel, two numberings of POWER's bridge, run end to
 * end: the device signals its eventfd, and the state of every interrupt source is read back.
 *
 * - "irqchip": `Irqchip.addMsiRoute` decides; with linear GSIs it takes 16 bits of the data.
 * - "irqchip, all bits": the same without the mask.
 * - "bridge": the host bridge's `mapMsi`, or the routing table where it has none.
 */
import type { Program } from "../fuzz/explore/run.ts";
import { Calls, step, type Thread } from "../fuzz/explore/thread.ts";
import { byHand } from "../kernel/work-queue.ts";
import { Machine } from "../machine/machine.ts";
import { Direct, type Linux, now } from "../vmm/co.ts";
import { HostBridge } from "../vmm/host-bridge.ts";
import { Irqchip, type IrqchipOptions } from "../vmm/irqchip.ts";
import { MsiVector } from "../vmm/msi-vector.ts";
import type { Message } from "../vmm/route-table.ts";
import { SourceNumbers, SpaprPhb } from "../vmm/spapr-phb.ts";
import { PowerVm } from "./power-vm.ts";
import { hex, table } from "./print.ts";
import { X86Vm } from "./x86-vm.ts";

export const designs = ["irqchip", "irqchip, all bits", "bridge"] as const;
export type Design = (typeof designs)[number];

/** What became of one message. */
export interface Outcome {
  /** the GSI that the design answered, or −errno */
  readonly gsi: number;
  /** the interrupt that the message means: a source on POWER, a vector on x86 */
  readonly meant: number;
  /** the interrupts that came */
  readonly came: readonly number[];
  /** rows of the routing table: while the vector is on, and after it was off again */
  readonly rows: readonly [on: number, off: number];
}

const noWrite = (): void => undefined;

/** sources that another device has set up, to see who is woken by mistake */
const OTHERS = [0x2345];

/** A device of a POWER VM has one vector, whose source has this number. */
export function onPower(design: Design, numbering: "global" | "per-bridge", source: number): Outcome {
  const vm = new PowerVm();
  const linux = new Direct(vm.process);
  const irqchip = new Irqchip(linux, vm.vm, linear(design));
  const bridge = new SpaprPhb(irqchip, new SourceNumbers(source, source + 1), numbering);
  const sources = [...new Set([source, ...OTHERS])];
  for (const number of sources) vm.setUp(number);
  const [message] = bridge.changeMsi(3, 1) as Message[];
  const { gsi, rows } = fire(linux, design, bridge, message);
  return { gsi, meant: source, came: sources.filter((number) => vm.pending(number) === 1), rows };
}

const linear = (design: Design): IrqchipOptions =>
  design === "irqchip, all bits" ? { routing: "linear", linearMask: 0xffff_ffff } : { routing: "linear" };

/** A device of an x86 VM has one vector. */
export function onX86(design: Design, vector: number): Outcome {
  const vm = new X86Vm(new Machine().process());
  const linux = new Direct(vm.kernel);
  const bridge = new HostBridge(new Irqchip(linux, vm.vm, { routing: "table", gsis: 4096 }));
  const { gsi, rows } = fire(linux, design, bridge, x86Message(vector));
  return { gsi, meant: vector, came: vm.requested, rows };
}

/** A kernel that has neither: the design is asked, nothing is bound. */
export function withoutRouting(design: Design): number {
  const linux = new Direct(new Machine().process());
  const bridge = new HostBridge(new Irqchip(linux, -1, { routing: "none" }));
  return now(mapperOf(design, bridge).addMsiRoute(x86Message(0x41)));
}

export const x86Message = (vector: number): Message => ({
  addressLo: 0xfee0_0000,
  addressHi: 0,
  data: vector,
});

const mapperOf = (design: Design, bridge: HostBridge) => (design === "bridge" ? bridge : bridge.irqchip);

/** The guest unmasks, the device fires once, the guest masks. */
function fire(
  linux: Linux,
  design: Design,
  bridge: HostBridge,
  message: Message,
): Pick<Outcome, "gsi" | "rows"> {
  const eventfd = now(linux.eventfd2(0, 0));
  const vector = new MsiVector({
    linux,
    bridge,
    mapper: mapperOf(design, bridge),
    eventfd,
    write: noWrite,
  });
  const enabled = now(vector.enable(message));
  if (enabled < 0) return { gsi: enabled, rows: [0, 0] };
  const { gsi } = vector;
  now(linux.signal(eventfd));
  const on = bridge.irqchip.table.messages.size;
  now(vector.disable());
  return { gsi, rows: [on, bridge.irqchip.table.messages.size] };
}

/** The rows of the table, each a run for each design. */
export const cases: readonly { name: string; run(design: Design): Outcome }[] = [
  { name: "x86, vector 0x41", run: (design) => onX86(design, 0x41) },
  { name: "POWER, global, source 0x1234", run: (design) => onPower(design, "global", 0x1234) },
  { name: "POWER, global, source 0x12345", run: (design) => onPower(design, "global", 0x12345) },
  { name: "POWER, per bridge, source 0x1234", run: (design) => onPower(design, "per-bridge", 0x1234) },
  { name: "POWER, per bridge, source 0x12345", run: (design) => onPower(design, "per-bridge", 0x12345) },
];

/** "GSI 0x2345 → 0x2345, WRONG" */
export function tell({ gsi, meant, came, rows }: Outcome): string {
  const verdict =
    came.length === 0
      ? "nobody, LOST"
      : came.length === 1 && came[0] === meant
        ? hex(meant)
        : `${came.map(hex)}, WRONG`;
  const routes = rows[0] === 0 ? "" : `, ${rows[0]} route, then ${rows[1]}`;
  return `GSI ${gsi < 0 ? gsi : hex(gsi)} → ${verdict}${routes}`;
}

/**
 * Two devices of a POWER VM whose sources lie around 0x10000: the one that leaves gives four numbers back, and the one
 * that comes takes four. Whether it gets numbers beyond 16 bits is a matter of order. With the mask its interrupts then
 * go to others.
 */
export const hotPlug = (design: Design): Program => ({
  name: `a device leaves while another comes (${design})`,
  setup() {
    const vm = new PowerVm({ policy: byHand });
    const calls = new Calls(vm.process);
    const irqchip = new Irqchip(calls, vm.vm, linear(design));
    const bridge = new SpaprPhb(irqchip, new SourceNumbers(0xfffc, 0x1_0004));
    for (let source = 0xfffc; source < 0x1_0004; source++) vm.setUp(source);
    bridge.changeMsi(1, 4);
    const eventfd = vm.process.eventfd2(0, 0);
    let source = 0;
    function* leaves(): Thread {
      yield* step("ibm,change-msi: device 1 gives 4 back", () => bridge.changeMsi(1, 0).toString());
    }
    function* comes(): Thread {
      const messages = yield* step("ibm,change-msi: device 2 asks for 4", () => bridge.changeMsi(2, 4));
      const message = (messages as Message[])[0];
      source = message.data;
      const mapper = mapperOf(design, bridge);
      const vector = new MsiVector({ linux: calls, bridge, mapper, eventfd, write: noWrite });
      yield* vector.enable(message);
      yield* calls.signal(eventfd);
    }
    return {
      kernel: vm.machine.kernel,
      threads: { leaves: leaves(), comes: comes() },
      final: () => (vm.pending(source) === 1 ? undefined : `source ${hex(source)} did not get its interrupt`),
    };
  },
});

/** Two devices get a route each at the same time; afterwards both fire. Without the lock a commit takes the other's back. */
export const twoRoutes = (locked: boolean): Program => ({
  name: `two routes at the same time, ${locked ? "one change at a time" : "no lock"}`,
  setup() {
    const machine = new Machine(undefined, { policy: byHand });
    const process = machine.process();
    const vm = new X86Vm(process);
    const calls = new Calls(process);
    const irqchip = new Irqchip(calls, vm.vm, { routing: "table", gsis: 4096, locked });
    function* device(vector: number): Thread {
      const fd = yield* calls.eventfd2(0, 0);
      const gsi = yield* irqchip.addMsiRoute(x86Message(vector));
      yield* irqchip.addIrqfd(fd, gsi);
      yield* calls.signal(fd);
    }
    return {
      kernel: machine.kernel,
      threads: { a: device(0x41), b: device(0x42) },
      final: () =>
        vm.requested.length === 2 ? undefined : `of vectors 0x41 and 0x42 came ${vm.requested.map(hex)}`,
    };
  },
});

/**
 * A device's vector whose message points below the region of interrupts, into the guest's memory: what came to the guest,
 * and what was written. `looks`: the VMM looks at the address; otherwise it makes a route of any message.
 */
export function intoMemory(looks: boolean): { came: readonly number[]; written: readonly number[] } {
  const vm = new X86Vm(new Machine().process());
  const linux = new Direct(vm.kernel);
  const bridge = new HostBridge(new Irqchip(linux, vm.vm, { routing: "table", gsis: 4096 }));
  if (!looks) bridge.isMsi = () => true;
  const eventfd = now(linux.eventfd2(0, 0));
  const written: number[] = [];
  const write = (address: number) => void written.push(address);
  const vector = new MsiVector({ linux, bridge, mapper: bridge.irqchip, eventfd, write });
  now(vector.enable({ addressLo: 0x10_0000, addressHi: 0, data: 0x41 }));
  now(linux.signal(eventfd));
  if (vector.path === "memory") now(vector.serve());
  return { came: vm.requested, written };
}

export const tellMemory = ({ came, written }: ReturnType<typeof intoMemory>): string =>
  [
    ...written.map((address) => `memory at ${hex(address)} written`),
    ...came.map((v) => `vector ${hex(v)}`),
  ].join(", ");

export function print(): string {
  const rows = cases.map(({ name, run }) => [name, ...designs.map((design) => tell(run(design)))]);
  rows.push(["a kernel without routing", ...designs.map((design) => `${withoutRouting(design)} (ENOSYS)`)]);
  return [
    table(["message", ...designs], rows),
    "",
    table(
      ["message into the guest's memory", "what happens"],
      [
        ["the VMM looks at the address", tellMemory(intoMemory(true))],
        ["every message becomes a route", tellMemory(intoMemory(false))],
      ],
    ),
  ].join("\n");
}
