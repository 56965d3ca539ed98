/**
 * The toy's number source: splitmix64 from a seed that is the FNV-1a-64 hash of the tensor's name,
 * all modulo 2^64. Numbers are pairs of unsigned halves, since BigInt takes a minute for the eight
 * million elements that this takes a tenth of a second for.
 */
export class SplitMix {
  #high: number
  #low: number
  /** Upper half of the latest output. */
  high = 0
  /** Lower half of the latest output. */
  low = 0

  constructor(name: string) {
    const seed = fnv1a64(name)
    this.#high = seed.high
    this.#low = seed.low
  }

  /** Advances to the next output, which is then in `high` and `low`. */
  next(): void {
    const sum = this.#low + 0x7f4a7c15
    this.#low = sum >>> 0
    this.#high = (this.#high + 0x9e3779b9 + (sum > 0xffff_ffff ? 1 : 0)) >>> 0
    let high = this.#high
    let low = this.#low
    // z ^= z >> 30, times 0xBF58476D1CE4E5B9
    low ^= (low >>> 30) | (high << 2)
    high ^= high >>> 30
    high = (mulHigh(low >>> 0, 0x1ce4e5b9) + mul(high, 0x1ce4e5b9) + mul(low, 0xbf58476d)) | 0
    low = mul(low, 0x1ce4e5b9)
    // z ^= z >> 27, times 0x94D049BB133111EB
    low ^= (low >>> 27) | (high << 5)
    high ^= high >>> 27
    high = (mulHigh(low >>> 0, 0x133111eb) + mul(high, 0x133111eb) + mul(low, 0x94d049bb)) | 0
    low = mul(low, 0x133111eb)
    // z ^= z >> 31
    this.low = (low ^ ((low >>> 31) | (high << 1))) >>> 0
    this.high = (high ^ (high >>> 31)) >>> 0
  }

  /** The latest output's top 24 bits, mapped to [−1, 1). */
  get uniform(): number {
    return (this.high >>> 8) / 2 ** 23 - 1
  }

  /** The latest output modulo 7; 2^32 is 4 modulo 7. */
  get modulo7(): number {
    return ((this.high % 7) * 4 + (this.low % 7)) % 7
  }
}

const mul = Math.imul

/** Upper half of the 64-bit product of two unsigned 32-bit numbers. */
function mulHigh(a: number, b: number): number {
  const aHigh = a >>> 16
  const aLow = a & 0xffff
  const bHigh = b >>> 16
  const bLow = b & 0xffff
  // At most 2^33, so doubles hold it exactly.
  const middle = aHigh * bLow + ((aLow * bLow) >>> 16)
  const middle2 = aLow * bHigh + (middle % 0x1_0000)
  return (aHigh * bHigh + Math.floor(middle / 0x1_0000) + Math.floor(middle2 / 0x1_0000)) >>> 0
}

/** FNV-1a over the UTF-8 bytes; the prime is 2^40 + 0x1B3. */
function fnv1a64(text: string): { high: number; low: number } {
  let high = 0xcbf29ce4
  let low = 0x84222325
  for (const byte of new TextEncoder().encode(text)) {
    low = (low ^ byte) >>> 0
    high = (mulHigh(low, 0x1b3) + mul(high, 0x1b3) + (low << 8)) >>> 0
    low = mul(low, 0x1b3) >>> 0
  }
  return { high, low }
}
