import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import OpenAI from 'openai'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { chunkSchema, completionSchema, type Chunk } from '../support/chat-shapes.ts'
import { parseConfig } from '../../gpu-backend/src/config.ts'
import { createLog } from '../../gpu-backend/src/log.ts'
import { startBackend, type RunningBackend } from '../../gpu-backend/src/server/start.ts'
import {
  backendEnv,
  callerOf,
  makeServiceKeys,
  parseStream,
  publishToy,
  serviceHeaders,
  startFakeEdge,
  type BackendCaller,
  type FakeEdge,
  type ServiceKeys,
} from '../support/gpu-backend.ts'
import { makeScratch, type Scratch } from '../support/scratch.ts'

const off = { thinking: { type: 'disabled' } }
const greedy = { ...off, temperature: 0 }

let scratch: Scratch
let keys: ServiceKeys
let edge: FakeEdge
let backend: RunningBackend
let caller: BackendCaller
const logLines: string[] = []

beforeAll(async () => {
  scratch = await makeScratch('server')
  keys = await makeServiceKeys()
  edge = await startFakeEdge(keys)
  const config = await parseConfig(
    backendEnv({
      keys,
      checkpoint: await publishToy(scratch.path),
      spoolDir: join(scratch.path, 'spool'),
      edgeUrl: edge.url,
      changes: { SLUICE_MAX_BODY_BYTES: '100000', SLUICE_KEEP_ALIVE_MS: '50' },
    }),
  )
  const log = createLog({ level: 'debug', write: (line) => logLines.push(line), now: Date.now })
  backend = await startBackend({ config, env: {}, log, now: Date.now, random: Math.random })
  caller = callerOf(backend.url, keys)
  await backend.ready
})

afterAll(async () => {
  await backend?.shutdown()
  await edge?.close()
  await scratch?.remove()
})

async function chunksOf(response: Response): Promise<{ chunks: Chunk[]; done: boolean }> {
  const { events } = parseStream(await response.text())
  const done = events.at(-1) === '[DONE]'
  return { chunks: events.slice(0, done ? -1 : undefined).map((e) => chunkSchema.parse(e)), done }
}

async function completionOf(response: Response) {
  expect(response.status).toBe(200)
  expect(response.headers.get('content-type')).toBe('application/json')
  return completionSchema.parse(JSON.parse(await response.text()))
}

const recordOf = (requestId: string) =>
  expect.poll(() => edge.records.filter((record) => record.requestId === requestId), {
    timeout: 5000,
  })

