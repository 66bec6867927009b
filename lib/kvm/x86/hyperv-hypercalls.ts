/**
 * Hypercalls of Hyper-V: those for user space, KVM_EXIT_HYPERV, and those that KVM answers
 * (arch/x86/kvm/hyperv.c:kvm_hv_hypercall, kvm_hvcall_signal_event, 6.1).
 *
 * The input value, 64 bits: code @0, fast @16, size of a variable head @17, count of repetitions @32, first of them @48. In
 * 64-bit mode it is in RCX, the input's address in RDX, the output's in R8, and the result goes to RAX; else in EDX:EAX,
 * EBX:ECX and EDI:ESI, to EDX:EAX.
 *
 * Missing: hypercalls that flush TLBs and send IPIs (their code is none here), and those of the debugger.
 */

import { KVM_HYPERV_CONN_ID_MASK } from "../../abi/kvm-x86.ts";
import { load64 } from "../../abi/struct.ts";
import type { Cpu } from "../../hardware/x86/cpu.ts";
import { R8, RAX, RBX, RCX, RDI, RDX, RSI } from "../../hardware/x86/state.ts";
import { copyGuest } from "./guest-memory.ts";
import type { X86Vcpu } from "./vcpu.ts";

/** HVCALL_* */
const NOTIFY_LONG_SPIN_WAIT = 0x08;
const POST_MESSAGE = 0x5c;
const SIGNAL_EVENT = 0x5d;
/** HV_STATUS_* */
const SUCCESS = 0n;
const INVALID_CODE = 2n;
const INVALID_INPUT = 3n;
const INVALID_ALIGNMENT = 4n;
const INVALID_PORT = 17n;

const FAST = 1n << 16n;
const VARIABLE_HEAD = 0x3ffn << 17n;
const REPEATS = 0x0fff_0fffn << 32n;
const RESERVED = 0xf000_f000_f800_0000n;
const PORT_RESERVED = 0xffff_0000_0000n;
const PAGE = 4096n;

/** A hypercall as user space sees it. */
export interface HypervCall {
  input: bigint;
  parameter: bigint;
  output: bigint;
}

const pair = (high: bigint, low: bigint): bigint => ((high & 0xffff_ffffn) << 32n) | (low & 0xffff_ffffn);

/** What the guest asks for. */
export function hypervCall({ long, r64 }: Cpu): HypervCall {
  return long
    ? { input: r64[RCX], parameter: r64[RDX], output: r64[R8] }
    : {
        input: pair(r64[RDX], r64[RAX]),
        parameter: pair(r64[RBX], r64[RCX]),
        output: pair(r64[RDI], r64[RSI]),
      };
}

/** The result, or undefined where user space is asked. */
export function answerHypervCall(vcpu: X86Vcpu, call: HypervCall): bigint | undefined {
  const { input } = call;
  if ((input & RESERVED) !== 0n) return INVALID_INPUT;
  const simple = (input & (VARIABLE_HEAD | REPEATS)) === 0n;
  switch (Number(input & 0xffffn)) {
    case NOTIFY_LONG_SPIN_WAIT:
      return simple ? SUCCESS : INVALID_INPUT;
    case SIGNAL_EVENT: {
      if (!simple) return INVALID_INPUT;
      const result = signalEvent(vcpu, call);
      // user space may know the connection
      return result !== INVALID_PORT ? result : vcpu.hyperv.synic ? undefined : INVALID_INPUT;
    }
    case POST_MESSAGE:
      return simple && vcpu.hyperv.synic ? undefined : INVALID_INPUT;
    default:
      return INVALID_CODE;
  }
}

/** The connection is the parameter, or lies in memory there. */
function signalEvent(vcpu: X86Vcpu, call: HypervCall): bigint {
  const { vm } = vcpu;
  if ((call.input & FAST) === 0n) {
    const at = call.parameter;
    const bytes = new Uint8Array(8);
    if ((at & 7n) !== 0n || (at % PAGE) + 8n > PAGE) return INVALID_ALIGNMENT;
    if (!copyGuest(vm.vm, Number(at), bytes, false)) return INVALID_ALIGNMENT;
    call.parameter = load64(bytes, 0);
  }
  if ((call.parameter & PORT_RESERVED) !== 0n) return INVALID_PORT;
  if ((call.parameter & ~BigInt(KVM_HYPERV_CONN_ID_MASK)) !== 0n) return INVALID_INPUT;
  const eventfd = vm.hyperv.connections.get(Number(call.parameter));
  if (eventfd === undefined) return INVALID_PORT;
  eventfd.signal();
  return SUCCESS;
}
