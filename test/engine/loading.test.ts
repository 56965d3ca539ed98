import { beforeAll, describe, expect, it } from 'vitest'
import { parseModelConfig } from '#weights/layout/config.ts'
import { tensorInventory } from '#weights/layout/inventory.ts'
import { toyConfig } from '#weights/toy/config.ts'
import { toyTensor } from '#weights/toy/tensors.ts'
import { DeviceError } from '../../gpu-backend/src/device/device.ts'
import { ReferenceDevice } from '../../gpu-backend/src/device/reference.ts'
import {
  type DeviceBuffer,
  type LinearWeight,
  tensorBytes,
} from '../../gpu-backend/src/device/tensor.ts'
import { e2m1Values } from '../../gpu-backend/src/kernels/numerics/e2m1.ts'
import { e4m3Values } from '../../gpu-backend/src/kernels/numerics/e4m3.ts'
import type { OpTable } from '../../gpu-backend/src/kernels/registry.ts'
import { loadModel, type Quantisation } from '../../gpu-backend/src/model/model.ts'
import { memorySource, type SourceTensor } from '../support/tensor-source.ts'
import { feed, goldenTokens } from '../support/toy-model.ts'

const config = parseModelConfig(toyConfig)

/** Remembers where the linears lie that it was told of, and which bytes ops multiplied with. */
class PreparingDevice extends ReferenceDevice {
  readonly prepared = new Set<string>()
  readonly multiplied = new Set<string>()
  writtenAfterwards = 0

  prepare(linear: LinearWeight): boolean {
    this.prepared.add(placeOf(linear))
    return false
  }

  override write(buffer: DeviceBuffer, offset: number, bytes: Uint8Array): void {
    const place = `${buffer}:`
    if ([...this.prepared].some((known) => known.startsWith(place))) this.writtenAfterwards++
    super.write(buffer, offset, bytes)
  }

  override run<Op extends keyof OpTable>(op: Op, args: OpTable[Op]): void {
    for (const weight of linearsIn(args)) this.multiplied.add(placeOf(weight))
    super.run(op, args)
  }
}

function placeOf({ weight }: LinearWeight): string {
  return `${weight.buffer}: ${weight.byteOffset} + ${tensorBytes(weight)}`
}

/** Every `{ weight, scale }` among an op's arguments. */
function linearsIn(value: unknown): LinearWeight[] {
  if (typeof value !== 'object' || value === null) return []
  if ('weight' in value && 'scale' in value) return [value as LinearWeight]
  return Object.values(value).flatMap(linearsIn)
}

function toyTensors(): SourceTensor[] {
  return tensorInventory(config).map((spec) => ({ ...spec, content: toyTensor(spec) }))
}

const codeOf = new Map([...e4m3Values].map((value, code) => [value, code]))

/**
 * The same expert in FP8: a 128×128 tile takes 2^-6 of its largest scale, and every element becomes
 * e2m1 times what is left of its own. Exact while a tile's scales lie within 2^14 of one another.
 */
function widen(weight: SourceTensor, scale: SourceTensor): SourceTensor[] {
  const [rows = 0, packed = 0] = weight.shape
  const width = packed * 2
  const runs = width / 32
  const tiles = [Math.ceil(rows / 128), Math.ceil(width / 128)] as const
  const tileOf = (row: number, column: number): number =>
    Math.floor(row / 128) * tiles[1] + Math.floor(column / 128)
  const largest = new Uint8Array(tiles[0] * tiles[1])
  for (const [i, byte] of scale.content.entries()) {
    const tile = tileOf(Math.floor(i / runs), (i % runs) * 32)
    largest[tile] = Math.max(largest[tile] ?? 0, byte)
  }
  const codes = Uint8Array.from({ length: rows * width }, (_, i) => {
    const [row, column] = [Math.floor(i / width), i % width]
    const byte = weight.content[Math.floor(i / 2)] ?? 0
    const element = e2m1Values[i % 2 === 0 ? byte & 15 : byte >> 4] ?? 0
    const own = scale.content[row * runs + Math.floor(column / 32)] ?? 0
    const value = element * 2 ** (own - (largest[tileOf(row, column)] ?? 0) + 6)
    return codeOf.get(value) ?? 0x7f
  })
  return [
    { name: weight.name, dtype: 'F8_E4M3', shape: [rows, width], content: codes },
    { name: scale.name, dtype: 'F8_E8M0', shape: tiles, content: largest.map((s) => s - 6) },
  ]
}

