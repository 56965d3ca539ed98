import { elementCount, rowCount, type Tensor } from '../device/tensor.ts'
import { type BatchRow, visibleEntries } from './batch.ts'
import type { ExpertWeights } from './experts/experts.ts'
import type { OpTable } from './registry.ts'

/** What one call of an op multiplies; `rows` is the content of its `Batch.rows`, if it takes any. */
type OpFlops<Args> = (args: Args, rows: readonly BatchRow[]) => number

const none = (): number => 0

/**
 * Floating-point operations of each op's products, a multiply–add being two. Norms, rotations,
 * softmaxes, pooling and the mixing of streams are left out: they grow with neither the weights nor
 * the context.
 */
export const opFlops: { readonly [Op in keyof OpTable]: OpFlops<OpTable[Op]> } = {
  copy: none,
  embed: none,
  'hc-pre': ({ streams, fn }) => productFlops(rowCount(streams), fn),
  'hc-post': none,
  'hc-head': ({ picks, fn }) => productFlops(rowCount(picks), fn),
  linear: ({ input, parts }) =>
    parts.reduce((sum, { weight }) => sum + productFlops(rowCount(input), weight.weight), 0),
  'grouped-linear': ({ input, weight }) => productFlops(rowCount(input), weight.weight),
  'latent-norm': none,
  'query-rotate': none,
  'index-query': none,
  compress: none,
  'index-select': ({ queries, ratio }, rows) => {
    const [, heads = 0, head = 0] = queries.shape
    return (
      rows.reduce((sum, { position }) => sum + visibleEntries(position, ratio), 0) *
      2 *
      heads *
      head
    )
  },
  attention: ({ queries, windowSize, compressed }, rows) => {
    const [, heads = 0, head = 0] = queries.shape
    let keys = 0
    for (const { position } of rows) {
      keys += Math.min(position + 1, windowSize)
      if (compressed === null) continue
      const most = compressed.selected?.shape[1] ?? Infinity
      keys += Math.min(visibleEntries(position, compressed.ratio), most)
    }
    // Once as a key, once as a value.
    return 2 * keys * 2 * heads * head
  },
  route: ({ input, gate }) => productFlops(rowCount(input), gate),
  experts: ({ experts, routed, shared }) => {
    const [rows = 0, picked = 0] = experts.shape
    const [stack = 1] = routed.gate.weight.shape
    return rows * ((picked * expertFlops(routed)) / stack + expertFlops(shared))
  },
  'draft-inputs': none,
  'draft-join': none,
}

function productFlops(rows: number, weight: Tensor): number {
  return 2 * rows * elementCount(weight.shape)
}

/** One row through all experts there are in `weights`. */
function expertFlops({ gate, up, down }: ExpertWeights): number {
  return [gate, up, down].reduce((sum, { weight }) => sum + productFlops(1, weight), 0)
}
