import { createHash, randomBytes } from 'node:crypto'
import { request as httpRequest } from 'node:http'
import type { ClientRequest, IncomingMessage, ServerResponse } from 'node:http'
import OpenAI from 'openai'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import {
  createEdgeKey,
  EDGE_MODEL,
  EDGE_POOL,
  makeEdgeSecrets,
  startEdgeUnderTest,
} from '../support/edge.ts'
import type { EdgeUnderTest } from '../support/edge.ts'
import { closed, openEventStream, readAll, startFakeBackend } from '../support/fake-backend.ts'
import type { FakeBackend } from '../support/fake-backend.ts'

// Disconnects and broken connections need real sockets on both sides of a real workerd; the tests
// inside workerd fake the backend's response instead.

const PATH = '/v1/chat/completions'
/** Of a pool whose engine is not ours, though it is the same fake that answers. */
const FOREIGN_MODEL = 'deepseek-v4-flash'
const BODY_BYTES_MAX = 2 * 1024 * 1024
const ERROR_EVENT = `data: ${JSON.stringify({
  error: {
    message: 'The backend stopped before finishing this answer. Try again.',
    type: 'server_error',
    param: null,
    code: 'server_is_overloaded',
  },
})}\n\n`

let backend: FakeBackend
let edge: EdgeUnderTest
let key: string
let tenantId: string

beforeAll(async () => {
  backend = await startFakeBackend()
  const secrets = await makeEdgeSecrets()
  const { d: _private, ...recordPublicKey } = secrets.record
  const pools = [
    { id: EDGE_POOL, url: backend.url, models: [EDGE_MODEL], recordPublicKey },
    { id: 'foreign', kind: 'openai', url: backend.url, models: [FOREIGN_MODEL] },
  ]
  edge = await startEdgeUnderTest({
    backendUrl: backend.url,
    secrets,
    vars: { MAX_BODY_BYTES: String(BODY_BYTES_MAX), POOLS: JSON.stringify(pools) },
  })
  ;({ key, tenantId } = await createEdgeKey(edge))
})

afterAll(async () => {
  await edge.close()
  await backend.close()
})

function chatBody(stream: boolean, model = EDGE_MODEL): string {
  const messages = [{ role: 'user', content: 'Hello' }]
  return JSON.stringify({ model, messages, stream })
}

function post(body: NonNullable<RequestInit['body']>, init: RequestInit = {}): Promise<Response> {
  const headers = { authorization: `Bearer ${key}` }
  return fetch(`${edge.url}${PATH}`, { method: 'POST', headers, body, ...init })
}

/** A request on a connection of its own, which `destroy()` closes as an ordinary client would. */
async function openConnection(
  body: string,
): Promise<{ request: ClientRequest; response: IncomingMessage }> {
  const request = httpRequest(`${edge.url}${PATH}`, {
    method: 'POST',
    agent: false,
    headers: { authorization: `Bearer ${key}`, 'accept-encoding': 'gzip, deflate' },
  })
  // Destroying the request is the test's own doing.
  request.on('error', () => undefined)
  request.end(body)
  const response = await new Promise<IncomingMessage>((arrived) => {
    request.once('response', arrived)
  })
  response.on('error', () => undefined)
  return { request, response }
}

/** Writes `text` every 50 ms until the connection is gone. */
function writeRepeatedly(response: ServerResponse, text: string): void {
  const timer = setInterval(() => response.write(text), 50)
  response.once('close', () => clearInterval(timer))
}

