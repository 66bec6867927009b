/** Chance from a seed: the same numbers on every machine (splitmix32). */
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed | 0;
  }

  /** 32 random bits. */
  next(): number {
    this.#state = (this.#state + 0x9e3779b9) | 0;
    let z = this.#state;
    z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
    z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
    return (z ^ (z >>> 15)) >>> 0;
  }

  /** A number from 0 to `below` − 1. */
  below(below: number): number {
    return Math.floor((this.next() / 0x1_0000_0000) * below);
  }

  /** One of the weights' places, each as likely as its weight. */
  weighted(weights: readonly number[]): number {
    let sum = 0;
    for (const weight of weights) sum += weight;
    let point = (this.next() / 0x1_0000_0000) * sum;
    for (let i = 0; i < weights.length; i++) {
      point -= weights[i];
      if (point < 0) return i;
    }
    return weights.length - 1;
  }

  /** One of a list, each as likely. */
  pick<T>(list: readonly T[]): T {
    return list[this.below(list.length)];
  }

  /** True so many times of a hundred. */
  chance(percent: number): boolean {
    return this.below(100) < percent;
  }

  /** A number of both bounds or between them. */
  between(least: number, most: number): number {
    return least + this.below(most - least + 1);
  }
}
