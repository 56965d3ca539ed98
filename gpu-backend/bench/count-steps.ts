import type { ModelConfig } from '#weights/layout/config.ts'
import { CountingDevice } from '../src/kernels/testing/counting-device.ts'
import type { DeviceFormats } from '../src/device/device.ts'
import type { OpName } from '../src/kernels/registry.ts'
import { pageTokens } from '../src/kernels/batch.ts'
import { Cache } from '../src/model/cache.ts'
import type { TokenFlops } from '../src/model/cost-formulas.ts'
import { type Machine, runHead, runLayers } from '../src/model/forward.ts'
import { runAlone } from '../src/model/pass.ts'
import { Scratch } from '../src/model/scratch.ts'
import { modelShape } from '../src/model/shape.ts'
import { layOut, writeBatch, writeI32 } from '../src/model/step.ts'
import { WeightPlacer } from '../src/model/weight-placer.ts'
import { describeModel } from '../src/model/weights.ts'
import { weightSource } from './narrow-model.ts'

const formats: DeviceFormats = {
  activations: 'f32',
  keys: 'f32',
  indexKeys: 'f32',
  compactRows: true,
}

/** Ops that multiply by weights, the mixing of streams on their way. */
const products: readonly OpName[] = [
  'linear',
  'grouped-linear',
  'experts',
  'route',
  'hc-pre',
  'hc-head',
]

export interface CountedFlops extends TokenFlops {
  /** Pooling and Walsh–Hadamard transforms, which the closed formulas leave out. */
  readonly other: number
}

/** What the forward pass itself asked a device for. */
export interface CountedStep {
  readonly flops: CountedFlops
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
  const device = new CountingDevice(formats)
  const shape = modelShape(config)
  const source = weightSource(config)
  const weights = describeModel(new WeightPlacer(source, device), source, shape, false)
  return contexts.map((context) => {
    const tokensMax = wholePages(context)
    const limits = { sequencesMax: 1, tokensMax, rollbackMax: 0, prefixesMax: 0 }
    const cache = new Cache(device, shape, { limits, draft: false, rows: 'compact' })
    const scratch = new Scratch(device)
    device.reset()
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
  const batch = writeBatch(device, scratch, step, cache.pageTable, 'step')
  const output = runAlone(runLayers(machine, batch, null))
  const picks = writeI32(device, scratch.take('picks', 'i32', [1]), Int32Array.of(0))
  runHead(machine, output, picks, weights.contraction)
}

function wholePages(tokens: number): number {
  return Math.ceil(tokens / pageTokens) * pageTokens
}

function byPart({ totals }: CountingDevice): CountedFlops {
  const flopsOf = (op: OpName): number => totals.get(op)?.flops ?? 0
  const linear = products.reduce((sum, op) => sum + flopsOf(op), 0)
  const [core, indexer] = [flopsOf('attention'), flopsOf('index-select')]
  const all = [...totals.values()].reduce((sum, { flops }) => sum + flops, 0)
  return { linear, core, indexer, other: all - linear - core - indexer }
}
