/**
 * Traces in files, plain (`.jsonl`) or compressed (`.jsonl.gz`), and the host that records them. This is what of the
 * traces needs Node; everything else of this folder runs in a browser too.
 */
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { release } from "node:os";
import { basename } from "node:path";
import { gunzipSync, gzipSync } from "node:zlib";
import { formatTrace, parseTrace, type Trace, TraceError } from "./format.ts";
import type { Names } from "./host-header.ts";

/** gzip's first two bytes */
const isCompressed = (raw: Uint8Array): boolean => raw[0] === 0x1f && raw[1] === 0x8b;

/** Reads a trace from a file, plain or compressed, whatever its name says. */
export function readTrace(path: string, name = basename(path)): Trace {
  let source: string;
  try {
    const raw = readFileSync(path);
    source = (isCompressed(raw) ? gunzipSync(raw) : raw).toString("utf8");
  } catch (error) {
    throw new TraceError(`${path}: cannot be read: ${(error as Error).message}`);
  }
  return parseTrace(source, name);
}

/** Writes a trace to a file, compressed if the name ends in `.gz`; the same trace always gives the same bytes. */
export function writeTrace(path: string, trace: Pick<Trace, "header" | "lines">): void {
  const source = formatTrace(trace);
  writeFileSync(path, path.endsWith(".gz") ? gzipSync(source, { level: 9 }) : source);
}

/** The names of the kernel that this program runs on. */
export function hostRelease(): Names {
  const build = release();
  return {
    kernel: build.split(".").slice(0, 2).join("."),
    kernel_build: build,
    arch: process.arch === "arm64" ? "arm64" : "x86_64",
    kvm: flavour(),
  };
}

/** By the module that is loaded: a host has one. */
function flavour(): string | null {
  const flavours: Record<string, string> = {
    kvm_intel: "vmx",
    kvm_amd: "svm",
    kvm_pvm: "pvm",
    kvm_hv: "hv",
    kvm_pr: "pr",
  };
  try {
    const loaded = readdirSync("/sys/module").find((module) => module in flavours);
    return loaded === undefined ? null : flavours[loaded];
  } catch {
    return null;
  }
}
