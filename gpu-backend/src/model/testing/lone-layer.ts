import { strict as assert } from 'node:assert'
import type { ModelConfig } from '#weights/layout/config.ts'
import { SplitMix } from '#weights/toy/splitmix.ts'
import type { Device } from '../../device/device.ts'
import { type LinearWeight, type Tensor, tensorBytes } from '../../device/tensor.ts'
import { pageTokens } from '../../kernels/batch.ts'
import { hcPost } from '../../kernels/hc-post/hc-post.ts'
import {
  type CompactLayout,
  compactRowBytes,
  encodeRow,
  keyLayout,
  rowWidth,
} from '../../kernels/numerics/compact-rows.ts'
import { Cache, type CachedSequence, type CacheRows, type LayerCache } from '../cache.ts'
import { type LayersOutput, type Machine, runLayers } from '../forward.ts'
import { runAlone } from '../pass.ts'
import type { PooledTensor } from '../pool.ts'
import { Scratch } from '../scratch.ts'
import { type LayerKind, modelShape } from '../shape.ts'
import { layOut, readF32Rows, type StepSegment, writeBatch } from '../step.ts'
import { WeightPlacer } from '../weight-placer.ts'
import { describeModel, type LayerWeights } from '../weights.ts'
import { syntheticSource, syntheticTensor } from './synthetic-weights.ts'

const ratios: Readonly<Record<LayerKind, number>> = { swa: 0, csa: 4, hca: 128 }
/** Ids there are; a layer does not see how many. */
const vocabSize = 512
/** Prime, so that sequences do not all have the same past. */
const compactRowsDrawn = 4099

/**
 * A released model cut down to one layer of a kind, all widths kept: no draft block, no hash
 * routing, a few hundred ids, and as many experts as given.
 */
export function loneLayerConfig(
  released: ModelConfig,
  { kind, expertCount }: { readonly kind: LayerKind; readonly expertCount: number },
): ModelConfig {
  return {
    ...released,
    vocabSize,
    layerCount: 1,
    compressRatios: [ratios[kind]],
    hashLayerCount: 0,
    expertCount,
    mtpLayerCount: 0,
    draftModule: 'none',
  }
}

export interface LoneLayerOptions {
  readonly sequences: number
  /** Tokens each sequence reserves. */
  readonly contextMax: number
  readonly quantise: boolean
  /** Absent: `plain`. */
  readonly rows?: CacheRows
  /** Where a tensor's bytes come from; absent: drawn anew. */
  readonly makeTensor?: typeof syntheticTensor
}

/** What one sequence adds to a step; its earlier tokens are what `fillCache` made up. */
export interface LoneSegment {
  readonly sequence: CachedSequence
  readonly start: number
  readonly count: number
}

/** One layer on one device, with synthetic weights, driven without the model around it. */
export class LoneLayer {
  readonly machine: Machine
  readonly layer: LayerWeights
  readonly sequences: readonly CachedSequence[]
  readonly #cache: LayerCache
  readonly #placer: WeightPlacer

