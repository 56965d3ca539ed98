import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { ApiError } from '#protocol/errors.ts'
import { toyServed, tokensOf } from '../../../test/support/toy-served.ts'
import { EngineDiedError, RunningGeneration } from '../engine/client.ts'
import type { EndReason } from '../engine/protocol.ts'
import type { LogFields } from '../log.ts'
import type { KeepUsage } from '../records/recorder.ts'
import { Answer, type AnswerDelta } from './answer.ts'
import { ActiveGeneration } from './generation.ts'
import type { GenerationPlan } from './plan.ts'
import type { AnswerEnd, AnswerSink } from './sinks.ts'

const claims = { pool: 'p', requestId: 'req_1', tenantId: 't', keyId: 'k' }
const timings = {
  keepAliveMs: 1000,
  holdMs: 20_000,
  queueLimitMs: 600_000,
  wholeAnswerLimitMs: 590_000,
  shutdownGraceMs: 0,
  idleConnectionMs: 120_000,
  reportIntervalMs: 250,
}

type Kept = Parameters<KeepUsage>[1]

/** Notes what it is told, and in what order with the record. */
class NotingSink implements AnswerSink {
  readonly told: string[] = []
  readonly deltas: AnswerDelta[] = []
  finish: AnswerEnd | null = null
  error: ApiError | null = null
  /** While set, the client does not read. */
  blocked: Promise<void> | null = null

  open(): void {
    this.told.push('open')
  }

  tick(): void {
    this.told.push('tick')
  }

  begin(): void {
    if (this.told.at(-1) !== 'begin') this.told.push('begin')
  }

  async write(deltas: readonly AnswerDelta[]): Promise<void> {
    this.deltas.push(...deltas)
    await this.blocked
  }

  end(end: AnswerEnd): void {
    this.told.push('end')
    this.finish = end
  }

  fail(error: ApiError): void {
    this.told.push(`fail ${error.code}`)
    this.error = error
  }
}

interface SetUpOptions {
  readonly stops?: readonly string[]
  readonly stream?: boolean
  readonly keepUsage?: KeepUsage
}

function setUp({ stops = [], stream = true, keepUsage }: SetUpOptions = {}) {
  const served = toyServed()
  const sink = new NotingSink()
  const kept: Kept[] = []
  const logged: [string, LogFields][] = []
  const note = (event: string, fields: LogFields = {}): void => void logged.push([event, fields])
  const cancel = vi.fn<() => void>()
  const running = new RunningGeneration(cancel)
  const closeListeners: (() => void)[] = []
  const breakOff = vi.fn<() => void>()
  const body = {
    closedEarly: false,
    onClose: (fn: () => void) => void closeListeners.push(fn),
    breakOff,
  }
  const ended: Kept[] = []
  const plan: GenerationPlan = {
    generation: {
      prompt: Int32Array.of(1, 2, 3),
      outputTokensMax: 100,
      sampling: { temperature: 1, topP: 1, seed: null },
      topLogprobs: null,
      priority: 0,
      deadlineMs: null,
      cacheSalt: null,
    },
    thinking: false,
    toolsAllowed: false,
    tools: new Map(),
    stops,
    logprobs: false,
    stream,
    includeUsage: false,
  }
  const generation = new ActiveGeneration({
    claims,
    served,
    plan,
    running,
    sink,
    body,
    audience: body,
    resumable: null,
    timings,
    answer: new Answer({ plan, served, randomId: () => 'r' }),
    acceptedAtMs: Date.now(),
    now: Date.now,
    keepUsage:
      keepUsage ??
      ((_, usage) => {
        sink.told.push('record')
        kept.push(usage)
        return Promise.resolve()
      }),
    onEnded: (usage) => void ended.push(usage),
    log: { debug: note, info: note, warn: note, error: note },
  })
  const tokens = (text: string): number => {
    const ids = tokensOf(text)
    for (const token of ids) running.deliver({ kind: 'token', id: 1, token, logprobs: null })
    return ids.length
  }
  const finished = (reason: EndReason): void =>
    running.deliver({ kind: 'finished', id: 1, reason, generated: 0 })
  const close = (): void => {
    body.closedEarly = true
    for (const listener of closeListeners) listener()
  }
  return { sink, kept, ended, logged, cancel, running, body, generation, tokens, finished, close }
}

