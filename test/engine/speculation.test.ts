import { strict as assert } from 'node:assert'
import { beforeAll, describe, expect, it } from 'vitest'
import { Engine, type EngineModel } from '../../gpu-backend/src/engine/engine.ts'
import type {
  EngineEvent,
  EngineStats,
  GenerationRequest,
} from '../../gpu-backend/src/engine/protocol.ts'
import { seededRandom } from '../../gpu-backend/src/engine/random.ts'
import type { SchedulerLimits } from '../../gpu-backend/src/engine/scheduler.ts'
import { type GuessingModel, Speculation } from '../../gpu-backend/src/engine/speculation.ts'
import type { Model, Sequence } from '../../gpu-backend/src/model/model.ts'
import { GuidedModel } from '../support/guided-model.ts'
import { cpuDevice, referenceDevice } from '../support/model-devices.ts'
import { goldenTokens, loadToyModel } from '../support/toy-model.ts'

const pageTokens = 256
const quick = cpuDevice({ numerics: 'exact', threads: 2 })
const on = quick.missing ? referenceDevice : quick
const cache = { sequencesMax: 8, tokensMax: 24 * pageTokens, prefixesMax: 6 }
const limits: SchedulerLimits = {
  runningMax: 6,
  waitingMax: 16,
  waitingTokensMax: 100_000,
  stepTokensMax: 96,
}

function request(id: number, changes: Partial<GenerationRequest>): GenerationRequest {
  return {
    id,
    prompt: goldenTokens(11 * id, 11 * id + 20 + id),
    outputTokensMax: 30,
    sampling: { temperature: 0, topP: 1, seed: null },
    topLogprobs: null,
    priority: 0,
    deadlineMs: null,
    cacheSalt: null,
    ...changes,
  }
}

const sampled = { temperature: 1, topP: 0.9, seed: 77 }

/** Greedy and sampled, across the ends of pages, with ends at once and in the middle. */
const requests: readonly GenerationRequest[] = [
  request(1, {}),
  request(2, { sampling: sampled, topLogprobs: 3 }),
  request(3, { prompt: goldenTokens(0, pageTokens - 9), outputTokensMax: 25 }),
  request(4, { prompt: goldenTokens(5, 2 * pageTokens + 3), sampling: sampled }),
  request(5, { outputTokensMax: 1 }),
  request(6, { outputTokensMax: 2, sampling: sampled }),
  request(7, { sampling: { temperature: 0.3, topP: 1, seed: 5 }, outputTokensMax: 45 }),
  // These keep whole pages of prompt and answer, and the last two share one.
  request(8, { prompt: goldenTokens(0, pageTokens - 5), cacheSalt: 'one', outputTokensMax: 20 }),
  request(9, { prompt: goldenTokens(0, pageTokens + 40), cacheSalt: 'one', sampling: sampled }),
  request(10, { prompt: goldenTokens(0, pageTokens + 20), cacheSalt: 'one' }),
]

interface Outcome {
  readonly events: ReadonlyMap<number, readonly EngineEvent[]>
  readonly stats: EngineStats
}

interface RunOptions {
  readonly draftsMax: number
  readonly limits?: Partial<SchedulerLimits>
  readonly of?: readonly GenerationRequest[]
  /** Called before each step. */
  readonly onStep?: (engine: Engine, step: number) => void
}

function runEngine(model: EngineModel & GuessingModel, options: RunOptions): Outcome {
  const events = new Map<number, EngineEvent[]>()
  const engine = new Engine({
    model,
    limits: { ...limits, ...options.limits },
    speculation: options.draftsMax === 0 ? null : new Speculation(model, options.draftsMax),
    random: seededRandom(3),
    now: () => 0,
    emit: (told) => {
      for (const event of told) {
        const own = events.get(event.id) ?? []
        own.push(event)
        events.set(event.id, own)
      }
    },
  })
  for (const each of options.of ?? requests) engine.submit(each)
  for (let step = 0; !engine.idle; step++) {
    assert(step < 5000, 'the engine comes to an end')
    options.onStep?.(engine, step)
    engine.step()
  }
  expect(model.capacity().sequencesUsed).toBe(0)
  return { events, stats: engine.stats }
}

function tokensOf({ events }: Outcome, id: number): number[] {
  return (events.get(id) ?? []).flatMap((event) => (event.kind === 'token' ? [event.token] : []))
}

/** Prompt and answer of every request. */
function textsOf(outcome: Outcome): number[][] {
  return requests.map(({ id, prompt }) => [...prompt, ...tokensOf(outcome, id)])
}

async function load(changes: Partial<typeof cache> = {}): Promise<Model> {
  const options = { quantisation: 'on', mtp: true, cache: { ...cache, ...changes } } as const
  return (await loadToyModel(options, on.open())).model
}

const never = (): boolean => false
const sometimes = (position: number): boolean => (position * 7) % 10 < 3

