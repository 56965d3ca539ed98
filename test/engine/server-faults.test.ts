import { connect, type Socket } from 'node:net'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import type { KeepUsage } from '../../gpu-backend/src/records/recorder.ts'
import type { Backend } from '../../gpu-backend/src/server/backend.ts'
import { encodingHere, noRecords } from '../support/fake-server-parts.ts'
import {
  parseStream,
  serviceHeaders,
  type BackendCaller,
  type ServiceKeys,
} from '../support/gpu-backend.ts'
import { startScripted, type ScriptedThread } from '../support/scripted-backend.ts'
import { tokensOf, toyServed } from '../support/toy-served.ts'

const quiet = (): void => undefined

let keys: ServiceKeys
let thread: ScriptedThread
let backend: Backend
let url: string
let caller: BackendCaller
let connections: readonly Socket[]
let kept: Parameters<KeepUsage>[1][]
let diskFull: boolean
let pendingRecords: number
let close: () => void

const settings = {
  SLUICE_MAX_SEQUENCES: '1',
  SLUICE_MAX_WAITING: '1',
  SLUICE_MAX_SPOOL_RECORDS: '10',
  SLUICE_KEEP_ALIVE_MS: '20',
  SLUICE_HOLD_MS: '100',
  SLUICE_QUEUE_LIMIT_MS: '400',
}

beforeEach(async () => {
  kept = []
  diskFull = false
  pendingRecords = 0
  const started = await startScripted({
    settings,
    loaded: false,
    parts: {
      keepUsage: (_, usage) => {
        if (diskFull) return Promise.reject(new Error('ENOSPC'))
        kept.push(usage)
        return Promise.resolve()
      },
      records: {
        ...noRecords,
        get pendingCount() {
          return pendingRecords
        },
      },
    },
  })
  ;({ keys, thread, backend, url, caller, connections, close } = started)
})

afterEach(() => close())

function makeReady(): void {
  backend.setServed(toyServed(), encodingHere())
  thread.report({ kind: 'ready', device: 'scripted' })
}

const stream = (): Promise<Response> =>
  caller.chat({ stream: true, thinking: { type: 'disabled' } })
const whole = (): Promise<Response> => caller.chat({ thinking: { type: 'disabled' } })

const overloadedEvent = {
  error: {
    message: expect.any(String) as string,
    type: 'server_error',
    param: null,
    code: 'server_is_overloaded',
  },
}

