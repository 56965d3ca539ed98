import { readFile } from 'node:fs/promises'
import { beforeAll, describe, expect, it } from 'vitest'
import { parseModelConfig } from '#weights/layout/config.ts'
import { tensorInventory } from '#weights/layout/inventory.ts'
import type { TensorLocation } from '#weights/manifest.ts'
import { MemoryStore } from '#weights/store/memory.ts'
import { CountingDevice } from '../../gpu-backend/src/kernels/testing/counting-device.ts'
import type { OpName } from '../../gpu-backend/src/kernels/registry.ts'
import { CachedSequence } from '../../gpu-backend/src/model/cache.ts'
import { loadModel, type Model } from '../../gpu-backend/src/model/model.ts'
import type { WeightSource } from '../../gpu-backend/src/model/weight-placer.ts'

// Counted work of the real forward pass, at Flash's and Pro's dimensions, against closed formulas.

const contextTokens = 2 ** 20

/** A checkpoint of names and shapes: its tensors have no bytes, so nothing is read or written. */
async function shapesOf(name: 'v4-flash' | 'v4-pro'): Promise<WeightSource> {
  const file = new URL(`../vectors/config/${name}.json`, import.meta.url)
  const config = parseModelConfig(JSON.parse(await readFile(file, 'utf8')))
  const empty = tensorInventory(config).map((spec): [string, TensorLocation] => [
    spec.name,
    { ...spec, file: 'none', offset: 0, bytes: 0 },
  ])
  return { location: name, store: new MemoryStore(), config, tensors: new Map(empty) }
}

/** Sums over ops of what one step counted. */
interface Counted {
  flops(...ops: OpName[]): number
  bytes(...ops: OpName[]): number
}

/** A model of shapes alone, and what a token costs it behind any number of others. */
class CountedModel {
  readonly #device: CountingDevice
  readonly #model: Model

  constructor(device: CountingDevice, model: Model) {
    this.#device = device
    this.#model = model
  }

  static async load(name: 'v4-flash' | 'v4-pro'): Promise<CountedModel> {
    const f32 = { activations: 'f32', keys: 'f32', indexKeys: 'f32' } as const
    const device = new CountingDevice({ ...f32, compactRows: true })
    const cache = { sequencesMax: 1, tokensMax: contextTokens, rollbackMax: 8 }
    const model = await loadModel(await shapesOf(name), device, { quantisation: 'on', cache })
    return new CountedModel(device, model)
  }

  /** The last of `tokens` tokens of one sequence. */
  decode(tokens: number): Counted {
    const sequence = this.#model.createSequence({ maxTokens: tokens })
    if (!(sequence instanceof CachedSequence)) throw new TypeError('a sequence lies in the cache')
    sequence.length = tokens - 1
    sequence.furthest = tokens - 1
    this.#device.reset()
    this.#model.forward([{ sequence, tokens: Int32Array.of(7), logits: 'last' }])
    const totals = new Map(this.#device.totals)
    this.#model.release(sequence)
    const total = (ops: readonly OpName[], of: 'flops' | 'bytes'): number =>
      ops.reduce((sum, op) => sum + (totals.get(op)?.[of] ?? 0), 0)
    return { flops: (...ops) => total(ops, 'flops'), bytes: (...ops) => total(ops, 'bytes') }
  }
}

/** Ops that multiply by weights. */
const products: readonly OpName[] = [
  'linear',
  'grouped-linear',
  'experts',
  'route',
  'hc-pre',
  'hc-head',
]

const releases = [
  { name: 'v4-flash', active: 13.268, csa: 21, hca: 20, swa: 2, heads: 64, topK: 512, read: 11.2 },
  { name: 'v4-pro', active: 48.849, csa: 30, hca: 31, swa: 0, heads: 128, topK: 1024, read: 39.7 },
] as const

describe.each(releases)('a token of $name', (release) => {
  const { name, active, csa, hca, swa, heads, topK, read } = release
  let model: CountedModel | null = null
  beforeAll(async () => {
    model = await CountedModel.load(name)
  })
  const decode = (tokens: number): Counted => {
    if (model === null) throw new Error('the model was not loaded')
    return model.decode(tokens)
  }

  it('multiplies each active parameter once', () => {
    // Norms, sinks and what is added per position are parameters without products, hash-routed
    // layers score six experts instead of all, and stream mixes have products of their own.
    const share = decode(contextTokens).flops(...products) / (2e9 * active)
    expect(share).toBeGreaterThan(0.998)
    expect(share).toBeLessThan(1.002)
  })

  it('attends to the window, the picked entries and every heavily compressed one', () => {
    const keys = csa * (topK + 128) + hca * (contextTokens / 128 + 128) + swa * 128
    expect(decode(contextTokens).flops('attention')).toBe(2 * heads * 512 * 2 * keys)
  })

  it('scores every fourth token in the layers with an index', () => {
    // 64 products of 128, and one more to weigh each head.
    const scored = csa * (contextTokens / 4) * 64 * 129
    expect(decode(contextTokens).flops('index-select')).toBe(2 * scored)
  })

  it('reads its attention weights, its experts and the shared one, head and mixes', () => {
    const share = decode(256).bytes(...products) / (1e9 * read)
    expect(share).toBeGreaterThan(0.99)
    expect(share).toBeLessThan(1.01)
  })
})
