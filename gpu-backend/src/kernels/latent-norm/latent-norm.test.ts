import { describe, expect, it } from 'vitest'
import { ReferenceDevice } from '../../device/reference.ts'
import { TestTensors } from '../testing/test-tensors.ts'
import { latentNorm } from './latent-norm.ts'

const on = new TestTensors(new ReferenceDevice())

/** A key of 64 plain elements and one rotated pair, whose mean square is `meanSquare`. */
function key(pair: readonly [number, number], meanSquare: number): number[] {
  const rest = 66 * meanSquare - pair[0] ** 2 - pair[1] ** 2
  return [
    Math.sqrt(rest / 2),
    ...Array.from({ length: 62 }, () => 0),
    -Math.sqrt(rest / 2),
    ...pair,
  ]
}

function run(keys: readonly number[], quantise: boolean): { latent: number[]; key: number[] } {
  const queryLatent = on.f32([1, 2], [3, 4])
  const keyTensor = on.f32([1, 66], keys)
  latentNorm(on.device, {
    queryLatent,
    queryNorm: on.bf16([2], [1, 2]),
    keys: keyTensor,
    keyNorm: on.bf16(
      [66],
      Array.from({ length: 66 }, (_, i) => (i < 64 ? 1 : 2)),
    ),
    frequencies: on.f32([1], [Math.PI / 8]),
    rows: on.rows([{ slot: 0, start: 4, length: 1 }]),
    quantise,
    eps: 0,
  })
  return { latent: on.read(queryLatent), key: on.read(keyTensor) }
}

describe('latent-norm', () => {
  it('norms the query latent by its weight', () => {
    const { latent } = run(key([1, 0], 1), false)
    expect(latent[0]).toBeCloseTo(3 / Math.sqrt(12.5), 6)
    expect(latent[1]).toBeCloseTo(8 / Math.sqrt(12.5), 6)
  })

  it('norms the key, weight included, and then rotates its last elements by position', () => {
    // Position 4 turns by half a pi: (2·1, 0) becomes (0, 2).
    const { key: found } = run(key([1, 0], 1), false)
    expect(found[64]).toBeCloseTo(0, 6)
    expect(found[65]).toBeCloseTo(2, 6)
    expect(found[0]).toBeCloseTo(Math.sqrt(65 / 2), 5)
  })

  it('divides by the root of the mean square', () => {
    const { key: found } = run(key([1, 0], 4), false)
    expect(found[65]).toBeCloseTo(1, 6)
  })

  it('rounds the plain elements to FP8 and the rotated ones not', () => {
    const { key: found } = run(key([0.3, 0], 1), true)
    // √(65.91 ÷ 2) = 5.74 with s = 1/64: 367.4 lies between 352 and 384.
    expect(found[0]).toBe(352 / 64)
    expect(found[65]).toBeCloseTo(0.6, 6)
  })
})
