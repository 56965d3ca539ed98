import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import OpenAI from 'openai'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { LIMITS } from '#protocol/chat-completions.ts'
import { admin, openAiClient, postChat, startLoggedStack } from '../support/local-stack.ts'
import type { LoggedStack } from '../support/local-stack.ts'
import { makeScratch } from '../support/scratch.ts'
import type { Scratch } from '../support/scratch.ts'

const PROMPT = 'A sentence that no log may ever hold.'
const MESSAGES = [{ role: 'user' as const, content: PROMPT }]

let scratch: Scratch
let stack: LoggedStack

beforeAll(async () => {
  scratch = await makeScratch('stack')
  stack = await startLoggedStack(scratch.path)
})

afterAll(async () => {
  await stack?.close()
  await scratch?.remove()
})

interface UsageTotals {
  requests: number
  prompt_tokens: number
  completion_tokens: number
}

async function usageTotals(apiKey: string): Promise<UsageTotals> {
  const response = await fetch(`${stack.edgeUrl}/v1/usage`, {
    headers: { authorization: `Bearer ${apiKey}` },
  })
  expect(response.status).toBe(200)
  const { totals } = (await response.json()) as { totals: UsageTotals }
  const { requests, prompt_tokens, completion_tokens } = totals
  return { requests, prompt_tokens, completion_tokens }
}

/** A tenant of its own, so that its counts are this test's alone. */
async function newKey(): Promise<{ key: string; revoke: () => Promise<Response> }> {
  const tenant = (await (await admin(stack, 'POST', '/admin/tenants', { name: 't' })).json()) as {
    tenant_id: string
  }
  const keys = `/admin/tenants/${tenant.tenant_id}/keys`
  const created = (await (await admin(stack, 'POST', keys, { name: 'k' })).json()) as {
    key: string
    key_id: string
  }
  return {
    key: created.key,
    revoke: () => admin(stack, 'DELETE', `${keys}/${created.key_id}`),
  }
}

describe('happy', () => {
  it('streams a completion to the OpenAI client, with usage on the last chunk', async () => {
    const stream = await openAiClient(stack).chat.completions.create({
      model: stack.model,
      messages: MESSAGES,
      max_tokens: 24,
      stream: true,
      stream_options: { include_usage: true },
    })
    const chunks: OpenAI.ChatCompletionChunk[] = []
    for await (const chunk of stream) chunks.push(chunk)

    expect(new Set(chunks.map((chunk) => chunk.id)).size).toBe(1)
    expect(chunks[0]?.choices[0]?.delta.role).toBe('assistant')
    expect(chunks.filter((chunk) => chunk.usage != null)).toHaveLength(1)
    const usage = chunks.at(-1)?.usage
    expect(chunks.at(-1)?.choices).toEqual([])
    expect(usage?.total_tokens).toBe((usage?.prompt_tokens ?? 0) + (usage?.completion_tokens ?? 0))
    expect(usage?.completion_tokens).toBeLessThanOrEqual(24)
    expect(usage?.completion_tokens).toBeGreaterThan(0)
  })

  it('gives the same greedy text streamed and whole', async () => {
    const request = {
      model: stack.model,
      messages: MESSAGES,
      max_tokens: 32,
      temperature: 0,
      thinking: { type: 'disabled' },
    }
    const client = openAiClient(stack)
    const whole = await client.chat.completions.create(request)
    const stream = await client.chat.completions.create({ ...request, stream: true })
    let streamed = ''
    for await (const chunk of stream) streamed += chunk.choices[0]?.delta.content ?? ''

    expect(whole.object).toBe('chat.completion')
    expect(['stop', 'length']).toContain(whole.choices[0]?.finish_reason)
    expect(whole.choices[0]?.message.content).toBe(streamed)
    expect(streamed.length).toBeGreaterThan(0)
  })

  it('lists the served model', async () => {
    const ids: string[] = []
    for await (const model of openAiClient(stack).models.list()) ids.push(model.id)
    expect(ids).toEqual([stack.model])
    expect((await openAiClient(stack).models.retrieve(stack.model)).id).toBe(stack.model)
  })

  it('shows a tenant exactly the tokens its answers reported', async () => {
    const { key } = await newKey()
    const client = openAiClient(stack, key)
    const expected = { requests: 0, prompt_tokens: 0, completion_tokens: 0 }
    for (const max_tokens of [1, 7, 20]) {
      const { usage } = await client.chat.completions.create({
        model: stack.model,
        messages: MESSAGES,
        max_tokens,
      })
      expected.requests += 1
      expected.prompt_tokens += usage?.prompt_tokens ?? 0
      expected.completion_tokens += usage?.completion_tokens ?? 0
    }
    await expect.poll(() => usageTotals(key), { timeout: 20_000 }).toEqual(expected)
  })

  it('bills a client that went away for what was generated, and generates no more', async () => {
    const { key } = await newKey()
    const gone = new AbortController()
    const body = { model: stack.model, messages: MESSAGES, max_tokens: 3000, stream: true }
    const response = await postChat(stack, body, { apiKey: key, signal: gone.signal })
    const reader = response.body?.getReader()
    await reader?.read()
    gone.abort()

    await expect.poll(async () => (await usageTotals(key)).requests, { timeout: 20_000 }).toBe(1)
    expect((await usageTotals(key)).completion_tokens).toBeLessThan(1500)
  })
})

