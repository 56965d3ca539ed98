import { EventEmitter } from 'node:events'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { capacityReportSchema } from '#protocol/capacity-report.ts'
import { importPrivateKey } from '#protocol/keys.ts'
import { requestStatusSchema } from '#protocol/request-status.ts'
import {
  recordLookupSchema,
  recordPageSchema,
  verifyUsageRecord,
  type RecordPage,
} from '#protocol/usage-record.ts'
import { createRecorder } from '../../gpu-backend/src/records/recorder.ts'
import { RecordSpool } from '../../gpu-backend/src/records/spool.ts'
import { PromptEncoder } from '../../gpu-backend/src/server/prompt-encoder.ts'
import { RequestIds } from '../../gpu-backend/src/server/request-ids.ts'
import { makeServiceKeys, poolHeaders, type ServiceKeys } from '../support/gpu-backend.ts'
import { makeScratch, type Scratch } from '../support/scratch.ts'
import { quietLog, startScripted, type ScriptedBackend } from '../support/scripted-backend.ts'
import { tokensOf, toyServed, toyTextTokenizer } from '../support/toy-served.ts'

let scratch: Scratch
let recordKeys: ServiceKeys
let spool: RecordSpool
let at: ScriptedBackend

/** A backend over the spool in the scratch folder: a second call is a restart. */
async function startOverSpool(): Promise<void> {
  spool = await RecordSpool.open(join(scratch.path, 'spool'), { log: quietLog })
  const privateKey = await importPrivateKey(recordKeys.recordPrivateJwk)
  at = await startScripted({
    parts: {
      records: spool,
      requestIds: new RequestIds(spool.pendingRequestIds()),
      keepUsage: createRecorder({ spool, backendId: 'test-1', privateKey }),
    },
  })
}

async function restart(): Promise<void> {
  at.close()
  await spool.close()
  await startOverSpool()
}

beforeEach(async () => {
  scratch = await makeScratch('lifecycle')
  recordKeys = await makeServiceKeys()
  await startOverSpool()
})

afterEach(async () => {
  at.close()
  await spool.close()
  await scratch.remove()
})

/** Runs a request from end to end; `id` counts the engine's requests of this process. */
async function serve(requestId: string, id: number, text = 'Hi'): Promise<void> {
  const response = await at.caller.chat({ stream: true }, { requestId })
  at.thread.start(id)
  at.thread.say(id, text)
  at.thread.finish(id, 'stop')
  expect(await response.text()).toContain('[DONE]')
}

async function statusOf(requestId: string, tenantId = 'tenant-1') {
  const response = await at.caller.call(`/v1/requests/${requestId}`, undefined, { tenantId })
  return response.status === 200
    ? requestStatusSchema.strict().parse(await response.json())
    : response.status
}

const pool = async (path: string, init: RequestInit = {}): Promise<Response> =>
  fetch(`${at.url}${path}`, { headers: await poolHeaders(at.keys, 'records'), ...init })

async function pageOf(query = ''): Promise<RecordPage> {
  return recordPageSchema.strict().parse(await (await pool(`/v1/records${query}`)).json())
}

const lookUp = async (id: string) =>
  recordLookupSchema.parse(await (await pool(`/v1/records/${id}`)).json())

const acknowledge = async (cursors: readonly string[]): Promise<unknown> => {
  const response = await pool('/v1/records/ack', {
    method: 'POST',
    body: JSON.stringify({ cursors }),
  })
  return response.json()
}

