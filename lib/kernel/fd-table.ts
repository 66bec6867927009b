/** The descriptors of one process: small numbers, the lowest free one first. */
import { EMFILE } from "../abi/errno.ts";
import type { File } from "./file.ts";

/** The descriptors of one process; the lowest free number is given first. */
export class FdTable {
  #files: (File | undefined)[] = [];
  #closeOnExec: boolean[] = [];
  /** no descriptor below this is free */
  #next = 0;
  /** RLIMIT_NOFILE, soft: descriptors are below this */
  limit = 1024;

  get(fd: number): File | undefined {
    return this.#files[fd];
  }

  /** Whether a number is free below the limit, from `from` on; the number or −EMFILE. Nothing is taken. */
  lowestFree(from = 0): number {
    let fd = Math.max(from, this.#next);
    while (this.#files[fd] !== undefined) fd++;
    return fd < this.limit ? fd : -EMFILE;
  }

  /** Puts a file at the lowest free number, from `from` on: the number, or −EMFILE. */
  install(file: File, closeOnExec = false, from = 0): number {
    const fd = this.lowestFree(from);
    if (fd < 0) return fd;
    this.#files[fd] = file.get();
    if (from <= this.#next) this.#next = fd + 1;
    this.setCloseOnExec(fd, closeOnExec);
    return fd;
  }

  /** Puts a file at a number, whatever was there (dup2). */
  replace(fd: number, file: File, closeOnExec: boolean): void {
    const old = this.#files[fd];
    this.#files[fd] = file.get();
    this.setCloseOnExec(fd, closeOnExec);
    old?.put();
  }

  /** Takes a number away: false if nothing was there. */
  remove(fd: number): boolean {
    const file = this.#files[fd];
    if (file === undefined) return false;
    this.#files[fd] = undefined;
    this.#closeOnExec[fd] = false;
    if (fd < this.#next) this.#next = fd;
    file.put();
    return true;
  }

  closeOnExec(fd: number): boolean {
    return this.#closeOnExec[fd] === true;
  }

  setCloseOnExec(fd: number, on: boolean): void {
    this.#closeOnExec[fd] = on;
  }

  /** Descriptor numbers in use, ascending. */
  get open(): number[] {
    return this.#files.flatMap((file, fd) => (file === undefined ? [] : [fd]));
  }

  /** The table of a forked child: the same descriptions at the same numbers. */
  fork(): FdTable {
    const child = new FdTable();
    child.limit = this.limit;
    child.#files = this.#files.slice();
    child.#closeOnExec = this.#closeOnExec.slice();
    child.#next = this.#next;
    for (const file of child.#files) file?.get();
    return child;
  }

  /** Closes everything, lowest first: the process ends. */
  clear(): void {
    for (const fd of this.open) this.remove(fd);
    this.#files.length = 0;
    this.#next = 0;
  }
}
