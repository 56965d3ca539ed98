import { describe, expect, it } from 'vitest'
import { distributionOf, logprobsOf } from './simple-sampling.ts'

const row = Float32Array.from([0.4, 0.05, 0.3, 0.2, 0.05].map(Math.log))

const rounded = (temperature: number, topP: number): number[] =>
  distributionOf(row, { temperature, topP }).map((share) => Math.round(share * 1000) / 1000)

describe('distributionOf', () => {
  it('is the softmax at temperature 1', () => {
    expect(rounded(1, 1)).toEqual([0.4, 0.05, 0.3, 0.2, 0.05])
  })

  it('squares the proportions at temperature a half', () => {
    const squares = [0.16, 0.0025, 0.09, 0.04, 0.0025]
    expect(rounded(0.5, 1)).toEqual(
      squares.map((value) => Math.round((value / 0.295) * 1000) / 1000),
    )
  })

  it('keeps the smallest set that holds top_p, and of a tie the lowest id', () => {
    expect(rounded(1, 0.39)).toEqual([1, 0, 0, 0, 0])
    expect(rounded(1, 0.6)).toEqual([0.571, 0, 0.429, 0, 0])
    expect(rounded(1, 0.93)).toEqual([0.421, 0.053, 0.316, 0.211, 0])
  })

  it('is certain of the likeliest at temperature 0', () => {
    expect(rounded(0, 1)).toEqual([1, 0, 0, 0, 0])
  })
})

describe('logprobsOf', () => {
  it('lists the likeliest first, ties by lowest id, with the sampled one beside them', () => {
    const found = logprobsOf(row, 3, 4)
    expect(found.logprob).toBeCloseTo(Math.log(0.2), 6)
    expect(found.top.map((entry) => entry.token)).toEqual([0, 2, 3, 1])
  })
})
