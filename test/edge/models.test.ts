import { describe, expect, it } from 'vitest'
import type { ModelEntry } from '#protocol/models.ts'
import { bearer, errorBody, makeEdge, MODEL, POOL_URL } from './edge-app.ts'
import type { TestEdge } from './edge-app.ts'

function entry(id: string): ModelEntry {
  return {
    id,
    object: 'model',
    created: 1_776_988_800,
    owned_by: 'deepseek',
    name: id,
    context_window: 4096,
    max_output_tokens: 4096,
    input_modalities: ['text'],
    output_modalities: ['text'],
    effort: { supported_levels: ['high', 'max'], default_level: 'high' },
  }
}

interface Caller {
  readonly edge: TestEdge
  readonly get: (path: string) => Promise<Response>
}

async function makeCaller(): Promise<Caller> {
  const edge = await makeEdge()
  edge.backend = async () =>
    Response.json({ object: 'list', data: [entry(MODEL), entry('not-in-the-settings')] })
  const { key } = await edge.createKey(await edge.createTenant())
  return { edge, get: (path) => edge.request(path, { headers: bearer(key) }) }
}

describe('happy', () => {
  it.each(['/models', '/v1/models'])(
    'lists at %s what is configured, as the backend tells it',
    async (path) => {
      const { edge, get } = await makeCaller()
      const response = await get(path)
      expect(response.status).toBe(200)
      expect(await response.json()).toEqual({ object: 'list', data: [entry(MODEL)] })
      expect(edge.calls.map(({ url, init }) => [url, init.method])).toEqual([
        [`${POOL_URL}/v1/models`, 'GET'],
      ])
    },
  )

  it.each(['/models', '/v1/models'])('gives one model at %s/{id}', async (path) => {
    const { get } = await makeCaller()
    expect(await (await get(`${path}/${MODEL}`)).json()).toEqual(entry(MODEL))
  })

  it('asks a backend again only after a while, and remembers while it is away', async () => {
    const { edge, get } = await makeCaller()
    await get('/models')
    await get('/models')
    expect(edge.calls).toHaveLength(1)

    edge.clock.nowMs += 10_000
    edge.backend = async () => {
      throw new Error('Network connection lost.')
    }
    const response = await get('/models')
    expect(edge.calls).toHaveLength(2)
    expect(await response.json()).toEqual({ object: 'list', data: [entry(MODEL)] })
  })
})

describe('errors', () => {
  it.each(['nope', 'not-in-the-settings'])('answers 404 for %s', async (id) => {
    const { get } = await makeCaller()
    const response = await get(`/v1/models/${id}`)
    expect(response.status).toBe(404)
    expect(await response.json()).toEqual(
      errorBody({
        message: 'This service has no such model.',
        type: 'invalid_request_error',
        code: 'not_found',
        param: 'id',
      }),
    )
  })

  it.each([
    ['is down', async () => Promise.reject(new Error('down'))],
    ['fails', async () => new Response('no', { status: 500 })],
    ['answers something else', async () => Response.json({ data: 7 })],
  ])('answers 503, to come back, when the only backend %s', async (_how, backend) => {
    const { edge, get } = await makeCaller()
    edge.backend = backend
    for (const path of ['/models', `/models/${MODEL}`]) {
      const response = await get(path)
      expect(response.status).toBe(503)
      expect(response.headers.get('retry-after')).toBe('3')
    }
  })
})
