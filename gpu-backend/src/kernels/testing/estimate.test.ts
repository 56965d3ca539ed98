import { describe, expect, it } from 'vitest'
import { allowance, exactly, multiply } from './estimate.ts'
import { generateValues } from './generate.ts'
import { singleSums } from './numerics.ts'
import { roundBf16 } from './oracle/formats.ts'
import { Random } from './random.ts'

const [rows, width] = [64, 2048]
const random = new Random(11)
const x = generateValues(random, width, 'normal').map(Math.fround)
const weights = generateValues(random, rows * width, 'normal').map(Math.fround)
const matrix = { values: weights, rows, width }

/** Largest error of a device's products, in units of what is allowed. */
function share(device: (row: number) => number, options: Parameters<typeof multiply>[2]): number {
  const expected = multiply(exactly(x), matrix, options)
  return Math.max(
    ...Array.from({ length: rows }, (_, row) => {
      const error = Math.abs(device(row) - (expected.value[row] ?? 0))
      return error / (allowance(expected, row) + 2 ** -24 * Math.abs(expected.value[row] ?? 0))
    }),
  )
}

function sumInFloats(row: number, input: (i: number) => number, skip = -1): number {
  let sum = 0
  for (let i = 0; i < width; i++) {
    if (i === skip) continue
    sum = Math.fround(sum + Math.fround(input(i) * (weights[row * width + i] ?? 0)))
  }
  return sum
}

const plain = {
  sum: { unit: 2 ** -24, run: width },
  form: { as: 'given' },
  structured: false,
} as const

describe('the bound of a product', () => {
  it('holds a sum in fp32 one term after the other, with little room', () => {
    const used = share((row) => sumInFloats(row, (i) => x[i] ?? 0), plain)
    expect(used).toBeLessThan(1)
    expect(used).toBeGreaterThan(0.01)
  })

  it('does not hold a sum that leaves one term of two thousand out', () => {
    expect(share((row) => sumInFloats(row, (i) => x[i] ?? 0, row), plain)).toBeGreaterThan(10)
  })

  it('does not hold rounded inputs, unless the device says that it rounds them', () => {
    const narrow = (row: number): number => sumInFloats(row, (i) => roundBf16(x[i] ?? 0))
    expect(share(narrow, plain)).toBeGreaterThan(10)
    const used = share(narrow, { ...plain, form: { as: 'bfloat16' } })
    expect(used).toBeLessThan(1)
    expect(used).toBeGreaterThan(0.05)
  })

  it('takes the worst case where roundings may all go one way', () => {
    const worst = multiply(exactly(x), matrix, { ...plain, structured: true })
    const chance = multiply(exactly(x), matrix, plain)
    expect(allowance(worst, 0)).toBeGreaterThan(allowance(chance, 0))
  })

  it('is as narrow as runs of a sum make it', () => {
    const runs = multiply(exactly(x), matrix, { ...plain, sum: singleSums.products })
    const inLine = multiply(exactly(x), matrix, plain)
    expect(allowance(runs, 0)).toBeLessThan(allowance(inLine, 0) / 2)
  })
})