describe('a long prompt', () => {
  const content = 'word '.repeat(1000)
  const ask = (requestId: string, signal?: AbortSignal) =>
    at.caller.chat(
      { stream: true, messages: [{ role: 'user', content }] },
      { requestId, ...(signal === undefined ? {} : { signal }) },
    )

  /** Encodes nothing until told to. */
  function holdEncoding(): { readonly waiting: () => number; readonly release: () => void } {
    const thread = new EventEmitter()
    let held = 0
    const encoder = new PromptEncoder({
      tokenizer: toyTextTokenizer,
      startThread: () =>
        Object.assign(thread, {
          postMessage: () => void (held += 1),
          terminate: () => Promise.resolve(),
        }),
    })
    at.backend.setServed(toyServed(), encoder)
    const release = (): void => {
      thread.emit('message', { kind: 'encoded', prompt: Int32Array.of(1, 2, 3) })
    }
    return { waiting: () => held, release }
  }

  it('lets short ones past while it is encoded', async () => {
    const { waiting, release } = holdEncoding()
    const long = ask('req_long')
    await expect.poll(waiting).toBe(1)
    const short = await at.caller.chat({ stream: true }, { requestId: 'req_short' })
    expect(await lookUp('req_long')).toEqual({ status: 'under_way' })
    at.thread.finish(1, 'stop')
    await short.text()
    release()
    const response = await long
    at.thread.say(2, 'Hi')
    at.thread.finish(2, 'stop')
    expect(await response.text()).toContain('[DONE]')
  })

  it('whose client leaves while it is encoded never reaches the engine', async () => {
    const { waiting, release } = holdEncoding()
    const gone = new AbortController()
    const left = ask('req_left', gone.signal)
    left.catch(() => undefined)
    await expect.poll(waiting).toBe(1)
    gone.abort()
    // Long enough for the server to hear of it.
    await expect.poll(() => at.connections.every((socket) => socket.destroyed)).toBe(true)
    release()
    await expect.poll(() => lookUp('req_left')).toEqual({ status: 'unknown' })
    expect(at.thread.commands).toEqual([])
    expect(spool.pendingCount).toBe(0)
  })
})

describe('the status of a request', () => {
  it('follows it from the queue to its end', async () => {
    const response = await at.caller.chat({ stream: true }, { requestId: 'req_1' })
    expect(await statusOf('req_1')).toMatchObject({
      id: 'req_1',
      model: 'deepseek-v4-toy',
      state: 'queued',
      outcome: null,
      completion_tokens: 0,
      started_at_ms: null,
      finished_at_ms: null,
    })
    at.thread.start(1, 2)
    at.thread.say(1, 'Half')
    await expect
      .poll(() => statusOf('req_1'))
      .toMatchObject({
        state: 'running',
        cached_tokens: 2,
        completion_tokens: tokensOf('Half').length,
      })
    at.thread.finish(1, 'length')
    await response.text()
    await expect
      .poll(() => statusOf('req_1'))
      .toMatchObject({
        state: 'finished',
        outcome: 'length',
        delivered_tokens: tokensOf('Half').length,
        last_event: null,
      })
  })

  it('is read from the spool after a restart, until its record is acknowledged', async () => {
    await serve('req_1', 1)
    await expect.poll(() => statusOf('req_1')).toMatchObject({ state: 'finished' })
    const before = await statusOf('req_1')
    await restart()
    expect(await statusOf('req_1')).toEqual(before)
    expect(await statusOf('req_1', 'tenant-2')).toBe(404)
    const { records } = await pageOf()
    await acknowledge(records.map(({ cursor }) => cursor))
    expect(await statusOf('req_1')).toBe(404)
  })

  it('is nobody else’s, and of nothing there is none', async () => {
    await serve('req_1', 1)
    expect(await statusOf('req_1', 'tenant-2')).toBe(404)
    expect(await statusOf('req_2')).toBe(404)
    const unasked = await fetch(`${at.url}/v1/requests/req_1`)
    expect(unasked.status).toBe(401)
    expect((await at.caller.call('/v1/requests/req_1', '{}')).status).toBe(405)
  })
})

