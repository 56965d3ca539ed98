import { env } from 'cloudflare:workers'
import { describe, expect, it } from 'vitest'
import { bearer, errorBody, makeEdge } from './edge-app.ts'
import type { TestEdge } from './edge-app.ts'

const ADDRESS = { 'cf-connecting-ip': '192.0.2.7' }

/** Counts, and refuses from the second of a key on. */
function makeLimiter(): RateLimit & { readonly keys: string[] } {
  const keys: string[] = []
  return {
    keys,
    limit: async ({ key }) => {
      keys.push(key)
      return { success: keys.filter((other) => other === key).length < 2 }
    },
  }
}

function refusal(who: string): unknown {
  return errorBody({
    message: `Rate limit reached: far too many requests from ${who}. Please try again in 11s.`,
    type: 'rate_limit_error',
    code: 'rate_limit_exceeded',
  })
}

const get = (edge: TestEdge, headers: Record<string, string>): Promise<Response> =>
  edge.request('/v1/limits', { headers })

describe('floods', () => {
  it('are refused by address before anybody looks at the key', async () => {
    const limiter = makeLimiter()
    const edge = await makeEdge({ env: { FLOOD_BY_ADDRESS: limiter } })
    expect((await get(edge, ADDRESS)).status).toBe(401)
    const refused = await get(edge, ADDRESS)
    expect([refused.status, await refused.json()]).toEqual([429, refusal('this address')])
    expect(refused.headers.get('retry-after')).toBe('11')
    expect(limiter.keys).toEqual(['192.0.2.7', '192.0.2.7'])
    expect((await get(edge, { 'cf-connecting-ip': '192.0.2.8' })).status).toBe(401)
  })

  it('are refused by key, of which a guess at it counts for nothing', async () => {
    const limiter = makeLimiter()
    const edge = await makeEdge({ env: { FLOOD_BY_KEY: limiter } })
    const { key, keyId } = await edge.createKey(await edge.createTenant())
    expect((await get(edge, bearer(`${key.slice(0, -4)}aaaa`))).status).toBe(401)
    expect((await get(edge, bearer(key))).status).toBe(200)
    const refused = await get(edge, bearer(key))
    expect([refused.status, await refused.json()]).toEqual([429, refusal('this key')])
    expect(limiter.keys).toEqual([keyId, keyId])
  })

  it('are let through where the platform cannot count, and hold up no backend and no probe', async () => {
    const broken = { limit: () => Promise.reject(new Error('down')) }
    const edge = await makeEdge({ env: { FLOOD_BY_ADDRESS: broken, FLOOD_BY_KEY: broken } })
    const { key } = await edge.createKey(await edge.createTenant())
    expect((await get(edge, { ...bearer(key), ...ADDRESS })).status).toBe(200)

    const full = { limit: async () => ({ success: false }) }
    edge.bindings = { ...edge.bindings, FLOOD_BY_ADDRESS: full }
    expect((await edge.request('/health', { headers: ADDRESS })).status).toBe(200)
    const records = { method: 'POST', body: '{}', headers: ADDRESS }
    expect((await edge.request('/internal/usage-records', records)).status).toBe(400)
    expect((await edge.request('/admin/tenants', { headers: ADDRESS })).status).toBe(429)
  })

  it('are counted by what wrangler.toml binds', async () => {
    for (const limiter of [env.FLOOD_BY_ADDRESS, env.FLOOD_BY_KEY]) {
      expect(await limiter?.limit({ key: 'k' })).toEqual({ success: true })
    }
  })
})
