import { strict as assert } from 'node:assert'
import { type LoadOptions, loadTensors } from '#weights/checkpoint.ts'
import type { TensorLocation } from '#weights/manifest.ts'
import type { Device } from '../device/device.ts'
import type { DeviceBuffer, LinearWeight, Tensor } from '../device/tensor.ts'
import type { ExpertWeights } from '../kernels/experts/experts.ts'
import type { ExpertChoice } from '../kernels/route/route.ts'
import { type ExpertCache, expertParts } from './expert-cache.ts'
import { ropeFrequencies } from './rope.ts'
import { type LayerShape, type ModelShape, poolSpan } from './shape.ts'
import type { OwnedExperts } from './split-experts.ts'
import { WeightPlacer, type WeightSource } from './weight-placer.ts'

/** A sub-layer's entrance: the hyper-connection's mix and the norm behind it. */
export interface MixWeights {
  readonly fn: Tensor
  readonly scale: Tensor
  readonly base: Tensor
  readonly norm: Tensor
}

export interface CompressorWeights {
  readonly values: LinearWeight
  readonly scores: LinearWeight
  readonly ape: Tensor
  readonly norm: Tensor
}

export interface IndexerWeights {
  readonly queries: LinearWeight
  readonly headWeights: LinearWeight
  readonly compressor: CompressorWeights
}

export interface AttentionWeights {
  readonly queryA: LinearWeight
  readonly queryNorm: Tensor
  readonly queryB: LinearWeight
  readonly keys: LinearWeight
  readonly keyNorm: Tensor
  readonly sink: Tensor
  readonly outputA: LinearWeight
  readonly outputB: LinearWeight
  /** Where the layer compresses. */
  readonly compressor: CompressorWeights | null
  /** In `csa` layers. */
  readonly indexer: IndexerWeights | null
}

export interface MoeWeights {
  readonly gate: Tensor
  readonly choice: ExpertChoice
  readonly routed: ExpertWeights
  readonly shared: ExpertWeights
}

export interface LayerWeights {
  readonly shape: LayerShape
  readonly attentionMix: MixWeights
  readonly attention: AttentionWeights
  readonly moeMix: MixWeights
  readonly moe: MoeWeights
}

export interface DraftWeights {
  readonly embeddingNorm: Tensor
  readonly embeddingProjection: LinearWeight
  readonly streamNorm: Tensor
  readonly streamProjection: LinearWeight
  readonly layer: LayerWeights
  readonly contraction: MixWeights
}

export interface ModelWeights {
  readonly embedding: Tensor
  readonly layers: readonly LayerWeights[]
  readonly contraction: MixWeights
  readonly head: LinearWeight
  /** Angles a position, f32 `[ropeDim ÷ 2]`: computed, not loaded. */
  readonly frequencies: { readonly plain: Tensor; readonly yarn: Tensor }
  readonly draft: DraftWeights | null
}

export interface LoadedWeights {
  readonly weights: ModelWeights
  readonly buffers: readonly DeviceBuffer[]
}

/** Which routed experts a device takes, and how; absent: all, each layer's in stacks of its own. */
export interface ExpertPlacement {
  /** Takes those of the layers where they do not all fit on the device. */
  readonly cache?: ExpertCache
  /** Those of its own, where several devices share them. */
  readonly owned?: OwnedExperts
}

export interface WeightTarget extends ExpertPlacement {
  readonly device: Device
}

/**
 * Brings a checkpoint's tensors into buffers of one or several devices, each tensor read once, and
 * gives them names. Every tensor must have the dtype and shape the model's dimensions call for; the
 * first that has not is refused by name before anything is allocated. On failure nothing stays on a
 * device.
 */
export async function loadWeights(
  source: WeightSource,
  targets: readonly WeightTarget[],
  shape: ModelShape,
  options: Pick<LoadOptions<TensorLocation>, 'signal' | 'onProgress'> & { readonly mtp: boolean },
): Promise<readonly LoadedWeights[]> {
  const { mtp, ...loading } = options
  const dry = new WeightPlacer(source, null)
  describeModel(dry, source, shape, mtp)
  const placed = targets.map((target) => ({
    ...target,
    placer: new WeightPlacer(source, target.device),
  }))
  try {
    const weights = placed.map(({ placer, ...experts }) => {
      return describeModel(placer, source, shape, mtp, experts)
    })
    await loadTensors(source, {
      ...loading,
      names: new Set(placed.flatMap(({ placer }) => [...placer.names])),
      onTensor: ({ name }, bytes) => {
        for (const { placer } of placed) if (placer.has(name)) placer.place(name, bytes)
      },
    })
    for (const { placer } of placed) placer.prepare()
    return placed.map(({ placer }, i) => {
      const named = weights[i]
      assert(named !== undefined, 'every device has its weights')
      return { weights: named, buffers: placer.buffers }
    })
  } catch (error) {
    for (const { device, placer } of placed) {
      for (const buffer of placer.buffers) device.free(buffer)
    }
    throw error
  }
}

