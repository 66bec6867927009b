/**
 * A PCI function as hardware, described by data: an image of its configuration space, its BARs, how it can be reset. What
 * a device does beyond that is a model: registers behind BARs, which raise and lower interrupts.
 *
 * Configuration space is live: a write changes the bits that can be written, and what they switch (INTx, MSI, MSI-X,
 * function level reset) follows at once. The MSI-X table and its pending bits lie in a BAR; every other register is the
 * model's, and one that the model does not know reads as zero and is told apart (`modelled`).
 *
 * Interrupts leave through `wires`: INTx as a level that is high while the device asserts it and the command register
 * does not disable it, messages while the function may be a bus master.
 *
 * Missing: bridges, SR-IOV, DMA, error reporting, expansion ROM contents.
 */
import {
  PCI_AF_CTRL,
  PCI_AF_CTRL_FLR,
  PCI_BASE_ADDRESS_0,
  PCI_CAP_ID_AF,
  PCI_CAP_ID_EXP,
  PCI_CAP_ID_MSI,
  PCI_CAP_ID_MSIX,
  PCI_CAP_ID_PM,
  PCI_COMMAND,
  PCI_COMMAND_INTX_DISABLE,
  PCI_COMMAND_IO,
  PCI_COMMAND_MASTER,
  PCI_COMMAND_MEMORY,
  PCI_EXP_DEVCAP,
  PCI_EXP_DEVCAP_FLR,
  PCI_EXP_DEVCTL,
  PCI_EXP_DEVCTL_BCR_FLR,
  PCI_INTERRUPT_LINE,
  PCI_INTERRUPT_PIN,
  PCI_MSIX_FLAGS,
  PCI_MSIX_FLAGS_ENABLE,
  PCI_MSIX_FLAGS_MASKALL,
  PCI_MSIX_FLAGS_QSIZE,
  PCI_MSIX_PBA,
  PCI_MSIX_TABLE,
  PCI_PM_CTRL,
  PCI_PM_CTRL_NO_SOFT_RESET,
  PCI_PM_CTRL_STATE_MASK,
  PCI_ROM_ADDRESS,
  PCI_STATUS,
  PCI_STATUS_INTERRUPT,
} from "../abi/pci.ts";
import { load16, load32, store16, store32 } from "../abi/struct.ts";
import type { MsiMessage } from "./interrupt-remapping.ts";
import { Msi } from "./msi.ts";
import { Msix } from "./msix.ts";
import { findCapability } from "./pci-capabilities.ts";
import { writableBits } from "./pci-writable.ts";

/** A BAR: `size` in bytes. */
export interface PciBar {
  readonly index: number;
  /** bytes, a power of two */
  readonly size: number;
  readonly type: "mem" | "io";
  /** 64-bit address: takes the next index too */
  readonly wide: boolean;
  readonly prefetchable: boolean;
}

/** How a function can be reset, in the order in which the host tries. */
export type ResetMethod = "device_specific" | "acpi" | "flr" | "af_flr" | "pm" | "bus" | "cxl_bus";

/** What a function is made of. */
export interface PciDeviceOptions {
  /** "0000:00:05.0" */
  address: string;
  /** configuration space as it is at power-on, 256 or 4096 bytes */
  config: Uint8Array;
  bars?: readonly PciBar[];
  /** bytes of the expansion ROM's BAR, 0 without one */
  rom?: number;
  resetMethods?: readonly ResetMethod[];
  /** whether INTx can be disabled in the command register (PCI 2.3); the default is yes */
  intxDisable?: boolean;
  /** more bits of configuration space that can be written: [offset, byte mask] */
  writable?: readonly (readonly [offset: number, mask: number])[];
}

/** What a device does: made for a device, it keeps it to raise its interrupts. */
export interface PciModel {
  /** A register: its value, or undefined where the model has none. `width` is 1, 2, 4 or 8. */
  read(bar: number, offset: number, width: number): number | bigint | undefined;
  write(bar: number, offset: number, width: number, value: number | bigint): void;
  reset?(): void;
}

/** Where a device's interrupts go. */
export interface PciWires {
  intx(device: PciDevice, high: boolean): void;
  message(device: PciDevice, message: MsiMessage): void;
}