  constructor(device: Device, config: ModelConfig, options: LoneLayerOptions) {
    const { sequences, contextMax, quantise, rows = 'plain' } = options
    const { makeTensor = syntheticTensor } = options
    const shape = modelShape(config)
    const source = syntheticSource(config)
    this.#placer = new WeightPlacer(source, device)
    const weights = describeModel(this.#placer, source, shape, false)
    for (const name of this.#placer.names) {
      const spec = source.tensors.get(name)
      assert(spec !== undefined, `${name} is in the directory`)
      this.#placer.place(name, makeTensor(spec))
    }
    this.#placer.prepare()
    const pages = Math.ceil(contextMax / pageTokens) * sequences
    const limits = {
      sequencesMax: sequences,
      tokensMax: pages * pageTokens,
      rollbackMax: 8,
      prefixesMax: 0,
    }
    const cache = new Cache(device, shape, { limits, draft: false, rows })
    const [layer] = weights.layers
    const [layerCache] = cache.layers
    assert(layer !== undefined && layerCache !== undefined, 'there is a layer')
    this.layer = layer
    this.#cache = layerCache
    const scratch = new Scratch(device)
    this.machine = { device, shape, weights, cache, scratch, quantise }
    this.sequences = Array.from({ length: sequences }, () => {
      const sequence = cache.create(contextMax)
      cache.grow(sequence, contextMax)
      return sequence
    })
  }

  /** Gives every sequence a past: cached rows of no pattern, the same on every device. */
  fillCache(): void {
    for (const { kind, tensor } of this.pooled()) {
      const bytes = new Uint8Array(tensorBytes(tensor))
      const numbers = new SplitMix(kind.label)
      if (tensor.dtype === 'u8') this.#drawCompactRows(numbers, tensor, bytes)
      else drawValues(numbers, new Float32Array(bytes.buffer))
      this.machine.device.write(tensor.buffer, tensor.byteOffset, bytes)
    }
  }

  /** Everything the layer caches. */
  pooled(): readonly PooledTensor[] {
    const { window, compressor, index } = this.#cache
    const parts = [compressor, index].filter((part) => part !== null)
    return [window, ...parts.flatMap(({ values, scores, entries }) => [values, scores, entries])]
  }

  /** Runs one step; each row's token is a function of its sequence and position. */
  step(segments: readonly LoneSegment[]): LayersOutput {
    return this.begin(segments)()
  }

  /** Writes down what a step is about; what it gives back runs the step's ops, as often as it is called. */
  begin(segments: readonly LoneSegment[]): () => LayersOutput {
    const { device, scratch, cache } = this.machine
    const batch = writeBatch(device, scratch, this.#layOut(segments), cache.pageTable, 'step')
    return () => runAlone(runLayers(this.machine, batch, null))
  }

  /** Streams `[streams · hidden]` of each row behind the layer. */
  streams({ streams, pending }: LayersOutput): readonly Float32Array[] {
    const { device } = this.machine
    assert(pending !== null, 'a layer leaves its update to its successor')
    hcPost(device, { streams, update: pending })
    const [rows = 0, count = 0, width = 0] = streams.shape
    return readF32Rows(device, { ...streams, shape: [rows, count * width] })
  }

  /** The i32 tensor the latest step left under this name, `[rows, width]`. */
  picks(name: 'experts' | 'selected', rows: number, width: number): Int32Array {
    const { device, scratch } = this.machine
    const values = new Int32Array(rows * width)
    const tensor = scratch.take(name, 'i32', [rows, width])
    device.read(tensor.buffer, tensor.byteOffset, new Uint8Array(values.buffer))
    return values
  }

  close(): void {
    const { device, scratch, cache } = this.machine
    scratch.close()
    cache.close()
    for (const buffer of this.#placer.buffers) device.free(buffer)
  }

  /** Writing rows down takes long: after some thousand they are the same ones again. */
  #drawCompactRows(numbers: SplitMix, { shape }: Tensor, into: Uint8Array): void {
    const { headDim, ropeDim, indexHeadDim } = this.machine.shape
    const key = keyLayout(headDim, ropeDim)
    const rowBytes = shape.at(-1) ?? 0
    const isKey = rowBytes === compactRowBytes(key)
    const layout: CompactLayout = isKey ? key : { kind: 'index', width: indexHeadDim }
    const values = new Float32Array(rowWidth(layout))
    const drawn = Math.min(into.length, compactRowsDrawn * rowBytes)
    for (let at = 0; at < drawn; at += rowBytes) {
      drawValues(numbers, values)
      encodeRow(layout, values, into.subarray(at, at + rowBytes))
    }
    for (let at = drawn; at < into.length; at += drawn) {
      into.copyWithin(at, 0, Math.min(drawn, into.length - at))
    }
  }

  #layOut(segments: readonly LoneSegment[]): readonly StepSegment[] {
    return layOut(
      segments.map(({ sequence, start, count }) => ({
        sequence,
        start,
        tokens: Int32Array.from(
          { length: count },
          (_, i) => (31 * sequence.slot + 7 * (start + i)) % vocabSize,
        ),
      })),
    )
  }
}

function drawValues(numbers: SplitMix, into: Float32Array): void {
  for (let i = 0; i < into.length; i++) {
    numbers.next()
    into[i] = numbers.uniform
  }
}

/** Every linear of a layer that each step reads whole. */
export function linearsOf({ attention, moe }: LayerWeights): readonly LinearWeight[] {
  const { compressor, indexer } = attention
  const compressors = [compressor, indexer?.compressor ?? null].filter((part) => part !== null)
  return [
    attention.queryA,
    attention.queryB,
    attention.keys,
    attention.outputA,
    attention.outputB,
    ...(indexer === null ? [] : [indexer.queries, indexer.headWeights]),
    ...compressors.flatMap(({ values, scores }) => [values, scores]),
    moe.shared.gate,
    moe.shared.up,
    moe.shared.down,
  ]
}

/** The stacks of which a step reads the experts it was routed to. */
export function expertsOf({ moe }: LayerWeights): readonly LinearWeight[] {
  return [moe.routed.gate, moe.routed.up, moe.routed.down]
}

export function linearBytes({ weight, scale }: LinearWeight): number {
  const bytesOf = (tensor: Tensor | null): number => (tensor === null ? 0 : tensorBytes(tensor))
  return bytesOf(weight) + bytesOf(scale)
}
