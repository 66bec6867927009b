/** The header of a trace for the host that this program runs on. Needs Node. */
import type { NativeKernel } from "../native/native.ts";
import { hostRelease } from "../trace/files.ts";
import type { TraceHeader } from "../trace/format.ts";
import { hostHeader } from "../trace/host-header.ts";

/** The header of this host, asked of its kernel. */
export function headerOf(native: NativeKernel): TraceHeader {
  const process = native.process();
  try {
    return hostHeader(process, hostRelease());
  } finally {
    process.exit();
  }
}
