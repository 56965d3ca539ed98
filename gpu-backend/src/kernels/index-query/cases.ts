import type { OpCase } from '../testing/case.ts'
import { exactly, joined } from '../testing/estimate.ts'
import { generateValues, type ValueStyle } from '../testing/generate.ts'
import { fp4Index } from '../testing/oracle/formats.ts'
import { frequenciesOf, hadamard, turn } from '../testing/oracle/transforms.ts'
import { nameOf, Ragged, type Segment } from '../testing/ragged.ts'
import { indexQuery } from './index-query.ts'

// Bound: rotation, then log2(head) orthogonal stages, each within one rounding of the head's norm.
// Quantised, an element may take a neighbouring e2m1 value where a boundary lies within that.

interface Parameters {
  readonly segments: readonly Segment[]
  readonly heads: number
  readonly head: number
  readonly rotated: number
  readonly quantise?: boolean
  readonly values?: ValueStyle
  /**
   * Queries whose transform is what `values` drew. At position 0 and with a head of a power of four
   * nothing rounds on the way, so ties stay ties and each has one answer.
   */
  readonly exact?: boolean
  readonly size?: OpCase['size']
}

function indexQueryCase(parameters: Parameters): OpCase {
  const { segments, heads, head, rotated, quantise = false, size = 'toy' } = parameters
  const { values: style = 'normal', exact = false } = parameters
  return {
    op: 'index-query',
    name:
      `rows=[${nameOf(segments)}] heads=${heads} head=${head} rotated=${rotated} ${style}` +
      (exact ? ' exact' : '') +
      (quantise ? ' quantise' : ''),
    size,
    prepare(bench) {
      const { random, numerics, formats } = bench
      const batch = new Ragged(bench, segments)
      const rows = batch.rows.length
      const drawn = generateValues(random, rows * heads * head, style)
      const values = exact
        ? eachHead(drawn, head, (x) => hadamard(exactly(x), numerics).value)
        : drawn
      const shape = [rows, heads, head]
      const queries = bench.changing('queries', formats.activations, shape, values)
      const before = bench.readValues(queries)
      const angles = frequenciesOf(rotated / 2, 160_000)
      const args = {
        queries: queries.tensor,
        frequencies: bench.f32('frequencies', [rotated / 2], angles).tensor,
        rows: batch.rowsTensor,
        quantise,
      }
      return {
        run: () => indexQuery(bench.device, args),
        check() {
          const transformed = batch.rows.flatMap(({ position }, row) =>
            Array.from({ length: heads }, (_, h) => {
              const at = (row * heads + h) * head
              const x = exactly(before.subarray(at, at + head))
              const transformed = hadamard(turn(x, angles, position, numerics), numerics)
              return exact ? exactly(transformed.value) : transformed
            }),
          )
          if (quantise) bench.expectBlocks(queries, joined(transformed), fp4Index)
          else bench.expectReals(queries, joined(transformed))
        },
      }
    },
  }
}

function eachHead(
  values: Float64Array,
  head: number,
  change: (values: Float64Array) => Float64Array,
): Float64Array {
  const changed = values.slice()
  for (let at = 0; at < values.length; at += head) {
    changed.set(change(values.subarray(at, at + head)), at)
  }
  return changed
}

const oneRow: readonly Segment[] = [{ slot: 0, start: 0, count: 1 }]
const mixed: readonly Segment[] = [
  { slot: 1, start: 2, count: 3 },
  { slot: 0, start: 4095, count: 1 },
  { slot: 2, start: 1_048_575, count: 1 },
]

export const indexQueryCases: readonly OpCase[] = [
  indexQueryCase({ segments: [], heads: 2, head: 32, rotated: 8 }),
  indexQueryCase({ segments: oneRow, heads: 1, head: 32, rotated: 32 }),
  indexQueryCase({ segments: mixed, heads: 3, head: 64, rotated: 16 }),
  indexQueryCase({ segments: mixed, heads: 4, head: 128, rotated: 64 }),
  indexQueryCase({ segments: mixed, heads: 4, head: 128, rotated: 64, quantise: true }),
  indexQueryCase({ segments: mixed, heads: 5, head: 32, rotated: 2, quantise: true }),
  indexQueryCase({
    segments: mixed,
    heads: 2,
    head: 128,
    rotated: 64,
    quantise: true,
    values: 'outliers',
  }),
  indexQueryCase({
    segments: mixed,
    heads: 2,
    head: 128,
    rotated: 64,
    quantise: true,
    values: 'large',
  }),
  indexQueryCase({
    segments: mixed,
    heads: 2,
    head: 128,
    rotated: 64,
    quantise: true,
    values: 'tiny',
  }),
  indexQueryCase({
    segments: mixed,
    heads: 2,
    head: 128,
    rotated: 64,
    quantise: true,
    values: 'zeros',
  }),
  indexQueryCase({
    segments: oneRow,
    heads: 3,
    head: 64,
    rotated: 16,
    quantise: true,
    values: 'ties4',
    exact: true,
  }),
  indexQueryCase({
    segments: oneRow,
    heads: 64,
    head: 128,
    rotated: 64,
    quantise: true,
    size: 'real',
  }),
]
