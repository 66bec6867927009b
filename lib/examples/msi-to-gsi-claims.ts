/** What was said in thread 000, each with the run that decides. */
import { ENOSPC } from "../abi/errno.ts";
import { KVM_SIGNAL_MSI, KvmMsi } from "../abi/kvm.ts";
import type { MsiMessage } from "../hardware/interrupt-remapping.ts";
import { Msi } from "../hardware/msi.ts";
import { Msix } from "../hardware/msix.ts";
import { Machine } from "../machine/machine.ts";
import { counted, Direct, now } from "../vmm/co.ts";
import { HostBridge } from "../vmm/host-bridge.ts";
import { Irqchip } from "../vmm/irqchip.ts";
import { MsiVector } from "../vmm/msi-vector.ts";
import type { Message } from "../vmm/route-table.ts";
import { SourceNumbers, SpaprPhb } from "../vmm/spapr-phb.ts";
import type { Claim } from "./claims.ts";
import { onPower, onX86, withoutRouting, x86Message } from "./msi-to-gsi.ts";
import { PowerVm } from "./power-vm.ts";
import { X86Vm } from "./x86-vm.ts";

const right = ({ meant, came }: { meant: number; came: readonly number[] }): boolean =>
  came.length === 1 && came[0] === meant;

/** A message that points into guest memory, below 0xfee00000. */
const intoMemory: Message = { addressLo: 0x10_0000, addressHi: 0, data: 0x41 };

/** A vector of an x86 VM is enabled with a message, and its device fires once. */
function fireOnX86(message: Message): { came: readonly number[]; written: [number, number][]; path: string } {
  const vm = new X86Vm(new Machine().process());
  const linux = new Direct(vm.kernel);
  const bridge = new HostBridge(new Irqchip(linux, vm.vm, { routing: "table", gsis: 4096 }));
  const eventfd = now(linux.eventfd2(0, 0));
  const written: [number, number][] = [];
  const write = (address: number, value: number) => void written.push([address, value]);
  const vector = new MsiVector({ linux, bridge, mapper: bridge.irqchip, eventfd, write });
  now(vector.enable(message));
  now(linux.signal(eventfd));
  if (vector.path === "memory") now(vector.serve());
  return { came: vm.requested, written, path: vector.path };
}

/** What a device sends that was programmed with this number, through an MSI capability and an MSI-X table. */
export function sentData(number: number): { msi: number; msix: number } {
  let sent = -1;
  const send = (message: MsiMessage) => void (sent = message.data);
  const config = new Uint8Array(64);
  config[2] = 0x80; // 64-bit address
  const msi = new Msi(config, 0, send);
  msi.program({ addressLo: 0, addressHi: 0x400, data: number });
  msi.setEnabled(true);
  msi.raise(0);
  const fromMsi = sent;
  const msix = new Msix(1, send);
  msix.control(true, false);
  msix.writeTable(4, 4, 0x400);
  msix.writeTable(8, 4, number);
  msix.writeTable(12, 4, 0);
  msix.raise(0);
  return { msi: fromMsi, msix: sent };
}

const powerRoutes = (): number => {
  const vm = new PowerVm();
  const irqchip = new Irqchip(new Direct(vm.process), vm.vm, { routing: "table", gsis: 4096 });
  return now(irqchip.addMsiRoute({ addressHi: 0x400, addressLo: 0, data: 0x1234 }));
};

