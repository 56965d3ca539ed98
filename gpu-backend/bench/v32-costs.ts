import type { TokenFlops } from '../src/model/cost-formulas.ts'

// DeepSeek-V3.2, which the published savings of V4 are measured against: every layer keeps a latent
// and an index key a token, and its indexer looks at all of them.

const layers = 61
const denseLayers = 3
const hidden = 7168
const vocabulary = 129_280
const heads = 128
const plainDim = 128
const ropeDim = 64
const valueDim = 128
const queryRank = 1536
const keyRank = 512
const indexHeads = 64
const indexDim = 128
const indexTopK = 2048
const denseWidth = 18_432
const expertWidth = 2048
const expertCount = 256
/** Eight routed and one shared. */
const expertsActive = 9

/** FP8 latent with four fp32 scales and a bf16 rotated key; FP8 index key with one fp32 scale. */
const fp8RowBytes = keyRank + 4 * 4 + 2 * ropeDim + indexDim + 4
const bf16RowBytes = 2 * (keyRank + ropeDim + indexDim)

/** Bytes each token of the context takes. */
export const v32BytesPerToken = { fp8: layers * fp8RowBytes, bf16: layers * bf16RowBytes } as const

/** One generated token's floating-point operations, with the latent attended to as it lies. */
export function v32TokenFlops(context: number): TokenFlops {
  const keys = Math.min(indexTopK, context)
  return {
    linear: 2 * v32ActiveParameters(),
    core: 2 * layers * heads * keys * (keyRank + ropeDim + keyRank),
    indexer: 2 * layers * context * indexHeads * indexDim,
  }
}

export function v32ActiveParameters(): number {
  const attention =
    queryRank * (hidden + heads * (plainDim + ropeDim)) +
    hidden * (keyRank + ropeDim) +
    keyRank * heads * (plainDim + valueDim) +
    heads * valueDim * hidden
  const indexer = indexHeads * indexDim * queryRank + hidden * (indexDim + indexHeads)
  const dense = 3 * hidden * denseWidth
  const sparse = 3 * hidden * expertWidth * expertsActive + expertCount * hidden
  const feedForward = denseLayers * dense + (layers - denseLayers) * sparse
  return layers * (attention + indexer) + feedForward + vocabulary * hidden
}