const textOf = (deltas: readonly AnswerDelta[]): string =>
  deltas.map((delta) => ('text' in delta ? delta.text : '')).join('')

beforeEach(() => {
  vi.useFakeTimers({ now: 1_000_000 })
})

afterEach(() => {
  vi.useRealTimers()
})

describe('ActiveGeneration', () => {
  it('has the record on disk before the client sees the end', async () => {
    const { sink, kept, generation, running, tokens, finished } = setUp()
    const done = generation.run()
    running.deliver({ kind: 'started', id: 1, cachedTokens: 0 })
    const count = tokens('Hello there')
    await vi.advanceTimersByTimeAsync(5)
    finished('length')
    await done
    expect(sink.told).toEqual(['open', 'begin', 'record', 'end'])
    expect(textOf(sink.deltas)).toBe('Hello there')
    expect(sink.finish).toMatchObject({
      reason: 'length',
      usage: { prompt_tokens: 3, completion_tokens: count, total_tokens: 3 + count },
    })
    expect(kept).toEqual([
      {
        model: 'deepseek-v4-toy',
        checkpointHash: 'c0ffee',
        promptTokens: 3,
        cachedTokens: 0,
        completionTokens: count,
        reasoningTokens: 0,
        prefilledTokens: 3,
        deliveredTokens: count,
        outcome: 'length',
        acceptedAtMs: 1_000_000,
        startedAtMs: 1_000_000,
        firstTokenAtMs: 1_000_000,
        finishedAtMs: 1_000_005,
      },
    ])
  })

  it('stops the engine at a stop string and takes no token behind it', async () => {
    const { sink, kept, cancel, generation, tokens, finished } = setUp({ stops: ['END'] })
    const done = generation.run()
    tokens('one END')
    tokens(' surplus that was on its way')
    finished('cancelled')
    await done
    expect(cancel).toHaveBeenCalledTimes(1)
    expect(textOf(sink.deltas)).toBe('one ')
    expect(sink.finish?.reason).toBe('stop')
    expect(kept[0]).toMatchObject({
      outcome: 'stop',
      completionTokens: tokensOf('one END').length,
      deliveredTokens: tokensOf('one END').length,
    })
  })

  it('cancels for a client that has gone, and records what was generated and what delivered', async () => {
    const { sink, kept, cancel, generation, tokens, finished, close } = setUp()
    const done = generation.run()
    const delivered = tokens('shown')
    await vi.advanceTimersByTimeAsync(0)
    close()
    expect(cancel).toHaveBeenCalledTimes(1)
    const late = tokens(' and not shown')
    finished('cancelled')
    await done
    expect(kept[0]).toMatchObject({
      outcome: 'cancelled',
      completionTokens: delivered + late,
      deliveredTokens: delivered,
    })
    expect(sink.told.at(-1)).toBe('record')
  })

  it('cancels at once for a client that had gone before', async () => {
    const { kept, body, cancel, generation, finished } = setUp()
    body.closedEarly = true
    const done = generation.run()
    expect(cancel).toHaveBeenCalledTimes(1)
    finished('cancelled')
    await done
    expect(kept[0]).toMatchObject({ outcome: 'cancelled', completionTokens: 0 })
  })

  it('tells of an engine that died, with what had come before on record', async () => {
    const { sink, kept, generation, running, tokens } = setUp()
    const done = generation.run()
    const count = tokens('half an')
    running.fail(new EngineDiedError({ cause: new Error('device lost') }))
    await done
    expect(sink.told).toEqual(['open', 'begin', 'record', 'fail server_is_overloaded'])
    expect(kept[0]).toMatchObject({ outcome: 'failed', completionTokens: count })
  })

  it('gives up on a request that is not started in time', async () => {
    const { sink, kept, cancel, generation, finished } = setUp()
    const done = generation.run()
    await vi.advanceTimersByTimeAsync(599_999)
    expect(cancel).not.toHaveBeenCalled()
    await vi.advanceTimersByTimeAsync(1)
    expect(cancel).toHaveBeenCalledTimes(1)
    finished('cancelled')
    await done
    expect(sink.error?.code).toBe('timeout')
    expect(kept[0]).toMatchObject({ outcome: 'failed', completionTokens: 0, firstTokenAtMs: null })
  })

  it('counts what was cached at its first start, and says at each moment how it is doing', async () => {
    const { kept, ended, generation, running, tokens, finished } = setUp()
    const done = generation.run()
    const head = { id: 'req_1', object: 'request', model: 'deepseek-v4-toy' }
    expect(generation.status()).toMatchObject({ ...head, state: 'queued', started_at_ms: null })
    await vi.advanceTimersByTimeAsync(10)
    running.deliver({ kind: 'started', id: 1, cachedTokens: 2 })
    // Preempted and started again: more is cached now, but it is its own.
    running.deliver({ kind: 'started', id: 1, cachedTokens: 3 })
    await vi.advanceTimersByTimeAsync(10)
    const completionTokens = tokens('Hello')
    await vi.advanceTimersByTimeAsync(10)
    expect(generation.status()).toMatchObject({ ...head, state: 'running', outcome: null })
    const progress = { requestId: 'req_1', promptTokens: 3, cachedTokens: 2, completionTokens }
    expect(generation.progress()).toEqual(progress)
    finished('stop')
    await done
    expect(kept).toMatchObject([
      { promptTokens: 3, cachedTokens: 2, prefilledTokens: 1, startedAtMs: Date.now() - 20 },
    ])
    expect(ended).toEqual(kept)
    expect(generation.recorded).toBe(true)
    expect(generation.status()).toEqual({
      ...head,
      state: 'finished',
      outcome: 'stop',
      prompt_tokens: 3,
      cached_tokens: 2,
      completion_tokens: completionTokens,
      reasoning_tokens: 0,
      delivered_tokens: completionTokens,
      accepted_at_ms: Date.now() - 30,
      started_at_ms: Date.now() - 20,
      first_token_at_ms: Date.now() - 10,
      finished_at_ms: Date.now(),
      last_event: null,
    })
  })

  it('has prefilled nothing, as far as is known, before the first token', async () => {
    const { kept, generation, running, finished, close } = setUp()
    const done = generation.run()
    running.deliver({ kind: 'started', id: 1, cachedTokens: 0 })
    close()
    finished('cancelled')
    await done
    expect(kept).toMatchObject([{ outcome: 'cancelled', prefilledTokens: 0 }])
  })

  it('sets a stream that has started no limit', async () => {
    const { cancel, generation, running, finished } = setUp()
    const done = generation.run()
    running.deliver({ kind: 'started', id: 1, cachedTokens: 0 })
    await vi.advanceTimersByTimeAsync(3_600_000)
    expect(cancel).not.toHaveBeenCalled()
    finished('stop')
    await done
  })

  it('ends an answer that is not streamed before clients time out, with length', async () => {
    const { sink, kept, cancel, generation, running, tokens, finished } = setUp({ stream: false })
    const done = generation.run()
    running.deliver({ kind: 'started', id: 1, cachedTokens: 0 })
    const count = tokens('so far')
    await vi.advanceTimersByTimeAsync(590_000)
    expect(cancel).toHaveBeenCalledTimes(1)
    finished('cancelled')
    await done
    expect(sink.finish?.reason).toBe('length')
    expect(kept[0]).toMatchObject({ outcome: 'length', completionTokens: count })
  })

  it('commits a whole answer after the hold time even if nothing has come', async () => {
    const { sink, generation, finished } = setUp({ stream: false })
    const done = generation.run()
    await vi.advanceTimersByTimeAsync(19_999)
    expect(sink.told).not.toContain('begin')
    await vi.advanceTimersByTimeAsync(1)
    expect(sink.told).toContain('begin')
    finished('stop')
    await done
  })

  it('has delivered nothing of a whole answer whose client left in the middle', async () => {
    const { kept, generation, tokens, finished, close } = setUp({ stream: false })
    const done = generation.run()
    const count = tokens('made but not sent')
    await vi.advanceTimersByTimeAsync(0)
    close()
    finished('cancelled')
    await done
    expect(kept[0]).toMatchObject({ completionTokens: count, deliveredTokens: 0 })
  })

  it('ticks once a second until the end and not after it', async () => {
    const { sink, generation, finished } = setUp()
    const done = generation.run()
    await vi.advanceTimersByTimeAsync(3_500)
    finished('stop')
    await done
    await vi.advanceTimersByTimeAsync(5_000)
    expect(sink.told.filter((what) => what === 'tick')).toHaveLength(3)
  })

  it('gathers for a slow reader what comes while it does not read', async () => {
    const { sink, generation, tokens, finished } = setUp()
    const { promise, resolve } = Promise.withResolvers<void>()
    sink.blocked = promise
    const done = generation.run()
    tokens('first')
    await vi.advanceTimersByTimeAsync(0)
    const shown = textOf(sink.deltas)
    tokens(' second')
    tokens(' third')
    await vi.advanceTimersByTimeAsync(0)
    expect(textOf(sink.deltas)).toBe(shown)
    const before = sink.deltas.length
    resolve()
    await vi.advanceTimersByTimeAsync(0)
    expect(textOf(sink.deltas)).toBe('first second third')
    expect(sink.deltas.length).toBe(before + 1)
    finished('stop')
    await done
  })

  it('promises nothing when the record cannot be kept', async () => {
    const keepUsage: KeepUsage = () => Promise.reject(new Error('ENOSPC'))
    const { sink, logged, generation, tokens, finished } = setUp({ keepUsage })
    const done = generation.run()
    tokens('all of it')
    finished('stop')
    await done
    expect(sink.finish).toBeNull()
    expect(sink.error?.code).toBe('server_is_overloaded')
    expect(logged.map(([event]) => event)).toEqual(['usage_record_not_kept', 'request'])
  })

  it('tells of and records an answer it cannot read', async () => {
    const { sink, kept, logged, cancel, generation, running, tokens } = setUp()
    const done = generation.run()
    const count = tokens('fine')
    running.deliver({ kind: 'token', id: 1, token: 99_999, logprobs: null })
    await done
    expect(cancel).toHaveBeenCalledTimes(1)
    expect(sink.error?.code).toBe('internal_server_error')
    expect(kept[0]).toMatchObject({ outcome: 'failed', completionTokens: count + 1 })
    expect(logged[0]).toEqual([
      'request_crashed',
      expect.objectContaining({ request_id: 'req_1', code: 'unknown_token_id' }),
    ])
  })

  it('gives a running request up when told to', async () => {
    const { sink, kept, cancel, generation, tokens, finished } = setUp()
    const done = generation.run()
    tokens('part')
    generation.abort(new ApiError('server_is_overloaded', 'stopping'))
    expect(cancel).toHaveBeenCalledTimes(1)
    finished('cancelled')
    await done
    expect(sink.error?.message).toBe('stopping')
    expect(kept[0]?.outcome).toBe('failed')
  })

  it('logs counts and times, and no text', async () => {
    const { logged, generation, tokens, finished } = setUp()
    const done = generation.run()
    const count = tokens('Secretive')
    finished('stop')
    await done
    expect(logged).toEqual([
      [
        'request',
        expect.objectContaining({
          request_id: 'req_1',
          outcome: 'stop',
          prompt_tokens: 3,
          completion_tokens: count,
          delivered_tokens: count,
        }),
      ],
    ])
    expect(JSON.stringify(logged)).not.toContain('Secret')
  })
})