export const claims: readonly Claim[] = [
  {
    who: "Kardashevskiy",
    when: "2013-08-07",
    says: "on PPC64 the host bridge translates messages to system interrupts; the kernel need not be told",
    holds: () =>
      right(onPower("bridge", "per-bridge", 0x1234)) && onPower("bridge", "global", 0x1234).rows[0] === 0,
    verdict: "confirmed",
    by: "bridge design, both numberings: the source gets its interrupt and no route is made",
  },
  {
    who: "Kardashevskiy",
    when: "2013-08-07",
    says: "QEMU as it is, which allocates numbers and maps messages to them in the kernel, does not do on PPC64",
    holds: () => powerRoutes() < 0,
    verdict: "confirmed",
    by: "KVM_SET_GSI_ROUTING on the POWER profile answers ENOTTY",
  },
  {
    who: "Kardashevskiy",
    when: "2013-08-07",
    says: "without a map_msi of its own a bus falls back to kvm_irqchip_add_msi_route",
    holds: () => right(onX86("bridge", 0x41)) && onX86("bridge", 0x41).rows[0] === 1,
    verdict: "confirmed",
    by: "the default bridge on x86 allocates one route",
  },
  {
    who: "Tsirkin",
    when: "2013-08-19",
    says: "kvm_irqchip_add_msi_route can simply return msg.data on PPC64",
    holds: () => [16, 0x1234, 0xffff].every((source) => right(onPower("irqchip", "global", source))),
    verdict: "confirmed",
    by: "irqchip design, global numbers up to 0xffff",
  },
  {
    who: "Kardashevskiy",
    when: "2013-08-19",
    says: "the number is the data of the message in any case, with KVM and without",
    holds: () => onPower("irqchip, all bits", "per-bridge", 0x1234).gsi === 0x1234,
    verdict: "contradicted",
    by: "it is so since the numbers are global; with per-bridge numbers the data is 0",
  },
  {
    who: "Tsirkin",
    when: "2013-08-19",
    says: "a device merely writes; if that lands in the MSI region there is an interrupt",
    holds: () => {
      const inside = fireOnX86(x86Message(0x41));
      const outside = fireOnX86(intoMemory);
      return inside.came.length === 1 && outside.came.length === 0 && outside.written.length === 1;
    },
    verdict: "confirmed",
    by: "the same vector with a message in the region and one below it",
  },
  {
    who: "Tsirkin",
    when: "2013-08-19",
    says: "the route does not support a guest that programs a message to write into its memory",
    holds: () => {
      const vm = new X86Vm(new Machine().process());
      const linux = new Direct(vm.kernel);
      const irqchip = new Irqchip(linux, vm.vm, { routing: "table", gsis: 4096 });
      const eventfd = now(linux.eventfd2(0, 0));
      now(irqchip.addIrqfd(eventfd, now(irqchip.addMsiRoute(intoMemory))));
      now(linux.signal(eventfd));
      return vm.requested.includes(0x41);
    },
    verdict: "confirmed",
    by: "a route to address 0x100000 raises vector 0x41 all the same, and writes nothing",
  },
  {
    who: "Tsirkin",
    when: "2013-08-19",
    says: "in practice the short cut works for other devices, such as assigned ones",
    holds: () => fireOnX86(x86Message(0x42)).path === "irqfd",
    verdict: "confirmed",
    by: "a vector does not know who signals its eventfd",
  },
  {
    who: "Tsirkin",
    when: "2013-08-19",
    says: "the short cut makes no sense for devices that the VMM emulates: it saves no system call",
    holds: () => {
      const vm = new X86Vm(new Machine().process());
      const linux = new Direct(vm.kernel);
      const irqchip = new Irqchip(linux, vm.vm, { routing: "table", gsis: 4096 });
      const eventfd = now(linux.eventfd2(0, 0));
      now(irqchip.addIrqfd(eventfd, now(irqchip.addMsiRoute(x86Message(0x41)))));
      const calls = [
        () => linux.signal(eventfd),
        () => linux.ioctl(vm.vm, KVM_SIGNAL_MSI, KvmMsi.encode({ address_lo: 0xfee0_0000, data: 0x42 })),
      ].map((send) => counted(send()).steps);
      return vm.requested.length === 2 && calls[0] === calls[1];
    },
    verdict: "confirmed",
    by: "one write of an eventfd against one KVM_SIGNAL_MSI",
  },
  {
    who: "Tsirkin",
    when: "2013-08-19",
    says: "allocation and release are there for x86; spapr needs neither",
    holds: () => {
      const { rows } = onX86("irqchip", 0x41);
      const vm = new PowerVm();
      const irqchip = new Irqchip(new Direct(vm.process), vm.vm, { routing: "linear" });
      const { steps } = counted(irqchip.addMsiRoute({ addressHi: 0x400, addressLo: 0, data: 0x1234 }));
      return rows[0] === 1 && rows[1] === 0 && steps === 0;
    },
    verdict: "confirmed",
    by: "one route made and given back on x86; on POWER no system call at all",
  },
  {
    who: "Graf",
    when: "2013-08-27",
    says: "a kernel with linear GSIs should count as one without routing: neither asks the other's question",
    holds: () => powerRoutes() < 0 && withoutRouting("irqchip") < 0,
    verdict: "confirmed",
    by: "the POWER profile refuses a table; a kernel with neither answers ENOSYS",
  },
  {
    who: "Herrenschmidt",
    when: "2013-08-27",
    says: "a global number can have more than 16 bits, and then the mask is wrong",
    holds: () => !right(onPower("irqchip", "global", 0x1_2345)),
    verdict: "confirmed",
    by: "source 0x12345: the interrupt comes from source 0x2345",
  },
  {
    who: "Herrenschmidt",
    when: "2013-08-27",
    says: "a global number can have up to 24 bits",
    holds: () => new PowerVm().setUp(0xff_ffff) === 0,
    verdict: "contradicted",
    by: "XIRR has 24 bits, but KVM's XICS has sources up to 0xfffff, 20 bits",
  },
  {
    who: "Herrenschmidt",
    when: "2013-08-27",
    says: "the data of a message is limited to 16 bits (MSI)",
    holds: () => sentData(0x1_2345).msi === 0x2345,
    verdict: "confirmed",
    by: "a device programmed through its MSI capability sends 0x2345 for 0x12345",
  },
  {
    who: "Herrenschmidt",
    when: "2013-08-27",
    says: "the data of a message is limited to 16 bits (MSI-X)",
    holds: () => sentData(0x1_2345).msix === 0x2345,
    verdict: "contradicted",
    by: "an MSI-X table holds 32 bits, and the device sends them",
  },
  {
    who: "Graf",
    when: "2013-08-27",
    says: "the VMM defines the data itself, so it need not be masked",
    holds: () => right(onPower("irqchip, all bits", "global", 0x1_2345)),
    verdict: "confirmed",
    by: "source 0x12345 without the mask, by MSI-X",
  },
  {
    who: "Herrenschmidt",
    when: "2013-08-27",
    says: "numbers can be limited to 16 bits, which keeps things simple",
    holds: () => {
      const sources = new SourceNumbers(0xfffe, 0x1_0000);
      const vm = new PowerVm();
      const bridge = new SpaprPhb(new Irqchip(new Direct(vm.process), vm.vm, { routing: "linear" }), sources);
      const messages = bridge.changeMsi(1, 2) as Message[];
      const agree = messages.every(
        (message) => now(bridge.irqchip.addMsiRoute(message)) === bridge.mapMsi(message),
      );
      return agree && bridge.changeMsi(2, 1) === -ENOSPC;
    },
    verdict: "confirmed",
    by: "where sources end at 0xffff the designs agree, and the next device is refused instead of misled",
  },
  {
    who: "Kardashevskiy",
    when: "2013-08-28",
    says: "with numbers per bridge the patch would not work, with global ones it does",
    holds: () =>
      !right(onPower("irqchip", "per-bridge", 0x1234)) && right(onPower("irqchip", "global", 0x1234)),
    verdict: "confirmed",
    by: "irqchip design, source 0x1234, both numberings",
  },
];
