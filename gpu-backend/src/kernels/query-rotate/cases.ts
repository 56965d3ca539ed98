import type { OpCase } from '../testing/case.ts'
import { exactly, joined } from '../testing/estimate.ts'
import { generateValues, type ValueStyle } from '../testing/generate.ts'
import { frequenciesOf, normalise, turn } from '../testing/oracle/transforms.ts'
import { nameOf, Ragged, type Segment } from '../testing/ragged.ts'
import { queryRotate } from './query-rotate.ts'

// Bound: a root over one head and three roundings; the rotation adds sine and cosine.

interface Parameters {
  readonly segments: readonly Segment[]
  readonly heads: number
  readonly head: number
  readonly rotated: number
  readonly values?: ValueStyle
  readonly size?: OpCase['size']
}

const eps = 1e-6

function queryRotateCase(parameters: Parameters): OpCase {
  const { segments, heads, head, rotated, values: style = 'normal', size = 'toy' } = parameters
  return {
    op: 'query-rotate',
    name: `rows=[${nameOf(segments)}] heads=${heads} head=${head} rotated=${rotated} ${style}`,
    size,
    prepare(bench) {
      const { random, numerics, formats } = bench
      const batch = new Ragged(bench, segments)
      const rows = batch.rows.length
      const values = generateValues(random, rows * heads * head, style)
      const shape = [rows, heads, head]
      const queries = bench.changing('queries', formats.activations, shape, values)
      const before = bench.readValues(queries)
      const angles = frequenciesOf(rotated / 2, 160_000)
      const args = {
        queries: queries.tensor,
        frequencies: bench.f32('frequencies', [rotated / 2], angles).tensor,
        rows: batch.rowsTensor,
        eps,
      }
      return {
        run: () => queryRotate(bench.device, args),
        check() {
          const expected = batch.rows.flatMap(({ position }, row) =>
            Array.from({ length: heads }, (_, h) => {
              const at = (row * heads + h) * head
              const x = exactly(before.subarray(at, at + head))
              return turn(normalise(x, null, eps, numerics), angles, position, numerics)
            }),
          )
          bench.expectReals(queries, joined(expected))
        },
      }
    },
  }
}

const oneRow: readonly Segment[] = [{ slot: 0, start: 3, count: 1 }]
const mixed: readonly Segment[] = [
  { slot: 1, start: 0, count: 4 },
  { slot: 0, start: 300, count: 1 },
  { slot: 4, start: 1_048_574, count: 2 },
]

export const queryRotateCases: readonly OpCase[] = [
  queryRotateCase({ segments: [], heads: 4, head: 128, rotated: 64 }),
  queryRotateCase({ segments: oneRow, heads: 1, head: 2, rotated: 2 }),
  queryRotateCase({ segments: oneRow, heads: 3, head: 70, rotated: 6 }),
  queryRotateCase({ segments: mixed, heads: 4, head: 128, rotated: 64 }),
  queryRotateCase({ segments: mixed, heads: 5, head: 64, rotated: 64, values: 'outliers' }),
  queryRotateCase({ segments: mixed, heads: 2, head: 128, rotated: 64, values: 'large' }),
  queryRotateCase({ segments: mixed, heads: 2, head: 128, rotated: 64, values: 'tiny' }),
  queryRotateCase({ segments: mixed, heads: 2, head: 128, rotated: 64, values: 'zeros' }),
  queryRotateCase({ segments: oneRow, heads: 64, head: 512, rotated: 64, size: 'real' }),
  queryRotateCase({ segments: oneRow, heads: 128, head: 512, rotated: 64, size: 'real' }),
]
