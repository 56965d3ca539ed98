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

const EVENTS = 'id: 3\ndata: {"id":"c-1"}\n\nid: 4\ndata: [DONE]\n\n'

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

describe('a stream that is taken up again', () => {
  const streaming = { headers: { 'content-type': 'text/event-stream' } }

  it('comes from the backend that keeps it, from behind the event asked for', async () => {
    const { edge, get } = await makeCaller()
    edge.backend = async ({ url }) =>
      url.startsWith('http://gpu-2.test')
        ? new Response(EVENTS, streaming)
        : new Response('{}', { status: 404 })
    const response = await get(`/v1/requests/${ID}/events?after=2`)
    expect(response.headers.get('content-type')).toBe('text/event-stream; charset=utf-8')
    expect(await response.text()).toBe(EVENTS)
    await edge.settled()
    expect(edge.calls.map(({ url }) => url)).toEqual(
      ['gpu-1', 'gpu-2'].map((host) => `http://${host}.test/v1/requests/${ID}/events?after=2`),
    )
    expect(edge.logs.at(-1)).toContain('"body":"complete"')
  })

  it('goes on behind the event that an event source has seen last', async () => {
    const { edge } = await makeCaller()
    edge.backend = async () => new Response(EVENTS, streaming)
    const { key } = await edge.createKey(await edge.createTenant())
    const headers = { ...bearer(key), 'last-event-id': '2' }
    await (await edge.request(`/v1/requests/${ID}/events`, { headers })).text()
    expect(edge.calls.at(-1)?.url).toMatch(/after=2$/)
  })

  it('is a 404 when nobody keeps it, and a 400 in the backend’s words when it is not there', async () => {
    const { edge, get } = await makeCaller()
    edge.backend = async () => new Response('{}', { status: 404 })
    const missing = await get(`/v1/requests/${ID}/events`)
    expect([missing.status, await missing.json()]).toEqual([404, NOT_FOUND])
    const ahead = errorBody({
      message: 'The stream cannot be resumed from there: there are 4 events so far.',
      type: 'invalid_request_error',
      code: 'invalid_request_error',
      param: 'after',
    })
    edge.backend = async () => Response.json(ahead, { status: 400 })
    const refused = await get(`/v1/requests/${ID}/events?after=9`)
    expect([refused.status, await refused.json()]).toEqual([400, ahead])
  })

  it('is no use to a key that may not chat, and takes GET alone', async () => {
    const { edge } = await makeCaller()
    const tenantId = await edge.createTenant()
    const body = JSON.stringify({ name: 'watcher', routes: ['requests'] })
    const made = await edge.admin(`/tenants/${tenantId}/keys`, { method: 'POST', body })
    const { key } = await made.json<{ key: string }>()
    const path = `/v1/requests/${ID}/events`
    expect((await edge.request(path, { headers: bearer(key) })).status).toBe(403)
    expect(edge.calls).toEqual([])
  })
})
