import { describe, expect, it } from 'vitest'
import { expectClose } from '../kernels/testing/expect-close.ts'
import { ropeFrequencies } from './rope.ts'

const released = {
  ropeDim: 64,
  ropeTheta: 10_000,
  compressRopeTheta: 160_000,
  ropeScaling: { factor: 16, originalMaxPositionEmbeddings: 65_536, betaFast: 32, betaSlow: 1 },
}

/** Pair, plain frequency, YaRN frequency. */
const table: readonly (readonly [number, number, number])[] = [
  [0, 1, 1],
  [1, 0.7498942093, 0.6876560219],
  [8, 0.1, 0.05],
  [15, 1.333521432e-2, 3.635538584e-3],
  [16, 1e-2, 2.265625e-3],
  [20, 3.16227766e-3, 2.969777783e-4],
  [24, 1e-3, 1.953125e-5],
  [25, 7.498942093e-4, 5.372312671e-6],
  [31, 1.333521432e-4, 5.680529037e-7],
]

describe('ropeFrequencies', () => {
  it('are those of the released models, to the fp32', () => {
    const { plain, yarn } = ropeFrequencies(released)
    expect([plain.length, yarn.length]).toEqual([32, 32])
    for (const [pair, expectedPlain, expectedYarn] of table) {
      expectClose([(plain[pair] ?? 0) / expectedPlain], [1], 1e-7)
      expectClose([(yarn[pair] ?? 0) / expectedYarn], [1], 1e-7)
    }
  })

  it('ramp from pair 0 to 7 where the original context has 64 tokens', () => {
    const toy = { ...released.ropeScaling, originalMaxPositionEmbeddings: 64 }
    const { yarn } = ropeFrequencies({ ...released, ropeScaling: toy })
    const base = (pair: number): number => 160_000 ** ((-2 * pair) / 64)
    expect(yarn[0]).toBe(1)
    expectClose([(yarn[7] ?? 0) / base(7)], [1 / 16], 1e-7)
    expectClose([(yarn[3] ?? 0) / base(3)], [4 / 7 + 3 / 7 / 16], 1e-7)
  })

  it('step where the ramp has no width', () => {
    const narrow = { ...released.ropeScaling, betaFast: 1, betaSlow: 1 }
    const { yarn } = ropeFrequencies({ ...released, ropeScaling: narrow })
    expect([...yarn].every(Number.isFinite)).toBe(true)
  })
})
