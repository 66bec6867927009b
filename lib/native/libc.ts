/**
 * The host's C library by FFI (koffi, an optional dependency: it is loaded only when asked for). Only functions that
 * are a system call by another name, and the few that threads and signals need. Every result is raw: ≥ 0 or −errno.
 *
 * Missing: hosts that are not Linux; big-endian hosts.
 */
import { createRequire } from "node:module";

/** The part of koffi that is used here. */
export interface Koffi {
  load(path: string | null): {
    func(name: string, result: string, parameters: string[]): (...values: never[]) => number | bigint;
    symbol(name: string): unknown;
  };
  address(value: unknown): bigint;
  view(pointer: bigint, length: number): ArrayBuffer;
  errno(): number;
  readonly node: {
    poll(fd: number, events: { readable?: boolean }, callback: () => void): { close(): void };
  };
}

/** An address or an `unsigned long`. */
export type Long = number | bigint;

export interface Libc {
  readonly koffi: Koffi;
  /** where koffi was found: a worker thread loads it from there too */
  readonly koffiPath: string;
  open(path: string, flags: number): number;
  close(fd: number): number;
  dup(fd: number): number;
  dup3(fd: number, to: number, flags: number): number;
  fcntl(fd: number, command: number, argument: Long): number;
  ioctl(fd: number, request: number, argument: Long): number;
  read(fd: number, address: Long, count: Long): number;
  write(fd: number, address: Long, count: Long): number;
  pread(fd: number, address: Long, count: Long, offset: Long): number;
  pwrite(fd: number, address: Long, count: Long, offset: Long): number;
  mmap(address: Long, length: Long, prot: number, flags: number, fd: number, offset: Long): number;
  munmap(address: Long, length: Long): number;
  mprotect(address: Long, length: Long, prot: number): number;
  eventfd(initval: number, flags: number): number;
  poll(address: Long, count: Long, timeout: number): number;
  epollCreate1(flags: number): number;
  epollCtl(epfd: number, operation: number, fd: number, event: Long): number;
  epollWait(epfd: number, events: Long, maxevents: number, timeout: number): number;
  pipe2(address: Long, flags: number): number;
  getrlimit(resource: number, address: Long): number;
  setrlimit(resource: number, address: Long): number;
  /** copies from the memory of this process; a bad page is −EFAULT, not a signal */
  processVmReadv(pid: number, local: Long, locals: Long, remote: Long, remotes: Long, flags: Long): number;
  /** the disposition before, as an address: 0 is the default */
  signal(number: number, handler: Long): Long;
  /** 0, or a positive error number, as this one answers */
  pthreadKill(thread: Long, number: number): Long;
  /** the address of a function of the library */
  symbol(name: string): bigint;
}

let loaded: Libc | Error | undefined;

/** The bindings, made once; an Error that says why where koffi cannot be loaded. */
export function loadLibc(): Libc | Error {
  loaded ??= bind();
  return loaded;
}

function bind(): Libc | Error {
  if (process.platform !== "linux") return new Error(`the host is ${process.platform}, not Linux`);
  const require = createRequire(import.meta.url);
  let koffi: Koffi;
  let koffiPath: string;
  try {
    koffiPath = require.resolve("koffi");
    koffi = require(koffiPath);
  } catch (cause) {
    return new Error(`the optional package koffi is missing or does not load (npm install koffi)`, { cause });
  }
  const library = koffi.load(null);
  /** A function whose result −1 means errno, read before anything else runs. */
  const call = (name: string, result: string, ...parameters: string[]) => {
    const native = library.func(name, result, parameters) as (...values: unknown[]) => number | bigint;
    return (...values: unknown[]): number => {
      const answer = Number(native(...values));
      return answer === -1 ? -koffi.errno() : answer;
    };
  };
  const plain = (name: string, result: string, ...parameters: string[]) =>
    library.func(name, result, parameters) as (...values: unknown[]) => number | bigint;
  const long = "int64_t";
  return {
    koffi,
    koffiPath,
    open: call("open", "int", "str", "int"),
    close: call("close", "int", "int"),
    dup: call("dup", "int", "int"),
    dup3: call("dup3", "int", "int", "int", "int"),
    fcntl: call("fcntl", "int", "int", "int", long),
    ioctl: call("ioctl", "int", "int", long, long),
    read: call("read", long, "int", long, long),
    write: call("write", long, "int", long, long),
    pread: call("pread", long, "int", long, long, long),
    pwrite: call("pwrite", long, "int", long, long, long),
    mmap: call("mmap", long, long, long, "int", "int", "int", long),
    munmap: call("munmap", "int", long, long),
    mprotect: call("mprotect", "int", long, long, "int"),
    eventfd: call("eventfd", "int", "uint32_t", "int"),
    poll: call("poll", "int", long, long, "int"),
    epollCreate1: call("epoll_create1", "int", "int"),
    epollCtl: call("epoll_ctl", "int", "int", "int", "int", long),
    epollWait: call("epoll_wait", "int", "int", long, "int", "int"),
    pipe2: call("pipe2", "int", long, "int"),
    getrlimit: call("getrlimit", "int", "int", long),
    setrlimit: call("setrlimit", "int", "int", long),
    processVmReadv: call("process_vm_readv", long, "int", long, long, long, long, long),
    signal: plain("signal", long, "int", long),
    pthreadKill: plain("pthread_kill", "int", "uint64_t", "int"),
    symbol: (name) => BigInt(library.symbol(name) as bigint),
  };
}
