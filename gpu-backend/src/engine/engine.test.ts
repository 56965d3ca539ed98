import { strict as assert } from 'node:assert'
import { describe, expect, it } from 'vitest'
import { ModelError, type Segment, type Sequence } from '../model/model.ts'
import { Engine, type EngineModel } from './engine.ts'
import type { EngineEvent, GenerationRequest } from './protocol.ts'
import { seededRandom } from './random.ts'

const vocabSize = 16
const eosTokenId = 1

interface FakeSequence extends Sequence {
  length: number
  history: number[]
}

/**
 * Logits are a function of the tokens fed so far and of nothing else. `cacheTokens` bounds what its
 * sequences may reserve together. `script` overrides the likeliest token by position.
 */
class FakeModel implements EngineModel {
  readonly shape = { eosTokenId, vocabSize, maxPositionEmbeddings: 64 }
  readonly live = new Set<Sequence>()
  readonly steps: number[] = []
  readonly cacheTokens: number
  readonly script: ReadonlyMap<number, number>

  constructor(options: { cacheTokens?: number; script?: ReadonlyMap<number, number> } = {}) {
    this.cacheTokens = options.cacheTokens ?? 1000
    this.script = options.script ?? new Map()
  }

  createSequence({ maxTokens }: { readonly maxTokens: number }): Sequence {
    const reserved = [...this.live].reduce((total, sequence) => total + sequence.maxTokens, 0)
    if (reserved + maxTokens > this.cacheTokens) throw new ModelError('cache_full', 'no room')
    const sequence: FakeSequence = { length: 0, maxTokens, history: [] }
    this.live.add(sequence)
    return sequence
  }

  forward(segments: readonly Segment[]): readonly Float32Array[] {
    this.steps.push(segments.length)
    assert.equal(new Set(segments.map(({ sequence }) => sequence)).size, segments.length)
    return segments.flatMap(({ sequence, tokens, logits }) => {
      assert(this.live.has(sequence) && isFake(sequence))
      sequence.history.push(...tokens)
      sequence.length += tokens.length
      assert(sequence.length <= sequence.maxTokens)
      return logits === 'none' ? [] : [this.#row(sequence)]
    })
  }

  release(sequence: Sequence): void {
    assert(this.live.delete(sequence))
  }

  #row({ history, length }: FakeSequence): Float32Array {
    const seed = history.reduce((hash, token) => (Math.imul(hash, 31) + token) | 0, 7)
    const random = seededRandom(seed)
    const row = Float32Array.from({ length: vocabSize }, () => random() * 4)
    row[eosTokenId] = -1
    const scripted = this.script.get(length)
    if (scripted !== undefined) row[scripted] = 100
    return row
  }
}

function isFake(sequence: Sequence): sequence is FakeSequence {
  return 'history' in sequence
}

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

function engineOver(model: EngineModel, limits = {}): Driven & Pick<Engine, 'submit' | 'cancel'> {
  const emitted: EngineEvent[] = []
  const engine = new Engine({
    model,
    limits: { runningMax: 4, waitingMax: 4, prefillTokensPerStep: 8, ...limits },
    random: seededRandom(1),
    emit: (events) => emitted.push(...events),
  })
  return {
    get idle() {
      return engine.idle
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
    expect(model.live.size).toBe(0)
  })

  it('says that a request has started before the model takes its time', () => {
    const model = new FakeModel()
    const told: string[] = []
    const engine = new Engine({
      model,
      limits: { runningMax: 1, waitingMax: 0, prefillTokensPerStep: 2 },
      random: seededRandom(1),
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
    const crowded = engineOver(new FakeModel(), { prefillTokensPerStep: 3 })
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
    expect(model.live.size).toBe(1)
    const events = engine.step()
    expect(events[0]).toEqual({ kind: 'finished', id: 1, reason: 'cancelled', generated: 1 })
    expect(model.steps).toEqual([2, 1])
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
    const engine = engineOver(new FakeModel({ cacheTokens: 10 }))
    engine.submit(request(1, [3, 3], { outputTokensMax: 6 }))
    engine.submit(request(2, [4, 4], { outputTokensMax: 5 }))
    engine.submit(request(3, [5], { outputTokensMax: 20 }))
    const events = drain(engine)
    const order = events.filter((event) => event.kind !== 'token')
    expect(order.map((event) => `${event.kind} ${event.id}`)).toEqual([
      'started 1',
      'finished 1',
      'started 2',
      'finished 2',
      'finished 3',
    ])
    expect(order.at(-1)).toMatchObject({ reason: 'refused', generated: 0 })
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
