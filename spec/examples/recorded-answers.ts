/**
 * What recorded kernels answered to the questions of the capability matrix. Every trace is walked with an eye on each
 * VM's stage; a call that asks what a cell asks, with a well-formed argument, is an answer for that cell.
 *
 * Left out are calls that a cell does not ask: malformed arguments, an eventfd that is bound already or is none, a
 * second interrupt by KVM_INTERRUPT, an ITS that the program has enabled, messages to local APICs that are off, a VM that a
 * failed first run has ended, calls from a forked child.
 */
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { load32, load64 } from "../../lib/abi/struct.ts";
import type { MatrixRequest } from "../../lib/examples/capability-matrix.ts";
import { type Stage, stages } from "../../lib/examples/matrix-hosts.ts";
import { readTrace } from "../../lib/trace/files.ts";
import type { IoctlLine, Trace } from "../../lib/trace/format.ts";

const fixtures = new URL("../../fixtures/", import.meta.url).pathname;

/** Folders of recordings by the profiles that they can tell of. */
const folders = [
  "traces/x86_64-kvm-6.18",
  "traces/x86_64-kvm-6.18-more",
  "recorded/x86_64-6.18",
  ...["6.1", "6.12", "7.2"].flatMap((release) => [
    `traces/arm64-kvm-${release}`,
    `traces/arm64-kvm-${release}/guest-code`,
    `recorded/arm64-${release}`,
    `recorded/arm64-${release}/guest-code`,
  ]),
  ...["6.1", "6.12", "pr"].flatMap((release) => [
    `traces/ppc64le-kvm-${release}`,
    `traces/ppc64le-kvm-${release}/guest-code`,
    `recorded/ppc64le-${release}`,
    `recorded/ppc64le-${release}/guest-code`,
  ]),
];

export interface RecordedAnswer {
  /** "traces/arm64-kvm-6.12/before-vgic" */
  readonly trace: string;
  readonly call: number;
  readonly answer: string;
}

const VGIC_V2 = 5;
const VGIC_V3 = 7;
const VGIC_ITS = 8;
const XICS = 3;
const GRP_ADDR = 0;
const GRP_CTRL = 4;
const CTRL_INIT = 0;
const GRP_ITS_REGS = 8;
const SPIV = 0xf0;
const SPIV_ENABLED = 0x100;
const SPLIT_IRQCHIP = 121;
const IRQ_XICS = 92;

interface Vm {
  kind: "vm";
  readonly devices: Set<number>;
  initialised: Set<number>;
  vcpus: number;
  irqchip: "full" | "split" | undefined;
  connected: boolean;
  /** a local APIC is on */
  lapic: boolean;
  /** an interrupt by KVM_INTERRUPT may wait */
  interrupted: boolean;
  ran: boolean;
  dead: boolean;
  itsBase: number;
  itsTouched: boolean;
}
type Fd =
  | Vm
  | { kind: "vcpu"; vm: Vm }
  | { kind: "device"; vm: Vm; type: number }
  | { kind: "eventfd"; bound: boolean }
  | { kind: "kvm" | "other" };

const bytesOf = (hex: string | undefined): Uint8Array => Uint8Array.from(Buffer.from(hex ?? "", "hex"));

