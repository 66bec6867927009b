/**
 * Traces: what real kernels answered. Parse them, replay them on a kernel, record and print them. Files are read and
 * written by `fake-kvm/trace/files`, which needs Node.
 */
export { Answers, type Refusal } from "./answers.ts";
export { compareBytes, compareResult } from "./compare.ts";
export * from "./format.ts";
export { hostHeader, type Names } from "./host-header.ts";
export type { KnownCall } from "./known.ts";
export type { Layout } from "./layout.ts";
export { machineOf } from "./machine-of.ts";
export { type Recordable, Recorder, type RecordOptions, record } from "./record.ts";
export { NotRepeatable, recordTwice } from "./record-twice.ts";
export * from "./replay.ts";
export { Strace, type StraceOptions } from "./strace.ts";
