import { positiveSumError } from '../estimate.ts'
import type { Numerics } from '../numerics.ts'

interface Term {
  /** Sum of parts whose magnitudes add up to `size`. */
  readonly score: number
  readonly size: number
  readonly value: number
}

/**
 * Σ p_i·v_i, p = softmax(score), of terms each known exactly. A score's addition and the
 * subtraction of the largest round their results, and exp makes of that a relative error of p_i;
 * two sums and a division follow.
 */
export function softmaxMix(
  terms: readonly Term[],
  numerics: Numerics,
): { readonly value: number; readonly certain: number } {
  const { step, elementary } = numerics
  const top = Math.max(...terms.map(({ score }) => score))
  const weighted = terms.map(({ score, size, value }) => {
    const doubt = elementary + step * (size + Math.abs(score - top) + Math.abs(top) + 1)
    return { weight: Math.exp(score - top), doubt, value }
  })
  let [total, mixed, magnitude, doubt, doubts] = [0, 0, 0, 0, 0]
  for (const term of weighted) {
    total += term.weight
    mixed += term.weight * term.value
    magnitude += term.weight * Math.abs(term.value)
    doubt += term.weight * term.doubt
    doubts += term.weight * term.doubt * Math.abs(term.value)
  }
  const shared = doubt / total + 2 * positiveSumError(numerics.rows, terms.length) + 2 * step
  return { value: mixed / total, certain: (doubts + magnitude * shared) / total }
}