describe('a stream', () => {
  it('arrives event by event, uncompressed, each before the next is written', async () => {
    let sendNext: () => void = () => undefined
    backend.handler = (request, response) => {
      request.resume()
      openEventStream(response)
      const events = ['data: 1\n\n', 'data: 2\n\n', 'data: [DONE]\n\n']
      sendNext = () => {
        response.write(events.shift() ?? '')
        if (events.length === 0) response.end()
      }
      sendNext()
    }
    const response = await post(chatBody(true), {
      headers: { authorization: `Bearer ${key}`, 'accept-encoding': 'gzip, br' },
    })
    expect(response.headers.get('content-encoding')).toBeNull()
    expect(response.headers.get('content-type')).toBe('text/event-stream; charset=utf-8')

    const seen: string[] = []
    for await (const chunk of response.body ?? []) {
      seen.push(Buffer.from(chunk).toString())
      sendNext()
    }
    expect(seen).toEqual(['data: 1\n\n', 'data: 2\n\n', 'data: [DONE]\n\n'])
  })

  it('of another engine is cut off with its client, who pays for what came', async () => {
    const gone = Promise.withResolvers<void>()
    let written = 0
    backend.handler = (request, response) => {
      request.resume()
      openEventStream(response)
      const choices = [{ index: 0, delta: { content: 'a' }, finish_reason: null }]
      const timer = setInterval(() => {
        response.write(`data: ${JSON.stringify({ choices })}\n\n`)
        written += 1
      }, 20)
      response.once('close', () => {
        clearInterval(timer)
        gone.resolve()
      })
    }
    const { request, response } = await openConnection(chatBody(true, FOREIGN_MODEL))
    await new Promise((arrived) => response.once('data', arrived))
    request.destroy()
    await gone.promise
    const billed = async (): Promise<{ requests: number; completion_tokens: number }> => {
      const usage = await edge.admin(`/tenants/${tenantId}/usage`)
      return usage['totals'] as { requests: number; completion_tokens: number }
    }
    await expect.poll(async () => (await billed()).requests, { timeout: 5_000 }).toBe(1)
    const { completion_tokens: tokens } = await billed()
    expect(tokens).toBeGreaterThan(0)
    expect(tokens).toBeLessThanOrEqual(written)
  })

  it('is byte for byte the backend’s, as the request is byte for byte the client’s', async () => {
    const payload = randomBytes(3 * 1024 * 1024)
    const received: Buffer[] = []
    backend.handler = async (request, response) => {
      received.push(await readAll(request))
      openEventStream(response)
      for (let at = 0; at < payload.length;) {
        const end = at + 1 + ((at * 7919) % 60_000)
        response.write(payload.subarray(at, end))
        at = end
      }
      response.end()
    }
    const sent = Buffer.from(` ${chatBody(true)}${' '.repeat(1_000_000)}\n`)
    const got = Buffer.from(await (await post(sent)).arrayBuffer())
    const digest = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex')

    expect(digest(got)).toBe(digest(payload))
    expect(received.map(digest)).toEqual([digest(sent)])
  })

  it.each([
    ['closed in the middle of an event', 'data: {"id":"c-1"', 'destroy'],
    ['reset in the middle of an event', 'data: {"id":"c-1"', 'resetAndDestroy'],
    ['closed between events', 'data: {"id":"c-1"}\n\n', 'destroy'],
    ['closed before the first event', '', 'destroy'],
  ] as const)('ends in a typed error and no [DONE] when it is %s', async (_how, sent, breakOff) => {
    backend.handler = (request, response) => {
      request.resume()
      openEventStream(response)
      response.flushHeaders()
      if (sent !== '') response.write(sent)
      setTimeout(() => response.socket?.[breakOff](), 50)
    }
    const response = await post(chatBody(true))
    expect(response.status).toBe(200)
    expect(await response.text()).toBe(`${sent}\n\n${ERROR_EVENT}`)
  })

  it('raises the error in the OpenAI client, after the part that came', async () => {
    const chunk = {
      id: 'c-1',
      object: 'chat.completion.chunk',
      created: 1,
      model: EDGE_MODEL,
      choices: [{ index: 0, delta: { content: 'Hi' }, finish_reason: null }],
    }
    backend.handler = (request, response) => {
      request.resume()
      openEventStream(response)
      response.write(`data: ${JSON.stringify(chunk)}\n\n`)
      setTimeout(() => response.socket?.destroy(), 50)
    }
    const client = new OpenAI({ baseURL: `${edge.url}/v1`, apiKey: key, maxRetries: 0 })
    const stream = await client.chat.completions.create({
      model: EDGE_MODEL,
      messages: [{ role: 'user', content: 'Hello' }],
      stream: true,
    })
    const texts: (string | null | undefined)[] = []
    const reading = (async () => {
      for await (const event of stream) texts.push(event.choices[0]?.delta.content)
    })()
    await expect(reading).rejects.toMatchObject({ code: 'server_is_overloaded' })
    expect(texts).toEqual(['Hi'])
  })

  it('is given up by the backend soon after the client has gone', async () => {
    const givenUp = new Promise<void>((resolve) => {
      backend.handler = (request, response) => {
        request.resume()
        openEventStream(response)
        writeRepeatedly(response, ': keep-alive\n\n')
        void closed(response).then(resolve)
      }
    })
    const { request, response } = await openConnection(chatBody(true))
    await new Promise((arrived) => response.once('data', arrived))
    request.destroy()
    await givenUp
  })
})

