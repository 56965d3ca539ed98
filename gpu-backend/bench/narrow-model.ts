import { strict as assert } from 'node:assert'
import { type ModelConfig, parseModelConfig } from '#weights/layout/config.ts'
import { tensorBytes, tensorInventory } from '#weights/layout/inventory.ts'
import { MemoryStore } from '#weights/store/memory.ts'
import { toyConfig } from '#weights/toy/config.ts'
import { toyTensor } from '#weights/toy/tensors.ts'
import type { Device } from '../src/device/device.ts'
import { type LinearWeight, sliceRows, type Tensor } from '../src/device/tensor.ts'
import { pageTokens } from '../src/kernels/batch.ts'
import { copy } from '../src/kernels/copy/copy.ts'
import type { OpTable } from '../src/kernels/registry.ts'
import { PassingDevice } from '../src/kernels/testing/passing-device.ts'
import { Cache, CachedSequence } from '../src/model/cache.ts'
import { DeepSeekModel } from '../src/model/deepseek.ts'
import { ModelPart } from '../src/model/part.ts'
import type { Model } from '../src/model/model.ts'
import { Scratch } from '../src/model/scratch.ts'
import { modelShape } from '../src/model/shape.ts'
import { WeightPlacer, type WeightSource } from '../src/model/weight-placer.ts'
import { describeModel } from '../src/model/weights.ts'

/** Flash's layers, and the draft block's ratio behind them. */
const flashRatios = [0, 0, ...Array.from({ length: 20 }, () => [4, 128]).flat(), 4, 0]

/**
 * Flash's schedule, cached rows, window and picks behind weights narrow enough for any machine: what
 * its cache takes a token is what Flash's takes.
 */
export function narrowConfig(): ModelConfig {
  return parseModelConfig({
    ...toyConfig,
    hidden_size: 128,
    num_hidden_layers: flashRatios.length - 1,
    num_attention_heads: 1,
    head_dim: 512,
    o_groups: 1,
    sliding_window: 128,
    compress_ratios: flashRatios,
    rope_scaling: { ...toyConfig.rope_scaling, original_max_position_embeddings: 65_536 },
    max_position_embeddings: 2 ** 20,
    index_n_heads: 2,
    index_topk: 512,
    num_hash_layers: 3,
    num_nextn_predict_layers: 1,
  })
}

/** A model and the one sequence of its cache. */
export interface NarrowModel {
  readonly model: Model
  readonly cache: Cache
  readonly sequence: CachedSequence
}

/** The narrow model with the toy's rule for weights, its cache in compact rows. */
export function openNarrowModel(device: Device, tokensMax: number): NarrowModel {
  const config = narrowConfig()
  const shape = modelShape(config)
  const source = weightSource(config)
  const placer = new WeightPlacer(source, device)
  const weights = describeModel(placer, source, shape, false)
  for (const name of placer.names) {
    const spec = source.tensors.get(name)
    if (spec !== undefined) placer.place(name, toyTensor(spec))
  }
  placer.prepare()
  const limits = { sequencesMax: 1, tokensMax, rollbackMax: 8, prefixesMax: 0 }
  const cache = new Cache(device, shape, { limits, draft: false, rows: 'compact' })
  const scratch = new Scratch(device)
  const machine = { device, shape, weights, cache, scratch, quantise: true }
  const model = new DeepSeekModel([new ModelPart(machine, placer.buffers)])
  const sequence = model.createSequence({ maxTokens: tokensMax })
  assert(sequence instanceof CachedSequence, 'a model keeps its sequences in its cache')
  return { model, cache, sequence }
}

/**
 * Lengthens the sequence to `length` tokens, whole pages, by copies of the pages it has. The window
 * and the raw rows are still those of the old end: some tokens have to follow before they are not.
 */
function repeatPages(device: Device, { cache, sequence }: NarrowModel, length: number): void {
  const have = sequence.length / pageTokens
  assert(Number.isInteger(have) && length % pageTokens === 0, 'whole pages are repeated')
  cache.grow(sequence, length)
  for (const { compressor, index } of cache.layers) {
    for (const part of [compressor, index]) {
      if (part !== null) repeatRows(device, part.entries.tensor, have, length / pageTokens)
    }
  }
  sequence.length = length
  sequence.furthest = length
}

/** Fills rows `have` … `wanted` − 1 with those in front of them, from the first on. */
function repeatRows(device: Device, tensor: Tensor, have: number, wanted: number): void {
  for (let filled = have; filled < wanted;) {
    const count = Math.min(filled, wanted - filled)
    copy(device, { from: sliceRows(tensor, 0, count), to: sliceRows(tensor, filled, count) })
    filled += count
  }
}

/** A checkpoint's directory; nothing is read from its store. */
export function weightSource(config: ModelConfig): WeightSource {
  const tensors = tensorInventory(config).map((spec) => {
    const place = { file: spec.name, offset: 0, bytes: tensorBytes(spec) }
    return [spec.name, { ...spec, ...place }] as const
  })
  const store = new MemoryStore()
  return { location: 'made-up weights', store, config, tensors: new Map(tensors) }
}

/** Rows of a step while the cache is filled. */
const fillChunk = 512
/** Tokens behind the last repeated page: more than a window and a block, so that no state is stale. */
const tailTokens = 512

/** To `length` tokens: computed, each looking at itself alone, or repeated once there are enough. */
export function fill(
  device: ShortSightedDevice,
  narrow: NarrowModel,
  length: number,
  computedTokens: number,
): void {
  device.shortSighted = true
  const tail = length - tailTokens
  const repeated = tail - (tail % pageTokens)
  const { sequence } = narrow
  feed(narrow, Math.min(length, computedTokens) - sequence.length, fillChunk)
  if (repeated > sequence.length) repeatPages(device, narrow, repeated)
  feed(narrow, length - sequence.length, fillChunk)
  device.synchronise()
  device.shortSighted = false
}

/** Steps of `each` tokens; a step of one token reads its logits. */
export function feed({ model, sequence }: NarrowModel, count: number, each: number): void {
  for (let left = count; left > 0; left -= each) {
    const start = sequence.length
    const tokens = Int32Array.from(
      { length: Math.min(each, left) },
      (_, i) => (7 * (start + i) ** 2 + 3 * (start + i) + 5) % model.shape.vocabSize,
    )
    model.forward([{ sequence, tokens, logits: each === 1 ? 'last' : 'none' }])
  }
}

/**
 * A device whose rows can be made to look no further than themselves. Everything is still computed
 * and kept, compressed entries and index keys too, but no longer in time that grows with the square
 * of the length: how a million tokens get into a cache in minutes. What is measured afterwards looks
 * at all of them.
 */
export class ShortSightedDevice extends PassingDevice {
  shortSighted = false

  override run<Op extends keyof OpTable>(op: Op, args: OpTable[Op]): void {
    if (!this.shortSighted) {
      this.inner.run(op, args)
    } else if ('windowSize' in args) {
      this.inner.run('attention', { ...args, windowSize: 1, compressed: null })
    } else if (op !== 'index-query' && op !== 'index-select') {
      this.inner.run(op, args)
    }
  }

  prepare(weight: LinearWeight): boolean {
    return this.inner.prepare?.(weight) ?? false
  }
}
