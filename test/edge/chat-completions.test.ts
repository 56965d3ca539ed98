import { describe, expect, it } from 'vitest'
import { generateKeyJwks, importPublicKey } from '#protocol/keys.ts'
import { verifyServiceToken } from '#protocol/service-token.ts'
import { bearer, errorBody, makeEdge, MODEL, NOON_MS, POOL_URL } from './edge-app.ts'
import type { FakeBackend, TestEdge, TestEdgeOptions } from './edge-app.ts'

const PATH = '/v1/chat/completions'
const STREAM = 'data: {"id":"c-1"}\n\ndata: [DONE]\n\n'
const SECRET_PROMPT = 'the prompt nobody may log'

interface Caller {
  readonly edge: TestEdge
  readonly tenantId: string
  readonly keyId: string
  readonly key: string
  readonly post: (body: BodyInit, path?: string) => Promise<Response>
}

async function makeCaller(backend: FakeBackend, options?: TestEdgeOptions): Promise<Caller> {
  const edge = await makeEdge(options)
  edge.backend = backend
  const tenantId = await edge.createTenant()
  const { key, keyId } = await edge.createKey(tenantId)
  edge.logs.length = 0
  const post = (body: BodyInit, path = PATH): Promise<Response> =>
    edge.request(path, { method: 'POST', body, headers: bearer(key) })
  return { edge, tenantId, keyId, key, post }
}

function chat(over: object = {}): string {
  const messages = [{ role: 'user', content: SECRET_PROMPT }]
  return JSON.stringify({ model: MODEL, messages, ...over })
}

async function streamingBackend(): Promise<Response> {
  return new Response(STREAM, { headers: { 'content-type': 'text/event-stream' } })
}

function refusing(status: number, body: unknown, headers: HeadersInit = {}): FakeBackend {
  return async () => new Response(JSON.stringify(body), { status, headers })
}

/** Some bytes, then the connection is lost. */
async function dyingBackend(contentType: string, bytes: string): Promise<Response> {
  const parts = [bytes]
  const body = new ReadableStream({
    pull(controller) {
      const part = parts.shift()
      if (part === undefined) controller.error(new Error('Network connection lost.'))
      else controller.enqueue(new TextEncoder().encode(part))
    },
  })
  return new Response(body, { headers: { 'content-type': contentType } })
}

