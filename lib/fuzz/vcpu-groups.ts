/** The state of a vCPU as operations: registers, FPU, CPUID, MSRs, events, clocks. See groups.ts. */
import type fc from "fast-check";
import type { Operation } from "./program.ts";

export const vcpuGroups: Readonly<Record<string, fc.Arbitrary<Operation>>> = {};
