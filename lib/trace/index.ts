/** Traces: what real kernels answered. Read and write them, replay them on a kernel, print them. */
export { compareBytes, compareResult } from "./compare.ts";
export * from "./format.ts";
export { hostHeader, hostRelease } from "./host-header.ts";
export { machineOf } from "./machine-of.ts";
export { type Recordable, Recorder, type RecordOptions, record } from "./record.ts";
export { NotRepeatable, recordTwice } from "./record-twice.ts";
export * from "./replay.ts";
export { Strace, type StraceOptions } from "./strace.ts";