describe('happy', () => {
  it('answers whole, with complete usage', async () => {
    const answer = await completionOf(await caller.chat({ max_tokens: 12 }))
    const [choice] = answer.choices
    expect(answer.object).toBe('chat.completion')
    expect(answer.model).toBe('deepseek-v4-toy')
    expect(answer.system_fingerprint).toMatch(/^fp_[0-9a-f]{12}$/)
    expect(choice).toMatchObject({ index: 0, finish_reason: 'length', logprobs: null })
    // Cut off while still thinking: the reasoning is there, the answer empty.
    expect(choice.message.content).toBe('')
    expect(choice.message.reasoning_content).not.toBe('')
    const { usage } = answer
    expect(usage.completion_tokens).toBe(12)
    expect(usage.total_tokens).toBe(usage.prompt_tokens + 12)
    expect(usage.prompt_tokens).toBe(usage.prompt_cache_hit_tokens + usage.prompt_cache_miss_tokens)
    expect(usage.prompt_tokens_details.cached_tokens).toBe(usage.prompt_cache_hit_tokens)
    expect(usage.completion_tokens_details.reasoning_tokens).toBeLessThanOrEqual(12)
  })

  it('streams the same greedy text it answers whole, with logprobs or without', async () => {
    const request = { ...greedy, max_tokens: 24 }
    const whole = await completionOf(await caller.chat(request))
    const { chunks } = await chunksOf(await caller.chat({ ...request, stream: true }))
    const probed = await chunksOf(
      await caller.chat({ ...request, stream: true, logprobs: true, top_logprobs: 3 }),
    )
    const textOf = (list: readonly Chunk[]): string =>
      list.map((chunk) => chunk.choices[0]?.delta.content ?? '').join('')
    expect(textOf(chunks)).toBe(whole.choices[0].message.content)
    expect(textOf(probed.chunks)).toBe(textOf(chunks))
    expect(textOf(chunks).length).toBeGreaterThan(12)
    expect(textOf(chunks).isWellFormed()).toBe(true)
    const entries = probed.chunks.flatMap((chunk) => chunk.choices[0]?.logprobs?.content ?? [])
    expect(entries).toHaveLength(24)
    for (const entry of entries) {
      expect(entry.top_logprobs).toHaveLength(3)
      // Greedy: what was taken is what was likeliest.
      expect(entry.top_logprobs[0]).toMatchObject({ token: entry.token, logprob: entry.logprob })
    }
  })

  it('keeps the form of a stream whose usage is not asked for', async () => {
    const response = await caller.chat({ max_tokens: 8, stream: true })
    expect(Object.fromEntries(response.headers)).toMatchObject({
      'content-type': 'text/event-stream; charset=utf-8',
      'cache-control': 'no-cache',
      'x-accel-buffering': 'no',
    })
    const text = await response.text()
    expect(text.startsWith(': keep-alive\n\n')).toBe(true)
    expect(text.endsWith('\n\ndata: [DONE]\n\n')).toBe(true)
    const { chunks } = await chunksOf(new Response(text))
    const shared = chunks.map(({ id, created, model, system_fingerprint }) =>
      JSON.stringify({ id, created, model, system_fingerprint }),
    )
    expect(new Set(shared).size).toBe(1)
    expect(chunks[0]?.choices[0]?.delta).toEqual({
      role: 'assistant',
      content: null,
      reasoning_content: '',
    })
    expect(chunks.slice(1).filter((chunk) => 'role' in (chunk.choices[0]?.delta ?? {}))).toEqual([])
    expect(chunks.slice(0, -1).every((c) => c.choices[0]?.finish_reason === null)).toBe(true)
    expect(chunks.at(-1)?.choices[0]?.finish_reason).toBe('length')
    expect(chunks.filter((chunk) => chunk.usage !== undefined)).toEqual([chunks.at(-1)])
  })

  it('has usage in the last chunk alone when it is asked for, and null before', async () => {
    const options = { stream: true, stream_options: { include_usage: true } }
    const { chunks, done } = await chunksOf(await caller.chat({ max_tokens: 4, ...options }))
    expect(done).toBe(true)
    expect(chunks.at(-1)?.choices).toEqual([])
    expect(chunks.at(-1)?.usage?.completion_tokens).toBe(4)
    expect(chunks.slice(0, -1).every((chunk) => chunk.usage === null)).toBe(true)
    expect(chunks.at(-2)?.choices[0]?.finish_reason).toBe('length')
  })

  it('mentions no reasoning when it does not think', async () => {
    for (const request of [off, { reasoning_effort: 'none' }]) {
      const whole = await completionOf(await caller.chat({ ...request, max_tokens: 3 }))
      expect(whole.choices[0].message).not.toHaveProperty('reasoning_content')
      expect(whole.usage.completion_tokens_details.reasoning_tokens).toBe(0)
      const streamed = await caller.chat({ ...request, max_tokens: 3, stream: true })
      expect(await streamed.text()).not.toContain('reasoning_content')
    }
  })

  it('says the same for the same seed, alone or in a crowd, and not for another', async () => {
    const request = { ...off, temperature: 1, top_p: 0.95, max_tokens: 16 }
    const textFor = async (seed: number): Promise<string> => {
      const answer = await completionOf(await caller.chat({ ...request, seed }))
      return answer.choices[0].message.content
    }
    const alone = await textFor(7)
    const crowd = await Promise.all([textFor(1), textFor(7), textFor(2), textFor(7)])
    expect([crowd[1], crowd[3]]).toEqual([alone, alone])
    expect(new Set(crowd).size).toBe(3)
  })

  it('never shows a stop string, and counts only up to it', async () => {
    const long = await completionOf(await caller.chat({ ...greedy, max_tokens: 40 }))
    const text = long.choices[0].message.content
    const stop = text.slice(10, 14)
    const request = { ...greedy, max_tokens: 40, stop: [stop] }
    const whole = await completionOf(await caller.chat(request))
    expect(whole.choices[0].finish_reason).toBe('stop')
    expect(whole.choices[0].message.content).toBe(text.slice(0, text.indexOf(stop)))
    expect(whole.usage.completion_tokens).toBeLessThan(40)
    const { chunks } = await chunksOf(await caller.chat({ ...request, stream: true }))
    expect(chunks.at(-1)?.usage).toEqual(whole.usage)
  })

  it('stops at what the edge has granted', async () => {
    const answer = await completionOf(await caller.chat({ max_tokens: 9 }, { granted: 3 }))
    expect(answer.choices[0].finish_reason).toBe('length')
    expect(answer.usage.completion_tokens).toBe(3)
  })

  it('fills the context window to the last token', async () => {
    // One step of 512 prompt tokens is slow on the reference device: leave the window mostly empty.
    const probe = await completionOf(await caller.chat({ max_tokens: 1 }))
    const room = 4096 - probe.usage.prompt_tokens
    const accepted = await caller.chat({ max_tokens: room, stream: true }, { granted: 1 })
    expect(accepted.status).toBe(200)
    await accepted.text()
    expect((await caller.chat({ max_tokens: room + 1 })).status).toBe(400)
  })

  it('takes a conversation with tools', async () => {
    const tools = [{ type: 'function', function: { name: 'add', parameters: {} } }]
    const call = { id: 'c1', type: 'function', function: { name: 'add', arguments: '{"a":1}' } }
    const messages = [
      { role: 'user', content: 'Add.' },
      { role: 'assistant', content: '', reasoning_content: '', tool_calls: [call] },
      { role: 'tool', tool_call_id: 'c1', content: '2' },
    ]
    const answer = await completionOf(await caller.chat({ messages, tools, max_tokens: 2 }))
    expect(answer.usage.prompt_tokens).toBeGreaterThan(100)
  })

  it('counts what it had kept of a prompt, in the usage and on record', async () => {
    const messages = [{ role: 'user', content: 'The same long beginning. '.repeat(60) }]
    const ask = async (requestId: string) =>
      completionOf(await caller.chat({ ...greedy, messages, max_tokens: 4 }, { requestId }))
    const [first, second] = [await ask('req_cold'), await ask('req_warm')]
    expect(second.choices).toEqual(first.choices)
    expect(first.usage.prompt_cache_hit_tokens).toBe(0)
    const { prompt_tokens: prompt, prompt_cache_hit_tokens: cached } = second.usage
    expect(cached).toBeGreaterThanOrEqual(256)
    expect(second.usage).toMatchObject({
      prompt_tokens: first.usage.prompt_tokens,
      prompt_cache_miss_tokens: prompt - cached,
      prompt_tokens_details: { cached_tokens: cached },
    })
    await recordOf('req_warm').toMatchObject([
      { promptTokens: prompt, cachedTokens: cached, prefilledTokens: prompt - cached },
    ])
  })

  it('encodes a long prompt elsewhere, and answers others meanwhile', async () => {
    const content = 'word '.repeat(18_000)
    const order: string[] = []
    const refused = caller.chat({ messages: [{ role: 'user', content }] }).then((response) => {
      order.push('long')
      return response
    })
    await Promise.all(
      Array.from({ length: 3 }, () =>
        fetch(`${backend.url}/health`).then(() => order.push('health')),
      ),
    )
    const response = await refused
    expect(order.at(-1)).toBe('long')
    expect(response.status).toBe(400)
    expect(await response.json()).toMatchObject({ error: { code: 'context_length_exceeded' } })
  })

  it('satisfies the OpenAI client, streamed and whole', async () => {
    const client = new OpenAI({
      baseURL: `${backend.url}/v1`,
      apiKey: 'unused',
      maxRetries: 0,
      fetch: (url, init) => {
        const path = new URL(url instanceof Request ? url.url : url).pathname
        return init?.body === undefined || init.body === null
          ? caller.call(path)
          : caller.call(path, init.body)
      },
    })
    const request = {
      model: 'deepseek-v4-toy',
      messages: [{ role: 'user' as const, content: 'Hello' }],
      max_tokens: 10,
      ...greedy,
    }
    const whole = await client.chat.completions.create(request)
    const final = await client.chat.completions.stream(request).finalChatCompletion()
    expect(final.choices[0]?.message.content).toBe(whole.choices[0]?.message.content)
    const models = await client.models.list()
    expect(models.data.map(({ id }) => id)).toEqual(['deepseek-v4-toy'])
    expect((await client.models.retrieve('deepseek-v4-toy')).id).toBe('deepseek-v4-toy')
  })

  it('describes the served model', async () => {
    const response = await caller.call('/v1/models', undefined, { requestId: 'req_models' })
    expect(response.headers.get('x-request-id')).toBe('req_models')
    expect(await response.json()).toEqual({
      object: 'list',
      data: [
        {
          id: 'deepseek-v4-toy',
          object: 'model',
          created: 1776988800,
          owned_by: 'deepseek',
          name: 'DeepSeek-V4-Toy',
          context_window: 4096,
          max_output_tokens: 4096,
          input_modalities: ['text'],
          output_modalities: ['text'],
          effort: { supported_levels: ['high', 'max'], default_level: 'high' },
        },
      ],
    })
  })

  it('says that it is up and ready', async () => {
    const [health, ready] = await Promise.all(
      ['/health', '/ready'].map((path) => fetch(`${backend.url}${path}`)),
    )
    expect([health?.status, ready?.status]).toEqual([200, 200])
    expect(await ready?.json()).toEqual({
      status: 'ready',
      model: 'deepseek-v4-toy',
      device: 'reference',
    })
  })
})