describe('usage records', () => {
  it('are read after a cursor, in order, and are gone once acknowledged', async () => {
    for (const id of [1, 2, 3]) await serve(`req_${id}`, id)
    const first = await pageOf('?limit=2')
    const second = await pageOf(`?after=${first.next}`)
    expect([first, second].map(({ records }) => records.map(({ requestId }) => requestId))).toEqual(
      [['req_1', 'req_2'], ['req_3']],
    )
    expect(await pageOf(`?after=${second.next}`)).toEqual({ records: [], next: second.next })
    const [record] = first.records
    expect(await verifyUsageRecord(record?.jws ?? '', recordKeys.recordPublicKey)).toMatchObject({
      requestId: 'req_1',
      outcome: 'stop',
      prefilledTokens: expect.any(Number) as number,
    })
    expect(await acknowledge([record?.cursor ?? '', 'another-spool.3', 'rubbish'])).toEqual({
      acknowledged: 1,
    })
    expect((await pageOf()).records.map(({ requestId }) => requestId)).toEqual(['req_2', 'req_3'])
    await restart()
    expect((await pageOf(`?after=${first.next}`)).records).toMatchObject([{ requestId: 'req_3' }])
  })

  it('are read from the beginning by whoever brings another spool’s cursor', async () => {
    await serve('req_1', 1)
    expect((await pageOf('?after=other.99')).records).toHaveLength(1)
    expect((await pageOf('?after=')).records).toHaveLength(1)
  })

  it('tell what became of a request, whichever way it went', async () => {
    const response = await at.caller.chat({ stream: true }, { requestId: 'req_1' })
    expect(await lookUp('req_1')).toEqual({ status: 'under_way' })
    at.thread.say(1, 'Hi')
    at.thread.finish(1, 'stop')
    await response.text()
    const found = await lookUp('req_1')
    expect(found).toMatchObject({ status: 'recorded' })
    await restart()
    expect(await lookUp('req_1')).toEqual(found)
    await acknowledge((await pageOf()).records.map(({ cursor }) => cursor))
    expect(await lookUp('req_1')).toEqual({ status: 'acknowledged' })
  })

  it('say of an unknown request that it is unknown, and hold to that', async () => {
    expect(await lookUp('req_late')).toEqual({ status: 'unknown' })
    expect((await at.caller.chat({}, { requestId: 'req_late' })).status).toBe(400)
    expect(await lookUp('req_late')).toEqual({ status: 'unknown' })
  })

  it.each([
    ['?limit=0', 'limit'],
    ['?limit=257', 'limit'],
    ['?limit=x', 'limit'],
  ])('refuse to be read with %s', async (query, param) => {
    const response = await pool(`/v1/records${query}`)
    expect([response.status, await response.json()]).toMatchObject([400, { error: { param } }])
  })

  it.each(['', '{}', '{"cursors":[]}', '{"cursors":[1]}'])(
    'refuse to be acknowledged by %s',
    async (body) => {
      const response = await pool('/v1/records/ack', { method: 'POST', body })
      expect([response.status, await response.json()]).toMatchObject([
        400,
        { error: { param: 'cursors' } },
      ])
    },
  )

  it('are for the edge alone, not for a tenant, and not for what may read capacity', async () => {
    const paths = ['/v1/records', '/v1/records/req_1', '/v1/records/ack']
    for (const path of paths) {
      const capacity = await fetch(`${at.url}${path}`, {
        headers: await poolHeaders(at.keys, 'capacity'),
      })
      expect([capacity.status, (await at.caller.call(path)).status]).toEqual([401, 401])
    }
    expect((await pool('/v1/records', { method: 'POST' })).status).toBe(405)
  })
})

