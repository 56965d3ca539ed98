import { describe, expect, it } from 'vitest'
import {
  expectSameBits,
  mixedValues,
  type OpRun,
  runNative,
} from '../native/testing/both-devices.ts'
import { nativeForTests } from '../native/testing/native-addon.ts'
import type { TestSegment } from '../testing/test-tensors.ts'
import { indexQuery } from './index-query.ts'

const native = await nativeForTests()
const addon = 'addon' in native ? native.addon : null

interface Problem {
  readonly segments: readonly TestSegment[]
  readonly heads: number
  readonly head: number
  readonly pairs: number
  readonly quantise: boolean
  readonly seed: number
  /** Of the queries; absent: seeded ones. */
  readonly values?: Float32Array
}

function preparing(problem: Problem): OpRun {
  const { segments, heads, head, pairs, quantise, seed } = problem
  return (on) => {
    const rows = on.rows(segments)
    const count = rows.shape[0] ?? 0
    const values = problem.values ?? mixedValues(seed, 'queries', count * heads * head)
    const queries = on.f32([count, heads, head], values)
    const frequencies = on.f32(
      [pairs],
      Array.from({ length: pairs }, (_, i) => 160_000 ** (-i / pairs)),
    )
    indexQuery(on.device, { queries, frequencies, rows, quantise })
    return { queries: on.read(queries) }
  }
}

const ragged: readonly TestSegment[] = [
  { slot: 2, start: 0, length: 4 },
  { slot: 0, start: 1_048_575, length: 1 },
  { slot: 1, start: 9, length: 7 },
]

/** Multiples of 1/16: their transforms often lie exactly between two FP4 codes. */
function coarseValues(count: number): Float32Array {
  return mixedValues(3, 'coarse', count).map((value) => Math.round(4 * value) / 16)
}

describe.skipIf(addon === null)('native index-query', () => {
  // Rotation and transform are done in double on both sides. Only where that leaves an fp32 within
  // 2^-28 of a rounding boundary could sine and cosine of two mathematics libraries make another bit.
  it('leaves the bits of the reference, rounded to FP4 or not', () => {
    if (addon === null) return
    let seed = 1
    for (const [heads, head, pairs] of [
      [1, 32, 16],
      [3, 64, 8],
      [17, 128, 32],
      [2, 256, 0],
    ] as const) {
      for (const quantise of [false, true]) {
        const problem = { segments: ragged, heads, head, pairs, quantise, seed: seed++ }
        expectSameBits(addon, preparing(problem), JSON.stringify(problem))
      }
    }
  })

  it('takes values between two codes to the even one', () => {
    if (addon === null) return
    const shape = { segments: ragged, heads: 4, head: 64, pairs: 0, quantise: true, seed: 0 }
    const values = coarseValues(12 * 4 * 64)
    expectSameBits(addon, preparing({ ...shape, values }), 'ties')
  })

  it('keeps blocks of zeros, of the smallest and of the largest values', () => {
    if (addon === null) return
    const shape = { segments: [], heads: 1, head: 32, pairs: 0, quantise: true, seed: 0 }
    const segments = [{ slot: 0, start: 0, length: 5 }]
    const values = new Float32Array(5 * 32)
    values.fill(-0, 32, 64)
    values.fill(2 ** -140, 64, 96)
    values[96] = 1e30
    values[128] = -(2 ** -126)
    expectSameBits(addon, preparing({ ...shape, segments, values }), 'extremes')
  })

  it('makes no number of a block with NaN in it', () => {
    if (addon === null) return
    const values = new Float32Array(64).fill(1)
    values[40] = Number.NaN
    const shape = { heads: 1, head: 64, pairs: 0, quantise: true, seed: 0, values }
    const problem = { ...shape, segments: [{ slot: 0, start: 0, length: 1 }] }
    const { queries = [] } = runNative(addon, preparing(problem))
    expect(queries.filter((value) => !Number.isNaN(value))).toEqual([])
  })

  it('gives a row the same bits alone as among others', () => {
    if (addon === null) return
    const shape = { heads: 3, head: 64, pairs: 16, quantise: true, seed: 7 }
    const values = mixedValues(7, 'queries', 12 * 192)
    const together = runNative(addon, preparing({ ...shape, segments: ragged, values }))
    const segments = ragged.slice(1, 2)
    const own = values.slice(4 * 192, 5 * 192)
    const alone = runNative(addon, preparing({ ...shape, segments, values: own }))
    expect(alone['queries']).toEqual(together['queries']?.slice(4 * 192, 5 * 192))
  })
})
