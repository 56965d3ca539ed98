/** A stream of numbers that its seed decides, with the distributions that a workload is made of. */
export class Random {
  #state: number

  constructor(seed: number) {
    this.#state = seed >>> 0
    // Neighbouring seeds start alike; a few draws part them.
    for (let draw = 0; draw < 4; draw++) this.unit()
  }

  /** Evenly in [0, 1). Mulberry32: small, and good enough to shuffle messages. */
  unit(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0
    let mixed = this.#state
    mixed = Math.imul(mixed ^ (mixed >>> 15), mixed | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296
  }

  chance(probability: number): boolean {
    return this.unit() < probability
  }

  /** A whole number from `low` to `high`, both included. */
  between(low: number, high: number): number {
    return low + Math.floor(this.unit() * (high - low + 1))
  }

  pick<Item>(items: readonly Item[]): Item {
    const item = items[this.between(0, items.length - 1)]
    if (item === undefined) throw new Error('nothing to pick from')
    return item
  }

  /** Gaps of a Poisson process. */
  exponential(mean: number): number {
    return -Math.log(1 - this.unit()) * mean
  }

  /** Long-tailed, of this median: what prompts and answers look like. */
  logNormal(median: number, sigma: number): number {
    const normal = Math.sqrt(-2 * Math.log(1 - this.unit())) * Math.cos(2 * Math.PI * this.unit())
    return median * Math.exp(sigma * normal)
  }

  shuffled<Item>(items: readonly Item[]): Item[] {
    const mixed = [...items]
    for (let last = mixed.length - 1; last > 0; last--) {
      const other = this.between(0, last)
      const [a, b] = [mixed[last], mixed[other]]
      if (a !== undefined && b !== undefined) [mixed[last], mixed[other]] = [b, a]
    }
    return mixed
  }
}