/** Places every tensor the model needs, and gives them their names. */
export function describeModel(
  placer: WeightPlacer,
  { config }: WeightSource,
  shape: ModelShape,
  mtp: boolean,
  experts: ExpertPlacement = {},
): ModelWeights {
  const { vocabSize, hiddenSize } = shape
  const { plain, yarn } = ropeFrequencies(config)
  return {
    embedding: placer.bf16('embed.weight', [vocabSize, hiddenSize]),
    layers: shape.layers.map((layer) => describeLayer(placer, shape, layer, experts)),
    contraction: describeContraction(placer, shape, ''),
    head: placer.bf16Linear('head.weight', [vocabSize, hiddenSize]),
    frequencies: {
      plain: placer.computed('plain frequencies', plain),
      yarn: placer.computed('yarn frequencies', yarn),
    },
    draft: mtp && shape.mtp !== null ? describeDraft(placer, shape, shape.mtp, experts) : null,
  }
}

function describeDraft(
  placer: WeightPlacer,
  shape: ModelShape,
  layer: LayerShape,
  { owned }: ExpertPlacement,
): DraftWeights {
  const { hiddenSize } = shape
  const { name } = layer
  return {
    embeddingNorm: placer.bf16(`${name}.enorm.weight`, [hiddenSize]),
    embeddingProjection: placer.fp8(`${name}.e_proj`, [hiddenSize, hiddenSize]),
    streamNorm: placer.bf16(`${name}.hnorm.weight`, [hiddenSize]),
    streamProjection: placer.fp8(`${name}.h_proj`, [hiddenSize, hiddenSize]),
    // An expert cache holds the layers' alone.
    layer: describeLayer(placer, shape, layer, owned === undefined ? {} : { owned }),
    contraction: describeContraction(placer, shape, `${name}.`),
  }
}

function describeContraction(placer: WeightPlacer, shape: ModelShape, prefix: string): MixWeights {
  const { streamCount, hiddenSize } = shape
  return {
    fn: placer.f32(`${prefix}hc_head_fn`, [streamCount, streamCount * hiddenSize]),
    scale: placer.f32(`${prefix}hc_head_scale`, [1]),
    base: placer.f32(`${prefix}hc_head_base`, [streamCount]),
    norm: placer.bf16(`${prefix}norm.weight`, [hiddenSize]),
  }
}

function describeLayer(
  placer: WeightPlacer,
  shape: ModelShape,
  layer: LayerShape,
  experts: ExpertPlacement,
): LayerWeights {
  return {
    shape: layer,
    attentionMix: describeMix(placer, shape, `${layer.name}.hc_attn`, `${layer.name}.attn_norm`),
    attention: describeAttention(placer, shape, layer),
    moeMix: describeMix(placer, shape, `${layer.name}.hc_ffn`, `${layer.name}.ffn_norm`),
    moe: describeMoe(placer, shape, layer, experts),
  }
}

function describeMix(
  placer: WeightPlacer,
  { mixWidth, streamCount, hiddenSize }: ModelShape,
  mix: string,
  norm: string,
): MixWeights {
  return {
    fn: placer.f32(`${mix}_fn`, [mixWidth, streamCount * hiddenSize]),
    scale: placer.f32(`${mix}_scale`, [3]),
    base: placer.f32(`${mix}_base`, [mixWidth]),
    norm: placer.bf16(`${norm}.weight`, [hiddenSize]),
  }
}

