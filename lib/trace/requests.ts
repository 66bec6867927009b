/** The declaration behind a request of a trace: the number finds it, the recorded name tells namesakes apart. */
import type { FileKind, Request } from "../abi/ioctl.ts";
import { findRequest, requestName } from "../abi/registry.ts";
import type { IoctlLine, TraceHeader } from "./format.ts";

/** What a request is called, and its declaration if there is one. */
export interface NamedRequest {
  name: string;
  request: Request | undefined;
}

/** Kinds of file that share numbers with others: VFIO's three, and iommufd. */
const kinds: readonly (FileKind | undefined)[] = [
  undefined,
  "vfio-container",
  "vfio-group",
  "vfio-device",
  "iommufd",
  "system",
  "vm",
  "vcpu",
  "device",
];

const known = new Map<string, NamedRequest>();

/** The name and the declaration of an ioctl line's request. */
export function requestOf(header: TraceHeader, line: IoctlLine): NamedRequest {
  const encoding = header.ioc ?? "generic";
  const key = `${encoding} ${line.request} ${line.name ?? ""}`;
  let named = known.get(key);
  if (named === undefined) {
    const number = Number(line.request);
    const unnamed = line.name === undefined || line.name === "unknown";
    for (const kind of kinds) {
      const request = findRequest(number, kind, encoding);
      if (request === undefined) continue;
      const name = requestName(request);
      if (!unnamed && name !== line.name) continue;
      named = { name, request };
      break;
    }
    named ??= { name: unnamed ? line.request : line.name!, request: undefined };
    known.set(key, named);
  }
  return named;
}
