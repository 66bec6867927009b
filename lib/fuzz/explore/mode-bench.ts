/**
 * A bench for the modes of an assigned device: the guest turns INTx, MSI and MSI-X on and off, the VMM does what it has to
 * with VFIO, and the device raises its one interrupt in the mode that it finds itself in. What must hold, whenever the
 * VMM is not in the middle of a change:
 *
 * - **the device is as the guest wants it**: MSI, and MSI-X, is on in the device if and only if it is for the guest.
 * - **an interrupt reaches the VMM**: what the device raised in a mode signalled the VMM's eventfd by the time everything
 *   is quiet; INTx only as far as the guest has not disabled it in the command register.
 *
 * The device is one that INTx can be masked in, or one that cannot (`exclusive`), which has its pin for itself then. It
 * raises nothing while the guest is changing its mode.
 */
import { PCI_COMMAND, PCI_COMMAND_INTX_DISABLE } from "../../abi/pci.ts";
import { load16, store16 } from "../../abi/struct.ts";
import type { EventFd } from "../../kernel/eventfd.ts";
import type { Process } from "../../kernel/process.ts";
import { byHand } from "../../kernel/work-queue.ts";
import { Machine } from "../../machine/machine.ts";
import { AssignedDevice, hostWithDevice } from "./assigned-device.ts";
import type { World } from "./run.ts";
import { Calls, step, type Thread } from "./thread.ts";

export type Mode = "intx" | "msi" | "msix";

/** What a VMM does when the guest turns something on or off. INTx is on while nothing else is. */
export interface ModeVmm {
  /** the device starts, with INTx */
  start?(): Thread;
  on(mode: "msi" | "msix"): Thread;
  off(mode: "msi" | "msix"): Thread;
}

/** "start"; MSI or MSI-X on and off; INTx disabled and enabled in the command register. */
export type ModeStep =
  | "start"
  | readonly ["on" | "off", "msi" | "msix"]
  | readonly ["intx", "disable" | "enable"];

/** What guest and device do. */
export interface ModeOptions {
  guest: readonly ModeStep[];
  /** how often the device raises its interrupt */
  device: number;
  exclusive?: boolean;
}

/** Where configuration space begins in the device's file. */
const CONFIG = 7 * 2 ** 40;

/** An assigned device whose interrupts change between INTx, MSI and MSI-X, around a VMM that is to be tried. */
export class ModeBench {
  readonly process: Process;
  readonly calls: Calls;
  readonly device: AssignedDevice;
  /** what the device's interrupt is to signal, in every mode */
  readonly eventfd: number;
  readonly #options: ModeOptions;
  #mode: Mode = "intx";
  #started: boolean;
  #disabled = false;
  #busy = 0;
  /** an interrupt of the device that the VMM has to be told of */
  #raised = false;

  constructor(options: ModeOptions) {
    this.#options = options;
    const params = { vfio_params: { nointxmask: options.exclusive === true ? "Y" : "N" } };
    const machine = new Machine(hostWithDevice(1, params), { policy: byHand });
    this.process = machine.process();
    this.calls = new Calls(this.process);
    this.device = new AssignedDevice(machine, this.process);
    this.eventfd = this.process.eventfd2(0, 0x800);
    this.#started = !options.guest.includes("start");
  }

  world(vmm: ModeVmm): World {
    return {
      kernel: this.process.kernel,
      threads: { guest: this.#guest(vmm), device: this.#raise() },
      check: () => (this.#busy === 0 ? this.#check() : undefined),
      final: () => this.#final(),
    };
  }

  *#guest(vmm: ModeVmm): Thread {
    for (const action of this.#options.guest)
      if (action === "start") {
        yield* this.#change("guest: starts the device", () => undefined, vmm.start?.());
        this.#started = true;
      } else if (action[0] === "intx") {
        const disabled = action[1] === "disable";
        yield* step(`guest: ${action[1]}s INTx in the command register`, () => this.#writeCommand(disabled));
      } else {
        const [what, mode] = action;
        yield* this.#change(
          `guest: ${mode} ${what}`,
          () => (this.#mode = what === "on" ? mode : "intx"),
          what === "on" ? vmm.on(mode) : vmm.off(mode),
        );
      }
  }

  *#change(label: string, write: () => void, handler: Thread | undefined): Thread {
    yield* step(label, () => {
      write();
      this.#busy++;
    });
    if (handler !== undefined) yield* handler;
    this.#busy--;
  }

  #writeCommand(disabled: boolean): void {
    const bytes = new Uint8Array(2);
    this.process.pread(this.device.fd, bytes, 2, CONFIG + PCI_COMMAND);
    const command = load16(bytes, 0) & ~PCI_COMMAND_INTX_DISABLE;
    store16(bytes, 0, command | (disabled ? PCI_COMMAND_INTX_DISABLE : 0));
    this.process.pwrite(this.device.fd, bytes, 2, CONFIG + PCI_COMMAND);
    this.#disabled = disabled;
  }

  *#raise(): Thread {
    const { pci } = this.device;
    for (let i = 0; i < this.#options.device; i++)
      yield {
        run: () => {
          this.#raised = this.#started;
          if (pci.msix!.enabled) pci.msix!.raise(0);
          else if (pci.msi!.enabled) pci.msi!.raise(0);
          else pci.setIntx(true);
        },
        blocked: () => this.#busy !== 0 && this.#started,
        label: () => "device raises its interrupt",
      };
  }

  #check(): string | undefined {
    const { msi, msix } = this.device.pci;
    for (const [name, on] of [
      ["msi", msi!.enabled],
      ["msix", msix!.enabled],
    ] as const)
      if (on !== (this.#mode === name))
        return `the guest has ${name} ${on ? "off" : "on"}, the device has it ${on ? "on" : "off"}`;
    return undefined;
  }

  #final(): string | undefined {
    const { lo } = this.process.fds.get(this.eventfd) as EventFd;
    const { pci } = this.device;
    if (pci.intx) {
      if (this.#mode === "intx" && !this.#disabled && lo === 0)
        return "the device asserts INTx, and nobody is told";
      return undefined;
    }
    return this.#raised && lo === 0 ? "the device raised its interrupt, and nobody is told" : undefined;
  }
}
