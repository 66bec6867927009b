/**
 * An exception, or an interrupt, that user space injects and whose gate is not present: which handler runs in the end.
 * A contributory exception behind a contributory one or a page fault is a double fault, anything else a fault of its own
 * (Intel SDM volume 3, "Interrupt 8, Double Fault Exception").
 */
import { KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS, KvmVcpuEvents } from "../../lib/abi/kvm-x86.ts";
import { Guest } from "../kvm/x86/guest.ts";
import { type Answers, agreement, named } from "./contract.ts";

const IDT = 0x3000;
const HANDLERS = 0x4000;
const NOT_PRESENT = 11;
const { exception, interrupt } = {
  exception: KvmVcpuEvents.offsetOf.exception,
  interrupt: KvmVcpuEvents.offsetOf.interrupt,
};

for (const mode of ["prot32", "long"] as const)
  for (const also of [[], [NOT_PRESENT], [NOT_PRESENT, 8]])
    agreement(`${mode}, gates of ${["the vector", ...also].join(", ")} missing`, (process) => {
      const answers: Answers = {};
      for (let vector = 0; vector < 32; vector++)
        for (const kind of ["exception", "interrupt"]) {
          const guest = new Guest(process, mode);
          guest.code(0xf4);
          for (const missing of [vector, ...also])
            guest.memory[IDT + (mode === "long" ? 16 : 8) * missing + 5] &= 0x7f;
          const events = guest.get(KVM_GET_VCPU_EVENTS.number, KvmVcpuEvents.size);
          events.set([1, vector], kind === "exception" ? exception : interrupt);
          const set = named(process.ioctl(guest.vcpu, KVM_SET_VCPU_EVENTS, events));
          const ran = named(guest.enter());
          const handler = (Number(guest.register("rip")) - 1 - HANDLERS) / 32;
          answers[`${kind} ${vector}`] = [set, ran, guest.exitReason, handler, String(guest.register("rsp"))];
          process.close(guest.vcpu);
          process.close(guest.vm);
        }
      return answers;
    });
