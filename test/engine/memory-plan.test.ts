import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { parseModelConfig } from '#weights/layout/config.ts'
import { parseGpuSet } from '#weights/plan/gpu-kinds.ts'
import { exchangeBytes, planMemory } from '#weights/plan/memory-plan.ts'
import { weightSource } from '../../gpu-backend/bench/narrow-model.ts'
import { CountingDevice } from '../../gpu-backend/src/kernels/testing/counting-device.ts'
import { loadModel } from '../../gpu-backend/src/model/model.ts'
import { modelShape } from '../../gpu-backend/src/model/shape.ts'
import { ownedExperts } from '../../gpu-backend/src/model/split-experts.ts'
import { WeightPlacer } from '../../gpu-backend/src/model/weight-placer.ts'
import { describeModel } from '../../gpu-backend/src/model/weights.ts'
import { groupOfOne } from '../support/device-groups.ts'
import { goldenTokens } from '../support/toy-model.ts'
import { openToyCheckpoint } from '#weights/toy/open-toy.ts'

// What `weights plan` says of several GPUs is what loading a model onto them takes.

const formats = { activations: 'f32', keys: 'f32', indexKeys: 'f32', compactRows: true } as const

const configOf = (name: string) => {
  const file = new URL(`../vectors/config/${name}.json`, import.meta.url)
  return parseModelConfig(JSON.parse(readFileSync(file, 'utf8')))
}

describe('a memory plan', () => {
  it.each([
    { name: 'v4-flash', set: '4xH200' },
    { name: 'v4-flash', set: '8xB200' },
    { name: 'v4-pro', set: '8xH200' },
  ])('of $name on $set has the weights that are placed on the first of them', ({ name, set }) => {
    const config = configOf(name)
    const gpus = parseGpuSet(set)
    if (gpus === null) throw new Error(`${set} is a set of GPUs`)
    const { gpu, draft } = planMemory(config, { gpus, context: 8192, stepRows: 512 })
    expect(draft).toBe('kept')
    const device = new CountingDevice(formats)
    const source = weightSource(config)
    const owned = ownedExperts(config.expertCount, gpus.count, 0)
    describeModel(new WeightPlacer(source, device), source, modelShape(config), true, { owned })
    const frequencies = 2 * 4 * (config.ropeDim / 2)
    const { allocatedBytes } = device.memory()
    expect(allocatedBytes).toBe(gpu.replicatedWeights + gpu.experts + frequencies)
  })

  it('counts what devices that share experts keep of a step beside what one keeps', async () => {
    const toy = await openToyCheckpoint()
    const stepBytes = async (places: number): Promise<number> => {
      const device = new CountingDevice(formats)
      const model = await loadModel(toy, groupOfOne(device, places), {
        quantisation: 'off',
        cacheUpfront: true,
        cache: { sequencesMax: 2, tokensMax: 512, prefixesMax: 0 },
      })
      const on = Array.from({ length: places }, (_, i) => i)
      const sequences = on.map((i) => model.createSequence({ maxTokens: 24, on: i }))
      const before = device.memory().allocatedBytes
      const tokens = goldenTokens(0, 24 / places)
      model.forward(sequences.map((sequence) => ({ sequence, tokens, logits: 'none' })))
      return device.memory().allocatedBytes - before
    }
    // The same 24 rows, on one device and on two: all else is there once for each row.
    expect((await stepBytes(2)) - (await stepBytes(1))).toBe(2 * exchangeBytes(toy.config, 24))
  })
})
