import {
  allowance,
  type Estimate,
  exactly,
  type Matrix,
  multiply,
  positiveSumError,
  sumSpread,
} from '../estimate.ts'
import type { Numerics } from '../numerics.ts'

/**
 * One head of one row: o = Σ_j e^(s_j)·K_j ÷ (Σ_j e^(s_j) + e^sink), s_j = scale·(q·K_j), the keys
 * being the values.
 *
 * A score's error, that of its difference from the largest, and exp's are together a relative error
 * ρ_j of weight j. It moves o by Σ p_j·ρ_j·|K_j| directly and by |o|·Σ p_j·ρ_j through the sum of
 * weights; the sums themselves add what sums do.
 */
export function attend(
  query: Float64Array,
  keys: Matrix,
  logits: { readonly scale: number; readonly sink: number },
  numerics: Numerics,
): Estimate {
  const head = query.length
  const { weights, doubts, total, doubt } = weigh(query, keys, logits, numerics)
  const result = exactly(new Float64Array(head))
  const squares = new Float64Array(head)
  const shared = doubt + positiveSumError(numerics.scores, keys.rows) + 3 * numerics.step
  for (let j = 0, at = 0; j < keys.rows; j++) {
    const share = (weights[j] ?? 0) / total
    for (let d = 0; d < head; d++, at++) {
      const term = share * (keys.values[at] ?? 0)
      result.value[d] = (result.value[d] ?? 0) + term
      result.certain[d] = (result.certain[d] ?? 0) + Math.abs(term) * (doubts[j] ?? 0)
      squares[d] = (squares[d] ?? 0) + term * term
    }
  }
  for (const [d, value] of result.value.entries()) {
    result.certain[d] = (result.certain[d] ?? 0) + Math.abs(value) * shared
    const sum = { value, squares: squares[d] ?? 0 }
    const rounded = numerics.probabilities * Math.sqrt(sum.squares)
    result.spread[d] = Math.hypot(rounded, sumSpread(numerics.scores, keys.rows, sum))
  }
  return result
}

interface Weights {
  readonly weights: Float64Array
  /** Relative error of each weight. */
  readonly doubts: Float64Array
  /** Sum of weights and sink, and its relative error. */
  readonly total: number
  readonly doubt: number
}

function weigh(
  query: Float64Array,
  keys: Matrix,
  { scale, sink }: { readonly scale: number; readonly sink: number },
  numerics: Numerics,
): Weights {
  const { step, elementary } = numerics
  const options = { sum: numerics.scores, form: numerics.queries, structured: false }
  const dots = multiply(exactly(query), keys, options)
  const scores = dots.value.map((dot) => dot * scale)
  // Only differences of scores count, so any reference point will do; the largest of all keeps exp small.
  const top = scores.reduce((most, score) => Math.max(most, score), sink)
  const weights = scores.map((score) => Math.exp(score - top))
  const doubts = scores.map((score, j) => {
    const ofScore = scale * allowance(dots, j) + 2 * step * Math.abs(score)
    return ofScore + elementary + step * (Math.abs(score) + Math.abs(top) + Math.abs(sink))
  })
  const sinkWeight = Math.exp(sink - top)
  const total = weights.reduce((sum, weight) => sum + weight, sinkWeight)
  const moved = weights.reduce((sum, weight, j) => sum + weight * (doubts[j] ?? 0), 0)
  const ofSink = sinkWeight * (elementary + 2 * step * (Math.abs(sink) + Math.abs(top)))
  return { weights, doubts, total, doubt: (moved + ofSink) / total }
}
