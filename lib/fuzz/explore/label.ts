/** How a system call of an explored program is named in a report. */
import type { Encoding, Request } from "../../abi/ioctl.ts";
import { findRequest } from "../../abi/requests.ts";
import type { UserArgument } from "../../kernel/argument.ts";
import { toHex } from "../../trace/format.ts";

export interface EncodedRequest {
  request: number | Request;
  argument: UserArgument;
  encoding: Encoding;
}

/** The longest argument that is shown field by field */
const SHOWN = 64;

/** "KVM_IRQFD, {fd=5, gsi=24}": fields that are zero are left out. */
export function labelOfRequest({ request, argument, encoding }: EncodedRequest): string {
  const number =
    typeof request === "number" ? request : encoding === "powerpc" ? request.powerpc : request.number;
  const found = findRequest(encoding === "powerpc" ? "ppc64le" : "x86_64", number);
  const name = found?.name ?? `0x${number.toString(16)}`;
  if (!(argument instanceof Uint8Array)) return argument === 0 ? name : `${name}, ${argument}`;
  const struct = found?.request.struct;
  if (struct === undefined || argument.length < struct.size)
    return `${name}, ${toHex(argument.subarray(0, SHOWN))}`;
  const fields = Object.entries(struct.decode(argument))
    .filter(
      ([, value]) =>
        (typeof value === "number" && value !== 0) || (typeof value === "bigint" && value !== 0n),
    )
    .map(([field, value]) => `${field}=${value}`);
  return `${name}, {${fields.join(", ")}}`;
}
