/**
 * Configuration space as VFIO shows it: every bit is virtual (kept here) or the device's own, and can be written or not
 * (drivers/vfio/pci/vfio_pci_config.c, 6.1 and 6.12). Two masks say so, made when the device is opened:
 *
 * - header: vendor, device, BARs, interrupt pin and line, DisINTx and the capability pointer are virtual;
 * - capabilities that are known have their own bits, of the others only the first two bytes are virtual and nothing can
 *   be written; a capability whose length is not known is left out of the list;
 * - bytes that belong to no capability go straight to the device.
 *
 * An access is cut into aligned pieces of 4, 2 and 1 bytes that lie within one capability. What crosses the end of
 * configuration space is EFAULT as a whole.
 *
 * Some registers do more when they are written: the command register (memory, DisINTx), power management (state), MSI
 * (enable only where SET_IRQS turned it on), PCI Express and AF (function level reset), VPD.
 *
 * Missing: VPD contents (an access to them never completes), virtual functions, capabilities of PCI-X and HyperTransport.
 */
import { EFAULT } from "../abi/errno.ts";
import {
  PCI_AF_CAP,
  PCI_AF_CAP_FLR,
  PCI_AF_CAP_TP,
  PCI_AF_CTRL,
  PCI_AF_CTRL_FLR,
  PCI_BASE_ADDRESS_0,
  PCI_BIST,
  PCI_CACHE_LINE_SIZE,
  PCI_CAP_AF_SIZEOF,
  PCI_CAP_EXP_ENDPOINT_SIZEOF_V1,
  PCI_CAP_EXP_ENDPOINT_SIZEOF_V2,
  PCI_CAP_EXP_RC_ENDPOINT_SIZEOF_V1,
  PCI_CAP_EXP_RC_ENDPOINT_SIZEOF_V2,
  PCI_CAP_ID_AF,
  PCI_CAP_ID_AGP,
  PCI_CAP_ID_EXP,
  PCI_CAP_ID_MAX,
  PCI_CAP_ID_MSI,
  PCI_CAP_ID_MSIX,
  PCI_CAP_ID_PCIX,
  PCI_CAP_ID_PM,
  PCI_CAP_ID_SATA,
  PCI_CAP_ID_VNDR,
  PCI_CAP_ID_VPD,
  PCI_CAP_LIST_NEXT,
  PCI_CAP_MSIX_SIZEOF,
  PCI_CAP_PCIX_SIZEOF_V0,
  PCI_CAP_VPD_SIZEOF,
  PCI_CAPABILITY_LIST,
  PCI_CFG_SPACE_SIZE,
  PCI_COMMAND,
  PCI_COMMAND_INTX_DISABLE,
  PCI_COMMAND_IO,
  PCI_COMMAND_MEMORY,
  PCI_DEVICE_ID,
  PCI_EXP_DEVCAP,
  PCI_EXP_DEVCAP_FLR,
  PCI_EXP_DEVCTL,
  PCI_EXP_DEVCTL_BCR_FLR,
  PCI_EXP_DEVCTL_PAYLOAD,
  PCI_EXP_DEVCTL_PHANTOM,
  PCI_EXP_DEVCTL_READRQ,
  PCI_EXP_DEVCTL2,
  PCI_EXP_DEVCTL2_ARI,
  PCI_EXP_FLAGS,
  PCI_EXP_FLAGS_TYPE,
  PCI_EXP_FLAGS_VERS,
  PCI_EXP_TYPE_RC_END,
  PCI_EXT_CAP_ID,
  PCI_EXT_CAP_ID_ACS,
  PCI_EXT_CAP_ID_ARI,
  PCI_EXT_CAP_ID_ATS,
  PCI_EXT_CAP_ID_DPA,
  PCI_EXT_CAP_ID_DSN,
  PCI_EXT_CAP_ID_DVSEC,
  PCI_EXT_CAP_ID_ERR,
  PCI_EXT_CAP_ID_LTR,
  PCI_EXT_CAP_ID_MCAST,
  PCI_EXT_CAP_ID_MFVC,
  PCI_EXT_CAP_ID_PRI,
  PCI_EXT_CAP_ID_PWR,
  PCI_EXT_CAP_ID_REBAR,
  PCI_EXT_CAP_ID_SRIOV,
  PCI_EXT_CAP_ID_TPH,
  PCI_EXT_CAP_ID_VC,
  PCI_EXT_CAP_ID_VC9,
  PCI_EXT_CAP_ID_VNDR,
  PCI_EXT_CAP_NEXT,
  PCI_INTERRUPT_LINE,
  PCI_INTERRUPT_PIN,
  PCI_LATENCY_TIMER,
  PCI_MSI_ADDRESS_HI,
  PCI_MSI_ADDRESS_LO,
  PCI_MSI_FLAGS,
  PCI_MSI_FLAGS_64BIT,
  PCI_MSI_FLAGS_ENABLE,
  PCI_MSI_FLAGS_MASKBIT,
  PCI_MSI_FLAGS_QSIZE,
  PCI_PM_CAP_PME_MASK,
  PCI_PM_CTRL,
  PCI_PM_CTRL_PME_ENABLE,
  PCI_PM_CTRL_PME_STATUS,
  PCI_PM_CTRL_STATE_MASK,
  PCI_PM_PMC,
  PCI_PM_SIZEOF,
  PCI_REBAR_CTRL,
  PCI_ROM_ADDRESS,
  PCI_ROM_ADDRESS_ENABLE,
  PCI_STATUS,
  PCI_STATUS_CAP_LIST,
  PCI_STD_HEADER_SIZEOF,
  PCI_VENDOR_ID,
  PCI_VPD_ADDR,
  PCI_VPD_DATA,
} from "../abi/pci.ts";
import { load16, load32, store16, store32 } from "../abi/struct.ts";
import { VFIO_PCI_MSI_IRQ_INDEX } from "../abi/vfio.ts";
import type { PciDevice } from "../hardware/pci-device.ts";
import { barFlags } from "../hardware/pci-writable.ts";
import type { Argument } from "../kernel/argument.ts";
import type { VfioIrqs } from "./irqs.ts";