/** The cells, as "profile, request, stage", that a trace answers. */
function* answersIn(trace: Trace, name: string): Generator<[cell: string, RecordedAnswer]> {
  const { arch, kvm, host } = trace.header;
  const gicv2 = /gic-version=2/.test(String(host.machine));
  const xicsOnXive = /powernv/.test(String(host.machine));
  if (xicsOnXive) return;
  const fds = new Map<number, Fd>();
  for (const line of trace.lines) {
    if (line.call === "close") close(line.fd, fds);
    if (line.call === "open" && line.ret >= 0)
      fds.set(line.ret, { kind: line.path === "/dev/kvm" ? "kvm" : "other" });
    if (line.call === "eventfd2" && line.ret >= 0) fds.set(line.ret, { kind: "eventfd", bound: false });
    if (line.call !== "ioctl" || line.process === "child") continue;
    const file = fds.get(line.fd);
    if (file === undefined) continue;
    const request = requestIn(line, file, fds, arch);
    const vm = file.kind === "vm" ? file : file.kind === "vcpu" ? file.vm : undefined;
    if (request !== undefined && vm !== undefined && !vm.dead)
      for (const [profile, stage] of placesOf(vm, arch, kvm, gicv2)) {
        const answer = line.ret >= 0 ? String(line.ret) : line.errno!;
        if (asked(vm, request, profile, stage, bytesOf(line.in)))
          yield [`${profile}, ${request}, ${stage}`, { trace: name, call: line.n, answer }];
      }
    follow(line, file, fds);
  }
}

/** Whether a VM and an argument are as the cell has them. */
function asked(vm: Vm, request: MatrixRequest, profile: string, stage: Stage, bytes: Uint8Array): boolean {
  if (request === "KVM_INTERRUPT") return profile !== "x86 split" || !vm.interrupted;
  if (request !== "KVM_SIGNAL_MSI") return true;
  if (profile.startsWith("x86") && vm.irqchip !== undefined) {
    const fixed = load32(bytes, 0) === 0xfee0_0000 && load32(bytes, 8) >= 16 && load32(bytes, 8) < 256;
    return fixed && (stage === "created" ? vm.vcpus === 0 : vm.lapic);
  }
  if (profile !== "ARM v3+ITS" || stage === "before the irqchip") return true;
  const doorbell = load32(bytes, 12) === 1 && load32(bytes, 0) === vm.itsBase + 0x1_0040;
  // what a guest has told its ITS is not seen here; an ITS that is only created is nowhere yet
  return !vm.itsTouched && !vm.ran && (stage === "created" ? vm.itsBase < 0 : doorbell);
}

/** What a line asks, if its argument is well-formed. */
function requestIn(line: IoctlLine, file: Fd, fds: Map<number, Fd>, arch: string): MatrixRequest | undefined {
  if (line.pointers !== undefined || line.argmap !== undefined) return undefined;
  if (isUnknown(line, file, arch)) return line.name as MatrixRequest;
  const bytes = bytesOf(line.in);
  switch (line.name) {
    case "KVM_CREATE_IRQCHIP":
      return file.kind === "vm" ? "KVM_CREATE_IRQCHIP" : undefined;
    case "KVM_SET_GSI_ROUTING":
      return file.kind === "vm" && messagesOnly(bytes) ? "KVM_SET_GSI_ROUTING" : undefined;
    case "KVM_SIGNAL_MSI":
      return file.kind === "vm" && bytes.length === 32 && load32(bytes, 12) <= (arch === "arm64" ? 1 : 0)
        ? "KVM_SIGNAL_MSI"
        : undefined;
    case "KVM_IRQFD": {
      if (file.kind !== "vm" || bytes.length !== 32) return undefined;
      const eventfd = fds.get(load32(bytes, 0));
      if (eventfd?.kind !== "eventfd" || eventfd.bound) return undefined;
      if (load32(bytes, 8) === 0) return "KVM_IRQFD";
      const resamples = load32(bytes, 8) === 2 && fds.get(load32(bytes, 12))?.kind === "eventfd";
      return resamples ? "KVM_IRQFD with resample" : undefined;
    }
    case "KVM_IRQ_LINE":
      return file.kind === "vm" && bytes.length === 8 && isLine(load32(bytes, 0), arch)
        ? "KVM_IRQ_LINE"
        : undefined;
    case "KVM_INTERRUPT":
      return file.kind === "vcpu" && bytes.length === 4 && load32(bytes, 0) < 256
        ? "KVM_INTERRUPT"
        : undefined;
  }
  return undefined;
}

