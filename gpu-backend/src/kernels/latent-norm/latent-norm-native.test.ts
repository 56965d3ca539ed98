import { describe, expect, it } from 'vitest'
import {
  expectSameBits,
  mixedValues,
  type OpRun,
  runNative,
} from '../native/testing/both-devices.ts'
import { nativeForTests } from '../native/testing/native-addon.ts'
import type { TestSegment } from '../testing/test-tensors.ts'
import { latentNorm } from './latent-norm.ts'

const native = await nativeForTests()
const addon = 'addon' in native ? native.addon : null

interface Problem {
  readonly segments: readonly TestSegment[]
  readonly rank: number
  readonly head: number
  readonly pairs: number
  readonly quantise: boolean
  readonly weights: 'f32' | 'bf16'
  readonly seed: number
  readonly keys?: Float32Array
  readonly latents?: Float32Array
}

function norming(problem: Problem): OpRun {
  const { segments, rank, head, pairs, quantise, weights, seed } = problem
  return (on) => {
    const rows = on.rows(segments)
    const count = rows.shape[0] ?? 0
    const latents = problem.latents ?? mixedValues(seed, 'latents', count * rank)
    const queryLatent = on.f32([count, rank], latents)
    const keys = on.f32([count, head], problem.keys ?? mixedValues(seed, 'keys', count * head))
    const frequencies = on.f32(
      [pairs],
      Array.from({ length: pairs }, (_, i) => 10_000 ** (-i / pairs)),
    )
    const queryNorm = on[weights]([rank], mixedValues(seed, 'query norm', rank))
    const keyNorm = on[weights]([head], mixedValues(seed, 'key norm', head))
    const rest = { queryNorm, keyNorm, frequencies, rows, quantise, eps: 1e-6 }
    latentNorm(on.device, { queryLatent, keys, ...rest })
    return { queryLatent: on.read(queryLatent), keys: on.read(keys) }
  }
}

const ragged: readonly TestSegment[] = [
  { slot: 2, start: 0, length: 4 },
  { slot: 0, start: 1_048_575, length: 1 },
  { slot: 1, start: 300, length: 9 },
]

describe.skipIf(addon === null)('native latent-norm', () => {
  // Norm and rotation are done in double on both sides, in another order of summation: an fp32
  // differs only where the double lies within 2^-28 of a rounding boundary.
  it('leaves the bits of the reference, rounded to FP8 or not', () => {
    if (addon === null) return
    let seed = 1
    for (const [rank, head, pairs] of [
      [1, 2, 1],
      [33, 64, 0],
      [100, 80, 8],
      [1024, 512, 32],
    ] as const) {
      for (const quantise of [false, true]) {
        const weights = seed % 2 === 0 ? 'f32' : 'bf16'
        const problem = { segments: ragged, rank, head, pairs, quantise, weights, seed: seed++ }
        expectSameBits(addon, norming({ ...problem, weights }), JSON.stringify(problem))
      }
    }
  })

  it('keeps rows of zeros and of the smallest values', () => {
    if (addon === null) return
    const keys = new Float32Array(3 * 64)
    keys.fill(-0, 64, 128)
    keys.fill(2 ** -140, 128)
    const segments = [{ slot: 0, start: 0, length: 3 }]
    const shape = { rank: 4, head: 64, pairs: 0, quantise: true, weights: 'f32', seed: 3 } as const
    expectSameBits(addon, norming({ ...shape, segments, keys }), 'small keys')
  })

  it('gives a row the same bits alone as among others', () => {
    if (addon === null) return
    const shape = { rank: 48, head: 96, pairs: 16, quantise: true, weights: 'bf16' } as const
    const latents = mixedValues(5, 'latents', 14 * 48)
    const keys = mixedValues(5, 'keys', 14 * 96)
    const all = { ...shape, seed: 5, segments: ragged, latents, keys }
    const together = runNative(addon, norming(all))
    const alone = runNative(
      addon,
      norming({
        ...all,
        segments: ragged.slice(1, 2),
        latents: latents.slice(4 * 48, 5 * 48),
        keys: keys.slice(4 * 96, 5 * 96),
      }),
    )
    expect(alone['keys']).toEqual(together['keys']?.slice(4 * 96, 5 * 96))
    expect(alone['queryLatent']).toEqual(together['queryLatent']?.slice(4 * 48, 5 * 48))
  })
})
