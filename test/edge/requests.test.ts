import { describe, expect, it } from 'vitest'
import { bearer, errorBody, makeEdge, MODEL } from './edge-app.ts'
import type { TestEdge } from './edge-app.ts'

const ID = `req_${'a'.repeat(24)}`
const NOT_FOUND = errorBody({
  message: 'There is no such request.',
  type: 'invalid_request_error',
  code: 'not_found',
  param: 'id',
})
const STATUS = {
  id: ID,
  object: 'request',
  model: MODEL,
  state: 'running',
  outcome: null,
  prompt_tokens: 3,
  cached_tokens: 0,
  completion_tokens: 1,
  reasoning_tokens: 0,
  delivered_tokens: 1,
  accepted_at_ms: 1,
  started_at_ms: 2,
  first_token_at_ms: 3,
  finished_at_ms: null,
  last_event: null,
}

/** An edge before a pool of two backends behind one address. */
async function makeCaller(): Promise<{ edge: TestEdge; get: (path: string) => Promise<Response> }> {
  const edge = await makeEdge()
  const [pool] = JSON.parse(edge.bindings.POOLS ?? '[]') as [object]
  const backendUrls = ['http://gpu-1.test', 'http://gpu-2.test']
  edge.bindings = { ...edge.bindings, POOLS: JSON.stringify([{ ...pool, backendUrls }]) }
  const { key } = await edge.createKey(await edge.createTenant())
  return { edge, get: (path) => edge.request(path, { headers: bearer(key) }) }
}

describe('how a request is doing', () => {
  it('is told by whichever backend runs it', async () => {
    const { edge, get } = await makeCaller()
    edge.backend = async ({ url }) =>
      url === `http://gpu-2.test/v1/requests/${ID}`
        ? Response.json(STATUS)
        : new Response('{}', { status: 404 })
    const response = await get(`/v1/requests/${ID}`)
    expect(response.status).toBe(200)
    expect(await response.json()).toEqual(STATUS)
  })

  it('is a 404 when all have answered and none knows', async () => {
    const { edge, get } = await makeCaller()
    edge.backend = async () => new Response('{}', { status: 404 })
    const response = await get(`/v1/requests/${ID}`)
    expect([response.status, await response.json()]).toEqual([404, NOT_FOUND])
    expect(edge.calls.map(({ url }) => new URL(url).host)).toEqual(['gpu-1.test', 'gpu-2.test'])
  })

  it('is a 503 when one cannot be asked that might have known', async () => {
    const { edge, get } = await makeCaller()
    edge.backend = async ({ url }) => {
      if (url.startsWith('http://gpu-1.test')) throw new Error('Network connection lost.')
      return new Response('{}', { status: 404 })
    }
    expect((await get(`/v1/requests/${ID}`)).status).toBe(503)
  })

  it('is asked of nobody for an id that is none of ours', async () => {
    const { edge, get } = await makeCaller()
    expect((await get('/v1/requests/..%2f..%2fcapacity')).status).toBe(404)
    expect(edge.calls).toEqual([])
  })
})
