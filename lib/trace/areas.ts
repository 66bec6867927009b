/**
 * Which area of the kernel a line of a trace belongs to: by its request where that says it, else by what the descriptor
 * or the mapping is. A request belongs to its area on a file that does not know it, too.
 */
import type { FileKind } from "../abi/ioctl.ts";
import { load32 } from "../abi/struct.ts";
import { descriptorInAnswer, returnsDescriptor } from "./descriptors.ts";
import { fromHex, type TraceHeader, type TraceLine } from "./format.ts";
import { requestOf } from "./requests.ts";

/** Every area, in the order of tables. */
export const areas = [
  "/dev/kvm",
  "VM",
  "memory slots",
  "interrupt controllers",
  "lines, routes, messages",
  "irqfd, ioeventfd",
  "eventfd",
  "vCPU state",
  "KVM_RUN",
  "VFIO containers",
  "VFIO groups",
  "VFIO devices",
  "configuration space, BARs",
  "iommufd",
  "descriptors, memory",
] as const;
export type Area = (typeof areas)[number];

const byName: readonly [RegExp, Area][] = [
  [/^KVM_(IRQFD|IOEVENTFD)$/, "irqfd, ioeventfd"],
  [/^KVM_RUN$/, "KVM_RUN"],
  [
    /^KVM_(IRQ_LINE(_STATUS)?|SET_GSI_ROUTING|SIGNAL_MSI|INTERRUPT|NMI|(DE)?ASSIGN_\w+)$/,
    "lines, routes, messages",
  ],
  [
    /^KVM_(CREATE_IRQCHIP|CREATE_PIT2?|REINJECT_CONTROL|[GS]ET_(IRQCHIP|PIT2?|LAPIC)|SET_VAPIC_ADDR|TPR_ACCESS_REPORTING|ARM_SET_DEVICE_ADDR)$/,
    "interrupt controllers",
  ],
  [
    /^KVM_(SET_(USER_)?MEMORY_\w+|(GET|CLEAR)_DIRTY_LOG|RESET_DIRTY_RINGS|(UN)?REGISTER_COALESCED_MMIO|CREATE_GUEST_MEMFD|PRE_FAULT_MEMORY|[GS]ET_NR_MMU_PAGES)$/,
    "memory slots",
  ],
];

/** What an open file is; an eventfd has no requests of its own. */
type Kind = FileKind | "eventfd";

const byKind: Readonly<Record<Kind, Area>> = {
  system: "/dev/kvm",
  vm: "VM",
  vcpu: "vCPU state",
  device: "interrupt controllers",
  stats: "VM",
  "guest-memfd": "memory slots",
  "spapr-tce": "VM",
  htab: "VM",
  "vfio-container": "VFIO containers",
  "vfio-group": "VFIO groups",
  "vfio-device": "VFIO devices",
  "vfio-migration": "VFIO devices",
  "dma-buf": "VFIO devices",
  iommufd: "iommufd",
  epoll: "descriptors, memory",
  eventfd: "eventfd",
};

const byPath: readonly [RegExp, Kind][] = [
  [/^\/dev\/kvm$/, "system"],
  [/^\/dev\/vfio\/vfio$/, "vfio-container"],
  [/^\/dev\/vfio\/devices\//, "vfio-device"],
  [/^\/dev\/vfio\//, "vfio-group"],
  [/^\/dev\/iommu$/, "iommufd"],
];

/** Goes through a trace, line by line, and remembers what is open and mapped. */
export class Areas {
  readonly #header: TraceHeader;
  readonly #files = new Map<number, Kind>();
  readonly #maps = new Map<string, Area>();

  constructor(header: TraceHeader) {
    this.#header = header;
  }

  /** The area of the next line. */
  of(line: TraceLine): Area {
    const area = this.#area(line);
    this.#remember(line, area);
    return area;
  }

  #area(line: TraceLine): Area {
    switch (line.call) {
      case "open":
        return this.#areaOf(kindOfPath(line.path));
      case "eventfd2":
        return "eventfd";
      case "ioctl": {
        const { name, request } = requestOf(this.#header, line);
        const named = byName.find(([pattern]) => pattern.test(name));
        if (named !== undefined) return named[1];
        const on = this.#files.get(line.fd);
        const known = typeof request?.on === "string" ? [request.on] : (request?.on ?? []);
        return this.#areaOf(
          known.length === 0 || (on !== undefined && known.includes(on as FileKind)) ? on : known[0],
        );
      }
      case "pread":
      case "pwrite":
        return this.#files.get(line.fd) === "vfio-device"
          ? "configuration space, BARs"
          : this.#areaOf(this.#files.get(line.fd));
      case "mmap": {
        const kind = this.#files.get(line.fd);
        if (kind === "vfio-device") return "configuration space, BARs";
        return kind === "vcpu" ? "KVM_RUN" : this.#areaOf(kind);
      }
      case "munmap":
      case "peek":
      case "poke":
        return this.#maps.get(line.map) ?? "descriptors, memory";
      case "poll":
        return this.#areaOf(line.fds.map(({ fd }) => this.#files.get(fd)).find((kind) => kind !== undefined));
      case "read":
      case "write":
      case "close":
      case "dup":
      case "fcntl":
        return this.#areaOf(this.#files.get(line.fd));
      default:
        return "descriptors, memory";
    }
  }

  #areaOf(kind: Kind | undefined): Area {
    return kind === undefined ? "descriptors, memory" : byKind[kind];
  }

  #remember(line: TraceLine, area: Area): void {
    if (line.call === "mmap" && line.map !== undefined) this.#maps.set(line.map, area);
    if (!("ret" in line) || line.ret < 0) return;
    if (line.call === "close") this.#files.delete(line.fd);
    const at = line.call === "ioctl" ? descriptorInAnswer(line) : undefined;
    if (line.call === "ioctl" && at !== undefined)
      this.#set(load32(fromHex(line.out ?? line.in!), at), "device");
    else if (returnsDescriptor(this.#header, line)) this.#set(line.ret, this.#made(line));
  }

  #made(line: TraceLine): Kind | undefined {
    switch (line.call) {
      case "open":
        return kindOfPath(line.path);
      case "eventfd2":
        return "eventfd";
      case "dup":
      case "fcntl":
        return this.#files.get(line.fd);
      default:
        return line.call === "ioctl" ? requestOf(this.#header, line).request?.returns : undefined;
    }
  }

  #set(fd: number, kind: Kind | undefined): void {
    if (kind === undefined) this.#files.delete(fd);
    else this.#files.set(fd, kind);
  }
}

const kindOfPath = (path: string): Kind | undefined => byPath.find(([pattern]) => pattern.test(path))?.[1];
