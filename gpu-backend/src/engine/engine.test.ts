import { strict as assert } from 'node:assert'
import { describe, expect, it } from 'vitest'
import { Engine, type EngineModel, type EngineOptions, statsEveryMs } from './engine.ts'
import type { EngineEvent, EngineStats, GenerationRequest } from './protocol.ts'
import { seededRandom } from './random.ts'
import type { SchedulerLimits } from './scheduler.ts'
import { FakeModel } from './testing/fake-model.ts'

const limits: SchedulerLimits = {
  runningMax: 4,
  waitingMax: 4,
  waitingTokensMax: 1000,
  stepTokensMax: 8,
}

const eosTokenId = 1

const request = (
  id: number,
  prompt: readonly number[],
  changes: Partial<GenerationRequest> = {},
): GenerationRequest => ({
  id,
  prompt: Int32Array.from(prompt),
  outputTokensMax: 5,
  sampling: { temperature: 0, topP: 1, seed: null },
  topLogprobs: null,
  priority: 0,
  deadlineMs: null,
  cacheSalt: null,
  ...changes,
})

/** An engine that hands its events over at each step. */
interface Driven {
  readonly idle: boolean
  step(): readonly EngineEvent[]
}

function engineOver(
  model: EngineModel,
  changes: Partial<SchedulerLimits> = {},
  options: Partial<EngineOptions> = {},
): Driven & Pick<Engine, 'submit' | 'cancel' | 'stats'> {
  const emitted: EngineEvent[] = []
  const engine = new Engine({
    model,
    limits: { ...limits, ...changes },
    random: seededRandom(1),
    now: () => 0,
    emit: (events) => emitted.push(...events),
    ...options,
  })
  return {
    get idle() {
      return engine.idle
    },
    get stats() {
      return engine.stats
    },
    submit: (wanted) => engine.submit(wanted),
    cancel: (id) => engine.cancel(id),
    step: () => {
      engine.step()
      return emitted.splice(0)
    },
  }
}

function drain(engine: Driven): EngineEvent[] {
  const events: EngineEvent[] = []
  for (let steps = 0; !engine.idle; steps++) {
    assert(steps < 1000, 'the engine comes to an end')
    events.push(...engine.step())
  }
  return events
}

const tokensOf = (events: readonly EngineEvent[], id: number): number[] =>
  events.flatMap((event) => (event.kind === 'token' && event.id === id ? [event.token] : []))

const endOf = (events: readonly EngineEvent[], id: number): EngineEvent | undefined =>
  events.find((event) => event.kind === 'finished' && event.id === id)

