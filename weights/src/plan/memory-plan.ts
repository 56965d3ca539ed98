import { cacheBytes, compactRowBytes } from '../../../gpu-backend/src/model/cost-formulas.ts'
import type { ModelConfig } from '../layout/config.ts'
import type { GpuSet } from './gpu-kinds.ts'
import { expertBytes, weightBytes, type WeightBytes, type WeightKind } from './weight-bytes.ts'

// What fits on one machine. Attention and all that is small lie on every GPU, which serves sequences
// of its own; routed experts are spread evenly, those of the draft block too. Where one copy of the
// model does not fit, the draft block goes first, since it only saves time, and then, on one GPU,
// experts go to pinned host memory, the fewest that leave room for one sequence of the context asked
// for. Several GPUs have all experts between them, or cannot serve the model.

export interface PlanOptions {
  readonly gpus: GpuSet
  /** Tokens a sequence is to reach. */
  readonly context: number
  /** Rows of the largest step of all GPUs: prefill chunks and the tokens decoded with them. */
  readonly stepRows: number
}

/** Context, modules and graphs of the driver on each GPU: an assumption until measured. */
const driverBytes = 1_000_000_000
/** Page table of a sequence: i32 a page of 256 tokens, whatever its length. */
const pageTableEntryBytes = 4
const pageTokens = 256
/** Rows whose logits are wanted at a time: fp32 each. */
const logitRows = 256

/** Bytes on one GPU. */
export interface GpuBytes {
  readonly memory: number
  readonly replicatedWeights: number
  readonly experts: number
  readonly activations: number
  readonly driver: number
  /** What is left for caches of sequences. */
  readonly cache: number
}

/** Experts that do not fit on the GPUs. */
export interface HostExperts {
  readonly count: number
  readonly ofAll: number
  readonly bytes: number
  /**
   * Bytes over the bus a token of one sequence, if every expert were used equally often. Use is
   * uneven, so what is fetched for is less; how much less is measured, not planned.
   */
  readonly bytesPerTokenEvenUse: number
}

export interface Capacity {
  readonly context: number
  readonly bytesPerSequence: number
  /** On all GPUs together. */
  readonly sequences: number
}

export interface MemoryPlan {
  readonly fits: boolean
  readonly weights: WeightBytes
  readonly draft: 'kept' | 'dropped' | 'none'
  /** The GPU with the most experts. */
  readonly gpu: GpuBytes
  readonly hostExperts: HostExperts | null
  /** How many sequences at what context. */
  readonly capacities: readonly Capacity[]
}

const contexts = [8 * 1024, 128 * 1024, 1024 * 1024]

/** Plans one machine for one model. Pure; `fits` is false where not even the host's memory helps. */
export function planMemory(config: ModelConfig, options: PlanOptions): MemoryPlan {
  const weights = weightBytes(config)
  const hasDraft = weights['draft block'] > 0
  if (hasDraft) {
    const kept = layOut(config, weights, options, { draft: true })
    if (kept.fits && kept.hostExperts === null) return kept
  }
  return layOut(config, weights, options, { draft: false })
}