describe('usage records', () => {
  it('are on disk when the last event arrives, and reach the edge', async () => {
    const requestId = 'req_record_stream'
    edge.accepting = false
    const response = await caller.chat({ max_tokens: 5, stream: true }, { requestId })
    const decoder = new TextDecoder()
    let text = ''
    let atDone: string | null = null
    for await (const chunk of response.body ?? []) {
      text += decoder.decode(chunk, { stream: true })
      if (text.includes('[DONE]')) {
        atDone ??= readFileSync(join(scratch.path, 'spool', 'records.jsonl'), 'utf8')
      }
    }
    edge.accepting = true
    expect(atDone).toContain(`"requestId":"${requestId}"`)
    const { chunks } = await chunksOf(new Response(text))
    const usage = chunks.at(-1)?.usage
    await recordOf(requestId).toEqual([
      {
        version: 1,
        requestId,
        tenantId: 'tenant-1',
        keyId: 'key-1',
        pool: 'test-pool',
        backendId: 'test-1',
        model: 'deepseek-v4-toy',
        checkpointHash: expect.stringMatching(/^[0-9a-f]{64}$/) as string,
        promptTokens: usage?.prompt_tokens,
        cachedTokens: 0,
        prefilledTokens: usage?.prompt_tokens,
        completionTokens: 5,
        reasoningTokens: usage?.completion_tokens_details.reasoning_tokens,
        deliveredTokens: 5,
        outcome: 'length',
        acceptedAtMs: expect.any(Number) as number,
        startedAtMs: expect.any(Number) as number,
        firstTokenAtMs: expect.any(Number) as number,
        finishedAtMs: expect.any(Number) as number,
      },
    ])
  })

  it.each([true, false])('say what a client that left had caused (stream: %s)', async (stream) => {
    const requestId = `req_left_${stream}`
    const gone = new AbortController()
    const response = await caller.chat(
      { max_tokens: 3000, stream },
      { requestId, signal: gone.signal },
    )
    const reader = response.body?.getReader()
    await reader?.read()
    await reader?.read()
    gone.abort()
    await recordOf(requestId).toEqual([expect.objectContaining({ outcome: 'cancelled' })])
    const record = edge.records.find((entry) => entry.requestId === requestId)
    // The toy makes some 150 tokens a second, and far less than a second went by.
    expect(record?.completionTokens).toBeLessThan(300)
    expect(record?.deliveredTokens).toBeLessThanOrEqual(record?.completionTokens ?? 0)
    if (!stream) expect(record?.deliveredTokens).toBe(0)
  })

  it('are made once for an id: a second request under it is refused', async () => {
    const requestId = 'req_twice'
    const first = await caller.chat({ max_tokens: 60, stream: true }, { requestId })
    const during = await caller.chat({ max_tokens: 1 }, { requestId })
    await first.text()
    const after = await caller.chat({ max_tokens: 1 }, { requestId })
    for (const refused of [during, after]) {
      expect(refused.status).toBe(400)
      expect(await refused.json()).toMatchObject({
        error: { code: 'invalid_request_error', param: 'x-request-id' },
      })
    }
    await recordOf(requestId).toHaveLength(1)
  })

  it('are not made for what was refused, whose id may come again', async () => {
    const requestId = 'req_mended'
    expect((await caller.chat({ max_tokens: 0 }, { requestId })).status).toBe(422)
    expect((await caller.chat({ max_tokens: 1 }, { requestId })).status).toBe(200)
    await recordOf(requestId).toHaveLength(1)
  })
})

