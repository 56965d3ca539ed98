import { describe, expect, it } from 'vitest'
import { compareBits, compareBlocks, comparePicks, compareReals } from './compare.ts'
import { type Estimate, exactly } from './estimate.ts'
import { fp4Index, fp8Keys } from './oracle/formats.ts'

const of = (...values: number[]): Float64Array => Float64Array.from(values)
const within = (certain: number, ...values: number[]): Estimate => {
  return { ...exactly(of(...values)), certain: of(...values.map(() => certain)) }
}
const scattered = (spread: number, ...values: number[]): Estimate => {
  return { ...exactly(of(...values)), spread: of(...values.map(() => spread)) }
}

describe('bits', () => {
  it('are the same or the first element that differs is named', () => {
    const expected = Uint8Array.of(1, 2, 3, 4)
    expect(compareBits(Uint8Array.of(1, 2, 3, 4), expected, 2)).toBeNull()
    expect(compareBits(Uint8Array.of(1, 2, 3, 9), expected, 2)).toEqual({
      index: 1,
      expected: '0x0403',
      got: '0x0903',
      why: '1 of 4 bytes differ',
    })
  })
})

describe('real values', () => {
  it('may be off by their bound and by rounding to their format, and no further', () => {
    expect(compareReals(of(1.09, 2), within(0.1, 1, 2), 0)).toBeNull()
    expect(compareReals(of(1.11, 2), within(0.1, 1, 2), 0)).toMatchObject({ index: 0, got: '1.11' })
    expect(compareReals(of(1 + 2 ** -24), exactly(of(1)), 2 ** -24)).toBeNull()
    expect(compareReals(of(1 + 2 ** -22), exactly(of(1)), 2 ** -24)).toMatchObject({ index: 0 })
  })

  it('are looked at for NaN and infinity before anything else', () => {
    expect(compareReals(of(5, Number.NaN), within(0.1, 1, 2), 0)).toMatchObject({
      index: 1,
      why: '1 of 2 values are no numbers',
    })
    expect(compareReals(of(Infinity), within(Infinity, 1), 0)).toMatchObject({ index: 0 })
  })

  it('may each lie seven spreads off, but not all of them', () => {
    const values = Array.from({ length: 10_000 }, () => 1)
    const expected = scattered(0.01, ...values)
    const once = of(...values)
    once[3] = 1.06
    expect(compareReals(once, expected, 0)).toBeNull()
    const all = of(...values.map((value) => value + 0.02))
    expect(compareReals(all, expected, 0)).toMatchObject({ index: null })
    expect(compareReals(of(1.08), scattered(0.01, 1), 0)).toMatchObject({ index: 0 })
  })
})

describe('values rounded in blocks', () => {
  it('have one answer where what was rounded is exact, ties to even', () => {
    const given = exactly(of(5, 2.5, 1.25, 0.75, -0.25, 0.3, -3.5, 0.1))
    expect(compareBlocks(of(4, 2, 1, 1, 0, 0.5, -4, 0), given, fp4Index)).toBeNull()
    expect(compareBlocks(of(6, 2, 1, 1, 0, 0.5, -4, 0), given, fp4Index)).toMatchObject({
      index: 0,
      expected: '4',
      got: '6',
    })
  })

  it('may take a neighbour where a boundary is within the bound, and no other value', () => {
    const given = within(0.01, 6, 2.495)
    expect(compareBlocks(of(6, 2), given, fp4Index)).toBeNull()
    expect(compareBlocks(of(6, 3), given, fp4Index)).toBeNull()
    expect(compareBlocks(of(6, 2.5), given, fp4Index)).toMatchObject({ index: 1 })
    expect(compareBlocks(of(6, 4), given, fp4Index)).toMatchObject({ index: 1 })
    expect(compareBlocks(of(6, 3), within(0.001, 6, 2.495), fp4Index)).toMatchObject({ index: 1 })
  })

  it('may have the other scale where the largest lies at its edge, but then all of them', () => {
    // Under scale 1 the smallest step is 2^-9, under scale 2 twice that, and 0.0015 is less than half.
    const block = (largest: number): Estimate => {
      const given = exactly(of(largest, 0.0015, 0.0015))
      return { ...given, certain: of(1e-4, 0, 0) }
    }
    const step = 2 ** -9
    expect(compareBlocks(of(448, step, step), block(448), fp8Keys)).toBeNull()
    expect(compareBlocks(of(448, 0, 0), block(448), fp8Keys)).toBeNull()
    expect(compareBlocks(of(448, step, 0), block(448), fp8Keys)).toMatchObject({ index: 2 })
    expect(compareBlocks(of(448, 0, 0), block(447), fp8Keys)).toMatchObject({ index: 1 })
  })
})

describe('picks', () => {
  const scores = exactly(of(1, 3, 3, 0, -0, 2))

  it('of exact scores are one list, ties to the lower index', () => {
    const ascending = { scores, count: 2, order: 'ascending' } as const
    expect(comparePicks([1, 2], ascending)).toBeNull()
    expect(comparePicks([2, 5], ascending)).toMatchObject({ expected: '[1, 2]', got: '[2, 5]' })
    const descending = { scores, count: 5, order: 'descending' } as const
    expect(comparePicks([1, 2, 5, 0, 3], descending)).toBeNull()
    expect(comparePicks([1, 2, 5, 0, 4], descending)).toMatchObject({ why: expect.any(String) })
    expect(comparePicks([2, 1, 5, 0, 3], descending)).toMatchObject({ why: 'the best comes first' })
  })

  it('of scores with a bound may change places only inside it', () => {
    const close = { scores: within(0.1, 1, 1.05, 2, 3), count: 3, order: 'ascending' } as const
    expect(comparePicks([1, 2, 3], close)).toBeNull()
    expect(comparePicks([0, 2, 3], close)).toBeNull()
    expect(comparePicks([0, 1, 3], close)).toMatchObject({ index: 0 })
  })

  it('are indices, each once, as many as there are to be, and in order', () => {
    const choice = { scores, count: 2, order: 'ascending' } as const
    expect(comparePicks([1], choice)).toMatchObject({ why: '2 are to be picked' })
    expect(comparePicks([1, 6], choice)).toMatchObject({ index: 1 })
    expect(comparePicks([1, 1], choice)).toMatchObject({ index: 1 })
    expect(comparePicks([2, 1], choice)).toMatchObject({ why: 'picks are in ascending order' })
  })
})
