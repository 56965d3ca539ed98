import { EventEmitter } from 'node:events'
import { describe, expect, it } from 'vitest'
import { EngineClient, EngineDiedError, type EngineStatus, RunningGeneration } from './client.ts'
import { Engine } from './engine.ts'
import { FakeModel } from './testing/fake-model.ts'
import type { EngineCommand, EngineEvent, EngineReport } from './protocol.ts'

/** The far end of the thread: what was sent to it, and its reports. */
class FakeThread extends EventEmitter {
  readonly received: EngineCommand[] = []

  postMessage(command: EngineCommand): void {
    this.received.push(command)
  }

  report(report: EngineReport): void {
    this.emit('message', report)
  }

  happen(...events: EngineEvent[]): void {
    this.report({ kind: 'events', events })
  }
}

const wanted = {
  prompt: Int32Array.of(5),
  outputTokensMax: 3,
  sampling: { temperature: 0, topP: 1, seed: null },
  topLogprobs: null,
  priority: 0,
  deadlineMs: null,
  cacheSalt: null,
}

const token = (id: number, value: number): EngineEvent => ({
  kind: 'token',
  id,
  token: value,
  logprobs: null,
})

function setUp(room = { runningMax: 1, waitingMax: 1, waitingTokensMax: 100 }) {
  const thread = new FakeThread()
  const statuses: EngineStatus[] = []
  const notes: string[] = []
  const client = new EngineClient({
    thread,
    limits: { ...room, stepTokensMax: 8 },
    onStatus: (status) => statuses.push(status),
    onNote: (note) => notes.push(note),
  })
  return { thread, statuses, notes, client }
}

function submitted(client: EngineClient): RunningGeneration {
  const generation = client.submit(wanted)
  if (!(generation instanceof RunningGeneration)) throw new Error(`refused: ${generation}`)
  return generation
}

describe('EngineClient', () => {
  it('takes nothing before the engine is ready, and tells how far it is', () => {
    const { thread, statuses, notes, client } = setUp()
    expect(client.submit(wanted)).toBe('not_ready')
    thread.report({ kind: 'note', note: 'a device is not here' })
    expect(notes).toEqual(['a device is not here'])
    const progress = { phase: 'weights', done: 1, total: 2 }
    thread.report({ kind: 'progress', progress })
    thread.report({ kind: 'ready', device: 'reference' })
    expect(statuses).toEqual([
      { phase: 'loading', progress },
      { phase: 'ready', device: 'reference' },
    ])
    expect(thread.received).toEqual([])
  })

  it('refuses at once what is beyond the running set and the queue', () => {
    const { thread, client } = setUp()
    thread.report({ kind: 'ready', device: 'reference' })
    submitted(client)
    submitted(client)
    expect(client.submit(wanted)).toBe('queue_full')
    expect(thread.received.map((command) => command.kind)).toEqual(['generate', 'generate'])
    thread.happen({ kind: 'finished', id: 1, reason: 'length', generated: 3 })
    expect(client.submit(wanted)).toBeInstanceOf(RunningGeneration)
  })

  it('refuses at once what is beyond the tokens that may wait', () => {
    const { thread, client } = setUp({ runningMax: 1, waitingMax: 9, waitingTokensMax: 4 })
    thread.report({ kind: 'ready', device: 'reference' })
    const long = { ...wanted, prompt: Int32Array.of(1, 2, 3, 4, 5) }
    expect(client.submit(long)).toBeInstanceOf(RunningGeneration)
    expect(client.submit(wanted)).toBe('queue_full')
    thread.happen({ kind: 'started', id: 1, cachedTokens: 0 })
    for (let i = 0; i < 4; i++) expect(client.submit(wanted)).toBeInstanceOf(RunningGeneration)
    expect(client.submit(wanted)).toBe('queue_full')
    thread.happen({ kind: 'finished', id: 2, reason: 'expired', generated: 0 })
    expect(client.submit(wanted)).toBeInstanceOf(RunningGeneration)
  })

  it('has the latest statistics', () => {
    const { thread, client } = setUp()
    expect(client.stats).toBeNull()
    const stats = new Engine({
      model: new FakeModel({ pagesMax: 2 }),
      limits: { runningMax: 1, waitingMax: 1, waitingTokensMax: 1, stepTokensMax: 2 },
      random: Math.random,
      now: () => 0,
      emit: () => undefined,
    }).stats
    thread.report({ kind: 'stats', stats: { ...stats, running: 3 } })
    thread.report({ kind: 'stats', stats })
    expect(client.stats).toEqual(stats)
  })

  it('gives each request its own events, those that piled up in one go', async () => {
    const { thread, client } = setUp()
    thread.report({ kind: 'ready', device: 'reference' })
    const [first, second] = [submitted(client), submitted(client)]
    const waiting = first.next()
    thread.happen(token(1, 10), token(2, 20))
    thread.happen(token(2, 21))
    expect(await waiting).toEqual([token(1, 10)])
    expect(await second.next()).toEqual([token(2, 20), token(2, 21)])
  })

  it('passes a cancellation on once, and not for what has ended', () => {
    const { thread, client } = setUp()
    thread.report({ kind: 'ready', device: 'reference' })
    const generation = submitted(client)
    generation.cancel()
    thread.happen({ kind: 'finished', id: 1, reason: 'cancelled', generated: 0 })
    generation.cancel()
    expect(thread.received.slice(1)).toEqual([{ kind: 'cancel', id: 1 }])
  })

  it('fails every request when the thread dies, after what had come before', async () => {
    const { thread, statuses, client } = setUp()
    thread.report({ kind: 'ready', device: 'reference' })
    const [reading, behind] = [submitted(client), submitted(client)]
    const pending = reading.next()
    thread.happen(token(2, 20))
    const cause = new Error('device lost')
    thread.emit('error', cause)
    thread.emit('exit', 1)
    await expect(pending).rejects.toThrow(EngineDiedError)
    expect(await behind.next()).toEqual([token(2, 20)])
    await expect(behind.next()).rejects.toMatchObject({ cause })
    expect(statuses.at(-1)).toEqual({ phase: 'dead', error: cause })
    expect([client.submit(wanted), client.underWay]).toEqual(['not_ready', 0])
  })
})
