import { describe, expect, it } from 'vitest'
import { walshHadamard } from './fwht.ts'
import { rotate } from './rotate.ts'
import { sigmoid, sqrtSoftplus } from './sigmoid.ts'
import { sinkhorn } from './sinkhorn.ts'
import { topK } from './top-k.ts'
import { expectClose } from '../testing/expect-close.ts'

describe('walshHadamard', () => {
  it('transforms 1 … 8 in natural order', () => {
    const values = Float32Array.of(1, 2, 3, 4, 5, 6, 7, 8)
    walshHadamard(values, { at: 0, length: 8 })
    expectClose(values, [12.727922, -1.414214, -2.828427, 0, -5.656854, 0, 0, 0])
  })

  it('is its own inverse, and touches its span alone', () => {
    const values = Float32Array.of(9, 1, -2, 0.5, 3, 9)
    walshHadamard(values, { at: 1, length: 4 })
    walshHadamard(values, { at: 1, length: 4 })
    expectClose(values, [9, 1, -2, 0.5, 3, 9])
  })
})

describe('rotate', () => {
  it('turns neighbouring pairs by position times frequency', () => {
    const values = Float32Array.of(7, 1, 0, 0, 2)
    rotate(values, 1, Float32Array.of(Math.PI / 2, Math.PI / 6), 1)
    expectClose(values, [7, 0, 1, -1, Math.sqrt(3)])
  })

  it('is undone by the negative position', () => {
    const values = Float32Array.of(0.3, -1.7)
    rotate(values, 0, Float32Array.of(0.7), 12_345)
    rotate(values, 0, Float32Array.of(0.7), -12_345)
    expectClose(values, [0.3, -1.7])
  })

  it('rounds the angle to fp32, which far out is coarse', () => {
    const frequency = Math.fround(0.6876560219)
    const values = Float32Array.of(1, 0)
    rotate(values, 0, Float32Array.of(frequency), 999_999)
    const angle = Math.fround(999_999 * frequency)
    // The exact product lies between two fp32 values that are 1/16 apart.
    expect(angle % 0.0625).toBe(0)
    expect(angle).not.toBe(999_999 * frequency)
    expectClose(values, [Math.cos(angle), Math.sin(angle)])
  })
})

describe('sqrtSoftplus', () => {
  it('holds from deep negative to large scores', () => {
    expect(sqrtSoftplus(-20)).toBeCloseTo(4.54e-5, 8)
    expectClose([-2, 0, 2, 20].map(sqrtSoftplus), [0.3562696, 0.8325546, 1.4583991, 4.472136])
    expect(sqrtSoftplus(1e4)).toBe(100)
    expect(sqrtSoftplus(-800)).toBe(0)
  })
})

describe('sigmoid', () => {
  it('stays finite at both ends', () => {
    expect([-1000, 0, 1000].map(sigmoid)).toEqual([0, 0.5, 1])
  })
})

describe('sinkhorn', () => {
  const logits = [0.1, 0.2, 0.3, 0.4, -0.5, 0, 0.5, 1, 2, -1, 0, 0.25, 0, 0, 0, 0]
  const mixed = [
    [0.136887, 0.334804, 0.282141, 0.246167],
    [0.065761, 0.239947, 0.301654, 0.392636],
    [0.636911, 0.070179, 0.145459, 0.147451],
    [0.16044, 0.355069, 0.270745, 0.213744],
  ].flat()

  it('ends where twenty iterations end', () => {
    const matrix = Float64Array.from(logits)
    sinkhorn(matrix, 4, 20, 1e-6)
    expectClose(matrix, mixed)
  })

  it('begins with a softmax of rows, then divides columns', () => {
    // Softmax rows of [[ln 3, 0], [0, 0]]: [.75, .25], [.5, .5]; column sums 1.25 and .75.
    const matrix = Float64Array.of(Math.log(3), 0, 0, 0)
    sinkhorn(matrix, 2, 1, 0)
    expectClose(matrix, [0.6, 1 / 3, 0.4, 2 / 3], 1e-12)
  })

  it('adds eps to the softmax and to every sum', () => {
    // With eps 1: rows become [1.75, 1.25], [1.5, 1.5]; columns divide by 4.25 and 3.75.
    const matrix = Float64Array.of(Math.log(3), 0, 0, 0)
    sinkhorn(matrix, 2, 1, 1)
    expectClose(matrix, [1.75 / 4.25, 1.25 / 3.75, 1.5 / 4.25, 1.5 / 3.75], 1e-12)
  })

  it('divides rows, then columns, in each further round', () => {
    const matrix = Float64Array.of(Math.log(3), 0, 0, 0)
    sinkhorn(matrix, 2, 2, 0)
    const rows = [0.6 / (14 / 15), 1 / 3 / (14 / 15), 0.4 / (16 / 15), 2 / 3 / (16 / 15)]
    const [a = 0, b = 0, c = 0, d = 0] = rows
    expectClose(matrix, [a / (a + c), b / (b + d), c / (a + c), d / (b + d)], 1e-12)
  })
})

describe('topK', () => {
  it('gives the largest first and equal ones by index, zero and minus zero being equal', () => {
    expect(topK(Float64Array.of(0, 3, -0, 5, 3, 0), 6, 5)).toEqual([3, 1, 4, 0, 2])
  })

  it('looks at the first count scores only, and may return fewer than k', () => {
    expect(topK(Float64Array.of(1, 2, 9), 2, 3)).toEqual([1, 0])
  })
})