describe('happy', () => {
  it.each([
    '/chat/completions',
    '/v1/chat/completions',
    '/beta/chat/completions',
    '/beta/v1/chat/completions',
    '/v1/chat/completions?beta=true',
  ])('answers at %s', async (path) => {
    const { post } = await makeCaller(streamingBackend)
    const response = await post(chat({ stream: true }), path)
    expect(response.status).toBe(200)
    expect(await response.text()).toBe(STREAM)
  })

  it('passes a stream on byte for byte under its own headers', async () => {
    const { post, edge } = await makeCaller(async () => {
      const headers = { 'content-type': 'text/event-stream', 'x-engine-host': 'gpu-17' }
      return new Response(STREAM, { headers })
    })
    const response = await post(chat({ stream: true }))

    expect(await response.text()).toBe(STREAM)
    await edge.settled()
    const { 'x-request-id': requestId, ...rest } = Object.fromEntries(response.headers)
    const headers = Object.fromEntries(
      Object.entries(rest).filter(([name]) => !name.includes('ratelimit')),
    )
    expect(requestId).toMatch(/^req_/)
    expect(headers).toEqual({
      'content-type': 'text/event-stream; charset=utf-8',
      'cache-control': 'no-cache',
      'x-accel-buffering': 'no',
      'server-timing': 'auth;dur=0, admit;dur=0, queue;dur=0, backend;dur=0, total;dur=0',
      'access-control-allow-origin': '*',
      'access-control-expose-headers': '*',
    })
  })

  it('passes a whole answer on, blank lines ahead of it included', async () => {
    const body = '\n\n{"object":"chat.completion"}'
    const { post } = await makeCaller(
      async () => new Response(body, { headers: { 'content-type': 'application/json' } }),
    )
    const response = await post(chat())
    expect(response.headers.get('content-type')).toBe('application/json')
    expect(await response.text()).toBe(body)
  })

  it('sends the backend the very bytes it got, a token, its own request id and no more', async () => {
    const { post, edge, tenantId, keyId } = await makeCaller(streamingBackend)
    const body = new TextEncoder().encode(`  ${chat({ stream: true, unknown: 'kept' })}\n`)
    const response = await post(body)
    const [call] = edge.calls
    if (call === undefined) throw new Error('the backend was not asked')
    const headers = new Headers(call.init.headers)
    const requestId = headers.get('x-request-id') ?? ''

    expect(call.url).toBe(`${POOL_URL}/v1/chat/completions`)
    expect(call.init.method).toBe('POST')
    expect(call.init.body).toEqual(body)
    expect(requestId).toBe(response.headers.get('x-request-id'))
    expect([...headers.keys()].toSorted()).toEqual([
      'accept-encoding',
      'authorization',
      'content-type',
      'x-request-id',
      'x-sluice-granted-output-tokens',
      'x-sluice-priority',
    ])
    const token = headers.get('authorization')?.replace('Bearer ', '') ?? ''
    const publicKey = await importPublicKey(JSON.stringify(edge.edgeKeys.publicJwk))
    const expected = { pool: 'pool-a', nowMs: NOON_MS }
    expect(await verifyServiceToken(token, publicKey, expected)).toEqual({
      pool: 'pool-a',
      tenantId,
      keyId,
    })
  })

  it('tells the backend for how long a stream may be taken up again', async () => {
    const { edge, key } = await makeCaller(streamingBackend)
    const send = (seconds: string, stream: boolean): Promise<Response> =>
      edge.request(PATH, {
        method: 'POST',
        body: chat({ stream }),
        headers: { ...bearer(key), 'x-sluice-resumable': seconds },
      })
    const sent = (): string | null =>
      new Headers(edge.calls.at(-1)?.init.headers).get('x-sluice-resumable')
    await (await send('300', true)).text()
    expect(sent()).toBe('300')
    // A whole answer is there or is not: the backend has nothing to keep.
    await send('300', false)
    expect(sent()).toBeNull()
    for (const wrong of ['0', '301', 'soon']) {
      const response = await send(wrong, true)
      expect([response.status, await response.json()]).toEqual([
        400,
        errorBody({
          message: "'x-sluice-resumable' must be a whole number of seconds from 1 to 300.",
          type: 'invalid_request_error',
          code: 'invalid_request_error',
          param: 'x-sluice-resumable',
        }),
      ])
    }
  })

  it('logs one line a request, at the end of its stream', async () => {
    const { post, edge, tenantId, keyId } = await makeCaller(streamingBackend)
    const response = await post(chat({ stream: true }))
    expect(edge.logs).toEqual([])
    edge.clock.nowMs += 250
    await response.text()
    await edge.settled()

    expect(edge.logs.map((line) => JSON.parse(line))).toEqual([
      {
        event: 'request',
        request_id: response.headers.get('x-request-id'),
        method: 'POST',
        route: PATH,
        status: 200,
        duration_ms: 250,
        tenant_id: tenantId,
        key_id: keyId,
        model: MODEL,
        admitted_by: 'object',
        body: 'complete',
      },
    ])
  })

  it('spreads requests over the pools that serve the model', async () => {
    const draws = [0, 0.99]
    const recordPublicKey = (await generateKeyJwks()).publicJwk
    const pools = ['a', 'b', 'c'].map((id) => ({
      id,
      url: `http://${id}.test`,
      models: id === 'b' ? ['another'] : [MODEL],
      recordPublicKey,
    }))
    const edge = await makeEdge({
      env: { POOLS: JSON.stringify(pools) },
      deps: { random: () => draws.shift() ?? 0 },
    })
    edge.backend = streamingBackend
    const { key } = await edge.createKey(await edge.createTenant())
    for (let sent = 0; sent < 2; sent += 1) {
      const init = { method: 'POST', body: chat({ stream: true }), headers: bearer(key) }
      await (await edge.request(PATH, init)).text()
    }
    const hosts = edge.calls.map(({ url }) => new URL(url).host)
    expect(hosts).toEqual(['a.test', 'c.test'])
  })
})