describe('Engine', () => {
  it('starts, generates up to the limit and frees the cache', () => {
    const model = new FakeModel()
    const engine = engineOver(model)
    engine.submit(request(1, [3, 4, 5], { outputTokensMax: 2 }))
    const events = drain(engine)
    expect(events.map((event) => event.kind)).toEqual(['started', 'token', 'token', 'finished'])
    expect(events.at(-1)).toEqual({ kind: 'finished', id: 1, reason: 'length', generated: 2 })
    expect(model.sequences.size).toBe(0)
  })

  it('says that a request has started before the model takes its time', () => {
    const model = new FakeModel()
    const told: string[] = []
    const engine = new Engine({
      model,
      limits: { ...limits, runningMax: 1, waitingMax: 0, stepTokensMax: 2 },
      random: seededRandom(1),
      now: () => 0,
      emit: (events) => told.push(`${events[0]?.kind} after ${model.steps.length}`),
    })
    engine.submit(request(1, [3, 4, 5], { outputTokensMax: 1 }))
    while (!engine.idle) engine.step()
    expect(told).toEqual(['started after 0', 'token after 2'])
  })

  it('stops at the end token and counts it', () => {
    const engine = engineOver(new FakeModel({ script: new Map([[4, eosTokenId]]) }))
    engine.submit(request(1, [3, 4]))
    const events = drain(engine)
    expect(tokensOf(events, 1).at(-1)).toBe(eosTokenId)
    expect(endOf(events, 1)).toEqual({ kind: 'finished', id: 1, reason: 'stop', generated: 3 })
  })

  it('calls it an end and not a limit when the end token is the last allowed', () => {
    const engine = engineOver(new FakeModel({ script: new Map([[3, eosTokenId]]) }))
    engine.submit(request(1, [3, 4], { outputTokensMax: 2 }))
    expect(endOf(drain(engine), 1)).toMatchObject({ reason: 'stop', generated: 2 })
  })

  it('gives a seed the same text alone, in company, and with the prompt cut into chunks', () => {
    const sampling = { temperature: 1, topP: 0.9, seed: 99 }
    const prompt = [2, 3, 4, 5, 6, 7, 8, 9, 10, 11]
    const target = request(1, prompt, { sampling, outputTokensMax: 20 })
    const alone = engineOver(new FakeModel())
    alone.submit(target)
    const crowded = engineOver(new FakeModel(), { runningMax: 3, stepTokensMax: 6 })
    for (const id of [7, 8]) crowded.submit(request(id, [id, 2, 2, 2], { outputTokensMax: 30 }))
    crowded.step()
    crowded.submit(target)
    const text = tokensOf(drain(alone), 1)
    expect(text).toHaveLength(20)
    expect(tokensOf(drain(crowded), 1)).toEqual(text)
  })

  it('gives requests without a seed different texts', () => {
    const sampling = { temperature: 1, topP: 1, seed: null }
    const engine = engineOver(new FakeModel())
    for (const id of [1, 2]) engine.submit(request(id, [5], { sampling, outputTokensMax: 12 }))
    const events = drain(engine)
    expect(tokensOf(events, 1)).not.toEqual(tokensOf(events, 2))
  })

  it('runs no step for a request after its cancellation', () => {
    const model = new FakeModel()
    const engine = engineOver(model)
    engine.submit(request(1, [3], { outputTokensMax: 50 }))
    engine.submit(request(2, [4], { outputTokensMax: 3 }))
    engine.step()
    engine.cancel(1)
    expect(model.sequences.size).toBe(1)
    const events = engine.step()
    expect(events[0]).toEqual({ kind: 'finished', id: 1, reason: 'cancelled', generated: 1 })
    expect(model.steps.map(({ segments }) => segments)).toEqual([2, 1])
    engine.cancel(1)
    expect(drain(engine).filter(({ id }) => id === 1)).toEqual([])
  })

  it('ends a request that was cancelled while it waited', () => {
    const engine = engineOver(new FakeModel(), { runningMax: 1 })
    engine.submit(request(1, [3], { outputTokensMax: 2 }))
    engine.submit(request(2, [4]))
    engine.step()
    engine.cancel(2)
    const events = drain(engine)
    expect(endOf(events, 2)).toEqual({
      kind: 'finished',
      id: 2,
      reason: 'cancelled',
      generated: 0,
    })
  })

  it('lets a request wait for room in the cache and refuses one that never has it', () => {
    const engine = engineOver(new FakeModel({ pagesMax: 3 }))
    engine.submit(request(1, [3, 3, 3, 3, 3, 3], { outputTokensMax: 6 }))
    engine.submit(request(2, [4, 4, 4, 4, 4, 4], { outputTokensMax: 5 }))
    engine.submit(request(3, [5], { outputTokensMax: 13 }))
    const events = drain(engine)
    const order = events.filter((event) => event.kind !== 'token')
    expect(order.map((event) => `${event.kind} ${event.id}`)).toEqual([
      'finished 3',
      'started 1',
      'finished 1',
      'started 2',
      'finished 2',
    ])
    expect(order[0]).toMatchObject({ reason: 'refused', generated: 0 })
  })

  it('refuses what is beyond the queue', () => {
    const engine = engineOver(new FakeModel(), { runningMax: 1, waitingMax: 0 })
    engine.submit(request(1, [3], { outputTokensMax: 1 }))
    engine.submit(request(2, [3], { outputTokensMax: 1 }))
    const events = drain(engine)
    expect([endOf(events, 1), endOf(events, 2)]).toMatchObject([
      { reason: 'length' },
      { reason: 'refused' },
    ])
  })

  it('reports probabilities only where they were asked for', () => {
    const engine = engineOver(new FakeModel())
    engine.submit(request(1, [3], { outputTokensMax: 1, topLogprobs: 2 }))
    engine.submit(request(2, [3], { outputTokensMax: 1 }))
    const tokens = drain(engine).filter((event) => event.kind === 'token')
    const [asked, unasked] = tokens
    expect(asked?.logprobs?.token).toBe(asked?.token)
    expect(asked?.logprobs?.top).toHaveLength(2)
    expect(asked?.logprobs?.top[0]?.token).toBe(asked?.token)
    expect(unasked?.logprobs).toBeNull()
  })

  it('tells a request whose deadline passes that it is over, with what there is', () => {
    let nowMs = 0
    const engine = engineOver(new FakeModel(), { runningMax: 1 }, { now: () => nowMs })
    engine.submit(request(1, [3, 4], { deadlineMs: 100, outputTokensMax: 50 }))
    engine.submit(request(2, [3, 4], { deadlineMs: 100 }))
    engine.submit(request(3, [3, 4], { deadlineMs: 101, outputTokensMax: 1 }))
    engine.step()
    engine.step()
    nowMs = 100
    engine.submit(request(4, [3], { deadlineMs: 100 }))
    const events = drain(engine)
    expect([1, 2, 3, 4].map((id) => endOf(events, id))).toMatchObject([
      { reason: 'length', generated: 2 },
      { reason: 'expired', generated: 0 },
      { reason: 'length', generated: 1 },
      { reason: 'expired', generated: 0 },
    ])
  })

  it('lets a bug in the model out instead of answering with it', () => {
    const broken = new FakeModel()
    broken.forward = () => {
      throw new TypeError('device lost')
    }
    const engine = engineOver(broken)
    engine.submit(request(1, [3]))
    expect(() => engine.step()).toThrow('device lost')
  })
})

