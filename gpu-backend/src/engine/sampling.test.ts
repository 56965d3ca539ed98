import { describe, expect, it } from 'vitest'
import { seededRandom } from './random.ts'
import { logprobsOf, outsideTopLogprob, sampleToken } from './sampling.ts'

const logits = (...values: number[]): Float32Array => Float32Array.from(values)
const never = (): number => {
  throw new Error('nothing to draw')
}

function frequencies(
  row: Float32Array,
  options: { temperature: number; topP: number },
  draws: number,
): number[] {
  const random = seededRandom(11)
  const counts = Array.from(row, () => 0)
  for (let i = 0; i < draws; i++) {
    const token = sampleToken(row, options, random)
    counts[token] = (counts[token] ?? 0) + 1
  }
  return counts.map((count) => count / draws)
}

describe('sampleToken', () => {
  it('takes the likeliest at temperature 0 without drawing, the lowest id of a tie', () => {
    expect(sampleToken(logits(1, 3, 2, 3), { temperature: 0, topP: 1 }, never)).toBe(1)
  })

  it('draws tokens in proportion to their probability', () => {
    const row = logits(Math.log(1), Math.log(2), Math.log(5))
    const found = frequencies(row, { temperature: 1, topP: 1 }, 40_000)
    for (const [token, share] of [1 / 8, 2 / 8, 5 / 8].entries()) {
      // Five standard deviations of a share at 40,000 draws are at most 0.0125.
      expect(Math.abs((found[token] ?? 0) - share)).toBeLessThan(0.0125)
    }
  })

  it('sharpens with a low temperature and flattens with a high one', () => {
    const row = logits(0, 1)
    const share = (temperature: number): number =>
      frequencies(row, { temperature, topP: 1 }, 20_000)[1] ?? 0
    expect(Math.abs(share(0.5) - 1 / (1 + Math.exp(-2)))).toBeLessThan(0.02)
    expect(Math.abs(share(2) - 1 / (1 + Math.exp(-0.5)))).toBeLessThan(0.02)
  })

  it('draws only from the smallest set that holds top_p', () => {
    const row = logits(...[0.4, 0.05, 0.3, 0.2, 0.05].map(Math.log))
    const seen = (topP: number): number[] =>
      frequencies(row, { temperature: 1, topP }, 4000).flatMap((share, token) =>
        share > 0 ? [token] : [],
      )
    expect(seen(0)).toEqual([0])
    expect(seen(0.39)).toEqual([0])
    expect(seen(0.5)).toEqual([0, 2])
    expect(seen(0.85)).toEqual([0, 2, 3])
    expect(seen(0.93)).toEqual([0, 1, 2, 3])
  })

  it('finds the same nucleus as sorting everything would', () => {
    const random = seededRandom(5)
    for (let round = 0; round < 50; round++) {
      const row = Float32Array.from({ length: 200 }, () => random() * 12)
      const topP = 0.05 + 0.9 * random()
      const sorted = [...row.keys()].sort((a, b) => (row[b] ?? 0) - (row[a] ?? 0) || a - b)
      const weight = (token: number): number => Math.exp(row[token] ?? 0)
      const total = sorted.reduce((all, token) => all + weight(token), 0)
      let mass = 0
      const nucleus = new Set<number>()
      for (const token of sorted) {
        if (mass >= topP * total) break
        mass += weight(token)
        nucleus.add(token)
      }
      // The two ends of the draw: the likeliest token, and the last that belongs.
      const pick = (uniform: number): number =>
        sampleToken(row, { temperature: 1, topP }, () => uniform)
      expect(pick(0)).toBe(sorted[0])
      expect(pick(1 - 2 ** -53)).toBe(sorted[nucleus.size - 1])
    }
  })

  it('never picks a token that a mask has ruled out', () => {
    const row = logits(-Infinity, 0, -Infinity)
    expect(sampleToken(row, { temperature: 2, topP: 1 }, () => 0)).toBe(1)
    expect(sampleToken(row, { temperature: 2, topP: 1 }, () => 1 - 2 ** -53)).toBe(1)
  })

  it('refuses a broken row instead of sampling from it', () => {
    expect(() => sampleToken(logits(1, NaN), { temperature: 1, topP: 1 }, () => 0)).toThrow(
      'logit 1 is not NaN',
    )
    expect(() =>
      sampleToken(logits(-Infinity, -Infinity), { temperature: 1, topP: 1 }, () => 0),
    ).toThrow('the largest logit is finite')
  })
})

describe('logprobsOf', () => {
  it('lists the likeliest first, ties by lowest id, with the sampled one beside them', () => {
    const row = logits(...[0.1, 0.4, 0.4, 0.1].map(Math.log))
    const found = logprobsOf(row, 0, 3)
    expect(found.token).toBe(0)
    expect(found.logprob).toBeCloseTo(Math.log(0.1), 6)
    expect(found.top.map((entry) => entry.token)).toEqual([1, 2, 0])
    expect(found.top[0]?.logprob).toBeCloseTo(Math.log(0.4), 6)
  })

  it('says -9999 for a sampled token outside the top 20', () => {
    const row = Float32Array.from({ length: 30 }, (_, token) => -token)
    expect(logprobsOf(row, 19, 0).logprob).not.toBe(outsideTopLogprob)
    expect(logprobsOf(row, 20, 0)).toEqual({ token: 20, logprob: outsideTopLogprob, top: [] })
  })
})
