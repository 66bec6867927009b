/** The declaration behind a request of a trace: the number finds it, the recorded name tells namesakes apart. */
import type { Request } from "../abi/ioctl.ts";
import { type Arch, architectures, requestsOf } from "../abi/requests.ts";
import type { IoctlLine, TraceHeader } from "./format.ts";

/** What a request is called, and its declaration if there is one. */
export interface TracedRequest {
  name: string;
  request: Request | undefined;
}

const known = new Map<string, TracedRequest>();

/** The name and the declaration of an ioctl line's request. */
export function requestOf(header: TraceHeader, line: IoctlLine): TracedRequest {
  const key = `${header.arch} ${line.request} ${line.name ?? ""}`;
  let traced = known.get(key);
  if (traced === undefined) {
    traced = find(header.arch, line);
    // Those that are declared are few; any number and any name may stand in a trace.
    if (traced.request !== undefined) known.set(key, traced);
  }
  return traced;
}

function find(arch: string, line: IoctlLine): TracedRequest {
  const unnamed = line.name === undefined || line.name === "unknown";
  const found = architectures.includes(arch as Arch)
    ? requestsOf(arch as Arch).get(Number(line.request))
    : undefined;
  const named = found?.find(({ name }) => name === line.name) ?? (unnamed ? found?.[0] : undefined);
  return { name: unnamed ? (named?.name ?? line.request) : line.name!, request: named?.request };
}