describe('a whole answer', () => {
  it('keeps the blank lines that come ahead of it moving', async () => {
    let finish: () => void = () => undefined
    backend.handler = (request, response) => {
      request.resume()
      response.writeHead(200, { 'content-type': 'application/json' })
      response.write('\n')
      finish = () => response.end('{"object":"chat.completion"}')
    }
    const { response } = await openConnection(chatBody(false))
    const chunks: Buffer[] = []
    response.on('data', (chunk: Buffer) => {
      chunks.push(chunk)
      finish()
    })
    await new Promise((ended) => response.once('end', ended))
    expect(Buffer.concat(chunks).toString()).toBe('\n{"object":"chat.completion"}')
  })

  it('breaks off where the backend did, so that no client takes it for whole', async () => {
    backend.handler = (request, response) => {
      request.resume()
      response.writeHead(200, { 'content-type': 'application/json' })
      response.write('\n')
      setTimeout(() => response.socket?.destroy(), 50)
    }
    const response = await post(chatBody(false))
    expect(response.status).toBe(200)
    await expect(response.text()).rejects.toThrow()
  })

  it('is given up by the backend soon after the client has gone', async () => {
    const givenUp = new Promise<void>((resolve) => {
      backend.handler = (request, response) => {
        request.resume()
        response.writeHead(200, { 'content-type': 'application/json' })
        writeRepeatedly(response, '\n')
        void closed(response).then(resolve)
      }
    })
    const { request, response } = await openConnection(chatBody(false))
    await new Promise((arrived) => response.once('data', arrived))
    request.destroy()
    await givenUp
  })
})

describe('before an answer', () => {
  it('is a 503 to retry when nothing listens at the pool', async () => {
    const nobody = await startFakeBackend()
    await nobody.close()
    const secrets = await makeEdgeSecrets()
    const lonely = await startEdgeUnderTest({ backendUrl: nobody.url, secrets })
    try {
      const { key: lonelyKey } = await createEdgeKey(lonely)
      const response = await fetch(`${lonely.url}${PATH}`, {
        method: 'POST',
        headers: { authorization: `Bearer ${lonelyKey}` },
        body: chatBody(true),
      })
      expect(response.status).toBe(503)
      expect(Number(response.headers.get('retry-after'))).toBeGreaterThanOrEqual(1)
      expect(await response.json()).toMatchObject({ error: { code: 'server_is_overloaded' } })
    } finally {
      await lonely.close()
    }
  })

  it('is a 503 when the backend dies before its headers', async () => {
    backend.handler = (request) => void request.socket.destroy()
    expect((await post(chatBody(true))).status).toBe(503)
  })

  it('is given up by the backend when the client’s connection is reset while it waits', async () => {
    let reset: () => void = () => undefined
    const givenUp = new Promise<void>((resolve) => {
      backend.handler = (request, response) => {
        request.resume()
        void closed(response).then(resolve)
        reset()
      }
    })
    const request = httpRequest(`${edge.url}${PATH}`, {
      method: 'POST',
      agent: false,
      headers: { authorization: `Bearer ${key}` },
    })
    request.on('error', () => undefined)
    reset = () => request.socket?.resetAndDestroy()
    request.end(chatBody(true))
    await givenUp
  })

  it('is a 413 for a body that grows past the limit without saying so', async () => {
    let asked = false
    backend.handler = (_request, response) => {
      asked = true
      response.end()
    }
    const chunk = new Uint8Array(64 * 1024).fill(0x20)
    let sentBytes = 0
    const growing = new ReadableStream<Uint8Array>({
      pull(controller) {
        if (sentBytes > 2 * BODY_BYTES_MAX) controller.close()
        else controller.enqueue(chunk)
        sentBytes += chunk.byteLength
      },
    })
    const response = await post(growing, { duplex: 'half' } as RequestInit)
    expect(response.status).toBe(413)
    expect(await response.json()).toMatchObject({ error: { code: 'request_too_large' } })
    expect(asked).toBe(false)
  })
})