function withFp8Experts(tensors: readonly SourceTensor[]): SourceTensor[] {
  const byName = new Map(tensors.map((tensor) => [tensor.name, tensor]))
  const experts = /\.experts\.\d+\.w[123]\./
  const widened = tensors.flatMap((tensor) => {
    const scale = byName.get(tensor.name.replace(/weight$/, 'scale'))
    if (!experts.test(tensor.name) || tensor === scale || scale === undefined) return []
    return widen(tensor, scale)
  })
  return [...tensors.filter(({ name }) => !experts.test(name)), ...widened]
}

describe('a checkpoint with FP8 experts', () => {
  it.each<Quantisation>(['off', 'on'])(
    'gives the bits of the FP4 one it was widened from, with quantisation %s',
    async (quantisation) => {
      const tokens = goldenTokens(0, 24)
      const run = async (expertDtype: 'fp4' | 'fp8', tensors: SourceTensor[]) => {
        const source = await memorySource({ ...config, expertDtype }, tensors)
        const model = await loadModel(source, new ReferenceDevice(), { quantisation })
        return feed(model, model.createSequence({ maxTokens: 24 }), tokens)
      }
      const tensors = toyTensors()
      expect(await run('fp8', withFp8Experts(tensors))).toEqual(await run('fp4', tensors))
    },
  )
})

/** Has no memory for what is called `label`. */
class RefusingDevice extends ReferenceDevice {
  readonly #label: string

  constructor(label: string) {
    super()
    this.#label = label
  }