function describeAttention(
  placer: WeightPlacer,
  shape: ModelShape,
  layer: LayerShape,
): AttentionWeights {
  const { hiddenSize, queryRank, headCount, headDim, outputGroups, outputRank } = shape
  const name = `${layer.name}.attn`
  const heads = headCount * headDim
  const grouped = outputGroups * outputRank
  return {
    queryA: placer.fp8(`${name}.wq_a`, [queryRank, hiddenSize]),
    queryNorm: placer.bf16(`${name}.q_norm.weight`, [queryRank]),
    queryB: placer.fp8(`${name}.wq_b`, [heads, queryRank]),
    keys: placer.fp8(`${name}.wkv`, [headDim, hiddenSize]),
    keyNorm: placer.bf16(`${name}.kv_norm.weight`, [headDim]),
    sink: placer.f32(`${name}.attn_sink`, [headCount]),
    outputA: placer.fp8Groups(`${name}.wo_a`, [grouped, heads / outputGroups], outputGroups),
    outputB: placer.fp8(`${name}.wo_b`, [hiddenSize, grouped]),
    compressor:
      layer.kind === 'swa'
        ? null
        : describeCompressor(placer, shape, layer, { name: `${name}.compressor`, width: headDim }),
    indexer: layer.kind === 'csa' ? describeIndexer(placer, shape, layer) : null,
  }
}

function describeIndexer(
  placer: WeightPlacer,
  shape: ModelShape,
  layer: LayerShape,
): IndexerWeights {
  const { hiddenSize, queryRank, indexHeadCount, indexHeadDim } = shape
  const name = `${layer.name}.attn.indexer`
  const compressor = { name: `${name}.compressor`, width: indexHeadDim }
  return {
    queries: placer.fp8(`${name}.wq_b`, [indexHeadCount * indexHeadDim, queryRank]),
    headWeights: placer.bf16Linear(`${name}.weights_proj.weight`, [indexHeadCount, hiddenSize]),
    compressor: describeCompressor(placer, shape, layer, compressor),
  }
}

function describeCompressor(
  placer: WeightPlacer,
  { hiddenSize }: ModelShape,
  layer: LayerShape,
  { name, width }: { readonly name: string; readonly width: number },
): CompressorWeights {
  const channels = poolSpan(layer.kind) * width
  return {
    values: placer.bf16Linear(`${name}.wkv.weight`, [channels, hiddenSize]),
    scores: placer.bf16Linear(`${name}.wgate.weight`, [channels, hiddenSize]),
    ape: placer.f32(`${name}.ape`, [layer.ratio, channels]),
    norm: placer.bf16(`${name}.norm.weight`, [width]),
  }
}

function describeMoe(
  placer: WeightPlacer,
  shape: ModelShape,
  layer: LayerShape,
  { cache, owned = { first: 0, count: shape.expertCount } }: ExpertPlacement,
): MoeWeights {
  const { hiddenSize, expertCount, expertWidth, expertsPerToken, vocabSize } = shape
  const name = `${layer.name}.ffn`
  const routed = (part: string, matrix: readonly [number, number]): LinearWeight => {
    const names = Array.from({ length: owned.count }, (_, i) => {
      return `${name}.experts.${owned.first + i}.${part}`
    })
    return shape.expertDtype === 'fp4'
      ? placer.fp4Stack(names, matrix)
      : placer.fp8Stack(names, matrix)
  }
  return {
    gate: placer.bf16(`${name}.gate.weight`, [expertCount, hiddenSize]),
    choice:
      layer.routing === 'hash'
        ? { by: 'token', table: placer.ids(`${name}.gate.tid2eid`, [vocabSize, expertsPerToken]) }
        : { by: 'score', bias: placer.f32(`${name}.gate.bias`, [expertCount]) },
    routed:
      cache === undefined
        ? {
            gate: routed('w1', [expertWidth, hiddenSize]),
            up: routed('w3', [expertWidth, hiddenSize]),
            down: routed('w2', [hiddenSize, expertWidth]),
          }
        : cachedExperts(placer, shape, layer, cache),
    shared: {
      gate: placer.fp8(`${name}.shared_experts.w1`, [expertWidth, hiddenSize]),
      up: placer.fp8(`${name}.shared_experts.w3`, [expertWidth, hiddenSize]),
      down: placer.fp8(`${name}.shared_experts.w2`, [hiddenSize, expertWidth]),
    },
  }
}

/** Each expert to the cache, whose slots serve all layers. */
function cachedExperts(
  placer: WeightPlacer,
  shape: ModelShape,
  layer: LayerShape,
  cache: ExpertCache,
): ExpertWeights {
  const { expertCount, expertWidth, hiddenSize, expertDtype } = shape
  for (let expert = 0; expert < expertCount; expert++) {
    for (const part of expertParts) {
      const name = `${layer.name}.ffn.experts.${expert}.${part}`
      const matrix =
        part === 'w2' ? ([hiddenSize, expertWidth] as const) : ([expertWidth, hiddenSize] as const)
      placer.expert(name, matrix, expertDtype, (kind, bytes) => {
        cache.place(layer.name, expert, `${part}.${kind}`, bytes)
      })
    }
  }
  return cache.stacks
}
