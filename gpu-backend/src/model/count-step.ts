import type { ModelConfig } from '#weights/layout/config.ts'
import { tensorBytes, tensorInventory } from '#weights/layout/inventory.ts'
import { MemoryStore } from '#weights/store/memory.ts'
import { CountingDevice } from '../device/counting.ts'
import { pageTokens } from '../kernels/batch.ts'
import { Cache } from './cache.ts'
import type { TokenFlops } from './cost-formulas.ts'
import { type Machine, runHead, runLayers } from './forward.ts'
import { Scratch } from './scratch.ts'
import { modelShape } from './shape.ts'
import { layOut, writeBatch, writeI32 } from './step.ts'
import { WeightPlacer, type WeightSource } from './weight-placer.ts'
import { describeModel } from './weights.ts'

/** What the forward pass itself asked a device for. */
export interface CountedStep {
  readonly flops: TokenFlops
  /** Bytes of the cache; `slots` is what a sequence takes whatever its length. */
  readonly cache: { readonly slots: number; readonly pages: number }
}

/**
 * Runs decode steps of a model in its true dimensions, each one's token the last of a context, on a
 * device that only counts. No weight is read and none has memory.
 */
export function countDecodeSteps(
  config: ModelConfig,
  contexts: readonly number[],
): readonly CountedStep[] {
  const device = new CountingDevice()
  const shape = modelShape(config)
  const source = directory(config)
  const weights = describeModel(new WeightPlacer(source, device), source, shape, false)
  return contexts.map((context) => {
    const limits = { sequencesMax: 1, tokensMax: wholePages(context), rollbackMax: 0 }
    const cache = new Cache(device, shape, { limits, draft: false })
    const scratch = new Scratch(device)
    device.flops.clear()
    decodeStep({ device, shape, weights, cache, scratch, quantise: true }, context)
    const counted = { flops: byPart(device), cache: cache.bytes() }
    cache.close()
    scratch.close()
    return counted
  })
}

function decodeStep(machine: Machine, context: number): void {
  const { device, cache, scratch, weights } = machine
  const sequence = cache.create(context)
  cache.grow(sequence, context)
  const step = layOut([{ sequence, tokens: Int32Array.of(0), start: context - 1 }])
  const output = runLayers(
    machine,
    writeBatch(device, scratch, step, cache.pageTable, 'step'),
    null,
  )
  const picks = writeI32(device, scratch.take('picks', 'i32', [1]), Int32Array.of(0))
  runHead(machine, output, picks, weights.contraction)
}

function wholePages(tokens: number): number {
  return Math.ceil(tokens / pageTokens) * pageTokens
}

function byPart({ flops }: CountingDevice): TokenFlops {
  const core = flops.get('attention') ?? 0
  const indexer = flops.get('index-select') ?? 0
  const all = [...flops.values()].reduce((sum, count) => sum + count, 0)
  return { linear: all - core - indexer, core, indexer }
}

/** A checkpoint's directory without its bytes. */
function directory(config: ModelConfig): WeightSource {
  const store = new MemoryStore()
  const tensors = tensorInventory(config).map((spec) => ({
    ...spec,
    file: spec.name,
    offset: 0,
    bytes: tensorBytes(spec),
  }))
  return {
    location: 'no checkpoint',
    store,
    config,
    tensors: new Map(tensors.map((tensor) => [tensor.name, tensor])),
  }
}
