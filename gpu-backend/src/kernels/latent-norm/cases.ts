import type { OpCase } from '../testing/case.ts'
import { exactly, joined } from '../testing/estimate.ts'
import { generateValues, type ValueStyle } from '../testing/generate.ts'
import { fp8Keys } from '../testing/oracle/formats.ts'
import { frequenciesOf, normalise, turn } from '../testing/oracle/transforms.ts'
import { nameOf, Ragged, type Segment } from '../testing/ragged.ts'
import { latentNorm } from './latent-norm.ts'

// Bound: a root over the row and three roundings; the rotation adds the errors of sine and cosine.
// Quantised, an element may take a neighbouring FP8 value where a boundary lies within that bound.

interface Parameters {
  readonly segments: readonly Segment[]
  readonly rank: number
  readonly head: number
  readonly rotated: number
  readonly quantise?: boolean
  readonly values?: ValueStyle
  readonly size?: OpCase['size']
}

const eps = 1e-6

function latentNormCase(parameters: Parameters): OpCase {
  const { segments, rank, head, rotated, quantise = false, size = 'toy' } = parameters
  const { values: style = 'normal' } = parameters
  return {
    op: 'latent-norm',
    name:
      `rows=[${nameOf(segments)}] rank=${rank} head=${head} rotated=${rotated} ${style}` +
      (quantise ? ' quantise' : ''),
    size,
    prepare(bench) {
      const { random, numerics, formats } = bench
      const batch = new Ragged(bench, segments)
      const rows = batch.rows.length
      const changing = (name: string, width: number) =>
        bench.changing(
          name,
          formats.activations,
          [rows, width],
          generateValues(random, rows * width, style),
        )
      const [latents, keys] = [changing('queryLatent', rank), changing('keys', head)]
      const [latentsBefore, keysBefore] = [bench.readValues(latents), bench.readValues(keys)]
      const norm = (name: string, width: number) => {
        const weight = generateValues(random, width, 'normal').map((value) => 1 + 0.2 * value)
        return bench.input(name, 'bf16', [width], weight)
      }
      const [queryNorm, keyNorm] = [norm('queryNorm', rank), norm('keyNorm', head)]
      const angles = frequenciesOf(rotated / 2, 10_000)
      const args = {
        queryLatent: latents.tensor,
        queryNorm: queryNorm.tensor,
        keys: keys.tensor,
        keyNorm: keyNorm.tensor,
        frequencies: bench.f32('frequencies', [rotated / 2], angles).tensor,
        rows: batch.rowsTensor,
        quantise,
        eps,
      }
      return {
        run: () => latentNorm(bench.device, args),
        check() {
          const normed = batch.rows.map((_, row) => {
            const x = exactly(latentsBefore.subarray(row * rank, (row + 1) * rank))
            return normalise(x, queryNorm.values, eps, numerics)
          })
          bench.expectReals(latents, joined(normed))
          const turned = batch.rows.map(({ position }, row) => {
            const x = exactly(keysBefore.subarray(row * head, (row + 1) * head))
            return turn(normalise(x, keyNorm.values, eps, numerics), angles, position, numerics)
          })
          bench.expectRows(
            keys,
            joined(turned),
            { plain: head - rotated, of: head },
            quantise ? fp8Keys : null,
          )
        },
      }
    },
  }
}

const oneRow: readonly Segment[] = [{ slot: 0, start: 0, count: 1 }]
const mixed: readonly Segment[] = [
  { slot: 2, start: 0, count: 5 },
  { slot: 0, start: 77, count: 1 },
  { slot: 3, start: 1_048_570, count: 6 },
]

export const latentNormCases: readonly OpCase[] = [
  latentNormCase({ segments: [], rank: 128, head: 128, rotated: 64 }),
  latentNormCase({ segments: oneRow, rank: 128, head: 128, rotated: 64 }),
  latentNormCase({ segments: oneRow, rank: 33, head: 66, rotated: 2 }),
  latentNormCase({ segments: mixed, rank: 96, head: 128, rotated: 64, quantise: true }),
  latentNormCase({
    segments: mixed,
    rank: 40,
    head: 256,
    rotated: 64,
    quantise: true,
    values: 'outliers',
  }),
  latentNormCase({ segments: mixed, rank: 40, head: 160, rotated: 32 }),
  latentNormCase({ segments: mixed, rank: 64, head: 64, rotated: 64, quantise: true }),
  latentNormCase({
    segments: mixed,
    rank: 64,
    head: 128,
    rotated: 64,
    quantise: true,
    values: 'large',
  }),
  latentNormCase({
    segments: mixed,
    rank: 64,
    head: 128,
    rotated: 64,
    quantise: true,
    values: 'tiny',
  }),
  latentNormCase({
    segments: mixed,
    rank: 64,
    head: 128,
    rotated: 64,
    quantise: true,
    values: 'zeros',
  }),
  latentNormCase({
    segments: [
      { slot: 1, start: 250, count: 40 },
      { slot: 0, start: 9, count: 1 },
    ],
    rank: 128,
    head: 128,
    rotated: 64,
    quantise: true,
  }),
  latentNormCase({
    segments: mixed,
    rank: 1024,
    head: 512,
    rotated: 64,
    quantise: true,
    size: 'real',
  }),
  latentNormCase({
    segments: mixed,
    rank: 1536,
    head: 512,
    rotated: 64,
    quantise: true,
    size: 'real',
  }),
]
