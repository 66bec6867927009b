/**
 * Firmware calls on interrupt sources that KVM answers itself: ibm,set-xive, ibm,get-xive, ibm,int-on, ibm,int-off
 * (arch/powerpc/kvm/book3s_rtas.c, 6.1). User space names the token of each (KVM_PPC_RTAS_DEFINE_TOKEN:
 * `struct kvm_rtas_token_args`, name 120 bytes, token u64; token 0 takes the name away); the guest calls by H_RTAS with
 * the address of its arguments: token, nargs, nret, then arguments and answers, big-endian words.
 */
import { EEXIST, EFAULT, EINVAL, ENOENT } from "../../abi/errno.ts";
import { KVM_PPC_RTAS_DEFINE_TOKEN, KvmRtasTokenArgs } from "../../abi/kvm-ppc.ts";
import { load64 } from "../../abi/struct.ts";
import type { Argument } from "../../kernel/argument.ts";
import type { Entry } from "../dispatch.ts";
import type { VmFile } from "../vm.ts";
import type { RtasSources } from "./controller.ts";
import type { PpcVm } from "./vm.ts";

const NAME = 120;
/** words of `struct rtas_args`: token, nargs, nret, 16 arguments and answers */
const HEADER = 3;
const WORDS = 16;
/** the real address of a guest: without its four highest bits */
const REAL_ADDRESS = 2 ** 60;
/** the answer of a call that failed */
const PARAMETER_ERROR = -3;

type Call = (sources: RtasSources, args: readonly number[]) => number | readonly number[];

/** By name: how many arguments and answers, and what it does. The first answer is the status. */
const calls: ReadonlyMap<string, { nargs: number; nret: number; call: Call }> = new Map([
  [
    "ibm,set-xive",
    { nargs: 3, nret: 1, call: (s, [irq, server, priority]) => s.setXive(irq, server, priority) },
  ],
  [
    "ibm,get-xive",
    {
      nargs: 1,
      nret: 3,
      call: (s, [irq]) => {
        const found = s.getXive(irq);
        return typeof found === "number" ? found : [0, found.server, found.priority];
      },
    },
  ],
  ["ibm,int-off", { nargs: 1, nret: 1, call: (s, [irq]) => s.intOff(irq) }],
  ["ibm,int-on", { nargs: 1, nret: 1, call: (s, [irq]) => s.intOn(irq) }],
]);

function nameAt(bytes: Uint8Array, at: number): string {
  let name = "";
  for (let i = at; i < at + NAME && bytes[i] !== 0; i++) name += String.fromCharCode(bytes[i]);
  return name;
}

/** EFAULT; EEXIST: the token is taken; ENOENT: no such call. A name may have several tokens. */
function defineToken(file: VmFile, user: Argument): number {
  if (!user.readable(KvmRtasTokenArgs.size)) return -EFAULT;
  const { rtasTokens } = file.vm.arch as PpcVm;
  const name = nameAt(user.bytes, user.at);
  const token = load64(user.bytes, user.at + NAME);
  if (token === 0n) {
    for (const [taken, of] of rtasTokens)
      if (of === name) {
        rtasTokens.delete(taken);
        break;
      }
    return 0;
  }
  if (rtasTokens.has(token)) return -EEXIST;
  if (!calls.has(name)) return -ENOENT;
  rtasTokens.set(token, name);
  return 0;
}

/**
 * A guest's call with its arguments at a real address: 0, −ENOENT for a token that user space has to answer, −EFAULT or
 * −EINVAL for arguments that cannot be read, which end KVM_RUN.
 */
export function rtasCall(vm: PpcVm, address: number): number {
  const { slots, mm } = vm.vm;
  const user = slots.userAddress(address % REAL_ADDRESS);
  const bytes = user < 0 ? null : mm.copyIn(user, (HEADER + WORDS) * 4);
  if (bytes === null) return -EFAULT;
  const view = new DataView(bytes.buffer);
  const word = (i: number) => view.getUint32(i * 4);
  const nargs = word(1);
  if (nargs >= WORDS) return -EINVAL;
  const found = calls.get(vm.rtasTokens.get(BigInt(word(0))) ?? "");
  if (found === undefined) return -ENOENT;
  const answers = perform(
    vm,
    found,
    nargs,
    word(2),
    Array.from({ length: nargs }, (_, i) => word(HEADER + i)),
  );
  answers.forEach((answer, i) => {
    view.setInt32((HEADER + nargs + i) * 4, answer);
  });
  return mm.copyOut(user, bytes) ? 0 : -EFAULT;
}

function perform(
  vm: PpcVm,
  { nargs, nret, call }: { nargs: number; nret: number; call: Call },
  givenArgs: number,
  givenRets: number,
  args: readonly number[],
): readonly number[] {
  const sources = vm.controller?.rtas;
  if (nargs !== givenArgs || nret !== givenRets || sources === undefined) return [PARAMETER_ERROR];
  const result = call(sources, args);
  if (typeof result !== "number") return result;
  return [result === 0 ? 0 : PARAMETER_ERROR];
}

export const rtasIoctls: readonly Entry<VmFile>[] = [[KVM_PPC_RTAS_DEFINE_TOKEN, defineToken]];