describe('capacity', () => {
  const read = async (scope: 'capacity' | 'records' = 'capacity') =>
    fetch(`${at.url}/capacity`, { headers: await poolHeaders(at.keys, scope) })

  it('counts what was handed to the engine a moment ago as waiting', async () => {
    await at.caller.chat({ stream: true }, { requestId: 'req_1' })
    await at.caller.chat({ stream: true }, { requestId: 'req_2' })
    at.thread.start(1, 3)
    at.thread.say(1, 'Hi')
    at.thread.report({ kind: 'stats', stats: { ...idleStats, running: 1, cacheTokensFree: 512 } })
    await expect
      .poll(async () => capacityReportSchema.parse(await (await read()).json()))
      .toMatchObject({
        pool: 'test-pool',
        backendId: 'test-1',
        freeCacheTokens: 512,
        cacheTokensMax: 1024,
        running: 1,
        waiting: 1,
        waitingTokens: expect.any(Number) as number,
        draining: false,
        models: ['deepseek-v4-toy'],
        progress: [
          { requestId: 'req_1', cachedTokens: 3, completionTokens: tokensOf('Hi').length },
        ],
      })
    const numbers = [await read(), await read()].map(async (response) =>
      capacityReportSchema.parse(await response.json()),
    )
    const [first, second] = await Promise.all(numbers)
    expect((second?.seq ?? 0) - (first?.seq ?? 0)).toBeGreaterThan(0)
    expect(first?.waitingTokens).toBeGreaterThan(5)
    at.thread.finish(1)
    at.thread.finish(2)
  })

  it('says that it drains', async () => {
    at.backend.drain()
    expect(await (await read()).json()).toMatchObject({ draining: true })
  })

  it('is for the edge alone', async () => {
    expect((await read('records')).status).toBe(401)
    expect((await at.caller.call('/capacity')).status).toBe(401)
    expect((await fetch(`${at.url}/capacity`)).status).toBe(401)
  })
})

const idleStats = {
  running: 0,
  waiting: 0,
  waitingTokens: 0,
  cacheTokensFree: 1024,
  cacheTokensMax: 1024,
  promptTokensTotal: 30,
  cachedTokensTotal: 10,
  generatedTokensTotal: 7,
  preemptionsTotal: 1,
  prefixQueriesTotal: 4,
  prefixHitsTotal: 2,
  draftedTokensTotal: 6,
  acceptedTokensTotal: 5,
  stepsTotal: 8,
  stepSecondsTotal: 0.25,
}

describe('metrics', () => {
  it('are there for whoever reaches the port, and say nothing of tenants', async () => {
    await serve('req_1', 1)
    at.thread.report({ kind: 'stats', stats: idleStats })
    await at.caller.chat({ max_tokens: 0 })
    const response = await fetch(`${at.url}/metrics`)
    expect(response.headers.get('content-type')).toBe('text/plain; version=0.0.4; charset=utf-8')
    const text = await response.text()
    const samples = text
      .split('\n')
      .filter((line) => line !== '' && !line.startsWith('#'))
      .map((line) => /^([a-z0-9_:]+)\{([^}]*)\} (\S+)$/i.exec(line)?.slice(1) ?? [line])
    expect(samples.filter((sample) => sample.length !== 3)).toEqual([])
    const valueOf = (name: string, label = ''): number =>
      Number(samples.find(([n, labels]) => n === name && labels?.includes(label))?.[2])
    expect({
      running: valueOf('vllm:num_requests_running'),
      prompt: valueOf('vllm:prompt_tokens_total'),
      hits: valueOf('vllm:prefix_cache_hits_total'),
      drafted: valueOf('vllm:spec_decode_num_draft_tokens_total'),
      stop: valueOf('vllm:request_success_total', 'finished_reason="stop"'),
      error: valueOf('vllm:request_success_total', 'finished_reason="error"'),
      first: valueOf('vllm:time_to_first_token_seconds_count'),
      queued: valueOf('vllm:request_queue_time_seconds_bucket', 'le="+Inf"'),
      refused: valueOf('sluice_requests_refused_total', 'code="invalid_parameter"'),
      pending: valueOf('sluice_usage_records_pending'),
      ready: valueOf('sluice_ready'),
    }).toEqual({
      running: 0,
      prompt: 40,
      hits: 10,
      drafted: 6,
      stop: 1,
      error: 0,
      first: 1,
      queued: 1,
      refused: 1,
      pending: 1,
      ready: 1,
    })
    for (const secret of ['req_1', 'tenant-1', 'key-1']) expect(text).not.toContain(secret)
  })
})