/** A PCI function: configuration space, BARs, interrupts, resets; what its registers do is a model. */
export class PciDevice {
  readonly address: string;
  readonly config: Uint8Array;
  readonly bars: readonly (PciBar | undefined)[];
  readonly rom: number;
  readonly resetMethods: readonly ResetMethod[];
  readonly msi: Msi | undefined;
  readonly msix: Msix | undefined;
  /** where the MSI-X table and the pending bits are */
  readonly msixTable: { readonly bar: number; readonly offset: number; readonly size: number } | undefined;
  readonly msixPending: { readonly bar: number; readonly offset: number; readonly size: number } | undefined;
  /** offsets of capabilities, 0 without */
  readonly pmCapability: number;
  readonly expCapability: number;
  readonly msixCapability: number;
  model: PciModel | undefined;
  wires: PciWires | undefined;
  /** whether the device asserts INTx, disabled or not */
  intx = false;
  /** whether the last `readBar` read a register that no model knows */
  unmodelled = false;
  readonly #image: Uint8Array;
  readonly #writable: Uint8Array;
  readonly #afCapability: number;
  #wire = false;

  constructor(options: PciDeviceOptions) {
    this.address = options.address;
    this.#image = options.config.slice();
    this.config = options.config.slice();
    const bars = options.bars ?? [];
    this.bars = Array.from({ length: 6 }, (_, index) => bars.find((bar) => bar.index === index));
    this.rom = options.rom ?? 0;
    this.resetMethods = options.resetMethods ?? [];
    this.#writable = writableBits(this.config, bars, this.rom, options.intxDisable ?? true);
    for (const [offset, mask] of options.writable ?? []) this.#writable[offset] |= mask;
    this.pmCapability = findCapability(this.config, PCI_CAP_ID_PM);
    this.expCapability = findCapability(this.config, PCI_CAP_ID_EXP);
    this.#afCapability = findCapability(this.config, PCI_CAP_ID_AF);
    if (this.pmCapability !== 0) this.#image[this.pmCapability + PCI_PM_CTRL] &= ~PCI_PM_CTRL_STATE_MASK;
    const send = (message: MsiMessage): void => this.#send(message);
    const msi = findCapability(this.config, PCI_CAP_ID_MSI);
    if (msi !== 0) this.msi = new Msi(this.config, msi, send);
    const msix = findCapability(this.config, PCI_CAP_ID_MSIX);
    this.msixCapability = msix;
    if (msix === 0) return;
    const vectors = (load16(this.config, msix + PCI_MSIX_FLAGS) & PCI_MSIX_FLAGS_QSIZE) + 1;
    this.msix = new Msix(vectors, send);
    this.msixTable = place(load32(this.config, msix + PCI_MSIX_TABLE), this.msix.table.length);
    this.msixPending = place(load32(this.config, msix + PCI_MSIX_PBA), this.msix.pending.length);
  }

  // --- configuration space ----------------------------------------------------------------------------------------

  get command(): number {
    return load16(this.config, PCI_COMMAND);
  }
  get status(): number {
    return load16(this.config, PCI_STATUS);
  }
  /** INTx pin, 1 (A) to 4, 0 without */
  get pin(): number {
    return this.config[PCI_INTERRUPT_PIN];
  }
  get interruptLine(): number {
    return this.config[PCI_INTERRUPT_LINE];
  }
  /** Power state: 0 (D0) to 3 (D3hot). */
  get powerState(): number {
    const at = this.pmCapability;
    return at === 0 ? 0 : load16(this.config, at + PCI_PM_CTRL) & PCI_PM_CTRL_STATE_MASK;
  }

  /** `width` is 1, 2 or 4. */
  readConfig(offset: number, width: number): number {
    if (offset + width > this.config.length) return 2 ** (8 * width) - 1;
    return width === 1
      ? this.config[offset]
      : width === 2
        ? load16(this.config, offset)
        : load32(this.config, offset);
  }

  writeConfig(offset: number, width: number, value: number): void {
    if (offset + width > this.config.length) return;
    const wasOff = this.powerState === 3;
    for (let i = 0; i < width; i++) {
      const mask = this.#writable[offset + i];
      this.config[offset + i] = (this.config[offset + i] & ~mask) | ((value >>> (8 * i)) & mask);
    }
    const touches = (at: number, size: number): boolean => offset < at + size && at < offset + width;
    if (touches(PCI_COMMAND, 2)) this.#drive();
    if (this.msi !== undefined && touches(this.msi.capability, 24)) this.msi.changed();
    if (this.msix !== undefined && touches(this.msixCapability + PCI_MSIX_FLAGS, 2)) this.#msixControl();
    if (wasOff && this.powerState !== 3) this.#wokeUp();
    this.#flrBits(offset, width, value);
  }

