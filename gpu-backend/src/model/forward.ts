import { strict as assert } from 'node:assert'
import type { Device } from '../device/device.ts'
import { type LinearWeight, reshape, rowCount, type Tensor } from '../device/tensor.ts'
import { attention, type CompressedKeys } from '../kernels/attention/attention.ts'
import type { Batch } from '../kernels/batch.ts'
import { compress } from '../kernels/compress/compress.ts'
import { draftInputs } from '../kernels/draft-inputs/draft-inputs.ts'
import { draftJoin } from '../kernels/draft-join/draft-join.ts'
import { embed } from '../kernels/embed/embed.ts'
import { experts, type ExpertsArgs } from '../kernels/experts/experts.ts'
import { groupedLinear } from '../kernels/grouped-linear/grouped-linear.ts'
import { hcHead } from '../kernels/hc-head/hc-head.ts'
import { hcPost } from '../kernels/hc-post/hc-post.ts'
import { hcPre } from '../kernels/hc-pre/hc-pre.ts'
import { indexQuery } from '../kernels/index-query/index-query.ts'
import { indexSelect } from '../kernels/index-select/index-select.ts'
import { latentNorm } from '../kernels/latent-norm/latent-norm.ts'
import { linear, type LinearPart } from '../kernels/linear/linear.ts'
import type { StreamUpdate } from '../kernels/numerics/streams.ts'
import { queryRotate } from '../kernels/query-rotate/query-rotate.ts'
import { route } from '../kernels/route/route.ts'
import type { Cache, CompressorCache, LayerCache } from './cache.ts'
import { runCachedExperts } from './cached-experts.ts'
import type { ExpertCache } from './expert-cache.ts'
import type { Pass } from './pass.ts'
import type { Scratch } from './scratch.ts'
import { type ModelShape, poolSpan } from './shape.ts'
import { type ExpertSplit, runSplitExperts } from './split-experts.ts'
import type {
  AttentionWeights,
  CompressorWeights,
  LayerWeights,
  MixWeights,
  ModelWeights,
} from './weights.ts'

// The forward pass of one step: prefill chunks and decode tokens of any number of sequences, all
// rows at once. Rows meet only in `compress`, `index-select` and `attention`, and there only rows
// of one sequence. A line here is one op, and one op is at best one launch. `yield*` stands where
// devices that share experts may have to wait for one another.

/** What every part of the pass needs; constant over a model's life. */
export interface Machine {
  readonly device: Device
  readonly shape: ModelShape
  readonly weights: ModelWeights
  readonly cache: Cache
  readonly scratch: Scratch
  readonly quantise: boolean
  /** Where routed experts do not all fit on the device; absent: every layer has its own. */
  readonly experts?: ExpertCache
  /** Where several devices share the experts; absent: this one has all. */
  readonly split?: ExpertSplit
}

/** Looks at values on their way, for tests and diagnosis; costs an op a layer. */
export interface ForwardTap {
  /** Streams `[rows, streams, hidden]` after layer `layer`. */
  onLayer?(layer: number, streams: Tensor): void
  /** i32 `[rows, topK]`: the entries each row's indexer picked. */
  onSelection?(layer: number, selected: Tensor): void
}

/** Residual streams behind the last layer, whose own update may still be waiting. */
export interface LayersOutput {
  readonly streams: Tensor
  readonly pending: StreamUpdate | null
}

/** Embedding and all layers. */
export function* runLayers(
  machine: Machine,
  batch: Batch,
  tap: ForwardTap | null,
): Pass<LayersOutput> {
  const { device, shape, weights, cache, scratch } = machine
  const rows = rowCount(batch.tokens)
  const { activations } = device.formats
  const streams = scratch.take('streams', activations, [rows, shape.streamCount, shape.hiddenSize])
  embed(device, { tokens: batch.tokens, table: weights.embedding, streams })
  let pending: StreamUpdate | null = null
  for (const [index, layer] of weights.layers.entries()) {
    const layerCache = cache.layers[index]
    assert(layerCache !== undefined, `layer ${index} has a cache`)
    const watch = tap === null ? null : { tap, index }
    pending = yield* runLayer(machine, { layer, cache: layerCache, batch, streams, pending, watch })
    if (tap?.onLayer === undefined) continue
    hcPost(device, { streams, update: pending })
    pending = null
    tap.onLayer(index, streams)
  }
  return { streams, pending }
}

