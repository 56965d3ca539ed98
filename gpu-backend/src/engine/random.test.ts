import { describe, expect, it } from 'vitest'
import { seededRandom } from './random.ts'

const draw = (seed: number, count: number): number[] => {
  const random = seededRandom(seed)
  return Array.from({ length: count }, random)
}

describe('seededRandom', () => {
  it('gives the same numbers for the same seed', () => {
    expect(draw(7, 50)).toEqual(draw(7, 50))
  })

  it('tells seeds apart that share their low or their high half', () => {
    const seeds = [0, 1, 2, 2 ** 32, 2 ** 32 + 1, 2 ** 52, -1, Number.MAX_SAFE_INTEGER]
    const firsts = seeds.map((seed) => draw(seed, 4).join())
    expect(new Set(firsts).size).toBe(seeds.length)
  })

  it('stays in [0, 1) and fills it evenly', () => {
    const bins = Array.from({ length: 10 }, () => 0)
    const values = draw(42, 100_000)
    expect(values.filter((value) => !(value >= 0 && value < 1))).toEqual([])
    for (const value of values) {
      const bin = Math.floor(value * 10)
      bins[bin] = (bins[bin] ?? 0) + 1
    }
    // A bin's standard deviation is 95; five of them on either side.
    for (const count of bins) expect(Math.abs(count - 10_000)).toBeLessThan(475)
  })
})
