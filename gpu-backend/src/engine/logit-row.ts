import { strict as assert } from 'node:assert'

/** Tokens that one word of a mask stands for. */
export const tokensPerWord = 32

/**
 * One bit a token, set where the token may be drawn: token t is bit t mod 32 of word ⌊t / 32⌋. The
 * bits behind the vocabulary are zero.
 */
export type TokenMask = Uint32Array

/**
 * One row of logits, of which only the tokens of a mask count. Rows are 129,280 long and read for
 * every token of every answer: the loops over a whole row take four at a time, so that no step waits
 * for the one before, and branch where nearly every token goes the same way.
 */
export class LogitRow {
  readonly logits: Float32Array
  readonly maximum: number
  readonly #mask: TokenMask | null

  /** A NaN, or no finite maximum, is a broken forward pass and asserts. */
  constructor(logits: Float32Array, mask: TokenMask | null) {
    this.logits = logits
    this.#mask = mask
    this.maximum = mask === null ? maximumOf(logits) : maskedMaximum(logits, mask)
    if (Number.isFinite(this.maximum)) return
    const token = logits.findIndex((value) => !(value < Infinity))
    assert(token < 0, `logit ${token} is a number below infinity`)
    assert.fail('the largest logit is finite')
  }

  /** The likeliest token; the lowest id of several. */
  argmax(): number {
    let token = -1
    do {
      token = this.logits.indexOf(this.maximum, token + 1)
    } while (this.#mask !== null && !allows(this.#mask, token))
    return token
  }

  /** The sum of e^((logit − maximum) / temperature) over all tokens, to eight digits. */
  mass(temperature: number): number {
    const { logits, maximum } = this
    if (this.#mask === null) return massOf(logits, maximum, temperature)
    const left = this.atLeast(-Infinity).map((token) => logits[token] ?? 0)
    return massOf(Float32Array.from(left), maximum, temperature)
  }

  /** Ids, ascending, of the tokens whose logit is at least `threshold`. */
  atLeast(threshold: number): number[] {
    const mask = this.#mask
    return mask === null
      ? tokensAtLeast(this.logits, threshold)
      : maskedAtLeast(this.logits, mask, threshold)
  }
}

function allows(mask: TokenMask, token: number): boolean {
  return (((mask[token >>> 5] ?? 0) >>> (token & 31)) & 1) === 1
}

/** NaN where any logit is: a sum remembers it, which a comparison would not. */
function maximumOf(logits: Float32Array): number {
  let [m0, m1, m2, m3] = [-Infinity, -Infinity, -Infinity, -Infinity]
  let [s0, s1, s2, s3] = [0, 0, 0, 0]
  const whole = logits.length - (logits.length % 4)
  for (let at = 0; at < whole; at += 4) {
    const v0 = logits[at] ?? 0
    const v1 = logits[at + 1] ?? 0
    const v2 = logits[at + 2] ?? 0
    const v3 = logits[at + 3] ?? 0
    s0 += v0
    s1 += v1
    s2 += v2
    s3 += v3
    if (v0 > m0) m0 = v0
    if (v1 > m1) m1 = v1
    if (v2 > m2) m2 = v2
    if (v3 > m3) m3 = v3
  }
  for (let at = whole; at < logits.length; at++) {
    const value = logits[at] ?? 0
    s0 += value
    if (value > m0) m0 = value
  }
  return Number.isNaN(s0 + s1 + s2 + s3) ? NaN : Math.max(m0, m1, m2, m3)
}

/**
 * e^-depth by a table of steps of 1/64 and three terms between two of them, which is within 3e-9 of
 * it and takes a quarter of the time of `Math.exp`. What lies deeper than 40 is nothing beside 1.
 */
const decaySteps = 64
const decayDepth = 40
const decays = Float64Array.from({ length: decayDepth * decaySteps + 1 }, (_, step) =>
  Math.exp(-step / decaySteps),
)

function massOf(logits: Float32Array, maximum: number, temperature: number): number {
  let mass = 0
  for (let at = 0; at < logits.length; at++) {
    const depth = (maximum - (logits[at] ?? 0)) / temperature
    if (depth >= decayDepth) continue
    const step = Math.floor(depth * decaySteps)
    const rest = step / decaySteps - depth
    mass += (decays[step] ?? 0) * (1 + rest * (1 + rest * (1 / 2 + rest / 6)))
  }
  return mass
}

function tokensAtLeast(logits: Float32Array, threshold: number): number[] {
  const found: number[] = []
  const whole = logits.length - (logits.length % 4)
  for (let at = 0; at < whole; at += 4) {
    if ((logits[at] ?? 0) >= threshold) found.push(at)
    if ((logits[at + 1] ?? 0) >= threshold) found.push(at + 1)
    if ((logits[at + 2] ?? 0) >= threshold) found.push(at + 2)
    if ((logits[at + 3] ?? 0) >= threshold) found.push(at + 3)
  }
  for (let at = whole; at < logits.length; at++) {
    if ((logits[at] ?? 0) >= threshold) found.push(at)
  }
  return found
}

function maskedMaximum(logits: Float32Array, mask: TokenMask): number {
  let maximum = -Infinity
  for (let index = 0; index < mask.length; index++) {
    const word = mask[index] ?? 0
    if (word === 0) continue
    const start = index * tokensPerWord
    for (let bit = 0; bit < tokensPerWord; bit++) {
      if (((word >>> bit) & 1) === 0) continue
      const value = logits[start + bit] ?? NaN
      // True of a NaN as well, which then stays: nothing compares with it.
      if (!(value <= maximum)) maximum = value
      if (Number.isNaN(maximum)) return maximum
    }
  }
  return maximum
}

function maskedAtLeast(logits: Float32Array, mask: TokenMask, threshold: number): number[] {
  const found: number[] = []
  for (let index = 0; index < mask.length; index++) {
    const word = mask[index] ?? 0
    if (word === 0) continue
    const start = index * tokensPerWord
    for (let bit = 0; bit < tokensPerWord; bit++) {
      if ((word >>> bit) & 1 && (logits[start + bit] ?? 0) >= threshold) found.push(start + bit)
    }
  }
  return found
}
