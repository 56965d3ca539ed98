import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { parseModelConfig } from '../layout/config.ts'
import { tensorInventory } from '../layout/inventory.ts'
import { parseGpuSet, type GpuSet } from './gpu-kinds.ts'
import { activationBytes, planMemory, sequenceBytes } from './memory-plan.ts'
import { expertBytes, weightBytes } from './weight-bytes.ts'

const config = (name: 'v4-flash' | 'v4-pro') =>
  parseModelConfig(
    JSON.parse(
      readFileSync(new URL(`../../../test/vectors/config/${name}.json`, import.meta.url), 'utf8'),
    ),
  )
const flash = config('v4-flash')
const pro = config('v4-pro')

const gpus = (text: string): GpuSet => {
  const found = parseGpuSet(text)
  if (found === null) throw new Error(`${text} is no set of GPUs`)
  return found
}

describe('a set of GPUs', () => {
  it('is a count and a kind', () => {
    expect(parseGpuSet('4xH200')).toEqual({
      count: 4,
      kind: { name: 'H200', memoryBytes: 150_754_820_096 },
    })
    expect(parseGpuSet('8xb200')?.kind.memoryBytes).toBe(192_265_846_784)
    for (const text of ['H200', '0xH200', '4 H200', '4xA100', '100xH200', '']) {
      expect(parseGpuSet(text)).toBeNull()
    }
  })
})

describe('bytes of the weights', () => {
  it('of one expert are three matrices of half a byte and a scale byte for 32', () => {
    expect(expertBytes(flash, weightBytes(flash))).toBe(3 * (2048 * 4096 * (1 / 2 + 1 / 32)))
    expect(expertBytes(flash, weightBytes(flash))).toBe(13_369_344)
    expect(expertBytes(pro, weightBytes(pro))).toBe(3 * (3072 * 7168 * (1 / 2 + 1 / 32)))
  })

  it('by kind are those worked out by hand', () => {
    const bytes = weightBytes(flash)
    expect(bytes['routed experts']).toBe(43 * 256 * 13_369_344)
    // e4m3 with a scale byte a tile of 128 × 128.
    expect(bytes['shared experts']).toBe(43 * 3 * 2048 * 4096 * (1 + 1 / 128 ** 2))
    expect(bytes.embedding).toBe(2 * 129_280 * 4096)
    expect(bytes.head).toBe(bytes.embedding)
    // bf16 gates everywhere, i32 tables in three layers, f32 biases in the other forty.
    expect(bytes['gates and hash tables']).toBe(
      43 * 2 * 256 * 4096 + 3 * 4 * 129_280 * 6 + 40 * 4 * 256,
    )
    const projections = 1024 * 4096 + 32_768 * 1024 + 512 * 4096 + 8192 * 4096 + 4096 * 8192
    const small = 4 * 64 + 2 * 1024 + 2 * 512
    expect(bytes.attention).toBe(43 * (projections * (1 + 1 / 128 ** 2) + small))
  })

  it('are those of the whole checkpoint, less half of the tables of ids', () => {
    const total = (name: 'v4-flash' | 'v4-pro') =>
      Object.values(weightBytes(config(name))).reduce((sum, bytes) => sum + bytes, 0)
    const table = 129_280 * 6 * 4
    expect(total('v4-flash')).toBe(159_609_485_896 - 3 * table)
    expect(tensorInventory(pro).filter(({ dtype }) => dtype === 'I64')).toHaveLength(3)
  })
})

describe('bytes of a sequence', () => {
  it('at a million tokens are those worked out by hand', () => {
    const million = 2 ** 20
    const window = 43 * 128 * 584
    const csa = 21 * (million / 4) * (584 + 68)
    const hca = 20 * (million / 128) * 584
    // Values and scores in fp32: 21 layers of two blocks of 4, twice as wide; 20 of one of 128.
    const state = 21 * 2 * 2 * 4 * 2 * (512 + 128) * 4 + 20 * 2 * 128 * 512 * 4
    expect(sequenceBytes(flash, million)).toBe(window + csa + hca + state + 4 * 4096)
  })
})

