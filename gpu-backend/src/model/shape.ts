import { strict as assert } from 'node:assert'
import type { ExpertDtype, ModelConfig } from '#weights/layout/config.ts'
import { pageTokens } from '../kernels/batch.ts'
import { ModelError } from './error.ts'

/**
 * How a layer attends: `swa` to its sliding window only, `csa` also to compressed entries that an
 * indexer picks, `hca` also to every compressed entry.
 */
export type LayerKind = 'swa' | 'csa' | 'hca'

/** `hash` reads a token's experts from a table, `learned` picks them by score. */
export type Routing = 'hash' | 'learned'

export interface LayerShape {
  /** Prefix of the layer's tensors in a checkpoint: `layers.7`, `mtp.0`. */
  readonly name: string
  readonly kind: LayerKind
  /** Tokens pooled into one compressed entry; 0 for `swa`. */
  readonly ratio: number
  readonly routing: Routing
}

/** Every dimension of the model under the one name the backend knows it by. Counts, not bytes. */
export interface ModelShape {
  readonly vocabSize: number
  readonly maxPositionEmbeddings: number
  readonly bosTokenId: number
  readonly eosTokenId: number
  readonly hiddenSize: number
  readonly layers: readonly LayerShape[]
  /** The draft block, where the checkpoint has one. */
  readonly mtp: LayerShape | null
  /** Hyper-connections: residual streams a token, and the width of one mix (pre, post, matrix). */
  readonly streamCount: number
  readonly mixWidth: number
  readonly sinkhornIterations: number
  readonly hcEps: number
  readonly normEps: number
  readonly headCount: number
  readonly headDim: number
  /** The last `ropeDim` of a head are rotated, the first `plainDim` are not. */
  readonly ropeDim: number
  readonly plainDim: number
  readonly queryRank: number
  readonly outputGroups: number
  readonly outputRank: number
  readonly windowSize: number
  readonly indexHeadCount: number
  readonly indexHeadDim: number
  readonly indexTopK: number
  readonly expertCount: number
  readonly expertsPerToken: number
  readonly expertWidth: number
  readonly expertDtype: ExpertDtype
  readonly routedScalingFactor: number
  readonly swigluLimit: number
}

/** The ratio at which blocks overlap and an indexer picks among the entries. */
const overlappingRatio = 4

export function kindOfRatio(ratio: number): LayerKind {
  if (ratio === 0) return 'swa'
  return ratio === overlappingRatio ? 'csa' : 'hca'
}

/** Block j of a `csa` layer pools the tokens of block j − 1 as well: two rows of channels a token. */
export function poolSpan(kind: LayerKind): number {
  return kind === 'csa' ? 2 : 1
}

/**
 * Names the dimensions of a parsed config. Throws `ModelError` `shape_unsupported` where they break
 * a relation the kernels lean on and `parseModelConfig` does not look at.
 */
export function modelShape(config: ModelConfig): ModelShape {
  assert(config.expertDtype !== null, 'the expert dtype is settled before a model is shaped')
  const shape: ModelShape = {
    vocabSize: config.vocabSize,
    maxPositionEmbeddings: config.maxPositionEmbeddings,
    bosTokenId: config.bosTokenId,
    eosTokenId: config.eosTokenId,
    hiddenSize: config.hiddenSize,
    layers: Array.from({ length: config.layerCount }, (_, index) => layerShape(config, index)),
    mtp: mtpShape(config),
    streamCount: config.hcMult,
    mixWidth: (2 + config.hcMult) * config.hcMult,
    sinkhornIterations: config.hcSinkhornIterations,
    hcEps: config.hcEps,
    normEps: config.rmsNormEps,
    headCount: config.headCount,
    headDim: config.headDim,
    ropeDim: config.ropeDim,
    plainDim: config.headDim - config.ropeDim,
    queryRank: config.queryRank,
    outputGroups: config.outputGroups,
    outputRank: config.outputRank,
    windowSize: config.slidingWindow,
    indexHeadCount: config.indexHeadCount,
    indexHeadDim: config.indexHeadDim,
    indexTopK: config.indexTopK,
    expertCount: config.expertCount,
    expertsPerToken: config.expertsPerToken,
    expertWidth: config.expertWidth,
    expertDtype: config.expertDtype,
    routedScalingFactor: config.routedScalingFactor,
    swigluLimit: config.swigluLimit,
  }
  checkRelations(shape)
  return Object.freeze(shape)
}

function layerShape(config: ModelConfig, index: number): LayerShape {
  const ratio = config.compressRatios[index]
  assert(ratio !== undefined, `layer ${index} has a compression ratio`)
  const routing = index < config.hashLayerCount ? 'hash' : 'learned'
  return { name: `layers.${index}`, kind: kindOfRatio(ratio), ratio, routing }
}

function mtpShape(config: ModelConfig): LayerShape | null {
  if (config.mtpLayerCount === 0) return null
  assert.equal(config.mtpCompressRatio, 0, 'the draft block attends to its window alone')
  return { name: 'mtp.0', kind: 'swa', ratio: 0, routing: 'learned' }
}

/** Blocks that share a scale, groups and pages may not be cut; a config that does is refused. */
function checkRelations(shape: ModelShape): void {
  const grouped = shape.outputGroups * shape.outputRank
  const relations: readonly (readonly [string, number, number])[] = [
    // Activations are rounded 128 at a time, keys 64, index keys 32; rotation takes pairs.
    ['hidden size', shape.hiddenSize, 128],
    ['query rank', shape.queryRank, 128],
    ['expert width', shape.expertWidth, 128],
    ['output groups × rank', grouped, 128],
    ['unrotated part of a head', shape.plainDim, 64],
    ['rotated part of a head', shape.ropeDim, 2],
    ['index head', shape.indexHeadDim, 32],
    ['number of heads', shape.headCount, shape.outputGroups],
  ]
  for (const [name, value, unit] of relations) {
    refuseUnless(
      value > 0 && value % unit === 0,
      `the ${name}, ${value}, is no multiple of ${unit}`,
    )
  }
  for (const { name, ratio } of shape.layers) {
    const fits = ratio === 0 || pageTokens % ratio === 0
    refuseUnless(fits, `${name} pools ${ratio} tokens, which ${pageTokens} are no multiple of`)
  }
}

function refuseUnless(holds: boolean, fault: string): void {
  if (!holds) throw new ModelError('shape_unsupported', `this model cannot be run: ${fault}`)
}
