/**
 * What every cell of the capability matrix answers, and who says so, stage by stage: "answer by".
 *
 * - `traces/…#n`, `recorded/…#n`: call n of a recording in fixtures.
 * - `live`: the real kernel of an x86 host; spec/contract/capability-matrix.spec.ts asks it.
 * - `facts`: no recording has the cell itself; the summary of the recordings ("What real kernels of other architectures
 *   answer") states it for every stage, or for this one.
 * - `run`: the run alone.
 */
import type { MatrixRequest } from "../../lib/examples/capability-matrix.ts";

export type Row = readonly [before: string, created: string, initialised: string, afterTheFirstRun: string];

export const expected: Record<MatrixRequest, Record<string, Row>> = {
  KVM_SET_GSI_ROUTING: {
    "x86 full": [
      "EINVAL traces/x86_64-kvm-6.18/gsi_routing#3",
      "0 live",
      "0 traces/x86_64-kvm-6.18/gsi_routing#8",
      "0 live",
    ],
    "x86 split": [
      "EINVAL traces/x86_64-kvm-6.18/gsi_routing#3",
      "0 traces/x86_64-kvm-6.18/run_split_eoi#526",
      "0 traces/x86_64-kvm-6.18/split_irqchip#27",
      "0 live",
    ],
    "x86 none": ["EINVAL traces/x86_64-kvm-6.18/gsi_routing#3", "EINVAL live", "EINVAL live", "EINVAL live"],
    "POWER HV": [
      "ENOTTY traces/ppc64le-kvm-6.12/xics-create#51",
      "ENOTTY facts",
      "ENOTTY traces/ppc64le-kvm-6.12/xics-sources#265",
      "ENOTTY facts",
    ],
    "POWER PR": [
      "ENOTTY traces/ppc64le-kvm-pr/pr-xics-create#51",
      "ENOTTY facts",
      "ENOTTY traces/ppc64le-kvm-pr/pr-xics-sources#265",
      "ENOTTY facts",
    ],
    "ARM v2": [
      "0 recorded/arm64-6.12/gicv2-matrix-v2legacy#10",
      "0 recorded/arm64-6.12/gicv2-matrix-v2#11",
      "0 traces/arm64-kvm-6.12/gicv2-vgicv2#301",
      "0 recorded/arm64-6.12/gicv2-matrix-v2#1409",
    ],
    "ARM v3": [
      "0 traces/arm64-kvm-6.12/before-vgic#71",
      "0 traces/arm64-kvm-6.12/before-vgic#148",
      "0 traces/arm64-kvm-6.12/routing#69",
      "0 recorded/arm64-6.12/matrix-v3#1745",
    ],
    "ARM v3+ITS": [
      "0 traces/arm64-kvm-6.12/before-vgic#71",
      "0 recorded/arm64-6.12/matrix-v3its#12",
      "0 recorded/arm64-6.12/matrix-v3its#1018",
      "0 recorded/arm64-6.12/guest-code/guest-its-1#201",
    ],
  },
  KVM_SIGNAL_MSI: {
    "x86 full": [
      "EINVAL traces/x86_64-kvm-6.18/signal_msi#3",
      "EPERM traces/x86_64-kvm-6.18/signal_msi#5",
      "1 traces/x86_64-kvm-6.18/signal_msi#25",
      "1 traces/x86_64-kvm-6.18/run_lapic#532",
    ],
    "x86 split": [
      "EINVAL traces/x86_64-kvm-6.18/signal_msi#3",
      "EPERM live",
      "1 traces/x86_64-kvm-6.18/split_irqchip#23",
      "1 live",
    ],
    "x86 none": ["EINVAL traces/x86_64-kvm-6.18/signal_msi#3", "EINVAL live", "EINVAL live", "EINVAL live"],
    "POWER HV": [
      "ENOTTY traces/ppc64le-kvm-6.12/xics-create#50",
      "ENOTTY facts",
      "ENOTTY traces/ppc64le-kvm-6.12/xics-sources#268",
      "ENOTTY facts",
    ],
    "POWER PR": [
      "ENOTTY traces/ppc64le-kvm-pr/pr-xics-create#50",
      "ENOTTY facts",
      "ENOTTY traces/ppc64le-kvm-pr/pr-xics-sources#268",
      "ENOTTY facts",
    ],
    "ARM v2": [
      "EINVAL recorded/arm64-6.12/gicv2-matrix-v2legacy#70",
      "ENODEV traces/arm64-kvm-6.12/gicv2-vgicv2#17",
      "ENODEV traces/arm64-kvm-6.12/gicv2-vgicv2#309",
      "ENODEV recorded/arm64-6.12/gicv2-matrix-v2#1513",
    ],
    "ARM v3": [
      "EINVAL traces/arm64-kvm-6.12/before-vgic#66",
      "ENODEV traces/arm64-kvm-6.12/before-vgic#143",
      "ENODEV traces/arm64-kvm-6.12/routing#122",
      "ENODEV recorded/arm64-6.12/matrix-v3#1849",
    ],
    "ARM v3+ITS": [
      "EINVAL traces/arm64-kvm-6.12/before-vgic#66",
      "EINVAL recorded/arm64-6.12/matrix-v3its#96",
      "EBUSY traces/arm64-kvm-6.12/its#192",
      "1 facts",
    ],
  },
  KVM_IRQFD: {
    "x86 full": [
      "EINVAL traces/x86_64-kvm-6.18/irqfd_edge#4",
      "0 live",
      "0 traces/x86_64-kvm-6.18/irqfd_edge#11",
      "0 live",
    ],
    "x86 split": [
      "EINVAL traces/x86_64-kvm-6.18/irqfd_edge#4",
      "0 live",
      "0 traces/x86_64-kvm-6.18/split_irqchip#30",
      "0 live",
    ],
    "x86 none": ["EINVAL traces/x86_64-kvm-6.18/irqfd_edge#4", "EINVAL live", "EINVAL live", "EINVAL live"],
    "POWER HV": [
      "EAGAIN traces/ppc64le-kvm-6.12/eventfd#25",
      "0 traces/ppc64le-kvm-6.12/xics-create#134",
      "0 traces/ppc64le-kvm-6.12/xics-sources#138",
      "0 traces/ppc64le-kvm-6.12/guest-code/vfio-kvm#93",
    ],
    "POWER PR": [
      "EAGAIN traces/ppc64le-kvm-pr/pr-eventfd#25",
      "0 traces/ppc64le-kvm-pr/pr-xics-create#134",
      "0 traces/ppc64le-kvm-pr/pr-xics-sources#138",
      "0 run",
    ],
    "ARM v2": [
      "EAGAIN traces/arm64-kvm-6.12/gicv2-vgicv2#8",
      "EAGAIN traces/arm64-kvm-6.12/gicv2-vgicv2#14",
      "0 traces/arm64-kvm-6.12/gicv2-vgicv2#43",
      "0 recorded/arm64-6.12/guest-code/gicv2-guest-1#35",
    ],
    "ARM v3": [
      "EAGAIN traces/arm64-kvm-6.12/eventfd#25",
      "EAGAIN traces/arm64-kvm-6.12/before-vgic#131",
      "0 traces/arm64-kvm-6.12/routing#18",
      "0 recorded/arm64-6.12/guest-code/guest-1#35",
    ],
    "ARM v3+ITS": [
      "EAGAIN traces/arm64-kvm-6.12/eventfd#25",
      "EAGAIN recorded/arm64-6.12/matrix-v3its#139",
      "0 traces/arm64-kvm-6.12/its#261",
      "0 recorded/arm64-6.12/guest-code/guest-its-1#202",
    ],
  },
  "KVM_IRQFD with resample": {
    "x86 full": [
      "EINVAL live",
      "0 traces/x86_64-kvm-6.18/run_resample#532",
      "0 traces/x86_64-kvm-6.18/irqfd_resample#15",
      "0 live",
    ],
    "x86 split": ["EINVAL live", "EINVAL live", "EINVAL live", "EINVAL live"],
    "x86 none": ["EINVAL live", "EINVAL live", "EINVAL live", "EINVAL live"],
    "POWER HV": [
      "EAGAIN recorded/ppc64le-6.12/random-3#19",
      "0 run",
      "0 traces/ppc64le-kvm-6.12/guest-code/guest#28",
      "0 run",
    ],
    "POWER PR": ["EAGAIN facts", "0 run", "0 traces/ppc64le-kvm-pr/guest-code/pr-guest#28", "0 run"],
    "ARM v2": [
      "EAGAIN recorded/arm64-6.12/gicv2-matrix-v2legacy#122",
      "EAGAIN recorded/arm64-6.12/gicv2-matrix-v2#151",
      "0 traces/arm64-kvm-6.12/gicv2-vgicv2#289",
      "0 recorded/arm64-6.12/guest-code/gicv2-guest-1#37",
    ],
    "ARM v3": [
      "EAGAIN recorded/arm64-6.12/matrix-v3#122",
      "EAGAIN recorded/arm64-6.12/matrix-v3#484",
      "0 traces/arm64-kvm-6.12/guest-code/guest#30",
      "0 recorded/arm64-6.12/guest-code/guest-1#37",
    ],
    "ARM v3+ITS": [
      "EAGAIN recorded/arm64-6.12/matrix-v3#122",
      "EAGAIN recorded/arm64-6.12/matrix-v3its#166",
      "0 recorded/arm64-6.12/matrix-v3its#1214",
      "0 recorded/arm64-6.12/matrix-v3its#1821",
    ],
  },
  KVM_IRQ_LINE: {
    "x86 full": [
      "ENXIO traces/x86_64-kvm-6.18/irqchip_state#4",
      "0 live",
      "0 traces/x86_64-kvm-6.18/irq_line#9",
      "0 traces/x86_64-kvm-6.18/run_lapic#543",
    ],
    "x86 split": [
      "ENXIO traces/x86_64-kvm-6.18/irqchip_state#4",
      "0 live",
      "0 traces/x86_64-kvm-6.18/split_irqchip#22",
      "0 traces/x86_64-kvm-6.18/run_split_eoi#530",
    ],
    "x86 none": ["ENXIO traces/x86_64-kvm-6.18/irqchip_state#4", "ENXIO live", "ENXIO live", "ENXIO live"],
    "POWER HV": [
      "ENXIO traces/ppc64le-kvm-6.12/xics-create#48",
      "0 traces/ppc64le-kvm-6.12/xics-create#135",
      "0 traces/ppc64le-kvm-6.12/xics-sources#11",
      "0 recorded/ppc64le-6.12/guest-code/hypercalls-2#49",
    ],
    "POWER PR": [
      "ENXIO traces/ppc64le-kvm-pr/pr-xics-create#48",
      "0 traces/ppc64le-kvm-pr/pr-xics-create#135",
      "0 traces/ppc64le-kvm-pr/pr-xics-sources#11",
      "0 run",
    ],
    "ARM v2": [
      "ENXIO recorded/arm64-6.12/gicv2-matrix-v2legacy#157",
      "0 traces/arm64-kvm-6.12/gicv2-vgicv2#40",
      "0 traces/arm64-kvm-6.12/gicv2-vgicv2#260",
      "0 recorded/arm64-6.12/guest-code/gicv2-guest-5#128",
    ],
    "ARM v3": [
      "ENXIO traces/arm64-kvm-6.12/before-vgic#6",
      "EBUSY traces/arm64-kvm-6.12/before-vgic#83",
      "0 traces/arm64-kvm-6.12/irqline-irqfd#17",
      "0 recorded/arm64-6.12/guest-code/guest-5#138",
    ],
    "ARM v3+ITS": [
      "ENXIO traces/arm64-kvm-6.12/before-vgic#6",
      "EBUSY recorded/arm64-6.12/matrix-v3its#213",
      "0 recorded/arm64-6.12/matrix-v3its#1273",
      "0 recorded/arm64-6.12/matrix-v3its#1886",
    ],
  },
  KVM_INTERRUPT: {
    "x86 full": ["0 live", "ENXIO traces/x86_64-kvm-6.18/vcpus#56", "ENXIO live", "ENXIO live"],
    "x86 split": ["0 live", "0 traces/x86_64-kvm-6.18-more/mixed_split#14", "0 live", "0 live"],
    "x86 none": [
      "0 live",
      "0 traces/x86_64-kvm-6.18/vcpus#32",
      "0 traces/x86_64-kvm-6.18/vcpus#32",
      "0 traces/x86_64-kvm-6.18/run_interrupt_window#529",
    ],
    "POWER HV": [
      "0 traces/ppc64le-kvm-6.12/xics-sources#285",
      "0 recorded/ppc64le-6.12/random-2#83",
      "0 traces/ppc64le-kvm-6.12/xics-sources#274",
      "0 facts",
    ],
    "POWER PR": [
      "0 traces/ppc64le-kvm-pr/pr-xics-sources#285",
      "0 facts",
      "0 traces/ppc64le-kvm-pr/pr-xics-sources#274",
      "0 facts",
    ],
    "ARM v2": [
      "EINVAL traces/arm64-kvm-6.12/gicv2-system#636",
      "EINVAL recorded/arm64-6.12/gicv2-matrix-v2#270",
      "EINVAL recorded/arm64-6.12/gicv2-matrix-v2#1219",
      "EINVAL recorded/arm64-6.12/gicv2-matrix-v2#1759",
    ],
    "ARM v3": [
      "EINVAL traces/arm64-kvm-6.12/system#649",
      "EINVAL recorded/arm64-6.12/matrix-v3#603",
      "EINVAL recorded/arm64-6.12/matrix-v3#1554",
      "EINVAL recorded/arm64-6.12/matrix-v3#2095",
    ],
    "ARM v3+ITS": [
      "EINVAL traces/arm64-kvm-6.12/system#649",
      "EINVAL recorded/arm64-6.12/matrix-v3its#297",
      "EINVAL recorded/arm64-6.12/matrix-v3its#1381",
      "EINVAL recorded/arm64-6.12/matrix-v3its#2006",
    ],
  },
  KVM_CREATE_IRQCHIP: {
    "x86 full": [
      "0 traces/x86_64-kvm-6.18/irq_line#3",
      "EEXIST traces/x86_64-kvm-6.18/irqchip_state#7",
      "EEXIST live",
      "EEXIST live",
    ],
    "x86 split": [
      "0 traces/x86_64-kvm-6.18/irq_line#3",
      "EEXIST traces/x86_64-kvm-6.18/split_irqchip#15",
      "EEXIST live",
      "EEXIST live",
    ],
    "x86 none": [
      "0 traces/x86_64-kvm-6.18/irq_line#3",
      "EINVAL traces/x86_64-kvm-6.18/vcpus#13",
      "EINVAL traces/x86_64-kvm-6.18/vcpus#13",
      "EINVAL live",
    ],
    "POWER HV": [
      "ENOTTY traces/ppc64le-kvm-6.12/xics-create#45",
      "ENOTTY traces/ppc64le-kvm-6.12/xics-create#60",
      "ENOTTY traces/ppc64le-kvm-6.12/request_sweep-vm#1548",
      "ENOTTY facts",
    ],
    "POWER PR": [
      "ENOTTY traces/ppc64le-kvm-pr/pr-xics-create#45",
      "ENOTTY traces/ppc64le-kvm-pr/pr-xics-create#60",
      "ENOTTY facts",
      "ENOTTY facts",
    ],
    "ARM v2": [
      "0 traces/arm64-kvm-6.12/gicv2-vgicv2#9",
      "EEXIST traces/arm64-kvm-6.12/gicv2-vgicv2#10",
      "EEXIST recorded/arm64-6.12/gicv2-matrix-v2#1242",
      "EEXIST recorded/arm64-6.12/gicv2-matrix-v2#1785",
    ],
    "ARM v3": [
      "ENODEV traces/arm64-kvm-6.12/vgic-create#38",
      "ENODEV traces/arm64-kvm-6.12/vgic-create#49",
      "ENODEV recorded/arm64-6.12/matrix-v3#1577",
      "ENODEV recorded/arm64-6.12/matrix-v3#2121",
    ],
    "ARM v3+ITS": [
      "ENODEV traces/arm64-kvm-6.12/vgic-create#38",
      "ENODEV recorded/arm64-6.12/matrix-v3its#318",
      "ENODEV recorded/arm64-6.12/matrix-v3its#1408",
      "ENODEV recorded/arm64-6.12/matrix-v3its#2036",
    ],
  },
};
