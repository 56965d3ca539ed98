import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { seededRandom } from '../../gpu-backend/src/engine/random.ts'
import type { SchedulerLimits } from '../../gpu-backend/src/engine/scheduler.ts'
import type { Model } from '../../gpu-backend/src/model/model.ts'
import { type Asked, EngineRun } from '../support/engine-run.ts'
import { cpuDevice, type ModelDevice, referenceDevice } from '../support/model-devices.ts'
import { loadToyModel } from '../support/toy-model.ts'

const limits: SchedulerLimits = {
  runningMax: 64,
  waitingMax: 400,
  waitingTokensMax: 100_000,
  stepTokensMax: 256,
}

interface Trial {
  readonly on: ModelDevice
  readonly quantisation: 'on' | 'off'
  /** How many requests of each kind. */
  readonly short: number
  readonly shared: number
  readonly long: number
  /** Pages of the small cache, and how many may run in it. */
  readonly pages: number
  readonly runningMax: number
}

const trials: readonly Trial[] = [
  {
    on: cpuDevice({ numerics: 'exact' }),
    quantisation: 'on',
    short: 34,
    shared: 22,
    long: 8,
    pages: 14,
    runningMax: 10,
  },
  // A device of another arithmetic, whose speed allows a handful.
  {
    on: referenceDevice,
    quantisation: 'off',
    short: 6,
    shared: 3,
    long: 0,
    pages: 4,
    runningMax: 2,
  },
]

/** Text of its own for each seed. */
function textOf(length: number, seed: number): Int32Array {
  const random = seededRandom(seed)
  return Int32Array.from({ length }, () => 2 + Math.floor(random() * 510))
}

/**
 * Short questions; questions about one of two long documents, which share its pages; and long
 * answers, which grow through several. Greedy and sampled.
 */
function requestsOf({ short, shared, long }: Trial): Asked[] {
  const documents = [textOf(300, 1001), textOf(540, 1002)]
  return Array.from({ length: short + shared + long }, (_, id): Asked => {
    const own = textOf(3 + ((id * 7) % 30), id)
    const sampled = { temperature: 0.9, topP: 0.95, seed: id }
    const sampling = id % 3 === 0 ? { temperature: 0, topP: 1, seed: null } : sampled
    const rest = { id, sampling, cacheSalt: `tenant ${id % 2}` }
    if (id < short) return { ...rest, prompt: own, outputTokensMax: 4 + (id % 20) }
    if (id >= short + shared) return { ...rest, prompt: textOf(240, id), outputTokensMax: 300 }
    const document = documents[short > 10 ? id % 2 : 0] ?? own
    const prompt = Int32Array.from([...document, ...own])
    return { ...rest, cacheSalt: 'one tenant', prompt, outputTokensMax: 6 + (id % 8) }
  })
}

for (const trial of trials) {
  describe.skipIf(trial.on.missing)(`${trial.on.label}, many at once`, () => {
    const requests = requestsOf(trial)
    const { quantisation, pages, runningMax } = trial
    /** By request: its text when it has the engine to itself and nothing is kept of anything. */
    let alone: readonly (readonly number[])[]
    let model: Model

    beforeAll(async () => {
      const load = async (tokensMax: number, prefixesMax: number): Promise<Model> => {
        const cache = { sequencesMax: limits.runningMax, tokensMax, prefixesMax }
        return (await loadToyModel({ quantisation, cache }, trial.on.open())).model
      }
      const empty = await load(4096, 0)
      alone = requests.map((request) => {
        const run = new EngineRun(empty, limits)
        run.submit(request)
        run.drain()
        return run.answer(request.id).tokens
      })
      empty.close()
      model = await load(256 * 256, 32)
    })

    afterAll(() => model.close())

    it('every text is the one it is alone', () => {
      const run = new EngineRun(model, limits)
      for (const request of requests) run.submit(request)
      run.step()
      run.drain()
      expect(requests.map(({ id }) => run.answer(id).tokens)).toEqual(alone)
      expect(run.stats).toMatchObject({
        running: 0,
        waiting: 0,
        cacheTokensFree: 65_536,
        preemptionsTotal: 0,
      })
      expect(run.stats.prefixHitsTotal).toBeGreaterThan(0)
    })

    it('and stays so in a small cache, where it gives way again and again', async () => {
      const cache = { sequencesMax: runningMax, tokensMax: pages * 256, prefixesMax: 5 }
      const { model: small } = await loadToyModel({ quantisation, cache }, trial.on.open())
      const run = new EngineRun(small, { ...limits, runningMax, stepTokensMax: 64 })
      const random = seededRandom(42)
      const pick = (count: number): number => Math.floor(random() * count)
      const doubles: { readonly id: number; readonly of: number }[] = []
      for (const request of requests) run.submit({ ...request, priority: -pick(2) })
      while (requests.some(({ id }) => run.answer(id).ended === null)) {
        if (random() < 0.2 && doubles.length < requests.length) {
          // The same question once more, ahead of all others, and perhaps to be given up.
          const of = pick(requests.length)
          const request = requests[of]
          const id = 1000 + doubles.length
          doubles.push({ id, of })
          if (request !== undefined) run.submit({ ...request, id, priority: 1 })
        }
        const victim = doubles[pick(doubles.length)]
        if (victim !== undefined && random() < 0.2) run.cancel(victim.id)
        run.nowMs += 10
        run.step()
      }
      run.drain()
      expect(requests.map(({ id }) => run.answer(id).tokens)).toEqual(alone)
      const cancelled = doubles.filter(({ id }) => run.answer(id).ended === 'cancelled')
      for (const { id, of } of doubles) {
        const { tokens, ended } = run.answer(id)
        const text = alone[of] ?? []
        expect(tokens).toEqual(ended === 'cancelled' ? text.slice(0, tokens.length) : text)
      }
      expect(cancelled.length).toBeGreaterThan(0)
      expect(run.stats.preemptionsTotal).toBeGreaterThan(requests.length / 6)
      expect(run.stats.prefixHitsTotal).toBeGreaterThan(0)
      expect(run.stats).toMatchObject({ running: 0, waiting: 0, cacheTokensFree: pages * 256 })
      small.close()
    })
  })
}
