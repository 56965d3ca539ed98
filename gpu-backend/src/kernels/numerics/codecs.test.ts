import { describe, expect, it } from 'vitest'
import { fromBf16, toBf16 } from './bf16.ts'
import { e2m1Values, roundE2m1 } from './e2m1.ts'
import { e4m3Values, roundE4m3 } from './e4m3.ts'
import { e8m0Values, pow2ceil } from './e8m0.ts'

describe('bf16', () => {
  it('gives every code back that is not NaN', () => {
    const changed = Array.from({ length: 0x10000 }, (_, code) => code).filter(
      (code) => !Number.isNaN(fromBf16(code)) && toBf16(fromBf16(code)) !== code,
    )
    expect(changed).toEqual([])
  })

  it('rounds to nearest, ties to the even code', () => {
    expect(toBf16(1 + 2 ** -8)).toBe(0x3f80)
    expect(toBf16(1 + 3 * 2 ** -8)).toBe(0x3f82)
    expect(toBf16(1 + 2 ** -8 + 2 ** -20)).toBe(0x3f81)
    expect(toBf16(3.4e38)).toBe(0x7f80)
  })

  it('keeps NaN a NaN', () => {
    expect(fromBf16(toBf16(Number.NaN))).toBeNaN()
  })
})

describe('e4m3', () => {
  it('has the values of its format', () => {
    expect(e4m3Values[0x01]).toBe(2 ** -9)
    expect(e4m3Values[0x07]).toBe(7 * 2 ** -9)
    expect(e4m3Values[0x08]).toBe(2 ** -6)
    expect(e4m3Values[0x38]).toBe(1)
    expect(e4m3Values[0x7e]).toBe(448)
    expect(e4m3Values[0x80]).toBe(-0)
    expect(e4m3Values[0xfe]).toBe(-448)
    expect(e4m3Values[0x7f]).toBeNaN()
    expect(e4m3Values[0xff]).toBeNaN()
  })

  it('rounds every value of the format to itself', () => {
    for (const value of e4m3Values) if (!Number.isNaN(value)) expect(roundE4m3(value)).toBe(value)
  })

  it('rounds midpoints to the even code, in both directions of zero', () => {
    const finite = [...e4m3Values.subarray(0, 0x7f)]
    for (let code = 0; code + 1 < finite.length; code++) {
      const [low = 0, high = 0] = [finite[code], finite[code + 1]]
      const even = code % 2 === 0 ? low : high
      expect(roundE4m3((low + high) / 2)).toBe(even)
      expect(roundE4m3(-(low + high) / 2)).toBe(-even)
    }
  })

  it('clamps what is beyond 448', () => {
    expect(roundE4m3(1e9)).toBe(448)
    expect(roundE4m3(-Infinity)).toBe(-448)
  })
})

describe('e2m1', () => {
  it('has eight magnitudes and a sign', () => {
    expect([...e2m1Values]).toEqual([
      0, 0.5, 1, 1.5, 2, 3, 4, 6, -0, -0.5, -1, -1.5, -2, -3, -4, -6,
    ])
  })

  it('rounds midpoints to the even code', () => {
    const midpoints = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5]
    expect(midpoints.map(roundE2m1)).toEqual([0, 1, 1, 2, 2, 4, 4])
    expect(midpoints.map((value) => roundE2m1(-value))).toEqual([-0, -1, -1, -2, -2, -4, -4])
  })

  it('clamps what is beyond 6', () => {
    expect([7, -1000].map(roundE2m1)).toEqual([6, -6])
  })
})

describe('e8m0', () => {
  it('reads a byte as an exponent, never as a number', () => {
    expect(e8m0Values[120]).toBe(2 ** -7)
    expect(e8m0Values[127]).toBe(1)
    expect(e8m0Values[0]).toBe(2 ** -127)
    expect(e8m0Values[254]).toBe(2 ** 127)
    expect(e8m0Values[255]).toBeNaN()
  })

  it('finds the power of two at or above a value', () => {
    expect([1, 1 + 2 ** -23, 0.75, 0.5, 3, 2 ** -126].map(pow2ceil)).toEqual([
      1,
      2,
      1,
      0.5,
      4,
      2 ** -126,
    ])
  })
})
