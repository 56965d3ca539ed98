import { describe, expect, it } from 'vitest'
import {
  expectSameBits,
  mixedValues,
  type OpRun,
  runNative,
} from '../native/testing/both-devices.ts'
import { nativeForTests } from '../native/testing/native-addon.ts'
import type { TestSegment } from '../testing/test-tensors.ts'
import { queryRotate } from './query-rotate.ts'

const native = await nativeForTests()
const addon = 'addon' in native ? native.addon : null

interface Problem {
  readonly segments: readonly TestSegment[]
  readonly heads: number
  readonly head: number
  readonly pairs: number
  readonly seed: number
  /** Rows to take of the batch's values; absent: all. */
  readonly from?: number
}

function rotating(problem: Problem): OpRun {
  const { segments, heads, head, pairs, seed, from = 0 } = problem
  return (on) => {
    const rows = on.rows(segments)
    const count = rows.shape[0] ?? 0
    const values = mixedValues(seed, 'queries', (from + count) * heads * head)
    const queries = on.f32([count, heads, head], values.subarray(from * heads * head))
    const frequencies = on.f32(
      [pairs],
      Array.from({ length: pairs }, (_, i) => 10_000 ** (-i / pairs)),
    )
    queryRotate(on.device, { queries, frequencies, rows, eps: 1e-6 })
    return { queries: on.read(queries) }
  }
}

const ragged: readonly TestSegment[] = [
  { slot: 3, start: 0, length: 5 },
  { slot: 0, start: 1_048_575, length: 1 },
  { slot: 1, start: 65_530, length: 14 },
]

describe.skipIf(addon === null)('native query-rotate', () => {
  it('leaves the bits of the reference, whatever the shape', () => {
    if (addon === null) return
    let seed = 1
    for (const [heads, head, pairs] of [
      [1, 2, 1],
      [3, 8, 0],
      [4, 64, 16],
      [5, 67, 8],
      [17, 33, 16],
      [64, 512, 32],
    ] as const) {
      const problem = { segments: ragged, heads, head, pairs, seed: seed++ }
      expectSameBits(addon, rotating(problem), JSON.stringify(problem))
    }
  })

  it('gives a row the same bits alone as among others', () => {
    if (addon === null) return
    const shape = { heads: 3, head: 96, pairs: 16, seed: 7 }
    const together = runNative(addon, rotating({ ...shape, segments: ragged }))
    const [lone] = ragged.slice(1)
    if (lone === undefined) return
    const alone = runNative(addon, rotating({ ...shape, segments: [lone], from: 5 }))
    expect(alone['queries']).toEqual(together['queries']?.slice(5 * 288, 6 * 288))
  })
})