describe(`speculation on ${on.label}`, () => {
  let plain: Outcome
  let texts: readonly (readonly number[])[]

  beforeAll(async () => {
    plain = runEngine(await load(), { draftsMax: 0 })
    texts = textsOf(plain)
    expect(plain.stats).toMatchObject({ draftedTokensTotal: 0, prefixHitsTotal: 1 })
  })

  it.each([1, 3])("changes no event, %i guesses of the toy's own head", async (draftsMax) => {
    const found = runEngine(await load(), { draftsMax })
    expect(found.events).toEqual(plain.events)
    expect(found.stats.draftedTokensTotal).toBeGreaterThan(20)
  })

  it.each([
    [1, 'always', never],
    [4, 'always', never],
    [8, 'always', never],
    [1, 'often', sometimes],
    [3, 'often', sometimes],
  ] as const)(
    'changes no event, %i guesses %s right, and saves steps',
    async (draftsMax, _, isWrong) => {
      const model = new GuidedModel(await load(), texts, isWrong)
      const found = runEngine(model, { draftsMax })
      expect(found.events).toEqual(plain.events)
      expect(found.stats.prefixHitsTotal).toBe(1)
      const { draftedTokensTotal: drafted, acceptedTokensTotal: accepted } = found.stats
      expect(accepted).toBeGreaterThan(50)
      if (isWrong === never) expect(accepted).toBe(drafted)
      else expect(accepted).toBeLessThan(drafted)
      expect(found.stats.generatedTokensTotal).toBe(plain.stats.generatedTokensTotal)
      expect(found.stats.stepsTotal).toBeLessThan(plain.stats.stepsTotal)
    },
  )

  it('takes one request that is guessed right through in half the steps and fewer', async () => {
    const [of] = requests.filter(({ id }) => id === 7)
    assert(of !== undefined)
    const steps = async (draftsMax: number): Promise<number> => {
      const model = new GuidedModel(await load(), texts, never)
      const found = runEngine(model, { draftsMax, of: [of] })
      expect(tokensOf(found, 7)).toEqual(tokensOf(plain, 7))
      return found.stats.stepsTotal
    }
    // The prompt's step draws the first of 45 tokens; the others come 1, 2 or 5 a step.
    expect([await steps(0), await steps(1), await steps(4)]).toEqual([45, 23, 10])
  })

  it('drops a wrong head after some steps, and is then what it was without it', async () => {
    const of = [request(1, { outputTokensMax: 200 })]
    const without = runEngine(await load(), { draftsMax: 0, of })
    const model = new GuidedModel(await load(), [], never)
    const found = runEngine(model, { draftsMax: 2, of })
    expect(found.events).toEqual(without.events)
    expect(found.stats).toMatchObject({ stepsTotal: 200, acceptedTokensTotal: 0 })
    expect(found.stats.draftedTokensTotal).toBe(2 * 22)
  })

  it('is forgotten when requests are cancelled', async () => {
    const cancelled = [2, 4, 8]
    const found = runEngine(new GuidedModel(await load(), texts, sometimes), {
      draftsMax: 2,
      onStep: (engine, step) => {
        for (const id of cancelled) if (step === 9 + id) engine.cancel(id)
      },
    })
    for (const { id } of requests) {
      const whole = tokensOf(plain, id)
      const part = tokensOf(found, id)
      if (cancelled.includes(id)) expect(part).toEqual(whole.slice(0, part.length))
      else expect(part).toEqual(whole)
    }
    expect(found.events.get(2)?.at(-1)).toMatchObject({ kind: 'finished', reason: 'cancelled' })
  })

  it('goes on after preemption as if there had been none', async () => {
    // Prompts of most of a page each, and answers that grow into pages that are not there.
    const of = [0, 1, 2, 3].map((id) =>
      request(id, {
        prompt: goldenTokens(30 * id, 30 * id + 200 + 15 * id),
        outputTokensMax: 80,
        sampling: id % 2 === 0 ? sampled : { temperature: 0, topP: 1, seed: null },
      }),
    )
    const roomy = runEngine(await load(), { draftsMax: 0, of })
    const known = of.map(({ id, prompt }) => [...prompt, ...tokensOf(roomy, id)])
    for (const isWrong of [never, sometimes]) {
      const narrow = await load({ tokensMax: 5 * pageTokens })
      const found = runEngine(new GuidedModel(narrow, known, isWrong), { draftsMax: 3, of })
      expect(found.stats.preemptionsTotal).toBeGreaterThan(0)
      expect(found.stats.acceptedTokensTotal).toBeGreaterThan(20)
      for (const { id } of of) expect(tokensOf(found, id)).toEqual(tokensOf(roomy, id))
      expect(narrow.capacity().pagesFree).toBe(5)
    }
  })
})

describe('a guess that was taken back', () => {
  const tokens = goldenTokens(0, pageTokens + 1)

  /** Feeds the text in steps of what is known, each with `wrong` guesses behind it, and drafts on. */
  function feedGuessing(model: Model, sequence: Sequence, wrong: number): void {
    for (let start = 0; start < pageTokens;) {
      const known = Math.min(1 + (start % 5), pageTokens - start)
      const guesses = Array.from({ length: wrong }, (_, i) => (start * 13 + i * 5) % 512)
      const fed = Int32Array.of(...tokens.subarray(start, start + known), ...guesses)
      model.forward([{ sequence, tokens: fed, logits: 'none' }])
      start += known
      model.rollback(sequence, start)
      const next = tokens.subarray(start - known + 1, start + 1)
      model.draft([{ sequence, tokens: next, after: 'forward', logits: 'last' }])
      for (const guess of guesses) {
        const behind = Int32Array.of(guess)
        model.draft([{ sequence, tokens: behind, after: 'draft', logits: 'last' }])
      }
    }
  }

  it('leaves no trace in anything that is kept', async () => {
    const model = await load()
    const kept = [0, 1, 7].map((wrong) => {
      const sequence = model.createSequence({ maxTokens: 2 * pageTokens })
      feedGuessing(model, sequence, wrong)
      const prefix = model.keepPrefix(sequence)
      assert(prefix !== null, 'a place is left')
      expect(prefix).toMatchObject({ length: pageTokens, drafted: true })
      return Buffer.from(model.readPrefix(prefix))
    })
    const [never, once, often] = kept
    assert(never !== undefined && once !== undefined && often !== undefined)
    expect([once.equals(never), often.equals(never)]).toEqual([true, true])
  })
})
