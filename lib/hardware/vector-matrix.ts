/**
 * Which interrupt vectors of which processor are free (kernel/irq/matrix.c, arch/x86/kernel/apic/vector.c, 6.1 and 6.12).
 *
 * Of 256 vectors, 0..31 are exceptions and the highest ones, from `firstSystem` on, are the kernel's own; a few between
 * belong to it too (`system`: the 32-bit system call, the cascade of the old interrupt controllers). What is left of a
 * processor is given out, lowest first, on the processor with the most free ones.
 *
 * - allocate: takes a vector (an interrupt that somebody requested).
 * - reserve: counts an interrupt that will want a vector later. It always succeeds: an interrupt that is only reserved
 *   may find none when it is activated.
 * - managed: a vector kept on every processor of a set, for an interrupt that must always be able to move there.
 *
 * Missing: processors that go offline, vectors that move while they are in use.
 */
import { ENOSPC } from "../abi/errno.ts";

export const FIRST_EXTERNAL_VECTOR = 0x20;
export const NR_VECTORS = 256;

export interface VectorMatrixOptions {
  cpus: number;
  /** the first vector above those given out (FIRST_SYSTEM_VECTOR) */
  firstSystem: number;
  /** vectors below it that are the kernel's own */
  system: readonly number[];
}

/** A vector of a processor, in one number: cpu × 256 + vector. */
export const vectorOf = (place: number): number => place & 0xff;
export const cpuOf = (place: number): number => place >>> 8;

const FREE = 0;
const SYSTEM = 1;
const ALLOCATED = 2;
const MANAGED = 3;
const MANAGED_ALLOCATED = 4;

export class VectorMatrix {
  readonly cpus: number;
  readonly #firstSystem: number;
  /** what each vector is used for, cpu × 256 + vector */
  readonly #use: Uint8Array;
  readonly #available: number[];
  /** interrupts that are to get a vector when they are activated */
  reserved = 0;

  constructor({ cpus, firstSystem, system }: VectorMatrixOptions) {
    this.cpus = cpus;
    this.#firstSystem = firstSystem;
    this.#use = new Uint8Array(cpus * NR_VECTORS).fill(SYSTEM);
    this.#available = [];
    for (let cpu = 0; cpu < cpus; cpu++) {
      const base = cpu * NR_VECTORS;
      this.#use.fill(FREE, base + FIRST_EXTERNAL_VECTOR, base + firstSystem);
      for (const vector of system) this.#use[base + vector] = SYSTEM;
      let free = 0;
      for (let vector = 0; vector < NR_VECTORS; vector++) if (this.#use[base + vector] === FREE) free++;
      this.#available.push(free);
    }
  }

  /** Vectors that can still be allocated on a processor. */
  available(cpu: number): number {
    return this.#available[cpu];
  }

  /** Vectors that can still be allocated, all processors together. */
  get free(): number {
    return this.#available.reduce((sum, each) => sum + each, 0);
  }

  /** The lowest free vector of the emptiest processor: its place, or −ENOSPC. */
  allocate(): number {
    let best = -1;
    let most = 0;
    for (let cpu = 0; cpu < this.cpus; cpu++)
      if (this.#available[cpu] > most) {
        most = this.#available[cpu];
        best = cpu;
      }
    if (best < 0) return -ENOSPC;
    return this.#take(best, vectorOf(this.#lowestFree(best)));
  }

  /** A certain vector of a processor: its place, or −ENOSPC if it is not free. */
  allocateAt(cpu: number, vector: number): number {
    return this.#use[cpu * NR_VECTORS + vector] === FREE ? this.#take(cpu, vector) : -ENOSPC;
  }

  #take(cpu: number, vector: number): number {
    this.#use[cpu * NR_VECTORS + vector] = ALLOCATED;
    this.#available[cpu]--;
    return cpu * NR_VECTORS + vector;
  }

  /** Gives a vector back, allocated or of a managed interrupt. */
  release(place: number): void {
    if (this.#use[place] === MANAGED_ALLOCATED) this.#use[place] = MANAGED;
    else if (this.#use[place] === ALLOCATED) {
      this.#use[place] = FREE;
      this.#available[cpuOf(place)]++;
    }
  }

  reserve(): void {
    this.reserved++;
  }

  unreserve(): void {
    this.reserved--;
  }

  /** Keeps a vector on each of these processors: 0, or −ENOSPC with none kept. */
  reserveManaged(cpus: readonly number[]): number {
    const kept: number[] = [];
    for (const cpu of cpus) {
      const place = this.#lowestFree(cpu);
      if (place < 0) {
        for (const taken of kept) this.#free(taken);
        return place;
      }
      this.#use[place] = MANAGED;
      this.#available[cpu]--;
      kept.push(place);
    }
    return 0;
  }

  #free(place: number): void {
    this.#use[place] = FREE;
    this.#available[cpuOf(place)]++;
  }

  #lowestFree(cpu: number): number {
    const base = cpu * NR_VECTORS;
    for (let vector = FIRST_EXTERNAL_VECTOR; vector < this.#firstSystem; vector++)
      if (this.#use[base + vector] === FREE) return base + vector;
    return -ENOSPC;
  }

  /** Gives the vectors kept on these processors back: one of each that is not in use. */
  releaseManaged(cpus: readonly number[]): void {
    for (const cpu of cpus) {
      const place = this.#use.indexOf(MANAGED, cpu * NR_VECTORS);
      if (place >= 0 && cpuOf(place) === cpu) this.#free(place);
    }
  }

  /** Takes the vector kept on one of these processors: its place, or −ENOSPC. */
  allocateManaged(cpus: readonly number[]): number {
    for (const cpu of cpus) {
      const place = this.#use.indexOf(MANAGED, cpu * NR_VECTORS);
      if (place < 0 || cpuOf(place) !== cpu) continue;
      this.#use[place] = MANAGED_ALLOCATED;
      return place;
    }
    return -ENOSPC;
  }
}