describe('a resumable stream', () => {
  /** The events of a stream by their numbers; at most `count` are read. */
  async function readEvents(response: Response, count: number): Promise<Map<number, string>> {
    const events = new Map<number, string>()
    const decoder = new TextDecoder()
    let text = ''
    for await (const chunk of response.body ?? []) {
      text += decoder.decode(chunk, { stream: true })
      for (const [, id, data] of text.matchAll(/^id: (\d+)\ndata: (.*)\n\n/gm)) {
        events.set(Number(id), data ?? '')
      }
      if (events.size >= count) break
    }
    return events
  }

  it('is taken up where it broke, by its own tenant alone, and billed once', async () => {
    const [{ key }, { key: stranger }] = [await newKey(), await newKey()]
    const gone = new AbortController()
    const first = await fetch(`${stack.edgeUrl}/v1/chat/completions`, {
      method: 'POST',
      headers: { authorization: `Bearer ${key}`, 'x-sluice-resumable': '30' },
      body: JSON.stringify({
        model: stack.model,
        messages: MESSAGES,
        max_tokens: 60,
        stream: true,
        stream_options: { include_usage: true },
      }),
      signal: gone.signal,
    })
    const seen = await readEvents(first, 3)
    gone.abort()
    const last = Math.max(...seen.keys())
    const resume = (apiKey: string): Promise<Response> =>
      fetch(
        `${stack.edgeUrl}/v1/requests/${first.headers.get('x-request-id')}/events?after=${last}`,
        { headers: { authorization: `Bearer ${apiKey}` } },
      )
    expect((await resume(stranger)).status).toBe(404)
    const rest = await readEvents(await resume(key), Infinity)

    const numbers = [...seen.keys(), ...rest.keys()]
    expect(numbers).toEqual(Array.from({ length: numbers.length }, (_, index) => index + 1))
    const events = [...seen.values(), ...rest.values()]
    expect(events.at(-1)).toBe('[DONE]')
    const { usage } = JSON.parse(events.at(-2) ?? '') as { usage: UsageTotals }
    const { prompt_tokens, completion_tokens } = usage
    await expect
      .poll(() => usageTotals(key), { timeout: 20_000 })
      .toEqual({ requests: 1, prompt_tokens, completion_tokens })
  })
})

