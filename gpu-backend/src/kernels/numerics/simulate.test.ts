import { describe, expect, it } from 'vitest'
import { simulateFp4, simulateFp8 } from './simulate.ts'

describe('simulateFp8', () => {
  it('keeps what e4m3 keeps at a scale of a quarter', () => {
    const values = Float32Array.of(56, 1, -0.3, 0.001, 7.77, -56.5)
    simulateFp8(values, { at: 0, length: 6 }, 64)
    expect([...values]).toEqual([56, 1, -0.3125, 9.765625e-4, 8, -56])
  })

  it('gives each block its own scale and leaves the rest alone', () => {
    const values = Float32Array.of(0.7, 416, 0.001, 0.001, 0, 0.7)
    simulateFp8(values, { at: 1, length: 4 }, 2)
    const untouched = Math.fround(0.7)
    expect([...values]).toEqual([untouched, 416, 2 ** -9, 2 ** -10, 0, untouched])
  })

  it('rounds a block of tiny values on a grid that has a floor', () => {
    // Amax counts as 1e-4 at least, so s is 2^-22 and the smallest step 2^-31.
    const values = Float32Array.of(2 ** -31, 2 ** -33, 0)
    simulateFp8(values, { at: 0, length: 3 }, 64)
    expect([...values]).toEqual([2 ** -31, 0, 0])
  })

  it('changes nothing the second time', () => {
    const values = Float32Array.from({ length: 256 }, (_, i) => Math.sin(i) * 10 ** (i % 5))
    simulateFp8(values, { at: 0, length: 256 }, 128)
    const once = values.slice()
    simulateFp8(values, { at: 0, length: 256 }, 128)
    expect(values).toEqual(once)
  })
})

describe('simulateFp4', () => {
  it('rounds to the eight magnitudes, ties to even, and keeps the sign of zero', () => {
    const values = Float32Array.of(5, 2.5, 1.25, 0.75, -0.25, 0.3, -3.5, 0.1)
    simulateFp4(values, { at: 0, length: 8 })
    expect([...values]).toEqual([4, 2, 1, 1, -0, 0.5, -4, 0])
  })

  it('leaves a block of zeros zero', () => {
    const values = new Float32Array(32)
    simulateFp4(values, { at: 0, length: 32 })
    expect(values).toEqual(new Float32Array(32))
  })

  it('scales 32 at a time', () => {
    const values = new Float32Array(64).fill(0.5, 0, 32).fill(96, 32)
    values[0] = 6
    simulateFp4(values, { at: 0, length: 64 })
    expect([...values.subarray(30, 34)]).toEqual([0.5, 0.5, 96, 96])
  })
})