/** Requests that no VM of an architecture has: the argument does not matter. */
const isUnknown = (line: IoctlLine, file: Fd, arch: string): boolean =>
  (arch === "ppc64le" &&
    file.kind === "vm" &&
    ["KVM_SET_GSI_ROUTING", "KVM_SIGNAL_MSI", "KVM_CREATE_IRQCHIP"].includes(line.name ?? "")) ||
  (arch === "arm64" && file.kind === "vcpu" && line.name === "KVM_INTERRUPT");

/** A line that every controller has: a pin of the IOAPIC, an SPI, any source. */
const isLine = (irq: number, arch: string): boolean =>
  arch === "x86_64" ? irq < 24 : arch === "arm64" ? irq >= 0x0100_0020 && irq < 0x0100_0040 : true;

/** KVM_SET_GSI_ROUTING with messages, no two of one GSI, and nothing wrong. */
function messagesOnly(bytes: Uint8Array): boolean {
  if (bytes.length < 8 || load32(bytes, 4) !== 0) return false;
  const count = load32(bytes, 0);
  if (bytes.length !== 8 + 48 * count) return false;
  const gsis = new Set<number>();
  for (let at = 8; at < bytes.length; at += 48) {
    if (load32(bytes, at) >= 4096 || load32(bytes, at + 4) !== 2 || load32(bytes, at + 8) > 1) return false;
    gsis.add(load32(bytes, at));
  }
  return gsis.size === count;
}

/** The rows and columns where a VM stands. A VM without a controller stands in several rows. */
function placesOf(vm: Vm, arch: string, kvm: string | null, gicv2: boolean): [string, Stage][] {
  const stage = (created: boolean, initialised: boolean): Stage =>
    !created ? stages[0] : !initialised ? stages[1] : vm.ran ? stages[3] : stages[2];
  if (arch === "x86_64") {
    if (vm.irqchip !== undefined) return [[`x86 ${vm.irqchip}`, stage(true, vm.lapic || vm.ran)]];
    if (vm.ran) return [["x86 none", stages[3]]];
    if (vm.vcpus === 0) return ["full", "split", "none"].map((mode) => [`x86 ${mode}`, stages[0]]);
    return [
      ["x86 none", stages[1]],
      ["x86 none", stages[2]],
    ];
  }
  if (arch === "ppc64le") {
    const foreign = [...vm.devices].some((type) => type !== XICS && type !== 4);
    if (foreign) return [];
    return [[`POWER ${kvm === "pr" ? "PR" : "HV"}`, stage(vm.devices.has(XICS), vm.connected)]];
  }
  const created = vm.devices.has(gicv2 ? VGIC_V2 : VGIC_V3);
  const its = vm.devices.has(VGIC_ITS);
  const initialised = vm.initialised.has(gicv2 ? VGIC_V2 : VGIC_V3);
  if (!created && (vm.ran || its)) return [];
  // one is initialised, the other is not: no stage of the matrix
  if (its && initialised !== vm.initialised.has(VGIC_ITS)) return [];
  const at = stage(created, initialised);
  if (gicv2) return [["ARM v2", at]];
  if (!created)
    return [
      ["ARM v3", at],
      ["ARM v3+ITS", at],
    ];
  return [[its ? "ARM v3+ITS" : "ARM v3", at]];
}