  #msixControl(): void {
    const control = load16(this.config, this.msixCapability + PCI_MSIX_FLAGS);
    this.msix!.control((control & PCI_MSIX_FLAGS_ENABLE) !== 0, (control & PCI_MSIX_FLAGS_MASKALL) !== 0);
  }

  /** A function that does not say otherwise is reset on its way from D3hot to D0. */
  #wokeUp(): void {
    const control = load16(this.config, this.pmCapability + PCI_PM_CTRL);
    if ((control & PCI_PM_CTRL_NO_SOFT_RESET) === 0) this.reset();
  }

  /** The two bits that start a function level reset read as zero. */
  #flrBits(offset: number, width: number, value: number): void {
    const wrote = (at: number, bit: number): boolean =>
      offset <= at && at < offset + width && ((value >>> (8 * (at - offset))) & bit) !== 0;
    const exp = this.expCapability;
    if (
      exp !== 0 &&
      wrote(exp + PCI_EXP_DEVCTL + 1, PCI_EXP_DEVCTL_BCR_FLR >> 8) &&
      (load32(this.config, exp + PCI_EXP_DEVCAP) & PCI_EXP_DEVCAP_FLR) !== 0
    )
      this.reset();
    if (this.#afCapability !== 0 && wrote(this.#afCapability + PCI_AF_CTRL, PCI_AF_CTRL_FLR)) this.reset();
  }

  // --- BARs -------------------------------------------------------------------------------------------------------

  /** Whether accesses of a BAR's kind are answered: enabled, and in D0 to D2. */
  decodes(type: "mem" | "io"): boolean {
    return (
      this.powerState !== 3 && (this.command & (type === "io" ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY)) !== 0
    );
  }

  /** A read through a BAR. */
  readBar(bar: number, offset: number, width: number): number | bigint {
    this.unmodelled = false;
    const table = this.msixTable;
    if (table?.bar === bar && offset >= table.offset && offset < table.offset + table.size)
      return this.msix!.readTable(offset - table.offset, width);
    const pending = this.msixPending;
    if (pending?.bar === bar && offset >= pending.offset && offset < pending.offset + pending.size)
      return this.msix!.readPending(offset - pending.offset, width);
    const value = this.model?.read(bar, offset, width);
    if (value !== undefined) return value;
    this.unmodelled = true;
    return 0;
  }

  writeBar(bar: number, offset: number, width: number, value: number | bigint): void {
    const table = this.msixTable;
    if (table?.bar === bar && offset >= table.offset && offset < table.offset + table.size)
      this.msix!.writeTable(offset - table.offset, width, value);
    else this.model?.write(bar, offset, width, value);
  }

  // --- interrupts -------------------------------------------------------------------------------------------------

  /** The device asserts INTx, or does not any more. */
  setIntx(asserted: boolean): void {
    this.intx = asserted;
    this.#drive();
  }

  #drive(): void {
    const status = this.status;
    store16(
      this.config,
      PCI_STATUS,
      this.intx ? status | PCI_STATUS_INTERRUPT : status & ~PCI_STATUS_INTERRUPT,
    );
    const high = this.intx && (this.command & PCI_COMMAND_INTX_DISABLE) === 0;
    if (high === this.#wire) return;
    this.#wire = high;
    this.wires?.intx(this, high);
  }

  /** Whether the wire is high. */
  get intxHigh(): boolean {
    return this.#wire;
  }

  #send(message: MsiMessage): void {
    if ((this.command & PCI_COMMAND_MASTER) === 0 || this.powerState === 3) return;
    this.wires?.message(this, message);
  }

  // --- reset ------------------------------------------------------------------------------------------------------

  /** What every kind of reset leaves: registers as at power-on, BARs and command clear, interrupts off. */
  reset(): void {
    for (let at = 0; at < this.config.length; at++) {
      const kept = ~this.#writable[at];
      this.config[at] = (this.config[at] & kept) | (this.#image[at] & ~kept);
    }
    store16(this.config, PCI_COMMAND, 0);
    for (let index = 0; index < 6; index++) this.#clear32(PCI_BASE_ADDRESS_0 + 4 * index);
    this.#clear32(PCI_ROM_ADDRESS);
    this.config[PCI_INTERRUPT_LINE] = 0;
    this.msix?.reset();
    this.intx = false;
    this.#drive();
    this.model?.reset?.();
  }

  /** Clears the bits of a word that can be written. */
  #clear32(at: number): void {
    store32(this.config, at, load32(this.config, at) & ~load32(this.#writable, at));
  }
}

const place = (register: number, size: number) => ({ bar: register & 7, offset: register & ~7, size });
