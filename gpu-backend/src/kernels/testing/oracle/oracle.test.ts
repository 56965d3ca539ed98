import { describe, expect, it } from 'vitest'
import { toBf16, fromBf16 } from '../../numerics/bf16.ts'
import { roundE2m1 } from '../../numerics/e2m1.ts'
import { e4m3Values, roundE4m3 } from '../../numerics/e4m3.ts'
import { simulateFp4, simulateFp8 } from '../../numerics/simulate.ts'
import { exactly } from '../estimate.ts'
import { generateValues, type ValueStyle } from '../generate.ts'
import { doubleSums } from '../numerics.ts'
import { Random } from '../random.ts'
import { decodeIndexRow, decodeKeyRow, encodeIndexRow, encodeKeyRow } from './compact.ts'
import {
  e2m1Codes,
  e4m3Codes,
  fp4Index,
  fp8Keys,
  powerOfTwoAbove,
  roundBf16,
  roundBlocks,
} from './formats.ts'
import { doublyStochastic } from './streams.ts'
import { frequenciesOf, hadamard, turn } from './transforms.ts'

// The harness's own mathematics, against the model's published check values and against the
// reference's, which was written by other means.

const of = (...values: number[]): Float64Array => Float64Array.from(values)

describe('formats of the oracle', () => {
  it('round the check values of the model', () => {
    const small = of(5, 2.5, 1.25, 0.75, -0.25, 0.3, -3.5, 0.1)
    expect([...roundBlocks(small, fp4Index)]).toEqual([4, 2, 1, 1, -0, 0.5, -4, 0])
    const keys = of(56, 1, -0.3, 0.001, 7.77, -56.5)
    expect([...roundBlocks(keys, fp8Keys)]).toEqual([56, 1, -0.3125, 9.765625e-4, 8, -56])
  })

  it('have the codes of the reference', () => {
    expect(Float32Array.from(e4m3Codes)).toEqual(e4m3Values)
    expect(e2m1Codes).toEqual([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0, -0.5, -1, -1.5, -2, -3, -4, -6])
  })

  it('round as the reference rounds, at and beside every boundary', () => {
    const finite = e4m3Codes.filter((value) => !Number.isNaN(value) && value >= 0)
    const values = finite.flatMap((value, i) => {
      const middle = (value + (finite[i + 1] ?? value)) / 2
      return [value, middle, middle * (1 + 2 ** -20), middle * (1 - 2 ** -20)]
    })
    for (const value of values.flatMap((v) => [v, -v])) {
      expect(fp8Keys.round(value)).toBe(roundE4m3(value))
      expect(fp4Index.round(value)).toBe(roundE2m1(value))
      expect(roundBf16(Math.fround(value))).toBe(fromBf16(toBf16(value)))
    }
  })

  it('agree with the reference on every kind of values', () => {
    const styles: readonly ValueStyle[] = [
      'normal',
      'outliers',
      'large',
      'tiny',
      'ties8',
      'edges8',
      'ties4',
    ]
    for (const style of styles) {
      const values = Float32Array.from(generateValues(new Random(3, style), 1024, style))
      const [fp8, fp4] = [values.slice(), values.slice()]
      simulateFp8(fp8, { at: 0, length: 1024 }, 64)
      simulateFp4(fp4, { at: 0, length: 1024 })
      const given = Float64Array.from(values)
      expect(Float32Array.from(roundBlocks(given, fp8Keys))).toEqual(fp8)
      expect(Float32Array.from(roundBlocks(given, fp4Index))).toEqual(fp4)
      expect([...given].map(roundBf16)).toEqual([...values].map((v) => fromBf16(toBf16(v))))
    }
  })

  it('find the power of two at or above a value', () => {
    expect([1, 1 + 2 ** -23, 0.75, 2 ** -126, 3].map(powerOfTwoAbove)).toEqual([
      1,
      2,
      1,
      2 ** -126,
      4,
    ])
  })
})

describe('compact rows of the oracle', () => {
  it('give back what was rounded', () => {
    const values = generateValues(new Random(5), 192, 'normal')
    const row = { plain: 128, rotated: 64 }
    const kept = decodeKeyRow(encodeKeyRow(values, row), row)
    expect([...kept.subarray(0, 128)]).toEqual([...roundBlocks(values.subarray(0, 128), fp8Keys)])
    expect([...kept.subarray(128)]).toEqual([...values.subarray(128)].map(roundBf16))
    const index = values.subarray(0, 128)
    expect([...decodeIndexRow(encodeIndexRow(index), 128)]).toEqual([
      ...roundBlocks(index, fp4Index),
    ])
  })

  it('take 584 and 68 bytes at the sizes of the released models', () => {
    expect(encodeKeyRow(new Float64Array(512), { plain: 448, rotated: 64 })).toHaveLength(584)
    expect(encodeIndexRow(new Float64Array(128))).toHaveLength(68)
  })

  it('put the low nibble first and the scale behind the codes', () => {
    const values = new Float64Array(32)
    values.set([6, -0.5])
    expect([...encodeIndexRow(values)]).toEqual([0x97, ...Array.from({ length: 15 }, () => 0), 127])
  })
})

describe('transforms of the oracle', () => {
  it('have the Walsh–Hadamard transform of the check value', () => {
    const { value } = hadamard(exactly(of(1, 2, 3, 4, 5, 6, 7, 8)), doubleSums)
    const expected = [12.727922, -1.414214, -2.828427, 0, -5.656854, 0, 0, 0]
    for (const [i, number] of expected.entries()) expect(value[i]).toBeCloseTo(number, 6)
  })

  it('rotate the last pairs by the fp32 angle, and back', () => {
    const x = exactly(of(1, 2, 3, 4))
    const quarter = turn(x, of(Math.PI / 2), 1, doubleSums)
    expect(quarter.value[2]).toBeCloseTo(-4, 6)
    expect(quarter.value[3]).toBeCloseTo(3, 6)
    expect([...quarter.value.subarray(0, 2)]).toEqual([1, 2])
    const frequencies = frequenciesOf(1, 10_000)
    const back = turn(turn(x, frequencies, 77, doubleSums), frequencies, -77, doubleSums)
    for (const [i, value] of x.value.entries()) expect(back.value[i]).toBeCloseTo(value, 12)
  })

  it('balance the check matrix in twenty iterations', () => {
    const logits = [
      [0.1, 0.2, 0.3, 0.4],
      [-0.5, 0, 0.5, 1],
      [2, -1, 0, 0.25],
      [0, 0, 0, 0],
    ]
    const expected = [
      [0.136887, 0.334804, 0.282141, 0.246167],
      [0.065761, 0.239947, 0.301654, 0.392636],
      [0.636911, 0.070179, 0.145459, 0.147451],
      [0.16044, 0.355069, 0.270745, 0.213744],
    ]
    const balanced = doublyStochastic(
      logits.map((row) => of(...row)),
      20,
      1e-6,
    )
    for (const [a, row] of expected.entries()) {
      for (const [b, value] of row.entries()) expect(balanced[a]?.[b]).toBeCloseTo(value, 6)
    }
  })
})