/** What a call that succeeded changes; a first run that failed ends an arm64 VM. */
function follow(line: IoctlLine, file: Fd, fds: Map<number, Fd>): void {
  const bytes = bytesOf(line.in);
  const done = line.ret >= 0;
  if (line.name === "KVM_CREATE_VM" && file.kind === "kvm" && done) fds.set(line.ret, newVm());
  if (file.kind === "vm" && done)
    switch (line.name) {
      case "KVM_CREATE_VCPU":
        file.vcpus++;
        fds.set(line.ret, { kind: "vcpu", vm: file });
        break;
      case "KVM_CREATE_DEVICE":
        if (load32(bytes, 8) !== 0) break;
        file.devices.add(load32(bytes, 0));
        fds.set(load32(bytesOf(line.out), 4), { kind: "device", vm: file, type: load32(bytes, 0) });
        break;
      case "KVM_CREATE_IRQCHIP":
        file.irqchip = "full";
        file.devices.add(VGIC_V2);
        break;
      case "KVM_ENABLE_CAP":
        if (load32(bytes, 0) === SPLIT_IRQCHIP) file.irqchip = "split";
        break;
      case "KVM_IRQFD": {
        const eventfd = fds.get(load32(bytes, 0));
        // taken away again or not: it is not asked a second time
        if (eventfd?.kind === "eventfd") eventfd.bound = true;
        break;
      }
      case "KVM_IRQ_LINE":
        // a GICv2 is initialised by the first touch
        if (file.devices.has(VGIC_V2) && load32(bytes, 0) >>> 24 !== 0) file.initialised.add(VGIC_V2);
        break;
    }
  if (file.kind === "device" && line.name === "KVM_SET_DEVICE_ATTR" && done) {
    const [group, attr] = [load32(bytes, 4), Number(load64(bytes, 8))];
    if (group === GRP_CTRL && attr === CTRL_INIT) file.vm.initialised.add(file.type);
    if (group === GRP_ITS_REGS) file.vm.itsTouched = true;
    if (group === GRP_ADDR && file.type === VGIC_ITS)
      file.vm.itsBase = Number(load64(bytesOf(line.deref?.[0].in), 0));
  }
  if (file.kind === "vcpu" && line.name === "KVM_ENABLE_CAP" && load32(bytes, 0) === IRQ_XICS && done)
    file.vm.connected = true;
  // a guest turns its local APIC on itself
  if (file.kind === "vcpu" && /^KVM_[GS]ET_LAPIC$/.test(line.name ?? "") && done)
    file.vm.lapic = (load32(bytesOf(line.out ?? line.in), SPIV) & SPIV_ENABLED) !== 0;
  if (file.kind === "vcpu" && line.name === "KVM_INTERRUPT" && done) file.vm.interrupted = true;
  if (file.kind === "vcpu" && line.name === "KVM_RUN") {
    if (done || line.errno === "EINTR") {
      file.vm.ran = true;
      if (file.vm.devices.has(VGIC_V2)) file.vm.initialised.add(VGIC_V2);
    } else if (line.errno !== "ENOEXEC") file.vm.dead = true;
  }
}

/** A POWER controller goes with its descriptor. */
function close(fd: number, fds: Map<number, Fd>): void {
  const file = fds.get(fd);
  fds.delete(fd);
  if (file?.kind !== "device" || file.type !== XICS) return;
  file.vm.devices.delete(XICS);
  file.vm.connected = false;
}

const newVm = (): Vm => ({
  kind: "vm",
  devices: new Set(),
  initialised: new Set(),
  vcpus: 0,
  irqchip: undefined,
  connected: false,
  lapic: false,
  interrupted: false,
  ran: false,
  dead: false,
  itsBase: -1,
  itsTouched: false,
});

/** By cell, "profile, request, stage": every answer of every recording. */
export function recordedAnswers(): Map<string, RecordedAnswer[]> {
  const answers = new Map<string, RecordedAnswer[]>();
  for (const folder of folders) {
    if (!existsSync(join(fixtures, folder))) continue;
    for (const file of readdirSync(join(fixtures, folder)).filter((name) => name.endsWith(".jsonl.gz"))) {
      const trace = readTrace(join(fixtures, folder, file));
      for (const [cell, answer] of answersIn(trace, `${folder}/${file.replace(".jsonl.gz", "")}`))
        answers.set(cell, [...(answers.get(cell) ?? []), answer]);
    }
  }
  return answers;
}