/** Contraction, norm and head for the rows picked: f32 logits `[picked, vocabulary]`. */
export function runHead(
  machine: Machine,
  { streams, pending }: LayersOutput,
  picks: Tensor,
  contraction: MixWeights,
): Tensor {
  const { device, shape, weights, scratch } = machine
  const picked = rowCount(picks)
  const output = scratch.take('head input', device.formats.activations, [picked, shape.hiddenSize])
  const { fn, scale, base, norm } = contraction
  const { hcEps, normEps } = shape
  hcHead(device, { streams, pending, picks, fn, scale, base, norm, hcEps, normEps, output })
  const logits = scratch.take('logits', 'f32', [picked, shape.vocabSize])
  linear(device, {
    input: output,
    quantise: machine.quantise,
    parts: [{ weight: weights.head, output: logits }],
  })
  return logits
}

/** What the draft block continues from: the streams of some earlier rows. */
export interface DraftSource {
  readonly streams: Tensor
  /** i32 `[rows]`: the row of `streams` each draft row follows. */
  readonly picks: Tensor
}

/** The draft block: X'[a] = e_proj·norm(embed[next]) + h_proj·norm(X[a]), then one more layer. */
export function* runDraft(machine: Machine, batch: Batch, source: DraftSource): Pass<LayersOutput> {
  const { device, shape, weights, cache, scratch, quantise } = machine
  const { draft } = weights
  assert(draft !== null && cache.draft !== null, 'the draft block was loaded')
  const rows = rowCount(batch.tokens)
  const { streamCount, hiddenSize } = shape
  const { activations } = device.formats
  const take = (name: string, extents: readonly number[]): Tensor =>
    scratch.take(name, activations, extents)
  const embedding = take('draft embedding', [rows, hiddenSize])
  const gathered = take('draft gathered', [rows, streamCount, hiddenSize])
  draftInputs(device, {
    tokens: batch.tokens,
    table: weights.embedding,
    source: source.streams,
    picks: source.picks,
    embeddingNorm: draft.embeddingNorm,
    streamNorm: draft.streamNorm,
    eps: shape.normEps,
    embedding,
    streams: gathered,
  })
  // From here on the source may be overwritten: a draft that follows a draft shares its streams.
  const streams = take('draft streams', [rows, streamCount, hiddenSize])
  const projected = take('draft projected', [rows, hiddenSize])
  linear(device, {
    input: embedding,
    quantise,
    parts: [{ weight: draft.embeddingProjection, output: projected }],
  })
  const flat = [rows * streamCount, hiddenSize]
  linear(device, {
    input: reshape(gathered, flat),
    quantise,
    parts: [{ weight: draft.streamProjection, output: reshape(streams, flat) }],
  })
  draftJoin(device, { embedding: projected, streams })
  const { layer } = draft
  const step = { layer, cache: cache.draft, batch, streams, pending: null, watch: null }
  return { streams, pending: yield* runLayer(machine, step) }
}

/** One layer of one step. */
interface LayerStep {
  readonly layer: LayerWeights
  readonly cache: LayerCache
  readonly batch: Batch
  readonly streams: Tensor
  readonly pending: StreamUpdate | null
  readonly watch: { readonly tap: ForwardTap; readonly index: number } | null
}

function* runLayer(machine: Machine, step: LayerStep): Pass<StreamUpdate> {
  const { layer, streams } = step
  const toAttention = enter(machine, streams, step.pending, layer.attentionMix, 'attention')
  const attended = runAttention(machine, step, toAttention.normed)
  const between = { output: attended, post: toAttention.post, mix: toAttention.mix }
  const toMoe = enter(machine, streams, between, layer.moeMix, 'moe')
  const mixed = yield* runMoe(machine, step, toMoe.normed)
  return { output: mixed, post: toMoe.post, mix: toMoe.mix }
}

interface Entrance {
  readonly normed: Tensor
  readonly post: Tensor
  readonly mix: Tensor
}