describe('a full cache', () => {
  const sampling = { temperature: 1, topP: 1, seed: 5 }
  const long = (id: number, changes: Partial<GenerationRequest> = {}) =>
    request(id, [id, 2, 3], { sampling, outputTokensMax: 30, ...changes })

  it('sets the last aside, and its text goes on where it was', () => {
    const alone = [1, 2, 3].map((id) => {
      const engine = engineOver(new FakeModel())
      engine.submit(long(id))
      return tokensOf(drain(engine), id)
    })
    const engine = engineOver(new FakeModel({ pagesMax: 12 }))
    for (const id of [1, 2, 3]) engine.submit(long(id))
    const events = drain(engine)
    expect([1, 2, 3].map((id) => tokensOf(events, id))).toEqual(alone)
    expect(engine.stats).toMatchObject({ running: 0, cacheTokensFree: 48 })
    expect(engine.stats.preemptionsTotal).toBeGreaterThan(0)
    // Each is told once that it has started, however often it comes back.
    expect(events.filter(({ kind }) => kind === 'started')).toHaveLength(3)
  })

  it('gives way to a request of higher priority', () => {
    const model = new FakeModel()
    const engine = engineOver(model, { runningMax: 1 })
    engine.submit(long(1, { priority: -1 }))
    engine.step()
    engine.submit(request(2, [5], { outputTokensMax: 1 }))
    const ends = drain(engine).filter(({ kind }) => kind === 'finished')
    expect(ends.map(({ id }) => id)).toEqual([2, 1])
  })

  it('forgets a request that is cancelled while it is set aside', () => {
    const model = new FakeModel()
    const engine = engineOver(model, { runningMax: 1 })
    engine.submit(long(1, { priority: -1 }))
    engine.step()
    engine.submit(long(2))
    engine.step()
    engine.cancel(1)
    expect(endOf(engine.step(), 1)).toMatchObject({ reason: 'cancelled', generated: 1 })
    expect([model.sequences.size, engine.stats.waiting]).toEqual([1, 0])
  })
})

