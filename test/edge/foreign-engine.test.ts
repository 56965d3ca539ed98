import { describe, expect, it } from 'vitest'
import { bearer, errorBody, makeEdge, MODEL } from './edge-app.ts'
import type { FakeBackend, TestEdge } from './edge-app.ts'

const PATH = '/v1/chat/completions'
const ENGINE_KEY = 'the-key-of-the-engine'
const frame = (value: object): string => `data: ${JSON.stringify(value)}\n\n`
const chunk = (content: string, finish_reason: string | null = null): string =>
  frame({ choices: [{ index: 0, delta: { content }, finish_reason }] })
const USAGE = {
  prompt_tokens: 12,
  completion_tokens: 2,
  total_tokens: 14,
  prompt_tokens_details: { cached_tokens: 5 },
}
const TEXT = [chunk('a'), chunk('b', 'stop')]
const DONE = 'data: [DONE]\n\n'
const STREAM = [...TEXT, frame({ choices: [], usage: USAGE }), DONE].join('')
const WHOLE = { object: 'chat.completion', choices: [{ finish_reason: 'stop' }], usage: USAGE }

interface Caller {
  readonly edge: TestEdge
  readonly post: (over?: object, signal?: AbortSignal) => Promise<Response>
  /** Requests, prompt, cached and output tokens, once everything has settled. */
  readonly billed: () => Promise<number[]>
  readonly held: () => Promise<string>
}

/** A tenant of an edge whose one pool is an engine that is not ours. */
async function makeCaller(): Promise<Caller> {
  const pool = { kind: 'openai', id: 'vllm', url: 'http://vllm.test', models: [MODEL] }
  const edge = await makeEdge({
    env: { POOLS: JSON.stringify([pool]), POOL_API_KEYS: JSON.stringify({ vllm: ENGINE_KEY }) },
  })
  const { key } = await edge.createKey(await edge.createTenant())
  const get = async <T>(path: string): Promise<T> =>
    (await edge.request(path, { headers: bearer(key) })).json<T>()
  return {
    edge,
    post: (over = {}, signal = new AbortController().signal) => {
      const messages = [{ role: 'user', content: 'Hi' }]
      const body = JSON.stringify({ model: MODEL, messages, max_tokens: 20, ...over })
      return edge.request(PATH, { method: 'POST', body, headers: bearer(key), signal })
    },
    billed: async () => {
      await edge.settled()
      const { totals } = await get<{ totals: Record<string, number> }>('/v1/usage')
      const names = ['requests', 'prompt_tokens', 'cached_tokens', 'completion_tokens']
      return names.map((name) => totals[name] ?? -1)
    },
    held: async () => (await get<{ billing: { held_usd: string } }>('/v1/limits')).billing.held_usd,
  }
}

const streaming = (text: string) => async () =>
  new Response(text, { headers: { 'content-type': 'text/event-stream' } })

/** The text, and then only comments, for as long as somebody reads; or a cut, with an error. */
function unfinished(text: string, error: Error | null): FakeBackend {
  return async ({ init }) => {
    const parts = [text]
    const body = new ReadableStream<Uint8Array>({
      start: (controller) =>
        init.signal?.addEventListener('abort', () => controller.error(new Error('aborted'))),
      pull: async (controller) => {
        const part = parts.shift()
        if (part === undefined && error !== null) return controller.error(error)
        await new Promise((resolve) => setTimeout(resolve, 2))
        controller.enqueue(new TextEncoder().encode(part ?? ': keep-alive\n\n'))
      },
    })
    return new Response(body, { headers: { 'content-type': 'text/event-stream' } })
  }
}

