import { describe, expect, it } from 'vitest'
import { openToyCheckpoint } from '#weights/toy/open-toy.ts'
import { seededRandom } from '../../gpu-backend/src/engine/random.ts'
import { Speculation } from '../../gpu-backend/src/engine/speculation.ts'
import { loadModel, type Model } from '../../gpu-backend/src/model/model.ts'
import { groupOfOne } from '../support/device-groups.ts'
import { type Asked, EngineRun } from '../support/engine-run.ts'
import { cpuDevice } from '../support/model-devices.ts'
import { loadToyModel } from '../support/toy-model.ts'

// One engine over a model that several devices share: each device has a scheduler, a cache and
// sequences of its own, and whoever asks does not notice.

const on = cpuDevice({ numerics: 'exact', threads: 2 })
const limits = { runningMax: 6, waitingMax: 40, waitingTokensMax: 100_000, stepTokensMax: 192 }
const cache = { sequencesMax: 3, tokensMax: 6 * 256, prefixesMax: 4 }

function textOf(length: number, seed: number): Int32Array {
  const random = seededRandom(seed)
  return Int32Array.from({ length }, () => 2 + Math.floor(random() * 510))
}

/** Short questions, and some about one long document. */
const requests = Array.from({ length: 18 }, (_, id): Asked => {
  const own = textOf(3 + ((id * 7) % 30), id)
  const prompt = id % 3 === 0 ? Int32Array.of(...textOf(300, 99), ...own) : own
  const sampling = { temperature: id % 2, topP: 1, seed: id }
  return { id, prompt, outputTokensMax: 4 + (id % 9), sampling, cacheSalt: 'one tenant' }
})

async function shared(devices: number): Promise<Model> {
  const group = groupOfOne(on.open(), devices)
  return loadModel(await openToyCheckpoint(), group, { quantisation: 'on', mtp: true, cache })
}

function texts(run: EngineRun): (readonly number[])[] {
  return requests.map(({ id }) => run.answer(id).tokens)
}

describe.skipIf(on.missing)('an engine over several devices', () => {
  it.each([2, 3])('answers on %i as on one, and leaves nothing behind', async (devices) => {
    const one = await loadToyModel({ quantisation: 'on' }, on.open())
    const alone = new EngineRun(one.model, limits)
    for (const request of requests) alone.submit(request)
    alone.drain()

    const model = await shared(devices)
    const run = new EngineRun(model, limits, new Speculation(model, 2))
    const most = Array.from({ length: devices }, () => 0)
    for (const request of requests) run.submit(request)
    while (run.open > 0) {
      run.step()
      for (const [i, used] of most.entries()) {
        most[i] = Math.max(used, model.capacity(i).sequencesUsed)
      }
    }
    expect(texts(run)).toEqual(texts(alone))
    expect(run.stats).toMatchObject({ running: 0, waiting: 0, waitingTokens: 0 })
    // All of them had as many as they may have.
    expect(most).toEqual(most.map(() => Math.ceil(limits.runningMax / devices)))
    expect(run.stats.prefixHitsTotal).toBeGreaterThan(0)
  })

  it('asks next where a beginning is kept, and elsewhere when much waits there', async () => {
    const model = await shared(2)
    const run = new EngineRun(model, limits)
    const ask = (id: number, own: number): void => {
      const prompt = Int32Array.of(...textOf(300, 99), ...textOf(own, id))
      run.submit({ id, prompt, outputTokensMax: 8, cacheSalt: 'one tenant' })
    }
    const used = (): number[] => [0, 1].map((i) => model.capacity(i).sequencesUsed)
    ask(0, 5)
    run.drain()
    for (const id of [1, 2]) ask(id, 5)
    run.step()
    expect(used()).toEqual([2, 0])
    expect([1, 2].map((id) => run.answer(id).cachedTokens)).toEqual([256, 256])
    // The third place is taken by a prompt of which nothing is kept, so that this device is full.
    run.submit({ id: 3, prompt: textOf(40, 3), outputTokensMax: 8 })
    run.step()
    expect(used()).toEqual([2, 1])
    for (const id of [4, 5]) ask(id, 5)
    run.step()
    expect(used()).toEqual([3, 2])
    expect([4, 5].map((id) => run.answer(id).cachedTokens)).toEqual([256, 0])
    run.drain()
  })
})
