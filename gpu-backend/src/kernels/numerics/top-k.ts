/**
 * Indices of the `k` largest of the first `count` scores, largest first; equal scores, and 0 beside
 * −0, in index order.
 */
export function topK(scores: Float64Array, count: number, k: number): number[] {
  const indices = Array.from({ length: count }, (_, index) => index)
  indices.sort((a, b) => (scores[b] ?? 0) - (scores[a] ?? 0) || a - b)
  return indices.slice(0, k)
}