describe('a backend that fails', () => {
  const overloaded = {
    error: {
      message: 'No backend can take this request right now. Try again.',
      type: 'server_error',
      param: null,
      code: 'server_is_overloaded',
    },
  }

  it('is a 503 with a jittered wait when it cannot be reached', async () => {
    const { post } = await makeCaller(async () => {
      throw new Error('Network connection lost.')
    })
    const response = await post(chat({ stream: true }))
    expect(response.status).toBe(503)
    expect(response.headers.get('retry-after')).toBe('3')
    expect(response.headers.get('retry-after-ms')).toBe('2200')
    expect(await response.json()).toEqual(overloaded)
  })

  it('is a 503 when its headers do not come in time, and is told to stop', async () => {
    let told = false
    const { post } = await makeCaller(
      ({ init }) =>
        new Promise((_resolve, reject) => {
          init.signal?.addEventListener('abort', () => {
            told = true
            reject(new Error('aborted'))
          })
        }),
      { env: { BACKEND_HEADERS_TIMEOUT_MS: '5' } },
    )
    const response = await post(chat())
    expect(response.status).toBe(503)
    expect(await response.json()).toEqual(overloaded)
    expect(told).toBe(true)
  })

  it('gives back at once what was reserved, if no backend ever saw the request', async () => {
    const { post, edge, key } = await makeCaller(async () => {
      throw new Error('Network connection lost.')
    })
    const outcomeOf = async (): Promise<unknown> => {
      const id = (await post(chat({ stream: true }))).headers.get('x-request-id') ?? ''
      await edge.settled()
      expect(edge.fatesAsked.at(-1)).toBe(id)
      const why = await edge.request(`/v1/requests/${id}/admission`, { headers: bearer(key) })
      const { outcome, reason } = await why.json<{ outcome: string; reason: string }>()
      return [outcome, reason]
    }
    expect(await outcomeOf()).toEqual(['released', 'backend_unreachable'])
    edge.fate = 'under_way'
    expect(await outcomeOf()).toEqual(['admitted', null])
  })

  it('does not let the wait for headers cut the stream that follows them', async () => {
    let signal: AbortSignal | null | undefined
    const { post } = await makeCaller(
      async ({ init }) => {
        signal = init.signal
        return streamingBackend()
      },
      { env: { BACKEND_HEADERS_TIMEOUT_MS: '1' } },
    )
    const response = await post(chat({ stream: true }))
    await new Promise((resolve) => setTimeout(resolve, 20))
    expect(signal?.aborted).toBe(false)
    expect(await response.text()).toBe(STREAM)
  })

  it('ends a broken stream in a typed error event and no [DONE]', async () => {
    const cut = 'data: {"id":"c-1"}\n\ndata: {"id"'
    const { post, edge } = await makeCaller(() => dyingBackend('text/event-stream', cut))
    const response = await post(chat({ stream: true }))
    expect(response.status).toBe(200)
    const text = await response.text()
    const error = {
      message: 'The backend stopped before finishing this answer. Try again.',
      type: 'server_error',
      param: null,
      code: 'server_is_overloaded',
    }
    expect(text).toBe(`${cut}\n\ndata: ${JSON.stringify({ error })}\n\n`)
    await edge.settled()
    expect(edge.logs.map((line) => JSON.parse(line).body)).toEqual(['broken'])
  })

  it('passes on an answer that comes with its length, with the limits and one line', async () => {
    const answer = JSON.stringify({ id: 'c-1' })
    const { post, edge } = await makeCaller(async () => {
      const headers = { 'content-type': 'application/json', 'content-length': '12' }
      return new Response(answer, { headers })
    })
    const response = await post(chat())
    expect(edge.logs.map((line) => JSON.parse(line))).toEqual([
      expect.objectContaining({ event: 'request', status: 200, route: PATH }),
    ])
    expect(await response.text()).toBe(answer)
    expect(Object.fromEntries(response.headers)).toMatchObject({
      'content-type': 'application/json',
      'access-control-allow-origin': '*',
      'x-request-id': expect.stringMatching(/^req_/),
    })
  })

  it('breaks an answer with a length off where the backend did', async () => {
    const { post } = await makeCaller(async () => {
      const cut = await dyingBackend('application/json', '{"obj')
      cut.headers.set('content-length', '12')
      return cut
    })
    const response = await post(chat())
    await expect(response.text()).rejects.toThrow()
  })

  it('breaks a whole answer off where the backend did', async () => {
    const { post, edge } = await makeCaller(() => dyingBackend('application/json', '\n{"obj'))
    const response = await post(chat())
    await expect(response.text()).rejects.toThrow()
    await edge.settled()
    expect(edge.logs.map((line) => JSON.parse(line).body)).toEqual(['broken'])
  })

  it('has its refusal of the request passed on in its own words', async () => {
    const error = {
      message: "This model's maximum context length is 4096 tokens.",
      type: 'invalid_request_error',
      param: 'messages',
      code: 'context_length_exceeded',
    }
    const { post } = await makeCaller(refusing(400, { error: { ...error, host: 'gpu-17' } }))
    const response = await post(chat())
    expect(response.status).toBe(400)
    expect(await response.json()).toEqual({ error })
  })

  it('has its own wait passed on when it is full', async () => {
    const envelope = errorBody({ message: 'Queue full.', type: '', code: 'server_is_overloaded' })
    const headers = { 'retry-after': '8', 'retry-after-ms': '7500' }
    const { post } = await makeCaller(refusing(503, envelope, headers))
    const response = await post(chat())
    expect(response.status).toBe(503)
    expect(response.headers.get('retry-after')).toBe('8')
    expect(response.headers.get('retry-after-ms')).toBe('7500')
  })

  it('never turns its refusal of our token into a 401 of the client', async () => {
    const refusal = errorBody({
      message: 'The service token is not valid.',
      type: 'authentication_error',
      code: 'invalid_service_token',
    })
    const { post, edge } = await makeCaller(refusing(401, refusal))
    const response = await post(chat())
    expect(response.status).toBe(500)
    expect(await response.json()).toEqual(
      errorBody({
        message: 'The backend could not answer this request.',
        type: 'server_error',
        code: 'internal_server_error',
      }),
    )
    expect(edge.logs[0]).toContain('"event":"backend_refused_token"')
  })

  it.each([
    ['a page', 502, '<html>gpu-17.internal</html>', 500],
    ['another shape of error', 500, '{"detail":"/srv/engine.py line 3"}', 500],
    ['a busy page', 503, 'gpu-17 is busy', 503],
    ['an engine’s own rate limit', 429, '{"error":"slow down gpu-17"}', 503],
    ['a redirect', 302, '', 500],
    ['a success of the wrong type', 200, '<html>gpu-17</html>', 500],
  ])('shows nothing of %s', async (_name, status, body, answered) => {
    const { post } = await makeCaller(async () => new Response(body, { status }))
    const response = await post(chat({ stream: true }))
    expect(response.status).toBe(answered)
    const text = await response.text()
    expect(text).not.toMatch(/gpu-17|engine\.py/)
    expect(JSON.parse(text)).toMatchObject({ error: { type: 'server_error', param: null } })
  })
})