function layOut(
  config: ModelConfig,
  weights: WeightBytes,
  options: PlanOptions,
  { draft }: { readonly draft: boolean },
): MemoryPlan {
  const { gpus, context, stepRows } = options
  const memory = gpus.kind.memoryBytes
  const expert = expertBytes(config, weights)
  const draftExperts = draft && weights['draft block'] > 0 ? config.expertCount : 0
  const fixed = {
    replicatedWeights: replicatedBytes(weights, draft) - draftExperts * expert,
    activations:
      activationBytes(config, Math.ceil(stepRows / gpus.count)) +
      (gpus.count > 1 ? exchangeBytes(config, stepRows) : 0),
    driver: driverBytes,
  }
  const ofDraft = Math.ceil(draftExperts / gpus.count)
  const all = config.layerCount * config.expertCount
  const most = config.layerCount * Math.ceil(config.expertCount / gpus.count)
  const forExperts =
    memory -
    fixed.replicatedWeights -
    fixed.activations -
    fixed.driver -
    ofDraft * expert -
    sequenceBytes(config, context)
  // A layer's experts of one token are there together, or it could not be computed.
  const fewest = gpus.count === 1 ? config.expertsPerToken : most
  const resident = Math.min(most, Math.floor(forExperts / expert))
  const fits = resident >= fewest
  const experts = (Math.max(0, resident) + ofDraft) * expert
  const host = Math.max(0, all - Math.max(0, resident) * gpus.count)
  const cache = memory - fixed.replicatedWeights - fixed.activations - fixed.driver - experts
  return {
    fits,
    weights,
    draft: weights['draft block'] === 0 ? 'none' : draft ? 'kept' : 'dropped',
    gpu: { memory, ...fixed, experts, cache: Math.max(0, cache) },
    hostExperts: host === 0 || gpus.count > 1 ? null : hostExperts(config, { count: host, expert }),
    capacities: [...new Set([...contexts, context])]
      .sort((a, b) => a - b)
      .map((tokens) => capacityAt(config, tokens, { cache, fits, count: gpus.count })),
  }
}

function capacityAt(
  config: ModelConfig,
  context: number,
  {
    cache,
    fits,
    count,
  }: { readonly cache: number; readonly fits: boolean; readonly count: number },
): Capacity {
  const bytesPerSequence = sequenceBytes(config, context)
  const each = fits ? Math.floor(cache / bytesPerSequence) : 0
  return { context, bytesPerSequence, sequences: count * each }
}

function hostExperts(
  config: ModelConfig,
  { count, expert }: { readonly count: number; readonly expert: number },
): HostExperts {
  const ofAll = config.layerCount * config.expertCount
  const used = config.layerCount * config.expertsPerToken
  return {
    count,
    ofAll,
    bytes: count * expert,
    bytesPerTokenEvenUse: Math.round((used * expert * count) / ofAll),
  }
}

const splitKind: WeightKind = 'routed experts'

function replicatedBytes(weights: WeightBytes, draft: boolean): number {
  return Object.entries(weights).reduce((sum, [kind, bytes]) => {
    if (kind === splitKind || (kind === 'draft block' && !draft)) return sum
    return sum + bytes
  }, 0)
}

/** Window, entries, index and open blocks of one sequence, with its row of the page table. */
export function sequenceBytes(config: ModelConfig, context: number): number {
  const { entries, state } = cacheBytes(config, compactRowBytes(config), context)
  const pages = Math.ceil(config.maxPositionEmbeddings / pageTokens)
  return entries + state + pages * pageTableEntryBytes
}

/**
 * Intermediate values of a step, as the forward pass keeps them by name, in fp32 as the CUDA kernels do:
 * streams, normed input, query latent, queries and what is attended to, grouped and final outputs, keys,
 * index queries and weights, and the raw rows of both compressors; then logits. Room that kernels take
 * between their launches is not among them.
 */
export function activationBytes(config: ModelConfig, rows: number): number {
  const { hiddenSize, hcMult, headCount, headDim, queryRank, outputGroups, outputRank } = config
  const { indexHeadCount, indexHeadDim } = config
  const values =
    hcMult * hiddenSize +
    3 * hiddenSize +
    queryRank +
    2 * headCount * headDim +
    outputGroups * outputRank +
    headDim +
    indexHeadCount * (indexHeadDim + 1) +
    2 * 2 * (headDim + indexHeadDim)
  return 4 * (rows * values + logitRows * config.vocabSize)
}

/**
 * What a GPU keeps of everybody's rows where several share the experts: their inputs, picks and shares
 * of them, and a result for each pick; fp32 and i32.
 */
export function exchangeBytes(config: ModelConfig, rows: number): number {
  const { hiddenSize, expertsPerToken } = config
  return 4 * rows * (hiddenSize + 2 * expertsPerToken + expertsPerToken * hiddenSize)
}