/** Applies what the last sub-layer left and prepares the next one's input. */
function enter(
  { device, shape, scratch }: Machine,
  streams: Tensor,
  pending: StreamUpdate | null,
  { fn, scale, base, norm }: MixWeights,
  subLayer: 'attention' | 'moe',
): Entrance {
  const rows = rowCount(streams)
  const { streamCount, hiddenSize, hcEps, normEps, sinkhornIterations } = shape
  const { activations } = device.formats
  const entrance: Entrance = {
    normed: scratch.take('normed', activations, [rows, hiddenSize]),
    post: scratch.take(`${subLayer} post`, 'f32', [rows, streamCount]),
    mix: scratch.take(`${subLayer} mix`, 'f32', [rows, streamCount, streamCount]),
  }
  hcPre(device, {
    streams,
    pending,
    fn,
    scale,
    base,
    norm,
    sinkhornIterations,
    hcEps,
    normEps,
    ...entrance,
  })
  return entrance
}

function runAttention(machine: Machine, step: LayerStep, input: Tensor): Tensor {
  const { device, shape, scratch, quantise } = machine
  const { layer, cache, batch } = step
  const { attention: weights } = layer
  const { headCount, headDim, queryRank, normEps: eps } = shape
  const rows = rowCount(input)
  const take = (name: string, extents: readonly number[]): Tensor =>
    scratch.take(name, device.formats.activations, extents)

  const { plain, yarn } = machine.weights.frequencies
  const frequencies = layer.shape.kind === 'swa' ? plain : yarn
  const queryLatent = take('query latent', [rows, queryRank])
  const keys = take('keys', [rows, headDim])
  const main = rawRows(machine, weights.compressor, rows, 'main')
  const index = rawRows(machine, weights.indexer?.compressor ?? null, rows, 'index')
  const choice = indexParts(machine, step, rows)
  linear(device, {
    input,
    quantise,
    parts: [
      { weight: weights.queryA, output: queryLatent },
      { weight: weights.keys, output: keys },
      ...(main?.parts ?? []),
      ...(index?.parts ?? []),
      ...(choice?.fromInput ?? []),
    ],
  })
  const { queryNorm, keyNorm, sink } = weights
  const rotation = { frequencies, rows: batch.rows }
  latentNorm(device, { queryLatent, queryNorm, keys, keyNorm, ...rotation, quantise, eps })
  const queries = take('queries', [rows, headCount, headDim])
  const flatHeads = [rows, headCount * headDim]
  linear(device, {
    input: queryLatent,
    quantise,
    parts: [
      { weight: weights.queryB, output: reshape(queries, flatHeads) },
      ...(choice?.fromLatent ?? []),
    ],
  })
  queryRotate(device, { queries, ...rotation, eps })

  if (main !== null) pool(machine, step, main, cache.compressor, 'keys')
  if (index !== null) pool(machine, step, index, cache.index, 'index')
  const compressed = compressedKeys(machine, step, choice)
  const attended = take('attended', [rows, headCount, headDim])
  attention(device, {
    queries,
    keys,
    sink,
    ...rotation,
    pages: batch.pages,
    window: cache.window.tensor,
    windowSize: shape.windowSize,
    compressed,
    scale: headDim ** -0.5,
    output: attended,
  })
  return projectOutput(machine, weights, reshape(attended, flatHeads))
}

/** Each group of heads through its own narrow projection, and all of them back to the model's width. */
function projectOutput(
  { device, shape, scratch, quantise }: Machine,
  weights: AttentionWeights,
  heads: Tensor,
): Tensor {
  const { outputGroups, outputRank, hiddenSize } = shape
  const rows = rowCount(heads)
  const { activations } = device.formats
  const grouped = scratch.take('grouped', activations, [rows, outputGroups * outputRank])
  groupedLinear(device, {
    input: heads,
    weight: weights.outputA,
    groups: outputGroups,
    output: grouped,
  })
  const output = scratch.take('attention output', activations, [rows, hiddenSize])
  linear(device, { input: grouped, quantise, parts: [{ weight: weights.outputB, output }] })
  return output
}

/** A compressor's projections of the step's rows, before pooling. */
interface RawRows {
  readonly weights: CompressorWeights
  readonly values: Tensor
  readonly scores: Tensor
  readonly parts: readonly LinearPart[]
}

function rawRows(
  { scratch }: Machine,
  weights: CompressorWeights | null,
  rows: number,
  name: 'main' | 'index',
): RawRows | null {
  if (weights === null) return null
  const extents = [rows, rowCount(weights.values.weight)]
  // Kept in f32 on every device: their softmax decides what a whole block is remembered as.
  const values = scratch.take(`${name} values`, 'f32', extents)
  const scores = scratch.take(`${name} scores`, 'f32', extents)
  const parts = [
    { weight: weights.values, output: values },
    { weight: weights.scores, output: scores },
  ]
  return { weights, values, scores, parts }
}