describe('errors', () => {
  it('refuses in the order of the contract: key, size, body, model', async () => {
    const { post, edge } = await makeCaller(streamingBackend, { env: { MAX_BODY_BYTES: '200' } })
    const statusAndCode = async (response: Response): Promise<unknown[]> => {
      const { error } = await response.json<{ error: { code: string } }>()
      return [response.status, error.code]
    }
    const large = 'x'.repeat(201)
    const keyless = await edge.request(PATH, { method: 'POST', body: large })

    expect(await statusAndCode(keyless)).toEqual([401, 'invalid_api_key'])
    expect(await statusAndCode(await post(large))).toEqual([413, 'request_too_large'])
    expect(await statusAndCode(await post('{'))).toEqual([400, 'invalid_request_error'])
    const range = await post(chat({ model: 'x', max_tokens: 0 }))
    expect(await statusAndCode(range)).toEqual([422, 'invalid_parameter'])
    const model = await post(chat({ model: 'x' }))
    expect(await statusAndCode(model)).toEqual([400, 'model_not_found'])
    expect(edge.calls).toEqual([])
  })

  it('says which models there are when asked for another', async () => {
    const { post } = await makeCaller(streamingBackend)
    expect(await (await post(chat({ model: 'gpt-x' }))).json()).toEqual(
      errorBody({
        message: 'Model Not Exist: this service has deepseek-v4-toy.',
        type: 'invalid_request_error',
        code: 'model_not_found',
        param: 'model',
      }),
    )
  })

  it('counts the bytes that come, not those announced', async () => {
    const limit = 10_000
    const { post } = await makeCaller(streamingBackend, {
      env: { MAX_BODY_BYTES: String(limit) },
    })
    let sentBytes = 0
    const endless = new ReadableStream<Uint8Array>({
      pull(controller) {
        sentBytes += 1000
        controller.enqueue(new Uint8Array(1000).fill(0x20))
      },
    })
    const response = await post(endless)
    expect(response.status).toBe(413)
    // The limit, twice that discarded, and what the streams between hold.
    expect(sentBytes).toBeLessThan(4 * limit)
  })

  it('takes a body of exactly the limit', async () => {
    const body = chat({ stream: true })
    const exact = await makeCaller(streamingBackend, {
      env: { MAX_BODY_BYTES: String(body.length) },
    })
    expect((await exact.post(body)).status).toBe(200)
    expect((await exact.post(`${body} `)).status).toBe(413)
  })

  it.each([
    ['bytes that are not UTF-8', new Uint8Array([0x7b, 0xff, 0x7d])],
    ['a byte order mark', new TextEncoder().encode(`\ufeff${chat()}`)],
    ['nothing', new Uint8Array(0)],
  ])('answers %s with 400', async (_name, body) => {
    const { post, edge } = await makeCaller(streamingBackend)
    const response = await post(body)
    expect(response.status).toBe(400)
    expect(await response.json()).toMatchObject({ error: { code: 'invalid_request_error' } })
    expect(edge.calls).toEqual([])
  })
})

