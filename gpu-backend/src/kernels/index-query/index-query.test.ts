import { describe, expect, it } from 'vitest'
import { ReferenceDevice } from '../../device/reference.ts'
import { TestTensors } from '../testing/test-tensors.ts'
import { indexQuery } from './index-query.ts'

const on = new TestTensors(new ReferenceDevice())

/** One head of 32 with `values` at the end, at position 1, turning by a quarter. */
function run(values: readonly number[], quantise: boolean): number[] {
  const head = [...Array.from({ length: 32 - values.length }, () => 0), ...values]
  const queries = on.f32([1, 1, 32], head)
  indexQuery(on.device, {
    queries,
    frequencies: on.f32([1], [Math.PI / 2]),
    rows: on.rows([{ slot: 0, start: 1, length: 1 }]),
    quantise,
  })
  return on.read(queries)
}

describe('index-query', () => {
  it('rotates first and transforms then', () => {
    // (1, 0) turns to (0, 1): the transform of the last unit vector alternates by bit count.
    const found = run([1, 0], false)
    const expected = Array.from({ length: 32 }, (_, i) => {
      const ones = i.toString(2).split('1').length - 1
      return (ones % 2 === 0 ? 1 : -1) / Math.sqrt(32)
    })
    for (const [i, value] of found.entries()) expect(value).toBeCloseTo(expected[i] ?? 0, 6)
  })

  it('rounds what the transform gives to FP4', () => {
    // All elements are ±2^-2.5 = ±0.1768; s = 2^-5, so they are 5.66 steps and round to 6.
    const found = run([1, 0], true)
    expect(new Set(found.map(Math.abs))).toEqual(new Set([6 / 32]))
  })
})