describe('errors', () => {
  it.each([
    ['a key that never was', 'sk-sluice-aaaaaaaaaaaaaaaa-bbbbbbbbbbbbbbbbbbbbbbbb'],
    ['no key of ours at all', 'sk-other'],
  ])('answers 401 to %s', async (_, apiKey) => {
    const attempt = openAiClient(stack, apiKey).models.list()
    await expect(attempt).rejects.toMatchObject({
      status: 401,
      code: 'invalid_api_key',
      type: 'authentication_error',
    })
  })

  it('answers 401 to a request without a key', async () => {
    const response = await fetch(`${stack.edgeUrl}/v1/models`)
    expect(response.status).toBe(401)
    expect(response.headers.get('content-type')).toMatch(/^application\/json/)
    const { error } = (await response.json()) as { error: Record<string, unknown> }
    expect(Object.keys(error).toSorted()).toEqual(['code', 'message', 'param', 'type'])
    expect(error['message']).toMatch(/Authentication/)
  })

  it('stops serving a revoked key within two seconds', async () => {
    const { key, revoke } = await newKey()
    const client = openAiClient(stack, key)
    await client.models.list()
    expect((await revoke()).ok).toBe(true)
    const status = () =>
      client.models.list().then(
        () => 200,
        (error: unknown) => (error instanceof OpenAI.APIError ? error.status : 0),
      )
    await expect.poll(status, { timeout: 2_500, interval: 100 }).toBe(401)
  })

  it('answers 404 for a model it does not know, and 400 when asked to run one', async () => {
    const client = openAiClient(stack)
    await expect(client.models.retrieve('gpt-nope')).rejects.toMatchObject({ status: 404 })
    const attempt = client.chat.completions.create({ model: 'gpt-nope', messages: MESSAGES })
    await expect(attempt).rejects.toMatchObject({
      status: 400,
      code: 'model_not_found',
      param: 'model',
      message: expect.stringContaining('Model Not Exist'),
    })
  })

  const chat = { messages: MESSAGES }
  it.each([
    ['malformed JSON', '{"model":', 400, null],
    ['bytes that are not UTF-8', new Uint8Array([0x22, 0xff, 0x22]), 400, null],
    ['messages of the wrong type', { messages: 'hi' }, 400, 'messages'],
    ['a missing part', { messages: [{ role: 'user' }] }, 400, 'messages[0].content'],
    ['max_tokens 0', { ...chat, max_tokens: 0 }, 422, 'max_tokens'],
    [
      'max_tokens over the ceiling',
      { ...chat, max_tokens: LIMITS.maxTokens + 1 },
      422,
      'max_tokens',
    ],
    ['a temperature of 3', { ...chat, temperature: 3 }, 422, 'temperature'],
    ['an unknown effort', { ...chat, reasoning_effort: 'banana' }, 400, 'reasoning_effort'],
    ['two answers', { ...chat, n: 2 }, 400, 'n'],
    ['17 stops', { ...chat, stop: Array.from({ length: 17 }, String) }, 400, 'stop'],
    ['stream options without a stream', { ...chat, stream_options: {} }, 400, 'stream_options'],
  ])('refuses %s and names the field', async (_, body, status, param) => {
    const raw = typeof body === 'string' || body instanceof Uint8Array
    const sent = raw ? body : { model: stack.model, ...body }
    const response = await postChat(stack, sent)
    expect(response.status).toBe(status)
    const { error } = (await response.json()) as { error: { param: string | null } }
    expect(error.param).toBe(param)
  })

  it('refuses a prompt longer than the context, in the words agents parse', async () => {
    const response = await postChat(stack, {
      model: stack.model,
      messages: [{ role: 'user', content: 'long '.repeat(6000) }],
    })
    expect(response.status).toBe(400)
    const { error } = (await response.json()) as { error: { code: string; message: string } }
    expect(error.code).toBe('context_length_exceeded')
    expect(error.message).toMatch(
      /maximum context length is 4096 tokens\. However, you requested \d+ tokens/,
    )
  })

  it('refuses a body over the limit with 413', async () => {
    const content = 'x'.repeat(40 * 2 ** 20)
    const response = await postChat(stack, {
      model: stack.model,
      messages: [{ role: 'user', content }],
    })
    expect(response.status).toBe(413)
    const { error } = (await response.json()) as { error: { code: string } }
    expect(error.code).toBe('request_too_large')
  })
})

describe('security', () => {
  it('has put no key, token, secret or prompt into any log', async () => {
    const secrets = JSON.parse(await readFile(join(scratch.path, 'secrets.json'), 'utf8')) as {
      edgeSigning: { privateJwk: { d: string } }
      recordSigning: { privateJwk: { d: string } }
      objectStore: { secretAccessKey: string }
    }
    const forbidden = {
      'API key': stack.apiKey.slice(-20),
      'admin token': stack.adminToken,
      'edge signing key': secrets.edgeSigning.privateJwk.d,
      'record signing key': secrets.recordSigning.privateJwk.d,
      'S3 secret': secrets.objectStore.secretAccessKey,
      prompt: PROMPT,
      'any bearer token': 'Bearer ',
      'any JWT': 'eyJ',
    }
    const log = stack.logLines.join('\n')
    // An empty log would prove nothing.
    expect(log).toMatch(/\[backend\].*req_/)
    expect(log).toMatch(/\[edge\].*req_/)
    for (const [name, text] of Object.entries(forbidden)) {
      expect(log.includes(text), `${name} in a log`).toBe(false)
    }
  })

  it('keeps no key in the clear in the stored state', async () => {
    const secret = stack.apiKey.slice(-20)
    const folder = join(scratch.path, 'edge')
    const files = await readdir(folder, { recursive: true, withFileTypes: true })
    const stored = files.filter((file) => file.isFile())
    expect(stored.length).toBeGreaterThan(0)
    for (const file of stored) {
      const bytes = await readFile(join(file.parentPath, file.name))
      expect(bytes.includes(secret), file.name).toBe(false)
    }
  })
})