/** What a write into configuration space may set off in the device behind it. */
export interface ConfigEffects {
  /** a function level reset that the program asked for through a capability */
  resetFunction(): void;
  /** D0 to D3hot, 0 to 3 */
  setPowerState(state: number): void;
}

/** Bytes that belong to no capability, in `#owner`; 0 is the header. */
const UNASSIGNED = 0xffff;

export class VfioConfigSpace {
  readonly size: number;
  readonly #device: PciDevice;
  readonly #irqs: VfioIrqs;
  readonly #effects: ConfigEffects;
  /** what the program sees where a bit is virtual */
  readonly virtual: Uint8Array;
  readonly #isVirtual: Uint8Array;
  readonly #canWrite: Uint8Array;
  /** the start of the capability that a byte belongs to */
  readonly #owner: Uint16Array;
  #barsDirty = true;

  constructor(device: PciDevice, irqs: VfioIrqs, effects: ConfigEffects, hasIntx: boolean) {
    this.#device = device;
    this.#irqs = irqs;
    this.#effects = effects;
    this.size = device.config.length;
    this.virtual = new Uint8Array(this.size);
    this.#isVirtual = new Uint8Array(this.size);
    this.#canWrite = new Uint8Array(this.size);
    this.#owner = new Uint16Array(this.size).fill(UNASSIGNED, PCI_STD_HEADER_SIZEOF);
    this.#canWrite.fill(0xff, PCI_STD_HEADER_SIZEOF);
    this.#header(hasIntx);
    if (!this.#capabilities()) return;
    this.#extendedCapabilities();
  }

  /** Whether the program has memory enabled. */
  get memoryEnabled(): boolean {
    return (load16(this.virtual, PCI_COMMAND) & PCI_COMMAND_MEMORY) !== 0;
  }

  get interruptPin(): number {
    return this.virtual[PCI_INTERRUPT_PIN];
  }

  // --- the masks --------------------------------------------------------------------------------------------------

  #byte(at: number, virtual: number, write: number): void {
    this.#isVirtual[at] = virtual;
    this.#canWrite[at] = write;
  }
  #word(at: number, virtual: number, write: number): void {
    store16(this.#isVirtual, at, virtual);
    store16(this.#canWrite, at, write);
  }
  #dword(at: number, virtual: number, write: number): void {
    store32(this.#isVirtual, at, virtual);
    store32(this.#canWrite, at, write);
  }

  /** A range belongs to a capability: read from the device, not written; its bytes are copied. */
  #claim(at: number, length: number): void {
    const end = Math.min(at + length, this.size);
    this.#owner.fill(at, at, end);
    this.#isVirtual.fill(0, at, end);
    this.#canWrite.fill(0, at, end);
    this.virtual.set(this.#device.config.subarray(at, end), at);
  }

  #header(hasIntx: boolean): void {
    this.#claim(0, PCI_STD_HEADER_SIZEOF);
    this.#word(PCI_VENDOR_ID, ALL, 0);
    this.#word(PCI_DEVICE_ID, ALL, 0);
    this.#word(PCI_COMMAND, PCI_COMMAND_INTX_DISABLE, ALL);
    this.#word(PCI_STATUS, PCI_STATUS_CAP_LIST, 0);
    for (const at of [PCI_CACHE_LINE_SIZE, PCI_LATENCY_TIMER, PCI_BIST]) this.#byte(at, 0, ALL);
    for (let index = 0; index < 6; index++) this.#dword(PCI_BASE_ADDRESS_0 + 4 * index, ALL, ALL);
    this.#dword(PCI_ROM_ADDRESS, ALL, ALL);
    this.#byte(PCI_CAPABILITY_LIST, ALL, 0);
    this.#byte(PCI_INTERRUPT_LINE, ALL, ALL);
    this.#byte(PCI_INTERRUPT_PIN, ALL, 0);
    if (!hasIntx) this.virtual[PCI_INTERRUPT_PIN] = 0;
  }

  /** Whether there are extended capabilities behind them. */
  #capabilities(): boolean {
    const { config } = this.#device;
    if ((load16(config, PCI_STATUS) & PCI_STATUS_CAP_LIST) === 0) return false;
    let extended = false;
    let previous = PCI_CAPABILITY_LIST;
    let shown = 0;
    let at = config[PCI_CAPABILITY_LIST];
    for (let left = (PCI_CFG_SPACE_SIZE - PCI_STD_HEADER_SIZEOF) / 4; at !== 0 && left > 0; left--) {
      const id = config[at];
      const next = config[at + PCI_CAP_LIST_NEXT];
      const length = capabilityLength(config, id, at);
      if (id === PCI_CAP_ID_EXP && this.size > PCI_CFG_SPACE_SIZE)
        extended = load32(config, PCI_CFG_SPACE_SIZE) !== 0;
      if (length === 0) this.virtual[previous] = next;
      else {
        this.#claim(at, length);
        this.#word(at, ALL, 0);
        this.#permissions(id, at, length);
        previous = at + PCI_CAP_LIST_NEXT;
        shown++;
      }
      at = next;
    }
    if (shown === 0)
      store16(this.virtual, PCI_STATUS, load16(this.virtual, PCI_STATUS) & ~PCI_STATUS_CAP_LIST);
    return extended;
  }