describe('security', () => {
  it('logs no prompt, key, token or made-up model, however a request ends', async () => {
    const { post, edge, key } = await makeCaller(async () => {
      throw new Error('Network connection lost.')
    })
    await post(chat({ stream: true }))
    await post(chat({ model: SECRET_PROMPT }))
    await post(chat().slice(0, -1))
    edge.backend = () => dyingBackend('text/event-stream', 'data: 1\n\n')
    await (await post(chat({ stream: true }))).text()
    await edge.settled()

    const log = edge.logs.join('\n')
    expect(edge.logs.filter((line) => line.includes('"event":"request"'))).toHaveLength(4)
    expect(log).not.toContain(SECRET_PROMPT)
    expect(log).not.toContain(key.slice(-20))
    expect(log).not.toContain('Bearer')
  })

  it('sends the backend nothing of the client’s own headers', async () => {
    const { edge, key } = await makeCaller(streamingBackend)
    const headers = { ...bearer(key), 'x-request-id': 'forged', cookie: 'a=b', 'x-sluice-x': '1' }
    const response = await edge.request(PATH, {
      method: 'POST',
      body: chat({ stream: true }),
      headers,
    })
    await response.text()
    const sent = [...new Headers(edge.calls[0]?.init.headers).values()].join(' ')
    expect(sent).not.toMatch(/forged|a=b/)
    expect(sent).not.toContain(key)
  })
})