describe('a plan', () => {
  const plan = (model: 'v4-flash' | 'v4-pro', set: string, context = 131_072) =>
    planMemory(config(model), { gpus: gpus(set), context, stepRows: 4096 })

  it('accounts for every byte of the GPU', () => {
    for (const set of ['1xH200', '4xH200', '8xH200', '8xB200']) {
      for (const model of ['v4-flash', 'v4-pro'] as const) {
        const { gpu, fits } = plan(model, set)
        if (!fits) continue
        const { memory, cache, replicatedWeights, experts, activations, driver } = gpu
        expect(cache + replicatedWeights + experts + activations + driver).toBe(memory)
      }
    }
  })

  it('of Flash on one H200 drops the draft block and keeps a twentieth of the experts on the host', () => {
    const { fits, draft, hostExperts, capacities, weights } = plan('v4-flash', '1xH200')
    expect({ fits, draft }).toEqual({ fits: true, draft: 'dropped' })
    const total = Object.values(weights).reduce((sum, bytes) => sum + bytes, 0)
    const replicated = total - weights['draft block'] - weights['routed experts']
    const room =
      150_754_820_096 -
      replicated -
      activationBytes(flash, 4096) -
      1_000_000_000 -
      sequenceBytes(flash, 131_072)
    const count = 43 * 256 - Math.floor(room / 13_369_344)
    expect(hostExperts).toEqual({
      count,
      ofAll: 11_008,
      bytes: count * 13_369_344,
      bytesPerTokenEvenUse: Math.round((258 * 13_369_344 * count) / 11_008),
    })
    expect(count).toBe(654)
    expect(capacities.find(({ context }) => context === 131_072)?.sequences).toBe(1)
  })

  it('puts more experts on the host for a longer context', () => {
    const short = plan('v4-flash', '1xH200', 8192).hostExperts?.count ?? 0
    const long = plan('v4-flash', '1xH200', 2 ** 20).hostExperts?.count ?? 0
    const more = sequenceBytes(flash, 2 ** 20) - sequenceBytes(flash, 8192)
    expect(Math.abs(long - short - more / 13_369_344)).toBeLessThanOrEqual(1)
  })

  it('of Flash on four or eight cards keeps all, and spreads sequences over them', () => {
    for (const count of [4, 8]) {
      const { draft, hostExperts, gpu, capacities } = plan('v4-flash', `${count}xH200`)
      expect({ draft, hostExperts }).toEqual({ draft: 'kept', hostExperts: null })
      // The draft block's experts are shared out like those of a layer.
      expect(gpu.experts).toBe(44 * (256 / count) * 13_369_344)
      const bytes = sequenceBytes(flash, 8192)
      expect(capacities[0]).toEqual({
        context: 8192,
        bytesPerSequence: bytes,
        sequences: count * Math.floor(gpu.cache / bytes),
      })
    }
  })

  it('of Pro needs cards that have all experts between them, where there are several', () => {
    expect(plan('v4-pro', '4xH200')).toMatchObject({ fits: false, hostExperts: null })
    expect(plan('v4-pro', '1xH200').hostExperts?.count).toBeGreaterThan(0)
    const { draft, gpu } = plan('v4-pro', '8xH200')
    expect(draft).toBe('kept')
    expect(gpu.experts).toBe(62 * (384 / 8) * expertBytes(pro, weightBytes(pro)))
    // Rows of its own an eighth each; inputs, picks and results of everybody's.
    const exchanged = 4 * 4096 * (7168 + 2 * 6 + 6 * 7168)
    expect(gpu.activations).toBe(activationBytes(pro, 512) + exchanged)
  })

  it('does not fit where what is on every card leaves no room for experts', () => {
    const small = { count: 1, kind: { name: 'small', memoryBytes: 10_000_000_000 } }
    const { fits, capacities } = planMemory(flash, { gpus: small, context: 8192, stepRows: 4096 })
    expect(fits).toBe(false)
    expect(capacities.every(({ sequences }) => sequences === 0)).toBe(true)
  })
})
