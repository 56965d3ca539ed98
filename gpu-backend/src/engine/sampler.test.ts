import { describe, expect, it } from 'vitest'
import { seededRandom, type Random } from './random.ts'
import { createSampler, type SampledToken } from './sampler.ts'
import { outsideTopLogprob } from './sampling.ts'
import { logprobsOf, sampleToken } from './testing/simple-sampling.ts'

type Sampling = { readonly temperature: number; readonly topP: number }

const logits = (...values: number[]): Float32Array => Float32Array.from(values)

function draws(row: Float32Array, sampling: Sampling, count: number, seed = 11): number[] {
  const sampler = createSampler({ sampling, seed, topLogprobs: null, constraint: null })
  return Array.from({ length: count }, () => sampler.next(row).token)
}

function only(row: Float32Array, allowed: readonly number[], sampling: Sampling): SampledToken {
  const mask = new Uint32Array(Math.ceil(row.length / 32))
  for (const token of allowed) mask[token >> 5] = (mask[token >> 5] ?? 0) | (1 << (token & 31))
  const constraint = { mask: () => mask, accept: () => undefined }
  return createSampler({ sampling, seed: 3, topLogprobs: 2, constraint }).next(row)
}

/** Rows of the three kinds there are: peaked with a long tail, flat, and full of ties. */
function randomRow(random: Random): Float32Array {
  const length = 1 + Math.floor(random() * 300)
  const spread = [0.5, 4, 12, 60][Math.floor(random() * 4)] ?? 1
  const grid = random() < 0.3
  return Float32Array.from({ length }, () => {
    const value = (random() + random() + random() - 1.5) * spread
    return grid ? Math.round(value) : value
  })
}

describe('createSampler', () => {
  it('takes the likeliest at temperature 0 or top_p 0, the lowest id of a tie', () => {
    const row = logits(1, 3, 2, 3)
    expect(draws(row, { temperature: 0, topP: 1 }, 1)).toEqual([1])
    expect(draws(row, { temperature: 1, topP: 0 }, 1)).toEqual([1])
  })

  it('gives the same tokens for the same seed, and others for another', () => {
    const row = Float32Array.from({ length: 500 }, (_, token) => Math.sin(token))
    const sampling = { temperature: 1, topP: 0.9 }
    expect(draws(row, sampling, 50, 4)).toEqual(draws(row, sampling, 50, 4))
    expect(draws(row, sampling, 50, 4)).not.toEqual(draws(row, sampling, 50, 5))
  })

  it('draws what the simple sampler draws, in nucleus and temperature alike', () => {
    const random = seededRandom(21)
    for (let round = 0; round < 1000; round++) {
      const row = randomRow(random)
      const topP = random() < 0.1 ? 1e-9 : random()
      const sampling = { temperature: 0.05 + 2 * random(), topP }
      const expected = sampleToken(row, sampling, seededRandom(round))
      expect(draws(row, sampling, 1, round), `round ${round}`).toEqual([expected])
    }
  })

  it("draws the whole vocabulary in the simple sampler's proportions, tail included", () => {
    // One likely token, and 4,000 that hold a third of the probability between them.
    const tail = Math.log(0.5 / 4000)
    const row = Float32Array.from({ length: 4001 }, (_, token) => (token === 7 ? 0 : tail))
    const found = draws(row, { temperature: 1, topP: 1 }, 3000)
    const share = found.filter((token) => token !== 7).length / found.length
    // Five standard deviations of a third at 3,000 draws are 0.043.
    expect(Math.abs(share - 1 / 3)).toBeLessThan(0.043)
  })

  it('draws from below the head as often as it should, however improbable that is', () => {
    // Below e^-20 of the first token at temperature 0.1, but a hundredth of the mass in numbers
    // is impossible there: the bound must be refused nearly always, and never bias the head.
    const row = Float32Array.from({ length: 3000 }, (_, token) => (token < 2 ? 0 : -2.05))
    const found = draws(row, { temperature: 0.1, topP: 1 }, 4000)
    expect(found.filter((token) => token >= 2)).toEqual([])
    const share = found.filter((token) => token === 0).length / found.length
    expect(Math.abs(share - 1 / 2)).toBeLessThan(0.04)
  })

  it('looks at nothing a mask has ruled out', () => {
    const row = logits(...Array.from({ length: 70 }, (_, token) => token))
    expect(only(row, [3, 64], { temperature: 0, topP: 1 }).token).toBe(64)
    expect(only(row, [3], { temperature: 2, topP: 1 }).token).toBe(3)
    expect(only(row, [3], { temperature: 2, topP: 0.5 }).token).toBe(3)
    expect(only(row, [0, 69], { temperature: 1, topP: 1 }).token).toBe(69)
  })

  it('tells a constraint of every token, and asks it anew for each', () => {
    const told: number[] = []
    const constraint = {
      mask: () => Uint32Array.of(told.length === 0 ? 0b100 : 0b001),
      accept: (token: number) => told.push(token),
    }
    const sampling = { temperature: 1, topP: 1 }
    const sampler = createSampler({ sampling, seed: 1, topLogprobs: null, constraint })
    const row = logits(1, 2, 3)
    expect([sampler.next(row).token, sampler.next(row).token]).toEqual([2, 0])
    expect(told).toEqual([2, 0])
  })

  it('reports probabilities of the row as it is, whatever the mask and the temperature', () => {
    const row = logits(...[0.1, 0.4, 0.4, 0.1].map(Math.log))
    const { token, logprobs } = only(row, [0], { temperature: 0.3, topP: 0.5 })
    expect(token).toBe(0)
    expect(logprobs?.logprob).toBeCloseTo(Math.log(0.1), 6)
    expect(logprobs?.top.map((entry) => entry.token)).toEqual([1, 2])
  })

  it('reports what the simple sampler reports', () => {
    const random = seededRandom(8)
    for (let round = 0; round < 200; round++) {
      const row = randomRow(random)
      const sampling = { temperature: 1, topP: 1 }
      const sampler = createSampler({ sampling, seed: round, topLogprobs: 20, constraint: null })
      const { token, logprobs } = sampler.next(row)
      const expected = logprobsOf(row, token, 20)
      expect(logprobs?.top.map((entry) => entry.token)).toEqual(expected.top.map((e) => e.token))
      for (const [index, entry] of expected.top.entries()) {
        expect(logprobs?.top[index]?.logprob).toBeCloseTo(entry.logprob, 8)
      }
      expect(logprobs?.logprob === outsideTopLogprob).toBe(expected.logprob === outsideTopLogprob)
    }
  })

  it('draws among finite logits where others are -Infinity', () => {
    const row = logits(-Infinity, 0, -Infinity)
    expect(new Set(draws(row, { temperature: 2, topP: 1 }, 50))).toEqual(new Set([1]))
    expect(new Set(draws(row, { temperature: 2, topP: 0.9 }, 50))).toEqual(new Set([1]))
  })

  it.each([
    ['a NaN', logits(1, NaN), 'logit 1 is a number below infinity'],
    ['a NaN in a whole block', new Float32Array(40).fill(NaN, 9, 10), 'logit 9 is a number'],
    ['no finite logit', logits(-Infinity, -Infinity), 'the largest logit is finite'],
    ['an infinite one', logits(0, Infinity), 'logit 1 is a number below infinity'],
  ])('refuses a row with %s instead of sampling from it', (_, row, message) => {
    expect(() => draws(row, { temperature: 1, topP: 1 }, 1)).toThrow(message)
    expect(() => draws(row, { temperature: 0, topP: 1 }, 1)).toThrow(message)
  })
})