  override alloc(bytes: number, label: string): DeviceBuffer {
    if (label !== this.#label) return super.alloc(bytes, label)
    throw new DeviceError('out_of_memory', this.name, `no ${bytes} bytes for ${label}`)
  }
}

describe('loading', () => {
  let tensors: SourceTensor[]

  beforeAll(() => {
    tensors = toyTensors()
  })

  it('brings the tensors the model needs, draft block only when asked, and reports progress', async () => {
    const draftBytes = tensors
      .filter(({ name }) => name.startsWith('mtp.'))
      .reduce((sum, { content }) => sum + content.length, 0)
    const totals = new Set<number>()
    const source = await memorySource(config, tensors)
    for (const mtp of [true, false]) {
      let lastDone = 0
      const model = await loadModel(source, new ReferenceDevice(), {
        quantisation: 'off',
        mtp,
        onProgress: (done, total) => {
          expect(done).toBeGreaterThan(lastDone)
          lastDone = done
          totals.add(total)
        },
      })
      expect(model.drafts).toBe(mtp)
    }
    expect([...totals]).toEqual([8_128_684, 8_128_684 - draftBytes])
  })

  it('tells the device of every linear, and of nothing else, once its bytes are there', async () => {
    const device = new PreparingDevice()
    const options = { quantisation: 'off', mtp: true } as const
    const model = await loadModel(await memorySource(config, tensors), device, options)
    expect(device.multiplied.size).toBe(0)
    const sequence = model.createSequence({ maxTokens: 9 })
    feed(model, sequence, goldenTokens(0, 8))
    model.draft([{ sequence, tokens: goldenTokens(1, 9), after: 'forward', logits: 'last' }])
    expect(device.prepared).toEqual(device.multiplied)
    expect(device.writtenAfterwards).toBe(0)
  })

  it.each([
    ['layers.3.attn.indexer.wq_b.scale', 'is missing', undefined],
    ['layers.1.ffn.experts.7.w2.weight', 'has another dtype', { dtype: 'F8_E8M0' }],
    ['layers.4.attn.compressor.ape', 'has another shape', { shape: [64, 256] }],
  ] as const)('refuses %s when it %s, before anything is allocated', async (name, _, change) => {
    const source = await memorySource(config, tensors)
    const tensor = source.tensors.get(name)
    source.tensors.delete(name)
    if (change !== undefined && tensor !== undefined) {
      source.tensors.set(name, { ...tensor, ...change })
    }
    const device = new ReferenceDevice()
    await expect(loadModel(source, device, { quantisation: 'off' })).rejects.toMatchObject({
      code: 'weights_mismatch',
      message: expect.stringContaining(name),
    })
    expect(device.memory().peakBytes).toBe(0)
  })

  it('leaves nothing on the device when it is stopped half-way', async () => {
    const source = await memorySource(config, tensors)
    const device = new ReferenceDevice()
    const stop = new AbortController()
    const loading = loadModel(source, device, {
      quantisation: 'off',
      signal: stop.signal,
      onProgress: (done, total) => {
        if (done > total / 2) stop.abort()
      },
    })
    await expect(loading).rejects.toMatchObject({ code: 'aborted' })
    expect(device.memory()).toMatchObject({ allocatedBytes: 0, buffers: 0 })
    expect(device.memory().peakBytes).toBeGreaterThan(6_000_000)
  })

  it('has all of its cache from the start where it is asked to', async () => {
    const device = new ReferenceDevice()
    const cache = { sequencesMax: 3, tokensMax: 1024, prefixesMax: 2 }
    const options = { quantisation: 'on', mtp: true, cacheUpfront: true, cache } as const
    const model = await loadModel(await memorySource(config, tensors), device, options)
    const { bytesAllocated, pagesFree } = model.capacity()
    expect(pagesFree).toBe(4)
    const [first] = [0, 1, 2].map(() => model.createSequence({ maxTokens: 300 }))
    if (first !== undefined) feed(model, first, goldenTokens(0, 256))
    for (let kept = 0; kept < 2; kept++) {
      expect(first && model.keepPrefix(first)).toMatchObject({ length: 256 })
    }
    expect(model.capacity().bytesAllocated).toBe(bytesAllocated)
    model.close()
    expect(device.memory()).toMatchObject({ allocatedBytes: 0, buffers: 0 })
  })

  it('leaves nothing on the device when the cache does not fit', async () => {
    const device = new RefusingDevice('layers.4 window snapshot')
    const options = { quantisation: 'on', mtp: true, cacheUpfront: true } as const
    await expect(
      loadModel(await memorySource(config, tensors), device, options),
    ).rejects.toMatchObject({ code: 'out_of_memory' })
    expect(device.memory()).toMatchObject({ allocatedBytes: 0, buffers: 0 })
  })

  it('leaves nothing on the device when a value is impossible', async () => {
    const name = 'layers.2.attn.wkv.scale'
    const bent = tensors.map((tensor) =>
      tensor.name === name ? { ...tensor, content: tensor.content.map(() => 0xff) } : tensor,
    )
    const device = new ReferenceDevice()
    const loading = loadModel(await memorySource(config, bent), device, { quantisation: 'off' })
    await expect(loading).rejects.toMatchObject({ code: 'tensor_value', subject: name })
    expect(device.memory().buffers).toBe(0)
  })

  it('gives the same logits when no decoded weight is kept', async () => {
    const source = await memorySource(config, tensors)
    const run = async (device: ReferenceDevice) => {
      const model = await loadModel(source, device, { quantisation: 'on' })
      return feed(model, model.createSequence({ maxTokens: 6 }), goldenTokens(0, 6))
    }
    const sparing = await run(new ReferenceDevice({ decodedBytesMax: 0 }))
    expect(sparing).toEqual(await run(new ReferenceDevice()))
  })
})