describe('errors', () => {
  it.each([
    ['no JSON', '{"model":', 400, 'invalid_request_error', null],
    ['no UTF-8', new Uint8Array([0x22, 0xff, 0x22]), 400, 'invalid_request_error', null],
    ['no messages', { model: 'deepseek-v4-toy' }, 400, 'invalid_request_error', 'messages'],
    [
      'another model',
      { model: 'x', messages: [{ role: 'user', content: 'x' }] },
      400,
      'model_not_found',
      'model',
    ],
  ])('refuses %s', async (_, body, status, code, param) => {
    const response = await caller.call('/v1/chat/completions', body)
    expect(response.status).toBe(status)
    expect(response.headers.get('content-type')).toMatch(/^application\/json/)
    const { error } = (await response.json()) as { error: Record<string, unknown> }
    expect(Object.keys(error).toSorted()).toEqual(['code', 'message', 'param', 'type'])
    expect([error['code'], error['param']]).toEqual([code, param])
  })

  it('refuses a prompt that is too long in the words agents read', async () => {
    const messages = [{ role: 'user', content: 'long '.repeat(6000) }]
    const response = await caller.chat({ messages })
    expect(response.status).toBe(400)
    expect(await response.json()).toMatchObject({
      error: {
        code: 'context_length_exceeded',
        message: expect.stringMatching(
          /^This model's maximum context length is 4096 tokens\. However, you requested (\d+) tokens \(\1 in the messages, 0 in the completion\)\./,
        ) as string,
      },
    })
  })

  it('refuses a body over the limit, announced or not', async () => {
    const large = `{"pad":"${'x'.repeat(200_000)}"}`
    const announced = await caller.call('/v1/chat/completions', large)
    const chunked = await fetch(`${backend.url}/v1/chat/completions`, {
      method: 'POST',
      headers: await serviceHeaders(keys, 'req_chunked'),
      body: new Blob([large]).stream(),
      duplex: 'half',
    } as RequestInit)
    for (const response of [announced, chunked]) {
      expect(response.status).toBe(413)
      expect(await response.json()).toMatchObject({
        error: {
          code: 'request_too_large',
          message: 'The request body is larger than 100000 bytes.',
        },
      })
    }
  })

  it.each([
    ['GET', '/v1/chat/completions', 405, 'method_not_allowed'],
    ['POST', '/v1/models', 405, 'method_not_allowed'],
    ['GET', '/v1/models/gpt', 404, 'not_found'],
    ['GET', '/v1/nothing', 404, 'not_found'],
  ])('answers %s %s with %d', async (method, path, status, code) => {
    const response = await caller.call(path, undefined, { method })
    expect(response.status).toBe(status)
    expect(await response.json()).toMatchObject({ error: { code } })
  })

  it.each(['0', '-1', '1.5', 'many'])('refuses a grant of %s', async (granted) => {
    const response = await caller.chat({ max_tokens: 1 }, { granted })
    expect(response.status).toBe(400)
    expect(await response.json()).toMatchObject({
      error: { param: 'x-sluice-granted-output-tokens' },
    })
  })
})

