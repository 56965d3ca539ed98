import { pageTokens } from '../batch.ts'
import { CacheRows, compactIndexRows, plainRows } from '../testing/cache-rows.ts'
import type { OpCase } from '../testing/case.ts'
import {
  allowance,
  type Estimate,
  exactly,
  type Matrix,
  multiply,
  positiveSumError,
} from '../testing/estimate.ts'
import { generateValues } from '../testing/generate.ts'
import { endOf, entriesVisible, nameOf, Ragged, type Segment } from '../testing/ragged.ts'
import type { Numerics } from '../testing/numerics.ts'
import { indexSelect } from './index-select.ts'

// Bound of a score: that of each head's dot product, times its weight, and the sum over heads. Two
// entries may change places where their bounds overlap; with `exact` values nothing rounds, scores
// tie in great number, and the answer is one.

interface Parameters {
  readonly segments: readonly Segment[]
  readonly heads: number
  readonly head: number
  readonly topK: number
  readonly ratio?: number
  /** Small whole numbers, so that every sum is exact on every device and many scores tie. */
  readonly exact?: boolean
  /** Entries in compact rows. */
  readonly compact?: boolean
  readonly size?: OpCase['size']
}

function indexSelectCase(parameters: Parameters): OpCase {
  const { segments, heads, head, topK, ratio = 4, size = 'toy' } = parameters
  const { exact = false, compact = false } = parameters
  return {
    op: 'index-select',
    name:
      `rows=[${nameOf(segments)}] ratio=${ratio} heads=${heads} head=${head} top=${topK}` +
      (exact ? ' exact' : '') +
      (compact ? ' compact' : ''),
    size,
    compactRows: compact,
    prepare(bench) {
      const { random, numerics, formats } = bench
      const batch = new Ragged(bench, segments)
      const rows = batch.rows.length
      const draw = (count: number): Float64Array =>
        exact
          ? Float64Array.from({ length: count }, () => random.below(3) - 1)
          : generateValues(random, count, 'normal')
      const queries = bench.activation('queries', [rows, heads, head], draw(rows * heads * head))
      const weights = bench.f32('weights', [rows, heads], draw(rows * heads))
      const kind = compact ? compactIndexRows(head) : plainRows(formats.indexKeys, head)
      const rowsOfCache = new CacheRows(kind, [batch.pageCount, pageTokens / ratio])
      const stored = new Map<number, Float64Array>()
      for (const segment of segments) {
        for (let entry = 0; entry < entriesVisible(endOf(segment) - 1, ratio); entry++) {
          const at = batch.entryPlace(segment.slot, entry, ratio)
          stored.set(at, rowsOfCache.put(at, draw(head)))
        }
      }
      const selected = bench.output('selected', 'i32', [rows, topK])
      const scale = exact ? 0.25 : (head * heads) ** -0.5
      const args = {
        queries: queries.tensor,
        weights: weights.tensor,
        scale,
        entries: rowsOfCache.asInput(bench, 'entries'),
        rows: batch.rowsTensor,
        pages: batch.pagesTensor,
        ratio,
        selected: selected.tensor,
      }
      return {
        run: () => indexSelect(bench.device, args),
        check() {
          for (const [row, { segment, position }] of batch.rows.entries()) {
            const count = entriesVisible(position, ratio)
            const keys = new Float64Array(count * head)
            for (let entry = 0; entry < count; entry++) {
              const at = batch.entryPlace(segment.slot, entry, ratio)
              keys.set(stored.get(at) ?? [], entry * head)
            }
            const own = queries.values.subarray(row * heads * head, (row + 1) * heads * head)
            const headWeights = weights.values.subarray(row * heads, (row + 1) * heads)
            const found = scores({ values: keys, rows: count, width: head }, own, {
              weights: headWeights.map((weight) => weight * scale),
              numerics,
            })
            bench.expectPicks(selected, row, {
              scores: exact ? exactly(found.value) : found,
              count: Math.min(count, topK),
              order: 'ascending',
            })
          }
          if (rows === 0) bench.expectValues(selected, [])
        },
      }
    },
  }
}

/** I_j = Σ_h w[h]·max(0, q[h]·k_j); the rectifier passes an error on at most once. */
function scores(
  keys: Matrix,
  queries: Float64Array,
  { weights, numerics }: { readonly weights: Float64Array; readonly numerics: Numerics },
): Estimate {
  const heads = weights.length
  const options = { sum: numerics.scores, form: numerics.queries, structured: false }
  const rounding = positiveSumError(numerics.scores, heads) + 2 * numerics.step
  const result = exactly(new Float64Array(keys.rows))
  for (const [h, weight] of weights.entries()) {
    const query = queries.subarray(h * keys.width, (h + 1) * keys.width)
    const matches = multiply(exactly(query), keys, options)
    for (const [j, match] of matches.value.entries()) {
      const term = weight * Math.max(0, match)
      result.value[j] = (result.value[j] ?? 0) + term
      const error = Math.abs(weight) * allowance(matches, j) + Math.abs(term) * rounding
      result.certain[j] = (result.certain[j] ?? 0) + error
    }
  }
  return result
}

const mixed: readonly Segment[] = [
  { slot: 3, start: 0, count: 9 },
  { slot: 0, start: 130, count: 1 },
  { slot: 1, start: 1030, count: 6 },
]

export const indexSelectCases: readonly OpCase[] = [
  indexSelectCase({ segments: [], heads: 2, head: 32, topK: 4 }),
  indexSelectCase({ segments: [{ slot: 0, start: 0, count: 3 }], heads: 1, head: 32, topK: 1 }),
  indexSelectCase({ segments: mixed, heads: 4, head: 32, topK: 8 }),
  indexSelectCase({ segments: mixed, heads: 4, head: 128, topK: 8 }),
  indexSelectCase({ segments: mixed, heads: 3, head: 64, topK: 33 }),
  indexSelectCase({ segments: mixed, heads: 3, head: 64, topK: 300 }),
  indexSelectCase({ segments: mixed, heads: 2, head: 32, topK: 1 }),
  indexSelectCase({ segments: mixed, heads: 2, head: 32, topK: 8, exact: true }),
  indexSelectCase({ segments: mixed, heads: 4, head: 128, topK: 31, exact: true }),
  indexSelectCase({ segments: mixed, heads: 1, head: 32, topK: 100, exact: true }),
  indexSelectCase({ segments: mixed, heads: 4, head: 64, topK: 3, ratio: 16 }),
  indexSelectCase({ segments: mixed, heads: 4, head: 128, topK: 8, compact: true }),
  indexSelectCase({ segments: mixed, heads: 2, head: 32, topK: 8, exact: true, compact: true }),
  indexSelectCase({
    segments: [{ slot: 1, start: 4095, count: 1 }],
    heads: 64,
    head: 128,
    topK: 512,
    size: 'real',
  }),
  indexSelectCase({
    segments: [{ slot: 0, start: 6003, count: 1 }],
    heads: 64,
    head: 128,
    topK: 1024,
    exact: true,
    size: 'real',
  }),
]
