/**
 * The hypercalls of PAPR that KVM knows itself: their numbers, their answers, and which of them a new VM keeps from
 * user space (arch/powerpc/include/asm/hvcall.h; book3s_hv.c, book3s_pr_papr.c: default_hcall_list, 6.1).
 */
export const H_REMOVE = 0x04;
export const H_ENTER = 0x08;
export const H_READ = 0x0c;
export const H_CLEAR_MOD = 0x10;
export const H_CLEAR_REF = 0x14;
export const H_PROTECT = 0x18;
export const H_GET_TCE = 0x1c;
export const H_PUT_TCE = 0x20;
export const H_SET_DABR = 0x28;
export const H_PAGE_INIT = 0x2c;
export const H_LOGICAL_CI_LOAD = 0x3c;
export const H_LOGICAL_CI_STORE = 0x40;
export const H_EOI = 0x64;
export const H_CPPR = 0x68;
export const H_IPI = 0x6c;
export const H_IPOLL = 0x70;
export const H_XIRR = 0x74;
export const H_REGISTER_VPA = 0xdc;
export const H_CEDE = 0xe0;
export const H_CONFER = 0xe4;
export const H_PROD = 0xe8;
export const H_BULK_REMOVE = 0x124;
export const H_SET_XDABR = 0x134;
export const H_STUFF_TCE = 0x138;
export const H_PUT_TCE_INDIRECT = 0x13c;
export const H_XIRR_X = 0x2fc;
export const H_RANDOM = 0x300;
export const H_SET_MODE = 0x31c;
export const H_RPT_INVALIDATE = 0x448;
export const H_RTAS = 0xf000;
/** numbers up to here can be given to user space: H_WATCHDOG */
export const MAX_HCALL_OPCODE = 0x45c;

export const H_SUCCESS = 0;
export const H_PARAMETER = -4;

const interrupts = [H_EOI, H_CPPR, H_IPI, H_IPOLL, H_XIRR, H_XIRR_X];
const tables = [H_REMOVE, H_ENTER, H_PROTECT, H_BULK_REMOVE, H_GET_TCE, H_PUT_TCE];
const processors = [H_PROD, H_CONFER, H_REGISTER_VPA];

const hvDefault: readonly number[] = [
  ...tables,
  ...processors,
  ...interrupts,
  H_READ,
  H_SET_DABR,
  H_SET_XDABR,
  H_CEDE,
];
const prDefault: readonly number[] = [...tables, ...interrupts, H_CEDE, H_SET_MODE];
const later = [H_PUT_TCE_INDIRECT, H_STUFF_TCE, H_LOGICAL_CI_LOAD, H_LOGICAL_CI_STORE];
const hvOwn: ReadonlySet<number> = new Set([
  ...hvDefault,
  ...later,
  H_CLEAR_MOD,
  H_CLEAR_REF,
  H_SET_MODE,
  H_PAGE_INIT,
  H_RANDOM,
  H_RPT_INVALIDATE,
]);
const prOwn: ReadonlySet<number> = new Set([...prDefault, ...later]);

/** What a new VM keeps from user space. */
export const defaultHypercalls = (hv: boolean): readonly number[] => (hv ? hvDefault : prDefault);

/** What KVM can handle, and KVM_CAP_PPC_ENABLE_HCALL may name. */
export const ownHypercalls = (hv: boolean): ReadonlySet<number> => (hv ? hvOwn : prOwn);
