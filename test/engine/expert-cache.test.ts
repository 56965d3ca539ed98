import { describe, expect, it } from 'vitest'
import { openFakeCuda } from '../../gpu-backend/src/device/cuda/testing/fake-device.ts'
import type { Device } from '../../gpu-backend/src/device/device.ts'
import { DeepSeekModel } from '../../gpu-backend/src/model/deepseek.ts'
import type { ExpertCacheCounts } from '../../gpu-backend/src/model/expert-cache.ts'
import type { Model } from '../../gpu-backend/src/model/model.ts'
import { feed, goldenTokens, loadToyModel, prefillThenOnes } from '../support/toy-model.ts'

// The toy has 40 routed experts in five layers, two of a token each; two layers route by token id.
// With fewer slots than experts it has to give the same bits.

const total = 24
const tokens = goldenTokens(0, total)

async function logits(expertSlots: number | null, device?: Device) {
  const options = expertSlots === null ? {} : { expertSlots }
  const { model, device: on } = await loadToyModel(options, device)
  const sequence = model.createSequence({ maxTokens: total })
  const rows = feed(model, sequence, tokens, prefillThenOnes(9, total))
  const counts = countsOf(model)
  model.close()
  expect(on.memory()).toMatchObject({ buffers: 0, allocatedBytes: 0 })
  return { rows, counts }
}

function countsOf(model: Model): ExpertCacheCounts | null {
  return model instanceof DeepSeekModel ? model.expertCounts : null
}

describe('experts that do not all fit', () => {
  it.each([2, 3, 16, 39])('give the same bits from %i slots', async (slots) => {
    const whole = await logits(null)
    expect(whole.counts).toBeNull()
    const found = await logits(slots)
    expect(found.rows).toEqual(whole.rows)
    expect(found.counts?.brought).toBeGreaterThan(0)
  })

  it('are refused with fewer slots than a token has experts', async () => {
    await expect(loadToyModel({ expertSlots: 1 })).rejects.toMatchObject({
      code: 'expert_slots_too_few',
    })
  })

  it('are brought less often the more slots there are', async () => {
    const brought: number[] = []
    for (const slots of [2, 16, 39]) brought.push((await logits(slots)).counts?.brought ?? 0)
    expect(brought.toSorted((a, b) => b - a)).toEqual(brought)
    expect(new Set(brought).size).toBe(3)
  })

  it('are fetched ahead where the token says which', async () => {
    const { counts } = await logits(16)
    expect(counts?.prefetched).toBeGreaterThan(0)
    expect(counts?.prefetched).toBeLessThan(counts?.brought ?? 0)
  })
})

const probe = await openFakeCuda()
if ('reason' in probe) console.warn(`skipped: no CUDA kernels on the host, ${probe.reason}`)

describe.skipIf('reason' in probe)('a model larger than its GPU', () => {
  const open = async (memoryBytes: number): Promise<Device> => {
    const fake = await openFakeCuda({ memoryBytes })
    if ('reason' in fake) throw new Error(fake.reason)
    return fake.open()
  }

  it('is refused whole, and served from host memory, with the same bits', async () => {
    // Weights and cache are 7.3 MB, 2.1 of them 40 experts; with 12 on the GPU it is 5.9.
    const cache = { sequencesMax: 1, tokensMax: 256, prefixesMax: 0 }
    const memoryBytes = 6_900_000
    const refused = loadToyModel({ cache }, await open(memoryBytes))
    await expect(refused).rejects.toMatchObject({ code: 'out_of_memory', device: 'cuda' })

    const large = await loadToyModel({ cache }, await open(2 ** 30))
    const whole = feed(
      large.model,
      large.model.createSequence({ maxTokens: total }),
      tokens,
      [9, 10, 11, 12],
    )
    const small = await loadToyModel({ cache, expertSlots: 12 }, await open(memoryBytes))
    const sequence = small.model.createSequence({ maxTokens: total })
    expect(feed(small.model, sequence, tokens, [9, 10, 11, 12])).toEqual(whole)
    expect(countsOf(small.model)?.brought).toBeGreaterThan(0)
    expect(small.device.memory().peakBytes).toBeLessThan(memoryBytes)
    small.device.close()
  })
})
