/** Puts a script in the place of a vCPU's machine code (hardware/guest-script.ts). There is no such thing in Linux. */
import { EBADF, EINVAL } from "../../abi/errno.ts";
import type { Handlers, Script } from "../../hardware/guest-script.ts";
import { ScriptCpu } from "../../hardware/x86/script-cpu.ts";
import type { Process } from "../../kernel/process.ts";
import { VcpuFile } from "../vcpu.ts";
import { Runner } from "./run.ts";
import { X86Vcpu } from "./vcpu.ts";

/**
 * From its next KVM_RUN on, the vCPU behind a descriptor runs `main`, and takes interrupts by `handlers`, from vector to
 * script. 0; −EBADF; −EINVAL for a descriptor that is no x86 vCPU.
 */
export function runScript(
  process: Process,
  fd: number,
  main: Script,
  handlers: Handlers = new Map(),
): number {
  const file = process.fds.get(fd);
  if (file === undefined) return -EBADF;
  const arch = file instanceof VcpuFile ? file.vcpu.arch : undefined;
  if (!(arch instanceof X86Vcpu)) return -EINVAL;
  arch.runner = new Runner(arch, (state, bus, options) => new ScriptCpu(state, bus, options, main, handlers));
  return 0;
}