describe('while a request waits', () => {
  it('a stream has its status and a comment at once, and more comments until the first token', async () => {
    makeReady()
    const response = await stream()
    expect(response.status).toBe(200)
    await new Promise((resolve) => setTimeout(resolve, 90))
    thread.say(1, 'Hi')
    thread.happen({ kind: 'finished', id: 1, reason: 'length', generated: 1 })
    const text = await response.text()
    const { comments, events } = parseStream(text)
    expect(comments.length).toBeGreaterThanOrEqual(3)
    expect(new Set(comments)).toEqual(new Set([': keep-alive']))
    expect(text.lastIndexOf(': keep-alive')).toBeLessThan(text.indexOf('data: '))
    expect(events.at(-1)).toBe('[DONE]')
  })

  it('a whole answer holds its status back, then sends blank lines and still parses', async () => {
    makeReady()
    const startedAt = performance.now()
    const response = await whole()
    expect(performance.now() - startedAt).toBeGreaterThan(80)
    await new Promise((resolve) => setTimeout(resolve, 70))
    thread.say(1, 'Hi')
    thread.happen({ kind: 'finished', id: 1, reason: 'length', generated: 1 })
    const text = await response.text()
    expect(text).toMatch(/^\n{3,}\{/)
    expect(JSON.parse(text)).toMatchObject({ choices: [{ message: { content: 'Hi' } }] })
  })

  it.each([true, false])(
    'a client that leaves in silence is noticed and its request cancelled (stream: %s)',
    async (streamed) => {
      makeReady()
      const gone = new AbortController()
      const response = caller.chat({ stream: streamed }, { signal: gone.signal })
      response.catch(quiet)
      await thread.next('generate')
      gone.abort()
      expect(await thread.next('cancel')).toEqual({ kind: 'cancel', id: 1 })
      thread.happen({ kind: 'finished', id: 1, reason: 'cancelled', generated: 0 })
      await expect.poll(() => kept).toMatchObject([{ outcome: 'cancelled', completionTokens: 0 }])
    },
  )

  it('one that never starts is ended with an error event', async () => {
    makeReady()
    const response = await stream()
    await thread.next('cancel')
    thread.happen({ kind: 'finished', id: 1, reason: 'cancelled', generated: 0 })
    const { events } = parseStream(await response.text())
    expect(events).toMatchObject([{ error: { code: 'timeout' } }])
    expect(kept).toMatchObject([{ outcome: 'failed' }])
  })
})

describe('a full or unready backend', () => {
  it('answers 503 with a wait, before anything else goes out', async () => {
    makeReady()
    const [first, second] = [await stream(), await stream()]
    for (const refused of [await stream(), await whole()]) {
      expect(refused.status).toBe(503)
      expect(refused.headers.get('retry-after')).toBe('2')
      expect(refused.headers.get('retry-after-ms')).toBe('1500')
      expect(await refused.json()).toEqual(overloadedEvent)
    }
    thread.happen({ kind: 'finished', id: 1, reason: 'stop', generated: 0 })
    await first.text()
    expect((await stream()).status).toBe(200)
    thread.happen({ kind: 'finished', id: 2, reason: 'stop', generated: 0 })
    await second.text()
  })

  it('tells how far loading is, and takes no request meanwhile', async () => {
    thread.report({ kind: 'progress', progress: { phase: 'weights', done: 3, total: 9 } })
    const ready = await fetch(`${url}/ready`)
    expect(ready.status).toBe(503)
    expect(await ready.json()).toEqual({ status: 'loading', phase: 'weights', done: 3, total: 9 })
    expect((await fetch(`${url}/health`)).status).toBe(200)
    expect((await whole()).status).toBe(503)
    expect((await caller.call('/v1/models')).status).toBe(503)
    backend.setServed(toyServed(), encodingHere())
    expect((await whole()).status).toBe(503)
    expect((await caller.call('/v1/models')).status).toBe(200)
  })

  it('takes nothing more while it shuts down, and lets what runs finish', async () => {
    makeReady()
    const running = await stream()
    backend.drain()
    expect((await stream()).status).toBe(503)
    expect(await (await fetch(`${url}/ready`)).json()).toEqual({ status: 'draining' })
    thread.say(1, 'Still here')
    thread.happen({ kind: 'finished', id: 1, reason: 'length', generated: 1 })
    expect(parseStream(await running.text()).events.at(-1)).toBe('[DONE]')
    await backend.requests.whenIdle()
  })

  it('takes no request while too many records wait for the edge', async () => {
    makeReady()
    pendingRecords = 10
    expect((await whole()).status).toBe(503)
    pendingRecords = 9
    const accepted = stream()
    await thread.next('generate')
    thread.happen({ kind: 'finished', id: 1, reason: 'stop', generated: 0 })
    expect((await accepted).status).toBe(200)
  })
})

describe('when the engine dies', () => {
  it('a stream ends with a typed error and no [DONE]', async () => {
    makeReady()
    const response = await stream()
    thread.say(1, 'Half an ans')
    await expect.poll(() => backend.options.engine.underWay).toBe(1)
    thread.emit('error', new Error('device lost'))
    const { events } = parseStream(await response.text())
    expect(events.at(-1)).toEqual(overloadedEvent)
    expect(events).not.toContain('[DONE]')
    expect(kept).toMatchObject([
      { outcome: 'failed', completionTokens: tokensOf('Half an ans').length },
    ])
  })

  it('a whole answer whose status is still held back becomes a 503', async () => {
    makeReady()
    const response = whole()
    await thread.next('generate')
    thread.emit('exit', 1)
    expect((await response).status).toBe(503)
    expect((await response).headers.get('retry-after')).toBe('1')
    expect(await (await response).json()).toEqual(overloadedEvent)
  })

  it('a whole answer that has begun is broken off, which no client takes for success', async () => {
    makeReady()
    const pending = whole()
    await thread.next('generate')
    thread.say(1, 'Half')
    const response = await pending
    expect(response.status).toBe(200)
    thread.emit('error', new Error('device lost'))
    await expect(response.text()).rejects.toThrow('terminated')
  })

  it('says so at /ready, and refuses what comes after', async () => {
    makeReady()
    thread.emit('error', new Error('device lost'))
    const ready = await fetch(`${url}/ready`)
    expect([ready.status, await ready.json()]).toEqual([
      503,
      { status: 'failed', reason: 'device lost' },
    ])
    expect((await whole()).status).toBe(503)
  })
})

describe('on the way out', () => {
  it('a record that cannot be kept costs the stream its [DONE]', async () => {
    makeReady()
    diskFull = true
    const response = await stream()
    thread.say(1, 'All of it')
    thread.happen({ kind: 'finished', id: 1, reason: 'stop', generated: 1 })
    const { events } = parseStream(await response.text())
    expect(events.at(-1)).toEqual(overloadedEvent)
    expect(JSON.stringify(events)).not.toMatch(/finish_reason":"stop|DONE/)
  })

  it('a client that does not read is waited for, not buffered for', async () => {
    makeReady()
    const body = JSON.stringify({
      model: 'deepseek-v4-toy',
      messages: [{ role: 'user', content: 'x' }],
      stream: true,
      logprobs: true,
    })
    const headers = Object.entries(await serviceHeaders(keys, 'req_slow'))
    const socket = connect(Number(new URL(url).port), '127.0.0.1')
    socket.pause()
    socket.write(
      `POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: ${body.length}\r\n` +
        `${headers.map(([name, value]) => `${name}: ${value}\r\n`).join('')}\r\n${body}`,
    )
    await thread.next('generate')
    const [served] = connections
    if (served === undefined) throw new Error('connected')
    thread.happen({ kind: 'started', id: 1, cachedTokens: 0 })
    // With this many alternatives a token takes 22 KB: 18 MB in all, more than the kernel's buffers.
    const [token = 0] = tokensOf('x')
    const top = Array.from({ length: 500 }, () => ({ token, logprob: -1 }))
    const event = { kind: 'token', id: 1, token, logprobs: { token, logprob: -1, top } } as const
    for (let i = 0; i < 800; i++) {
      thread.happen(event)
      await new Promise((resolve) => setImmediate(resolve))
    }
    await new Promise((resolve) => setTimeout(resolve, 50))
    expect(served.writableLength).toBeLessThan(1_000_000)
    expect(served.bytesWritten).toBeLessThan(10_000_000)
    const stuckAt = served.bytesWritten
    // The answer goes on when the client does.
    socket.resume()
    await expect
      .poll(() => served.bytesWritten, { timeout: 5000 })
      .toBeGreaterThan(stuckAt + 1_000_000)
    socket.destroy()
    await thread.next('cancel')
    thread.happen({ kind: 'finished', id: 1, reason: 'cancelled', generated: 1 })
    await expect.poll(() => kept).toMatchObject([{ outcome: 'cancelled' }])
    const [record] = kept
    expect(record?.deliveredTokens).toBeLessThanOrEqual(record?.completionTokens ?? 0)
  })
})
