import type { ModelConfig } from '#weights/layout/config.ts'
import { kindOfRatio, poolSpan } from './shape.ts'

// What a context costs, in closed form: bytes of cache and multiply–adds of one generated token.
// `npm run bench -- context` holds them against what the cache takes and what the ops do.

/** Bytes of one cached row: a key (window or compressed entry), and an index key. */
export interface RowBytes {
  readonly key: number
  readonly indexKey: number
}

const fp8Run = 64
const fp4Run = 32

/** FP8 with a scale byte per 64, rotated part in bf16, padded to 8 bytes; index keys FP4, a scale per 32. */
export function compactRowBytes(config: ModelConfig): RowBytes {
  const plain = config.headDim - config.ropeDim
  const key = plain + 2 * config.ropeDim + plain / fp8Run
  const { indexHeadDim } = config
  return { key: Math.ceil(key / 8) * 8, indexKey: indexHeadDim / 2 + indexHeadDim / fp4Run }
}

/** The same keys, with index keys in FP8 under one fp32 scale. */
export function fp8IndexRowBytes(config: ModelConfig): RowBytes {
  return { ...compactRowBytes(config), indexKey: config.indexHeadDim + 4 }
}

export function plainRowBytes(config: ModelConfig, elementBytes: 2 | 4): RowBytes {
  return { key: config.headDim * elementBytes, indexKey: config.indexHeadDim * elementBytes }
}

/** Bytes of one sequence's cache, the draft block's not among them. */
export interface CacheBytes {
  readonly window: number
  readonly csa: number
  readonly index: number
  readonly hca: number
  /** Raw fp32 rows of blocks that are not complete. */
  readonly state: number
  /** All but `state`. */
  readonly entries: number
}

export function cacheBytes(config: ModelConfig, row: RowBytes, context: number): CacheBytes {
  const window = config.layerCount * config.slidingWindow * row.key
  let [csa, index, hca, state] = [0, 0, 0, 0]
  for (const ratio of layerRatios(config)) {
    const kind = kindOfRatio(ratio)
    if (kind === 'swa') continue
    const entries = Math.floor(context / ratio)
    if (kind === 'csa') index += entries * row.indexKey
    if (kind === 'csa') csa += entries * row.key
    else hca += entries * row.key
    // Values and scores of every row an entry is pooled from, `span` channels a row.
    const span = poolSpan(kind)
    const width = config.headDim + (kind === 'csa' ? config.indexHeadDim : 0)
    state += 2 * span * ratio * span * width * Float32Array.BYTES_PER_ELEMENT
  }
  return { window, csa, index, hca, state, entries: window + csa + index + hca }
}

/**
 * Bytes of the snapshot a kept prefix has beside its pages, whatever its length: every layer's window,
 * and a block of raw rows where blocks overlap. `draft`: also the draft block's window, and its input
 * at the last position.
 */
export function snapshotBytes(
  config: ModelConfig,
  row: RowBytes,
  draft: { readonly activationBytes: 2 | 4 } | null,
): number {
  const windows = config.layerCount + (draft === null ? 0 : 1)
  const overlapping = layerRatios(config).filter((ratio) => kindOfRatio(ratio) === 'csa')
  const width = poolSpan('csa') * (config.headDim + config.indexHeadDim)
  const raw = overlapping.reduce((sum, ratio) => {
    return sum + 2 * ratio * width * Float32Array.BYTES_PER_ELEMENT
  }, 0)
  const streams = draft === null ? 0 : config.hcMult * config.hiddenSize * draft.activationBytes
  return windows * config.slidingWindow * row.key + raw + streams
}

/** What one more token adds, averaged over whole blocks. */
export function cacheBytesPerToken(config: ModelConfig, row: RowBytes): number {
  return layerRatios(config).reduce((sum, ratio) => {
    const kind = kindOfRatio(ratio)
    if (kind === 'swa') return sum
    return sum + (row.key + (kind === 'csa' ? row.indexKey : 0)) / ratio
  }, 0)
}

/** Floating-point operations of one generated token; a multiply–add counts as two. */
export interface TokenFlops {
  /** Products with weights. */
  readonly linear: number
  /** Scores and sums of the attention. */
  readonly core: number
  /** Scores of the index keys. */
  readonly indexer: number
}

export function tokenFlops(config: ModelConfig, context: number): TokenFlops {
  let [keys, indexKeys] = [0, 0]
  for (const ratio of layerRatios(config)) {
    const entries = ratio === 0 ? 0 : context / ratio
    const kind = kindOfRatio(ratio)
    if (kind === 'csa') indexKeys += entries
    keys += config.slidingWindow + (kind === 'csa' ? Math.min(config.indexTopK, entries) : entries)
  }
  return {
    linear: 2 * activeParameters(config),
    core: 2 * config.headCount * config.headDim * 2 * keys,
    indexer: 2 * indexKeys * config.indexHeadCount * config.indexHeadDim,
  }
}

/** Elements of the matrices a token is multiplied with: all but the embedding and unused experts. */
export function activeParameters(config: ModelConfig): number {
  const { hiddenSize, hcMult, vocabSize } = config
  const head = vocabSize * hiddenSize + hcMult * hcMult * hiddenSize
  return layerRatios(config).reduce((sum, ratio) => sum + layerParameters(config, ratio), head)
}

function layerParameters(config: ModelConfig, ratio: number): number {
  const { hiddenSize, headDim, queryRank, hcMult, outputGroups, outputRank } = config
  const heads = config.headCount * headDim
  const attention =
    queryRank * (hiddenSize + heads) +
    headDim * hiddenSize +
    outputRank * heads +
    outputGroups * outputRank * hiddenSize
  const mixes = 2 * (2 + hcMult) * hcMult * hcMult * hiddenSize
  const experts = 3 * (config.expertsPerToken + 1) * config.expertWidth * hiddenSize
  const gate = config.expertCount * hiddenSize
  return attention + compressorParameters(config, ratio) + mixes + experts + gate
}

function compressorParameters(config: ModelConfig, ratio: number): number {
  const { hiddenSize, headDim, queryRank, indexHeadCount, indexHeadDim } = config
  const kind = kindOfRatio(ratio)
  if (kind === 'swa') return 0
  const pooled = (width: number): number => 2 * poolSpan(kind) * width * hiddenSize
  if (kind === 'hca') return pooled(headDim)
  const indexer = indexHeadCount * (indexHeadDim * queryRank + hiddenSize)
  return pooled(headDim) + pooled(indexHeadDim) + indexer
}

function layerRatios(config: ModelConfig): readonly number[] {
  return config.compressRatios.slice(0, config.layerCount)
}

/**
 * FLOPs in units of FP8: products of two bf16 count twice, those with an FP4 side in the indexer
 * half. A reconstruction: it is the weighting under which the published shares come out.
 */
export function fp8Equivalent(
  { linear, core, indexer }: TokenFlops,
  indexKeys: 'fp4' | 'fp8',
): number {
  return linear + 2 * core + (indexKeys === 'fp4' ? indexer / 2 : indexer)
}

export function totalFlops({ linear, core, indexer }: TokenFlops): number {
  return linear + core + indexer
}