  #permissions(id: number, at: number, length: number): void {
    switch (id) {
      case PCI_CAP_ID_PM: {
        const pme = PCI_PM_CTRL_PME_ENABLE | PCI_PM_CTRL_PME_STATUS;
        this.#word(at + PCI_PM_PMC, PCI_PM_CAP_PME_MASK, 0);
        this.#dword(at + PCI_PM_CTRL, pme, ~(pme | PCI_PM_CTRL_STATE_MASK));
        clearBits(this.virtual, at + PCI_PM_PMC, PCI_PM_CAP_PME_MASK);
        clearBits(this.virtual, at + PCI_PM_CTRL, pme);
        break;
      }
      case PCI_CAP_ID_VPD:
        this.#word(at + PCI_VPD_ADDR, ALL, ALL);
        this.#dword(at + PCI_VPD_DATA, ALL, ALL);
        break;
      case PCI_CAP_ID_MSI:
        this.#msiPermissions(at);
        break;
      case PCI_CAP_ID_VNDR:
        this.#canWrite.fill(0xff, at + 2, at + length);
        break;
      case PCI_CAP_ID_EXP:
        this.#word(
          at + PCI_EXP_DEVCTL,
          PCI_EXP_DEVCTL_BCR_FLR | PCI_EXP_DEVCTL_PAYLOAD | PCI_EXP_DEVCTL_READRQ,
          ~PCI_EXP_DEVCTL_PHANTOM,
        );
        if (length > PCI_EXP_DEVCTL2) this.#word(at + PCI_EXP_DEVCTL2, 0, ~PCI_EXP_DEVCTL2_ARI);
        break;
      case PCI_CAP_ID_AF:
        this.#byte(at + PCI_AF_CTRL, PCI_AF_CTRL_FLR, PCI_AF_CTRL_FLR);
        break;
    }
  }

  #msiPermissions(at: number): void {
    const control = load16(this.#device.config, at + PCI_MSI_FLAGS);
    this.#byte(at + PCI_MSI_FLAGS, ALL, ALL);
    this.#dword(at + PCI_MSI_ADDRESS_LO, ALL, ALL);
    let data = at + PCI_MSI_ADDRESS_HI;
    if ((control & PCI_MSI_FLAGS_64BIT) !== 0) {
      this.#dword(data, ALL, ALL);
      data += 4;
    }
    this.#word(data, ALL, ALL);
    if ((control & PCI_MSI_FLAGS_MASKBIT) === 0) return;
    this.#dword(data + 4, 0, ALL);
    this.#dword(data + 8, 0, ALL);
  }

  #extendedCapabilities(): void {
    const { config } = this.#device;
    let previous = -1;
    let shown = 0;
    let at = PCI_CFG_SPACE_SIZE;
    for (let left = (this.size - PCI_CFG_SPACE_SIZE) / 4; left > 0 && at >= PCI_CFG_SPACE_SIZE; left--) {
      const header = load32(config, at);
      const id = PCI_EXT_CAP_ID(header);
      const next = PCI_EXT_CAP_NEXT(header);
      const length = extendedLength(config, id, at);
      if (length === 0 && previous >= 0) {
        const kept = load32(this.virtual, previous) & 0x000f_ffff;
        store32(this.virtual, previous, kept | (next << 20));
      } else {
        this.#claim(at, length === 0 ? 4 : length);
        this.#dword(at, ALL, 0);
        if (length === 0) store32(this.virtual, at, next << 20);
        else {
          this.#extendedPermissions(id, at, length);
          shown++;
        }
        previous = at;
      }
      at = next;
    }
    if (shown === 0) store32(this.virtual, PCI_CFG_SPACE_SIZE, 0);
  }

  #extendedPermissions(id: number, at: number, length: number): void {
    if (id === PCI_EXT_CAP_ID_VNDR) this.#canWrite.fill(0xff, at, at + length);
    else if (id === PCI_EXT_CAP_ID_PWR) this.#canWrite[at + 8] = 0xff;
    else if (id === PCI_EXT_CAP_ID_ERR) {
      for (const register of [4, 8, 12]) store32(this.#canWrite, at + register, ERR_UNCORRECTABLE);
      for (const register of [16, 20]) store32(this.#canWrite, at + register, ERR_CORRECTABLE);
      store32(this.#canWrite, at + 24, ERR_CONTROL);
    }
  }

  // --- access -----------------------------------------------------------------------------------------------------

  /** Bytes of the next piece of an access: aligned, within a capability. */
  #piece(at: number, count: number): number {
    const owner = this.#owner[at];
    let same = 1;
    while ((at + same) % 4 !== 0 && this.#owner[at + same] === owner) same++;
    const room = Math.min(count, same);
    if (room >= 4 && at % 4 === 0) return 4;
    return room >= 2 && at % 2 === 0 ? 2 : 1;
  }

  read(user: Argument, count: number, at: number): number {
    if (at >= this.size || at + count > this.size) return -EFAULT;
    if (!user.writable(count)) return -EFAULT;
    for (let done = 0; done < count; ) {
      const size = this.#piece(at + done, count - done);
      const value = this.#readPiece(at + done, size);
      for (let i = 0; i < size; i++) user.bytes[user.at + done + i] = value >>> (8 * i);
      done += size;
    }
    return count;
  }

  write(user: Argument, count: number, at: number): number {
    if (at >= this.size || at + count > this.size) return -EFAULT;
    for (let done = 0; done < count; ) {
      const size = this.#piece(at + done, count - done);
      if (!user.readable(done + size)) return -EFAULT;
      let value = 0;
      for (let i = 0; i < size; i++) value |= user.bytes[user.at + done + i] << (8 * i);
      this.#writePiece(at + done, size, value >>> 0);
      done += size;
    }
    return count;
  }

  #readPiece(at: number, size: number): number {
    if (isBar(at)) this.#fixBars();
    const mask = load(this.#isVirtual, at, size);
    const own = mask === ones(size) ? 0 : this.#device.readConfig(at, size);
    return ((own & ~mask) | (load(this.virtual, at, size) & mask)) >>> 0;
  }

  #writePiece(at: number, size: number, value: number): void {
    const write = load(this.#canWrite, at, size);
    const virtual = load(this.#isVirtual, at, size);
    const readrq = this.#readrq(at);
    if ((write & virtual) !== 0)
      store(this.virtual, at, size, merge(load(this.virtual, at, size), value, write & virtual));
    if ((write & ~virtual) !== 0)
      this.#device.writeConfig(at, size, merge(this.#device.readConfig(at, size), value, write & ~virtual));
    const owner = this.#owner[at];
    if (owner === 0) this.#wroteHeader(at, value);
    else if (owner !== UNASSIGNED && owner < PCI_CFG_SPACE_SIZE)
      this.#wroteCapability(this.#device.config[owner], owner, at - owner, size, value, readrq);
  }

  /** The command register decides what a program sees of its BARs, and INTx. */
  #wroteHeader(at: number, value: number): void {
    if (at === PCI_COMMAND) {
      const both = PCI_COMMAND_MEMORY | PCI_COMMAND_IO;
      const command = load16(this.virtual, PCI_COMMAND);
      store16(this.virtual, PCI_COMMAND, (command & ~both) | (value & both));
    }
    if (at === PCI_COMMAND || at === PCI_COMMAND + 1) {
      const disabled = (load16(this.virtual, PCI_COMMAND) & PCI_COMMAND_INTX_DISABLE) !== 0;
      if (disabled && !this.#irqs.intxDisabled) {
        this.#irqs.intxDisabled = true;
        this.#irqs.mask();
      } else if (!disabled && this.#irqs.intxDisabled) {
        this.#irqs.intxDisabled = false;
        this.#irqs.unmask();
      }
    }
    if (isBar(at)) this.#barsDirty = true;
  }

  #wroteCapability(
    id: number,
    start: number,
    offset: number,
    size: number,
    value: number,
    readrq: number,
  ): void {
    switch (id) {
      case PCI_CAP_ID_PM:
        if (offset === PCI_PM_CTRL) this.#effects.setPowerState(value & PCI_PM_CTRL_STATE_MASK);
        break;
      case PCI_CAP_ID_MSI:
        if (offset <= PCI_MSI_FLAGS && offset + size >= PCI_MSI_FLAGS) this.#wroteMsi(start);
        break;
      case PCI_CAP_ID_EXP:
        this.#wroteExp(start, readrq);
        break;
      case PCI_CAP_ID_AF:
        this.#wroteAf(start);
        break;
    }
  }

  /** MSI is on only where SET_IRQS turned it on, with no more vectors than it has. */
  #wroteMsi(start: number): void {
    let flags = load16(this.virtual, start + PCI_MSI_FLAGS);
    if (this.#irqs.type !== VFIO_PCI_MSI_IRQ_INDEX) flags &= ~PCI_MSI_FLAGS_ENABLE;
    if ((flags & PCI_MSI_FLAGS_QSIZE) >> 4 > this.#irqs.msiMost)
      flags = (flags & ~PCI_MSI_FLAGS_QSIZE) | (this.#irqs.msiMost << 4);
    store16(this.virtual, start + PCI_MSI_FLAGS, flags);
    this.#device.writeConfig(start + PCI_MSI_FLAGS, 2, flags);
  }

  #readrq(at: number): number {
    const start = this.#owner[at];
    if (start !== this.#device.expCapability || start === 0) return 0;
    return load16(this.virtual, start + PCI_EXP_DEVCTL) & PCI_EXP_DEVCTL_READRQ;
  }

  #wroteExp(start: number, before: number): void {
    const control = load16(this.virtual, start + PCI_EXP_DEVCTL);
    if ((control & PCI_EXP_DEVCTL_BCR_FLR) !== 0) {
      store16(this.virtual, start + PCI_EXP_DEVCTL, control & ~PCI_EXP_DEVCTL_BCR_FLR);
      if ((this.#device.readConfig(start + PCI_EXP_DEVCAP, 4) & PCI_EXP_DEVCAP_FLR) !== 0)
        this.#effects.resetFunction();
    }
    if ((control & PCI_EXP_DEVCTL_READRQ) === before) return;
    const own = this.#device.readConfig(start + PCI_EXP_DEVCTL, 2);
    const payload = (own & PCI_EXP_DEVCTL_PAYLOAD) >> 5;
    const request = Math.max((control & PCI_EXP_DEVCTL_READRQ) >> 12, payload);
    this.#device.writeConfig(start + PCI_EXP_DEVCTL, 2, (own & ~PCI_EXP_DEVCTL_READRQ) | (request << 12));
  }

  #wroteAf(start: number): void {
    if ((this.virtual[start + PCI_AF_CTRL] & PCI_AF_CTRL_FLR) === 0) return;
    this.virtual[start + PCI_AF_CTRL] &= ~PCI_AF_CTRL_FLR;
    const can = this.#device.readConfig(start + PCI_AF_CAP, 1);
    if ((can & PCI_AF_CAP_FLR) !== 0 && (can & PCI_AF_CAP_TP) !== 0) this.#effects.resetFunction();
  }

  /** What is read back from a BAR says how large it is. */
  #fixBars(): void {
    if (!this.#barsDirty) return;
    this.#barsDirty = false;
    for (let index = 0; index < 6; index++) {
      const at = PCI_BASE_ADDRESS_0 + 4 * index;
      const bar = this.#device.bars[index];
      if (bar === undefined) {
        store32(this.virtual, at, 0);
        continue;
      }
      const mask = ~(Math.min(bar.size, 2 ** 32) - 1);
      store32(this.virtual, at, (load32(this.virtual, at) & mask) | barFlags(bar));
      if (!bar.wide) continue;
      const high = bar.size > 2 ** 32 ? ~(bar.size / 2 ** 32 - 1) : -1;
      store32(this.virtual, at + 4, load32(this.virtual, at + 4) & high);
      index++;
    }
    const { rom } = this.#device;
    const keep = rom === 0 ? 0 : ~(rom - 1) | PCI_ROM_ADDRESS_ENABLE;
    store32(this.virtual, PCI_ROM_ADDRESS, load32(this.virtual, PCI_ROM_ADDRESS) & keep);
  }
}

/** Every bit, in masks of any width. */
const ALL = 0xffff_ffff;
/** Writable bits of the error registers (PCI_ERR_UNC_*, PCI_ERR_COR_*, PCI_ERR_CAP_*). */
const ERR_UNCORRECTABLE = 0x03ff_f031;
const ERR_CORRECTABLE = 0x0000_f1c1;
const ERR_CONTROL = 0x0000_0140;

const isBar = (at: number): boolean =>
  (at >= PCI_BASE_ADDRESS_0 && at < PCI_BASE_ADDRESS_0 + 24) ||
  (at >= PCI_ROM_ADDRESS && at < PCI_ROM_ADDRESS + 4);

const ones = (size: number): number => (size === 4 ? ALL : 2 ** (8 * size) - 1);
const load = (bytes: Uint8Array, at: number, size: number): number =>
  size === 4 ? load32(bytes, at) : size === 2 ? load16(bytes, at) : bytes[at];
const merge = (old: number, value: number, mask: number): number => ((old & ~mask) | (value & mask)) >>> 0;
function store(bytes: Uint8Array, at: number, size: number, value: number): void {
  if (size === 4) store32(bytes, at, value);
  else if (size === 2) store16(bytes, at, value);
  else bytes[at] = value;
}
const clearBits = (bytes: Uint8Array, at: number, bits: number): void =>
  store16(bytes, at, load16(bytes, at) & ~bits);

/** Bytes of a capability, 0 for one that is left out of the list. */
function capabilityLength(config: Uint8Array, id: number, at: number): number {
  if (id === 0 || id > PCI_CAP_ID_MAX) return 0;
  switch (id) {
    case PCI_CAP_ID_PM:
      return PCI_PM_SIZEOF;
    case PCI_CAP_ID_AGP:
      return 12;
    case PCI_CAP_ID_VPD:
      return PCI_CAP_VPD_SIZEOF;
    case PCI_CAP_ID_MSI: {
      const control = load16(config, at + PCI_MSI_FLAGS);
      const wide = (control & PCI_MSI_FLAGS_64BIT) !== 0 ? 4 : 0;
      return 10 + wide + ((control & PCI_MSI_FLAGS_MASKBIT) !== 0 ? 10 : 0);
    }
    case PCI_CAP_ID_PCIX:
      return PCI_CAP_PCIX_SIZEOF_V0;
    case PCI_CAP_ID_VNDR:
      return config[at + 2];
    case PCI_CAP_ID_EXP: {
      const flags = load16(config, at + PCI_EXP_FLAGS);
      const root = (flags & PCI_EXP_FLAGS_TYPE) >> 4 === PCI_EXP_TYPE_RC_END;
      if ((flags & PCI_EXP_FLAGS_VERS) === 1)
        return root ? PCI_CAP_EXP_RC_ENDPOINT_SIZEOF_V1 : PCI_CAP_EXP_ENDPOINT_SIZEOF_V1;
      return root ? PCI_CAP_EXP_RC_ENDPOINT_SIZEOF_V2 : PCI_CAP_EXP_ENDPOINT_SIZEOF_V2;
    }
    case PCI_CAP_ID_MSIX:
      return PCI_CAP_MSIX_SIZEOF;
    case PCI_CAP_ID_SATA:
      return (config[at + 4] & 15) === 15 ? 16 : 8;
    case PCI_CAP_ID_AF:
      return PCI_CAP_AF_SIZEOF;
    default:
      return 0;
  }
}

/** Bytes of extended capabilities with a fixed length. */
const EXTENDED_LENGTH = new Map<number, number>([
  [PCI_EXT_CAP_ID_ERR, 0x2c],
  [PCI_EXT_CAP_ID_DSN, 12],
  [PCI_EXT_CAP_ID_PWR, 16],
  [PCI_EXT_CAP_ID_ARI, 8],
  [PCI_EXT_CAP_ID_ATS, 8],
  [PCI_EXT_CAP_ID_SRIOV, 0x40],
  [PCI_EXT_CAP_ID_MCAST, 40],
  [PCI_EXT_CAP_ID_PRI, 16],
  [PCI_EXT_CAP_ID_LTR, 8],
]);

function extendedLength(config: Uint8Array, id: number, at: number): number {
  const fixed = EXTENDED_LENGTH.get(id);
  if (fixed !== undefined) return fixed;
  switch (id) {
    case PCI_EXT_CAP_ID_VNDR:
    case PCI_EXT_CAP_ID_DVSEC:
      return load32(config, at + 4) >>> 20;
    case PCI_EXT_CAP_ID_VC:
    case PCI_EXT_CAP_ID_VC9:
    case PCI_EXT_CAP_ID_MFVC:
      return virtualChannelLength(config, at);
    case PCI_EXT_CAP_ID_ACS: {
      if ((config[at + 4] & 0x20) === 0) return 8;
      const bits = config[at + 5];
      return 8 + (bits === 0 ? 256 : Math.ceil(bits / 32) * 32) / 8;
    }
    case PCI_EXT_CAP_ID_REBAR:
      return 4 + (config[at + PCI_REBAR_CTRL] >> 5) * 8;
    case PCI_EXT_CAP_ID_DPA:
      return 16 + (config[at + 4] & 0x1f) + 1;
    case PCI_EXT_CAP_ID_TPH: {
      const capability = load32(config, at + 4);
      if ((capability & 0x600) !== 0x200) return 12;
      return 12 + ((capability >>> 16) & 0x7ff) * 2 + 2;
    }
    default:
      return 0;
  }
}

function virtualChannelLength(config: Uint8Array, at: number): number {
  const more = load32(config, at + 4) & 7;
  const arbitration = load32(config, at + 8);
  const phases =
    (arbitration & 8) !== 0 ? 128 : (arbitration & 4) !== 0 ? 64 : (arbitration & 2) !== 0 ? 32 : 0;
  const length = 16 + (1 + more) * 12;
  return phases === 0 ? length : Math.ceil(length / 16) * 16 + (phases * 4) / 8;
}
