/**
 * A small counting generator (sfc32) for test data: the same seed gives the same values on every
 * machine. Not for sampling: the engine has its own.
 */
export class Random {
  #a: number
  #b: number
  #c = 0x2545_f491
  #counter = 1

  constructor(seed: number, label = '') {
    this.#a = seed | 0
    this.#b = hashOf(label)
    // A few rounds until seeds that differ in one bit have nothing in common.
    for (let i = 0; i < 16; i++) this.bits()
  }

  /** 32 bits as a number of 0 … 2^32 − 1. */
  bits(): number {
    const [a, b, c, counter] = [this.#a, this.#b, this.#c, this.#counter]
    const sum = (a + b + counter) | 0
    this.#counter = (counter + 1) | 0
    this.#a = b ^ (b >>> 9)
    this.#b = (c + (c << 3)) | 0
    this.#c = (((c << 21) | (c >>> 11)) + sum) | 0
    return sum >>> 0
  }

  /** In [0, 1). */
  unit(): number {
    return this.bits() / 2 ** 32
  }

  /** A whole number of 0 … count − 1. */
  below(count: number): number {
    return Math.floor(this.unit() * count)
  }

  /** Close to standard normal, within ±√12: the sum of four even draws. */
  normal(): number {
    const sum = this.unit() + this.unit() + this.unit() + this.unit()
    return (sum - 2) * Math.sqrt(3)
  }

  pick<T>(from: readonly T[]): T {
    const picked = from[this.below(from.length)]
    if (picked === undefined) throw new RangeError('there is nothing to pick from')
    return picked
  }

  /** 0 … count − 1 in random order. */
  permutation(count: number): number[] {
    const order = Array.from({ length: count }, (_, i) => i)
    for (let i = count - 1; i > 0; i--) {
      const j = this.below(i + 1)
      const held = order[i] ?? 0
      order[i] = order[j] ?? 0
      order[j] = held
    }
    return order
  }

  fill(bytes: Uint8Array): void {
    for (let i = 0; i < bytes.length; i += 4) {
      const word = this.bits()
      for (let b = 0; b < 4 && i + b < bytes.length; b++) bytes[i + b] = word >>> (8 * b)
    }
  }
}

/** FNV-1a, so that two cases of one seed do not share their data. */
function hashOf(label: string): number {
  let hash = 0x811c_9dc5
  for (let i = 0; i < label.length; i++) {
    hash = Math.imul(hash ^ label.charCodeAt(i), 0x0100_0193)
  }
  return hash
}
