/** The real kernel of this host behind the interface of the fake. Needs Node, Linux and the optional package koffi. */
export { type NativeKernel, nativeKernel, type Unavailable } from "./native.ts";
export type { NativeSyscalls } from "./process.ts";