/** Completed blocks become entries; the rest stays in the rings. */
function pool(
  { device, shape, weights: { frequencies }, quantise }: Machine,
  { layer, batch }: LayerStep,
  { weights, values, scores }: RawRows,
  cache: CompressorCache | null,
  use: 'keys' | 'index',
): void {
  assert(cache !== null, `${layer.shape.name} has a cache to compress into`)
  const { ape, norm } = weights
  compress(device, {
    values,
    scores,
    ape,
    norm,
    frequencies: frequencies.yarn,
    rows: batch.rows,
    pages: batch.pages,
    valueRing: cache.values.tensor,
    scoreRing: cache.scores.tensor,
    entries: cache.entries.tensor,
    ratio: layer.shape.ratio,
    span: poolSpan(layer.shape.kind),
    use,
    quantise,
    eps: shape.normEps,
  })
}

/** The indexer's own projections: head weights of the input, queries of the query latent. */
interface IndexParts {
  readonly headWeights: Tensor
  readonly queries: Tensor
  readonly fromInput: readonly LinearPart[]
  readonly fromLatent: readonly LinearPart[]
}

function indexParts(machine: Machine, { layer }: LayerStep, rows: number): IndexParts | null {
  const { indexer } = layer.attention
  if (indexer === null) return null
  const { device, scratch, shape } = machine
  const { indexHeadCount, indexHeadDim } = shape
  const extents = [rows, indexHeadCount, indexHeadDim]
  const queries = scratch.take('index queries', device.formats.activations, extents)
  const headWeights = scratch.take('index weights', 'f32', [rows, indexHeadCount])
  const flat = reshape(queries, [rows, indexHeadCount * indexHeadDim])
  const part = (weight: LinearWeight, output: Tensor): LinearPart => ({ weight, output })
  return {
    headWeights,
    queries,
    fromInput: [part(indexer.headWeights, headWeights)],
    fromLatent: [part(indexer.queries, flat)],
  }
}

/** The compressed side of the layer's attention: nothing, every visible entry, or the picked ones. */
function compressedKeys(
  { device, shape, scratch, weights: { frequencies }, quantise }: Machine,
  { layer, cache, batch, watch }: LayerStep,
  choice: IndexParts | null,
): CompressedKeys | null {
  const { ratio } = layer.shape
  if (cache.compressor === null) return null
  const entries = cache.compressor.entries.tensor
  if (choice === null || cache.index === null) return { entries, ratio, selected: null }
  const { queries, headWeights } = choice
  const { rows, pages } = batch
  indexQuery(device, { queries, frequencies: frequencies.yarn, rows, quantise })
  const selected = scratch.take('selected', 'i32', [rowCount(rows), shape.indexTopK])
  indexSelect(device, {
    queries,
    weights: headWeights,
    scale: (shape.indexHeadDim * shape.indexHeadCount) ** -0.5,
    entries: cache.index.entries.tensor,
    rows,
    pages,
    ratio,
    selected,
  })
  watch?.tap.onSelection?.(watch.index, selected)
  return { entries, ratio, selected }
}

function* runMoe(machine: Machine, { layer, batch }: LayerStep, input: Tensor): Pass<Tensor> {
  const { device, shape, scratch, quantise } = machine
  const { gate, choice, routed, shared } = layer.moe
  const rows = rowCount(input)
  const picked = scratch.take('experts', 'i32', [rows, shape.expertsPerToken])
  const weights = scratch.take('expert weights', 'f32', [rows, shape.expertsPerToken])
  route(device, {
    input,
    tokens: batch.tokens,
    gate,
    choice,
    scalingFactor: shape.routedScalingFactor,
    experts: picked,
    weights,
  })
  const output = scratch.take('moe output', device.formats.activations, [rows, shape.hiddenSize])
  const args: ExpertsArgs = {
    input,
    experts: picked,
    weights,
    routed,
    shared,
    limit: shape.swigluLimit,
    quantise,
    output,
  }
  if (machine.split !== undefined) {
    yield* runSplitExperts(machine.split, { device, scratch, args })
  } else if (machine.experts?.holds(layer.shape.name) === true) {
    runCachedExperts(machine.experts, { device, layer: layer.shape.name, args })
  } else experts(device, args)
  return output
}