describe('security', () => {
  it.each([
    ['no token', {}],
    ['no bearer', { authorization: 'Basic abc' }],
    ['a made-up token', { authorization: 'Bearer a.b.c' }],
  ])('answers 401 to %s before it looks at anything else', async (_, headers) => {
    for (const path of ['/v1/chat/completions', '/v1/models', '/v1/nothing']) {
      const response = await fetch(`${backend.url}${path}`, {
        method: 'POST',
        headers: { ...headers, 'x-request-id': 'req_x' } as Record<string, string>,
        body: 'x'.repeat(150_000),
      })
      expect(response.status).toBe(401)
      expect(response.headers.get('x-request-id')).toBe('req_x')
      expect(await response.json()).toMatchObject({ error: { code: 'invalid_service_token' } })
    }
  })

  it('takes a token for the requests of its key, each under an id', async () => {
    const { authorization = '' } = await serviceHeaders(keys, 'req_a')
    const status = async (extra: Record<string, string>): Promise<number> =>
      (await fetch(`${backend.url}/v1/models`, { headers: { authorization, ...extra } })).status
    expect(await status({ 'x-request-id': 'req_a' })).toBe(200)
    expect(await status({ 'x-request-id': 'req_b' })).toBe(200)
    expect(await status({})).toBe(401)
    expect(await status({ 'x-request-id': 'req_b', authorization: 'Bearer x.y.z' })).toBe(401)
  })

  it('logs requests, and nothing of what they said or carried', async () => {
    const secret = 'A sentence that no log may hold'
    const messages = [{ role: 'user', content: secret }]
    await (await caller.chat({ messages, max_tokens: 2 }, { requestId: 'req_logged' })).text()
    await recordOf('req_logged').toHaveLength(1)
    const log = logLines.join('')
    const line = logLines.find((entry) => entry.includes('req_logged'))
    expect(JSON.parse(line ?? '')).toMatchObject({
      level: 'info',
      event: 'request',
      tenant_id: 'tenant-1',
      outcome: 'length',
      completion_tokens: 2,
    })
    for (const forbidden of [secret, 'Bearer', 'eyJ', keys.recordPrivateJwk]) {
      expect(log).not.toContain(forbidden)
    }
  })
})
