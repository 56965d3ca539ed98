import { describe, expect, it } from 'vitest'
import { takeNumbers } from '../testing/test-tensors.ts'
import { matmul, type MatrixReader } from './matmul.ts'

function whole(rows: number, width: number, values: Float32Array): MatrixReader {
  return { rows, width, values, load: (first) => first * width }
}

function product(count: number, outputs: number, width: number): Float32Array {
  const x = Float32Array.from(takeNumbers(1, count * width))
  const w = Float32Array.from(takeNumbers(2, outputs * width))
  const out = new Float32Array(count * outputs).fill(Number.NaN)
  matmul({ values: x, at: 0, stride: width }, count, whole(outputs, width, w), {
    values: out,
    at: 0,
    stride: outputs,
  })
  return out
}

describe('matmul', () => {
  it.each([
    [1, 1, 1],
    [2, 4, 3],
    [3, 7, 5],
    [5, 10, 129],
  ])('is the sum over the inputs for %i rows, %i outputs of width %i', (count, outputs, width) => {
    const x = Float32Array.from(takeNumbers(1, count * width))
    const w = Float32Array.from(takeNumbers(2, outputs * width))
    const expected = Float32Array.from({ length: count * outputs }, (_, place) => {
      const [t, o] = [Math.floor(place / outputs), place % outputs]
      let sum = 0
      for (let i = 0; i < width; i++) sum += (x[t * width + i] ?? 0) * (w[o * width + i] ?? 0)
      return sum
    })
    expect(product(count, outputs, width)).toEqual(expected)
  })

  it('gives a row the same bits whether it is alone, first of two or last of three', () => {
    const alone = product(1, 9, 257)
    expect(product(2, 9, 257).subarray(0, 9)).toEqual(alone)
    expect(product(3, 9, 257).subarray(0, 9)).toEqual(alone)
  })

  it('sums in double precision', () => {
    const out = new Float32Array(1)
    const x = Float32Array.of(2 ** 30, 1, -(2 ** 30))
    matmul({ values: x, at: 0, stride: 3 }, 1, whole(1, 3, Float32Array.of(1, 1, 1)), {
      values: out,
      at: 0,
      stride: 1,
    })
    expect(out[0]).toBe(1)
  })
})