describe('an engine that is not ours', () => {
  it('is asked under its own key, for usage, within what was granted', async () => {
    const { edge, post } = await makeCaller()
    edge.backend = streaming(STREAM)
    await (await post({ stream: true, max_completion_tokens: 30 })).text()
    const { url, init } = edge.calls[0] ?? { url: '', init: {} }
    expect(url).toBe('http://vllm.test/v1/chat/completions')
    const headers = new Headers(init.headers)
    expect(headers.get('authorization')).toBe(`Bearer ${ENGINE_KEY}`)
    expect([...headers.keys()].filter((name) => name.startsWith('x-sluice'))).toEqual([])
    expect(JSON.parse(new TextDecoder().decode(init.body as Uint8Array))).toEqual({
      model: MODEL,
      messages: [{ role: 'user', content: 'Hi' }],
      max_tokens: 20,
      stream: true,
      stream_options: { include_usage: true },
    })
  })

  it('is billed by the usage in its stream, which reaches only who has asked for it', async () => {
    const { edge, post, billed, held } = await makeCaller()
    edge.backend = streaming(STREAM)
    expect(await (await post({ stream: true })).text()).toBe([...TEXT, DONE].join(''))
    const stream_options = { include_usage: true }
    expect(await (await post({ stream: true, stream_options })).text()).toBe(STREAM)
    expect(await billed()).toEqual([2, 24, 10, 4])
    expect(await held()).toBe('0')
  })

  it('is billed by the usage of a whole answer', async () => {
    const { edge, post, billed } = await makeCaller()
    edge.backend = async () => Response.json(WHOLE)
    expect(await (await post()).json()).toEqual(WHOLE)
    expect(await billed()).toEqual([1, 12, 5, 2])
  })

  it.each([
    ['is felt to have gone by what cannot be written', false],
    ['is known to have gone, so that the engine is cut off', true],
  ])(
    'is billed for what came, and an estimate of the prompt, when a client %s',
    async (_, told) => {
      const { edge, post, billed } = await makeCaller()
      edge.backend = unfinished(TEXT.join(''), null)
      const gone = new AbortController()
      const reader = (await post({ stream: true }, gone.signal)).body?.getReader()
      await reader?.read()
      if (told) gone.abort()
      else await reader?.cancel()
      const [requests = 0, prompt = 0, cached = 0, output = 0] = await billed()
      expect([requests, cached, output]).toEqual([1, 0, 2])
      expect(prompt).toBeGreaterThan(0)
      expect(prompt).toBeLessThan(100)
    },
  )

  it.each([
    ['breaks', unfinished(TEXT.join(''), new Error('Network connection lost.'))],
    ['ends without [DONE]', streaming(TEXT.join(''))],
    ['tells of an error', streaming(`${TEXT.join('')}${frame({ error: { message: 'gpu-17' } })}`)],
  ])('costs nothing when it %s', async (_name, backend) => {
    const { edge, post, billed, held } = await makeCaller()
    edge.backend = backend
    const text = await (await post({ stream: true })).text()
    expect(text).toContain('"code":"server_is_overloaded"')
    expect(text).not.toMatch(/DONE|gpu-17/)
    expect((await billed()).slice(1)).toEqual([0, 0, 0])
    expect(await held()).toBe('0')
  })

  it('costs nothing when its whole answer cannot be billed, and shows nothing of it', async () => {
    const { edge, post, billed, held } = await makeCaller()
    edge.backend = async () => Response.json({ from: 'gpu-17' })
    const response = await post()
    expect(response.status).toBe(500)
    expect(await response.text()).not.toContain('gpu-17')
    expect((await billed()).slice(1)).toEqual([0, 0, 0])
    expect(await held()).toBe('0')
  })

  it('refuses in its own words and our shape', async () => {
    const { edge, post, held } = await makeCaller()
    const message = "This model's maximum context length is 4096 tokens."
    edge.backend = async () =>
      Response.json(
        { object: 'error', message, type: 'BadRequestError', code: 400 },
        { status: 400 },
      )
    const response = await post()
    expect([response.status, await response.json()]).toEqual([
      400,
      errorBody({ message, type: 'invalid_request_error', code: 'context_length_exceeded' }),
    ])
    await edge.settled()
    expect(await held()).toBe('0')
  })

  it('has its models listed with what it tells of them', async () => {
    const { edge } = await makeCaller()
    edge.backend = async () => {
      const known = {
        id: MODEL,
        object: 'model',
        created: 7,
        owned_by: 'vllm',
        max_model_len: 4096,
      }
      return Response.json({ object: 'list', data: [known, { ...known, id: 'other' }] })
    }
    const { key } = await edge.createKey(await edge.createTenant())
    const list = await edge.request('/v1/models', { headers: bearer(key) })
    expect(await list.json()).toEqual({
      object: 'list',
      data: [
        {
          id: MODEL,
          object: 'model',
          created: 7,
          owned_by: 'vllm',
          name: MODEL,
          context_window: 4096,
          max_output_tokens: 4096,
          input_modalities: ['text'],
          output_modalities: ['text'],
          effort: { supported_levels: ['high', 'max'], default_level: 'high' },
        },
      ],
    })
  })
})