describe('the prefix cache', () => {
  const system = [2, 3, 4, 5, 6, 7, 8, 9]
  const ask = (id: number, changes: Partial<GenerationRequest> = {}) =>
    request(id, [...system, 10, 11], { cacheSalt: 'tenant', outputTokensMax: 3, ...changes })

  const run = (engine: Driven & Pick<Engine, 'submit'>, wanted: GenerationRequest) => {
    engine.submit(wanted)
    const events = drain(engine)
    const started = events.find((event) => event.kind === 'started')
    return { cachedTokens: started?.cachedTokens, tokens: tokensOf(events, wanted.id) }
  }

  it('computes a prompt once, and answers a second time the same', () => {
    const model = new FakeModel()
    const engine = engineOver(model)
    const first = run(engine, ask(1))
    const tokensOfFirst = model.steps.splice(0).reduce((total, { tokens }) => total + tokens, 0)
    const second = run(engine, ask(2))
    const tokensOfSecond = model.steps.reduce((total, { tokens }) => total + tokens, 0)
    expect([first.cachedTokens, second.cachedTokens]).toEqual([0, 8])
    expect(tokensOfFirst - tokensOfSecond).toBe(8)
    expect(second.tokens).toEqual(first.tokens)
    expect(engine.stats).toMatchObject({
      promptTokensTotal: 10 + 2,
      cachedTokensTotal: 8,
      generatedTokensTotal: 6,
      prefixQueriesTotal: 2,
      prefixHitsTotal: 1,
    })
  })

  it('is of no use to another salt, whose request costs what it cost the first', () => {
    const costs = ['tenant', 'other', null, null].map((cacheSalt, index) => {
      const model = new FakeModel()
      const engine = engineOver(model)
      run(engine, ask(1))
      const before = model.steps.length
      const { cachedTokens } = run(engine, ask(2 + index, { cacheSalt }))
      return [cachedTokens, ...model.steps.slice(before).map(({ tokens }) => tokens)]
    })
    expect(costs).toEqual([
      [8, 2, 1, 1],
      [0, 8, 2, 1, 1],
      [0, 8, 2, 1, 1],
      [0, 8, 2, 1, 1],
    ])
  })

  it('serves the next turn of a chat from the last page of its answer', () => {
    const engine = engineOver(new FakeModel())
    const turn = ask(1, { outputTokensMax: 9 })
    const { tokens } = run(engine, turn)
    expect(tokens).toHaveLength(9)
    // Fed: ten of the prompt and eight of the answer, of which sixteen fill pages.
    const prompt = Int32Array.from([...turn.prompt, ...tokens, 12, 13])
    expect(run(engine, ask(2, { prompt })).cachedTokens).toBe(16)
  })

  it('has one compute for all who came together', () => {
    const model = new FakeModel()
    const engine = engineOver(model)
    for (const id of [1, 2, 3]) engine.submit(ask(id))
    const events = drain(engine)
    const found = events.flatMap((event) => (event.kind === 'started' ? [event.cachedTokens] : []))
    expect(found).toEqual([0, 8, 8])
    const [first, ...others] = [1, 2, 3].map((id) => tokensOf(events, id))
    expect(others).toEqual([first, first])
  })

  it('gives its pages up to sequences, and all of them in the end', () => {
    const model = new FakeModel({ pagesMax: 8 })
    const engine = engineOver(model)
    for (let id = 1; id <= 5; id++)
      run(engine, ask(id, { prompt: Int32Array.from([id, ...system]) }))
    expect(model.prefixes.size).toBeGreaterThan(1)
    expect(engine.stats.cacheTokensFree).toBe(32)
    run(engine, request(6, [...system, ...system], { outputTokensMax: 17 }))
    expect([model.prefixes.size, model.capacity().pagesFree]).toEqual([0, 8])
  })
})

describe('statistics', () => {
  it('come now and then, and when the work has ended', () => {
    let nowMs = 0
    const told: EngineStats[] = []
    const engine = engineOver(
      new FakeModel(),
      {},
      {
        now: () => nowMs,
        emitStats: (stats) => told.push(stats),
      },
    )
    engine.submit(request(1, [3, 4], { outputTokensMax: 9 }))
    while (!engine.idle) {
      engine.step()
      nowMs += statsEveryMs / 4
    }
    const steps = told.map(({ running, stepsTotal }) => [running, stepsTotal])
    expect(steps).toEqual([
      [1, 1],
      [1, 5],
      [0, 9],
    ])
    expect(told.at(-1)).toEqual({
      running: 0,
      waiting: 0,
      waitingTokens: 0,
      cacheTokensFree: 256,
      cacheTokensMax: 256,
      promptTokensTotal: 2,
      cachedTokensTotal: 0,
      generatedTokensTotal: 9,
      preemptionsTotal: 0,
      prefixQueriesTotal: 0,
      prefixHitsTotal: 0,
      draftedTokensTotal: 0,
      acceptedTokensTotal: 0,
      stepsTotal: 9,
      stepSecondsTotal: 0,
    })
  })

  it('count the seconds of steps, and refuse by the pace of prompts seen in them', () => {
    let nowMs = 0
    const model = new FakeModel()
    const engine = engineOver(model, {}, { now: () => nowMs })
    const forward = model.forward.bind(model)
    model.forward = (segments) => {
      nowMs += 8
      return forward(segments)
    }
    engine.submit(request(1, [3, 3, 3, 3, 3, 3, 3, 3], { outputTokensMax: 1 }))
    drain(engine)
    expect(engine.stats.stepSecondsTotal).toBe(0.008)
    // A token a millisecond: ten are not there in ten milliseconds, and are in eleven.
    for (const [id, deadlineMs] of [
      [2, 18],
      [3, 19],
    ] as const) {
      engine.submit(request(id, [3, 3, 3, 3, 3, 3, 3, 3, 3, 3], { deadlineMs, outputTokensMax: 1 }))
    }
    expect(endOf(engine.step(), 2)).toMatchObject({ reason: 'expired' })
  })
})
