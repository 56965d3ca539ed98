import {
  abortAllDurableObjects,
  evictDurableObject,
  runDurableObjectAlarm,
  runInDurableObject,
} from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { describe, expect, it } from 'vitest'
import type { CapacityReport } from '#protocol/capacity-report.ts'
import { reportsPath, signReportToken } from '#protocol/capacity-report.ts'
import { importPrivateKey } from '#protocol/keys.ts'
import type { Env } from '../../edge/src/env.ts'
import type { Tenant } from '../../edge/src/objects/tenant/tenant.ts'
import { bearer, errorBody, makeEdge, MODEL, NOON_MS } from './edge-app.ts'
import type { TestEdge, TestEdgeOptions } from './edge-app.ts'
import { usageRecord } from './usage-records-of.ts'

const STREAM = 'data: {"id":"c-1"}\n\ndata: [DONE]\n\n'
const POOL = 'pool-a'
const AT_ONCE = { 'x-max-wait': '0' }

interface Caller {
  readonly edge: TestEdge
  readonly tenantId: string
  readonly keyId: string
  readonly key: string
  readonly chat: (over?: object, headers?: Record<string, string>) => Promise<Response>
  readonly get: (path: string) => Promise<Response>
  readonly put: (what: string, body: object) => Promise<void>
}

async function makeCaller(options: TestEdgeOptions = {}): Promise<Caller> {
  const edge = await makeEdge(options)
  edge.backend = async () =>
    new Response(STREAM, { headers: { 'content-type': 'text/event-stream' } })
  const tenantId = await edge.createTenant()
  const { key, keyId } = await edge.createKey(tenantId)
  // Read to the end, as clients do: a stream that nobody reads does not end.
  const send = async (path: string, init: RequestInit, extra = {}): Promise<Response> => {
    const response = await edge.request(path, { ...init, headers: { ...bearer(key), ...extra } })
    return new Response(await response.text(), response)
  }
  return {
    edge,
    tenantId,
    keyId,
    key,
    chat: (over = {}, headers = {}) => {
      const messages = [{ role: 'user', content: 'Hello' }]
      const body = JSON.stringify({ model: MODEL, messages, stream: true, ...over })
      return send('/v1/chat/completions', { method: 'POST', body }, headers)
    },
    get: (path) => send(path, {}),
    put: async (what, body) => {
      const path = `/tenants/${tenantId}/${what}`
      const method = what === 'limits' || what === 'billing' ? 'PUT' : 'POST'
      const response = await edge.admin(path, { method, body: JSON.stringify(body) })
      expect(response.ok, await response.clone().text()).toBe(true)
    },
  }
}

function tenantOf(tenantId: string) {
  return env.TENANT.get(env.TENANT.idFromName(tenantId))
}

function waitersOf(tenant: Tenant): number {
  return tenant.account()?.waiting ?? -1
}

/** The backend's record of the request that was answered with `response`. */
async function settle(caller: Caller, response: Response, over: object = {}): Promise<unknown> {
  const requestId = response.headers.get('x-request-id') ?? ''
  const { tenantId, keyId, edge } = caller
  const record = usageRecord({ tenantId, keyId, requestId, ...over })
  return tenantOf(tenantId).applyUsageRecords([record], edge.clock.nowMs)
}

async function billing({ edge, tenantId }: Caller): Promise<Record<string, unknown>> {
  return (await edge.admin(`/tenants/${tenantId}/billing`)).json()
}

function headersLike(response: Response, part: string): Record<string, string> {
  return Object.fromEntries([...response.headers].filter(([name]) => name.includes(part)))
}

describe('limits', () => {
  it('show on every answer where they stand', async () => {
    const caller = await makeCaller()
    await caller.put('limits', {
      limits: [
        { dimension: 'requests', per_minute: 600 },
        { dimension: 'outputTokens', per_minute: 100_000, burst_ms: 10_000 },
        { dimension: 'concurrency', max: 50 },
      ],
    })
    const response = await caller.chat({ max_tokens: 100 })
    expect(response.status).toBe(200)
    expect(headersLike(response, 'ratelimit-')).toEqual({
      'ratelimit-policy':
        '"requests";q=600;w=60, "output-tokens";q=100000;w=60, ' +
        '"concurrency";q=50;qu="concurrent-requests"',
      'x-ratelimit-limit-requests': '600',
      'x-ratelimit-remaining-requests': '59',
      'x-ratelimit-reset-requests': '100ms',
      'x-ratelimit-limit-output-tokens': '100000',
      'x-ratelimit-remaining-output-tokens': '16566',
      'x-ratelimit-reset-output-tokens': '60ms',
      'x-ratelimit-limit-tokens': '100000',
      'x-ratelimit-remaining-tokens': '16566',
      'x-ratelimit-reset-tokens': '60ms',
      'x-ratelimit-limit-concurrency': '50',
      'x-ratelimit-remaining-concurrency': '49',
    })
    expect(response.headers.get('ratelimit')).toBe(
      '"requests";r=59;t=1, "output-tokens";r=16566;t=1, "concurrency";r=49',
    )
  })

  it('refuse with the dimension that binds, and let in whoever waits as told', async () => {
    const caller = await makeCaller()
    // Ten seconds of twelve a minute are two at once.
    await caller.put('limits', {
      limits: [{ dimension: 'requests', per_minute: 12, burst_ms: 10_000 }],
    })
    expect((await caller.chat()).status).toBe(200)
    expect((await caller.chat()).status).toBe(200)
    const refused = await caller.chat({}, AT_ONCE)
    expect(refused.status).toBe(429)
    expect(await refused.json()).toEqual(
      errorBody({
        message:
          `Rate limit reached for ${MODEL} on requests per minute: limit 12, available now 0, ` +
          'requested 1. Please try again in 5.5s.',
        type: 'rate_limit_error',
        code: 'rate_limit_exceeded',
      }),
    )
    expect(refused.headers.get('retry-after')).toBe('6')
    expect(refused.headers.get('retry-after-ms')).toBe('5500')
    expect(refused.headers.get('x-ratelimit-remaining-requests')).toBe('0')
    expect(refused.headers.get('server-timing')).toContain('total;dur=')
    caller.edge.clock.nowMs += 5_500
    expect((await caller.chat()).status).toBe(200)
  })

  it('say afterwards why a request was refused, to its own tenant', async () => {
    const caller = await makeCaller()
    await caller.put('limits', { limits: [{ dimension: 'concurrency', max: 0 }] })
    const refused = await caller.chat()
    expect(await refused.json()).toMatchObject({
      error: {
        message:
          `Rate limit reached for ${MODEL}: 0 requests are already in progress and your ` +
          'concurrency limit is 0. Please try again in 1.1s.',
      },
    })
    const id = refused.headers.get('x-request-id')
    const why = await caller.get(`/v1/requests/${id}/admission`)
    expect(await why.json()).toMatchObject({
      id,
      outcome: 'refused',
      reason: 'concurrency',
      binding: { dimension: 'concurrency', limit: 0, requested: 1 },
      retry_after_ms: 1000,
    })
    const stranger = await makeCaller()
    expect((await stranger.get(`/v1/requests/${id}/admission`)).status).toBe(404)
  })

  it('count concurrent requests until their records have come', async () => {
    const caller = await makeCaller()
    await caller.put('limits', { limits: [{ dimension: 'concurrency', max: 1 }] })
    const first = await caller.chat()
    expect((await caller.chat()).status).toBe(429)
    expect(await settle(caller, first)).toEqual(['applied'])
    expect((await caller.chat()).status).toBe(200)
  })

  it('are of a project, a key or a model, when the operator says so', async () => {
    const caller = await makeCaller()
    await caller.put('limits', {
      limits: [
        { dimension: 'requests', per_minute: 6, key: caller.keyId },
        { dimension: 'requests', per_minute: 6, model: 'another' },
      ],
    })
    expect((await caller.chat()).status).toBe(200)
    expect((await caller.chat({}, AT_ONCE)).status).toBe(429)
    const other = await caller.edge.createKey(caller.tenantId)
    const messages = [{ role: 'user', content: 'Hello' }]
    const init = {
      method: 'POST',
      body: JSON.stringify({ model: MODEL, messages, stream: true }),
      headers: bearer(other.key),
    }
    expect((await caller.edge.request('/v1/chat/completions', init)).status).toBe(200)
  })

  it('give everything back when the backend refuses the request', async () => {
    const caller = await makeCaller()
    await caller.put('limits', { limits: [{ dimension: 'concurrency', max: 1 }] })
    const error = { message: 'No.', type: 'x', param: null, code: 'invalid_request_error' }
    caller.edge.backend = async () => Response.json({ error }, { status: 400 })
    const refused = await caller.chat()
    expect(refused.status).toBe(400)
    await caller.edge.settled()
    expect(await billing(caller)).toMatchObject({ held_usd: '0' })
    const why = await caller.get(`/v1/requests/${refused.headers.get('x-request-id')}/admission`)
    expect(await why.json()).toMatchObject({ outcome: 'released', reason: 'invalid_request_error' })
    expect((await caller.chat()).status).toBe(400)
  })

  it('are asked about without being used', async () => {
    const caller = await makeCaller()
    const estimate = async (): Promise<Record<string, unknown>> => {
      const messages = [{ role: 'user', content: 'x'.repeat(344) }]
      const body = JSON.stringify({ model: MODEL, messages, max_tokens: 100 })
      const init = { method: 'POST', body, headers: bearer(caller.key) }
      return (await caller.edge.request('/v1/estimate', init)).json()
    }
    const quote = await estimate()
    expect(quote).toMatchObject({
      object: 'estimate',
      model: MODEL,
      price_version: '2026-04-24',
      output_tokens: 100,
      available_usd: '1000',
    })
    expect(await estimate()).toEqual(quote)
    const shown = await caller.get(`/v1/limits?model=${MODEL}`)
    const limits = await shown.json<{ billing: object; data: { limits: object[] }[] }>()
    expect(limits.billing).toEqual({
      mode: 'postpaid',
      balance_usd: '0',
      held_usd: '0',
      available_usd: '1000',
    })
    expect(limits.data[0]?.limits[0]).toEqual({
      dimension: 'requests',
      limit: 6000,
      remaining: 600,
      requested: 0,
      wait_ms: 0,
      reset_ms: 0,
    })
  })
})

/** Room for one at once, and another so many times a minute. */
async function limitTo(caller: Caller, perMinute: number, over: object = {}): Promise<void> {
  const burst_ms = Math.ceil(60_000 / perMinute)
  const limits = [{ dimension: 'requests', per_minute: perMinute, burst_ms }]
  await caller.put('limits', { limits, ...over })
}

describe('a request without room under its tenant’s limits', () => {
  it('waits for it, and says so', async () => {
    const caller = await makeCaller()
    await limitTo(caller, 60)
    expect((await caller.chat()).status).toBe(200)
    const waiting = caller.chat()
    const whole = caller.chat({ stream: false }, AT_ONCE)
    expect((await whole).status).toBe(429)
    const response = await waiting
    expect(response.status).toBe(200)
    const [, waitedMs] = /limit;dur=(\d+)/.exec(response.headers.get('server-timing') ?? '') ?? []
    expect(Number(waitedMs)).toBeGreaterThan(500)
    const why = `/v1/requests/${response.headers.get('x-request-id')}/admission`
    const decision = {
      outcome: 'admitted',
      reason: null,
      waited: { ms: Number(waitedMs), binding: { dimension: 'requests', limit: 60, requested: 1 } },
    }
    expect(await (await caller.get(why)).json()).toMatchObject(decision)
    // Written by the alarm, and there when the object is not the same any more.
    expect(await runDurableObjectAlarm(tenantOf(caller.tenantId))).toBe(true)
    await evictDurableObject(tenantOf(caller.tenantId))
    expect(await (await caller.get(why)).json()).toMatchObject(decision)
  })

  it('does not wait longer than its client, its tenant or the model of its limits says', async () => {
    const caller = await makeCaller()
    await limitTo(caller, 2, { max_wait_ms: 20_000 })
    expect((await caller.chat()).status).toBe(200)
    // Thirty seconds, where its tenant's requests may wait for twenty.
    const refused = await caller.chat()
    expect(refused.status).toBe(429)
    expect(refused.headers.get('retry-after')).toBe('33')
    await limitTo(caller, 2, { max_wait_ms: 120_000 })
    expect((await caller.chat({ stream: false }, { 'x-max-wait': '2.5' })).status).toBe(429)
    const invalid = await caller.chat({}, { 'x-max-wait': 'long' })
    expect(invalid.status).toBe(400)
    expect(await invalid.json()).toMatchObject({ error: { param: 'x-max-wait' } })
  })

  it('is shown as waiting, and leaves its place when its client goes', async () => {
    const caller = await makeCaller()
    await limitTo(caller, 6)
    expect((await caller.chat()).status).toBe(200)
    const client = new AbortController()
    const messages = [{ role: 'user', content: 'Hello' }]
    const body = JSON.stringify({ model: MODEL, messages, stream: true })
    const { signal } = client
    const init = { method: 'POST', body, headers: bearer(caller.key), signal }
    const waiting = caller.edge.request('/v1/chat/completions', init)
    const tenant = tenantOf(caller.tenantId)
    await expect.poll(() => runInDurableObject(tenant, waitersOf)).toBe(1)
    client.abort()
    expect((await waiting).status).toBe(503)
    await caller.edge.settled()
    expect(await runInDurableObject(tenant, waitersOf)).toBe(0)
    expect(caller.edge.calls).toHaveLength(1)
  })

  it('is served as soon as a bill frees room, before time would', async () => {
    const caller = await makeCaller()
    // One hold of 2,048 tokens is more than the burst: the next waits until it is given back.
    await caller.put('limits', {
      limits: [{ dimension: 'outputTokens', per_minute: 6_000, burst_ms: 10_000 }],
    })
    const first = await caller.chat()
    const second = caller.chat()
    const tenant = tenantOf(caller.tenantId)
    await expect.poll(() => runInDurableObject(tenant, waitersOf)).toBe(1)
    await settle(caller, first, { completionTokens: 0, deliveredTokens: 0 })
    expect((await second).status).toBe(200)
  })

  it('goes by the table of what is down when its object is reset', async () => {
    const caller = await makeCaller()
    await limitTo(caller, 6)
    await caller.chat()
    const waiting = caller.chat()
    const tenant = tenantOf(caller.tenantId)
    await expect.poll(() => runInDurableObject(tenant, waitersOf)).toBe(1)
    await abortAllDurableObjects()
    // Its tenant pays later: one of a small allowance.
    expect((await waiting).status).toBe(200)
  })

  it('is refused a key that was revoked while it waited', async () => {
    const caller = await makeCaller()
    await limitTo(caller, 60)
    expect((await caller.chat()).status).toBe(200)
    const waiting = caller.chat()
    const tenant = tenantOf(caller.tenantId)
    await expect.poll(() => runInDurableObject(tenant, waitersOf)).toBe(1)
    const keyPath = `/tenants/${caller.tenantId}/keys/${caller.keyId}`
    await caller.edge.admin(keyPath, { method: 'DELETE' })
    expect((await waiting).status).toBe(401)
  })
})

describe('money', () => {
  it('lets a prepaid tenant have the answer that its balance pays for', async () => {
    const caller = await makeCaller()
    await caller.put('billing', { mode: 'prepaid' })
    expect((await caller.chat()).status).toBe(402)
    await caller.put('topups', { id: 'one', amount_usd: '0.0001' })
    await caller.put('topups', { id: 'one', amount_usd: '0.0001' })
    const response = await caller.chat({ max_tokens: 5000 })
    expect(response.status).toBe(200)
    const { init } = caller.edge.calls[0] ?? {}
    const bytes = new Uint8Array(await new Response(init?.body ?? null).arrayBuffer()).byteLength
    // Every byte might be a token at 140,000 pico-dollars; what is left buys output at 280,000.
    const granted = Math.floor((100_000_000 - bytes * 140_000) / 280_000)
    const headers = new Headers(init?.headers)
    expect(headers.get('x-sluice-granted-output-tokens')).toBe(String(granted))

    const refused = await caller.chat({ max_tokens: 5000 })
    expect(refused.status).toBe(402)
    expect(refused.headers.get('retry-after')).toBeNull()
    expect(await refused.json()).toMatchObject({
      error: {
        code: 'insufficient_balance',
        message: expect.stringContaining('Insufficient Balance'),
      },
    })
    await settle(caller, response)
    // 12,432,000 pico-dollars, as the record has it.
    expect(await billing(caller)).toMatchObject({ balance_usd: '0.000087568', held_usd: '0' })
  })

  it('posts twice each amount, so that the ledger is nothing in all', async () => {
    const caller = await makeCaller()
    await caller.put('topups', { id: 'one', amount_usd: '5' })
    await settle(caller, await caller.chat())
    const path = `/tenants/${caller.tenantId}/ledger`
    const ledger = await (await caller.edge.admin(path)).json<{ data: unknown[] }>()
    expect(ledger).toMatchObject({
      balances: { world: '-5', tenant: '4.999987568', revenue: '0.000012432', writeoff: '0' },
      data: [
        { id: 'topup:one', kind: 'topup', amount_usd: '5', usage: null },
        { kind: 'settle', amount_usd: '0.000012432', usage: { completion_tokens: 20 } },
      ],
    })
    const csv = await caller.get('/v1/usage?format=csv&group_by=day')
    expect(csv.headers.get('content-type')).toBe('text/csv; charset=utf-8')
    expect(await csv.text()).toBe(
      'day,requests,prompt_tokens,cached_tokens,completion_tokens,total_tokens,amount_usd\r\n' +
        '2096-11-23,1,100,64,20,120,0.000012432\r\n',
    )
    const all = await (await caller.edge.admin('/usage')).json<{ data: object[] }>()
    expect(all.data).toContainEqual(
      expect.objectContaining({ tenant_id: caller.tenantId, amount_usd: '0.000012432' }),
    )
  })

  it('fixes the price at admission: a contract counts from its time on', async () => {
    const caller = await makeCaller()
    const price = { cache_hit_usd: '0', cache_miss_usd: '0', output_usd: '1' }
    const version = { version: 'ours', from: NOON_MS / 1000 + 60, models: { [MODEL]: price } }
    await caller.put('prices', version)
    const before = await caller.chat()
    caller.edge.clock.nowMs += 60_000
    const after = await caller.chat()
    await settle(caller, after)
    await settle(caller, before)
    const page = await (await caller.edge.admin(`/tenants/${caller.tenantId}/ledger`)).json()
    expect(page).toMatchObject({
      data: [
        { amount_usd: '0.00002', usage: { price_version: 'ours' } },
        { amount_usd: '0.000012432', usage: { price_version: '2026-04-24' } },
      ],
    })
  })

  it.each([
    ['nonsense', 400, 'invalid_request_error'],
    ['-1', 400, 'invalid_request_error'],
    ['0.000000000001', 422, 'invalid_parameter'],
  ])('refuses X-Max-Cost %s with %d', async (cost, status, code) => {
    const caller = await makeCaller()
    const response = await caller.chat({}, { 'x-max-cost': cost })
    expect(response.status).toBe(status)
    expect(await response.json()).toMatchObject({ error: { code, param: 'x-max-cost' } })
  })

  it('grants no more output than X-Max-Cost pays for', async () => {
    const caller = await makeCaller()
    await caller.chat({ max_tokens: 5000 }, { 'x-max-cost': '0.0001' })
    const headers = new Headers(caller.edge.calls[0]?.init.headers)
    const granted = Number(headers.get('x-sluice-granted-output-tokens'))
    expect(granted).toBeGreaterThan(0)
    expect(granted * 280_000).toBeLessThan(100_000_000)
  })
})

interface Tenants {
  readonly TENANT: Env['TENANT']
  /** How often `admit` was called. */
  readonly calls: () => number
  /** Makes every call fail. */
  down: boolean
  /** Makes the calls fail that isolates make after a request. */
  cut: boolean
}

/** The real namespace, with a link to it that can be counted on and cut. */
function countingTenants(): Tenants {
  let calls = 0
  const counting: Tenants = {
    TENANT: {
      idFromName: (name: string) => env.TENANT.idFromName(name),
      get: (id: DurableObjectId) =>
        new Proxy(env.TENANT.get(id), {
          get: (stub, name) => {
            const after = name === 'reportLeases' || name === 'refill'
            if (counting.down || (counting.cut && after)) {
              return async () => Promise.reject(new Error('overloaded'))
            }
            if (name === 'admit') calls += 1
            // An RPC stub has a method of any name, `apply` too: so not `method.apply`.
            const method = Reflect.get(stub, name) as (...args: unknown[]) => unknown
            return (...args: unknown[]) => Reflect.apply(method, stub, args)
          },
        }),
    } as unknown as Env['TENANT'],
    calls: () => calls,
    down: false,
    cut: false,
  }
  return counting
}

describe('leases', () => {
  it('let a busy key in without asking, and tell the object all of it afterwards', async () => {
    const tenants = countingTenants()
    const caller = await makeCaller({ env: { TENANT: tenants.TENANT } })
    const responses: Response[] = []
    for (let sent = 0; sent < 12; sent += 1) {
      responses.push(await caller.chat({ max_tokens: 20 }))
      caller.edge.clock.nowMs += 100
    }
    expect(responses.map(({ status }) => status)).toEqual(Array(12).fill(200))
    expect(tenants.calls()).toBeLessThan(12)
    await caller.edge.settled()
    const statuses = await Promise.all(responses.map((response) => settle(caller, response)))
    expect(statuses.flat()).toEqual(Array(12).fill('applied'))
    expect(await billing(caller)).toMatchObject({ balance_usd: '-0.000149184', held_usd: '0' })
  })
})

describe('background work that is cut', () => {
  it('costs neither a record nor a pico-dollar', async () => {
    const tenants = countingTenants()
    const caller = await makeCaller({ env: { TENANT: tenants.TENANT } })
    tenants.cut = true
    const responses: Response[] = []
    for (let sent = 0; sent < 12; sent += 1) {
      responses.push(await caller.chat({ max_tokens: 20 }))
      caller.edge.clock.nowMs += 100
    }
    const { edge, tenantId } = caller
    const statuses = await Promise.all(responses.map((response) => settle(caller, response)))
    expect(new Set(statuses.flat())).toEqual(new Set(['applied', 'waiting']))
    // Longer than a record waits for its reservation; longer than a lease's money is kept for it.
    for (const laterMs of [60_000, 25 * 60_000]) {
      await tenantOf(tenantId).reconcile(0, edge.clock.nowMs + laterMs)
    }
    expect(await billing(caller)).toMatchObject({ balance_usd: '-0.000149184', held_usd: '0' })
  })
})

describe('a pool’s object that is down', () => {
  it('leaves each tenant a few requests at a time', async () => {
    const down = { acquire: async () => Promise.reject(new Error('overloaded')) }
    const finish = async (): Promise<void> => undefined
    const POOL = { idFromName: (name: string) => name, get: () => ({ ...down, finish }) } as never
    const caller = await makeCaller({ env: { POOL } })
    const statuses: number[] = []
    for (let sent = 0; sent < 6; sent += 1) statuses.push((await caller.chat()).status)
    expect(statuses).toEqual([200, 200, 200, 200, 503, 503])
  })
})

describe('a tenant’s object that is down', () => {
  it('lets a postpaid tenant go on for a while, and hears of it later', async () => {
    const tenants = countingTenants()
    const caller = await makeCaller({ env: { TENANT: tenants.TENANT } })
    await settle(caller, await caller.chat())
    tenants.down = true
    const during: Response[] = []
    for (let sent = 0; sent < 22; sent += 1) during.push(await caller.chat({ max_tokens: 20 }))
    const statuses = during.map(({ status }) => status)
    expect(statuses.slice(0, 20)).toEqual(Array(20).fill(200))
    expect(statuses.slice(20)).toEqual([503, 503])
    tenants.down = false
    expect((await caller.chat()).status).toBe(200)
    await caller.edge.settled()
    const first = during[0]
    if (first !== undefined) expect(await settle(caller, first)).toEqual(['applied'])
  }, 15_000)

  it('stops a prepaid tenant', async () => {
    const tenants = countingTenants()
    const caller = await makeCaller({ env: { TENANT: tenants.TENANT } })
    await caller.put('billing', { mode: 'prepaid' })
    await caller.put('topups', { id: 'one', amount_usd: '5' })
    expect((await caller.chat()).status).toBe(200)
    tenants.down = true
    const refused = await caller.chat()
    expect(refused.status).toBe(503)
    expect(refused.headers.get('retry-after')).toBe('3')
  })
})

interface Reporter {
  readonly status: number
  readonly send: (over: Partial<CapacityReport>) => Promise<void>
  readonly close: () => void
}

/** A backend of a pool of this test's own; every pool has one object for all tests of a file. */
async function connect(edge: TestEdge, pool: string, backendId = 'backend-1'): Promise<Reporter> {
  const claims = { pool, backendId, incarnation: 'one' }
  const key = await importPrivateKey(JSON.stringify(edge.recordKeys.privateJwk))
  const token = await signReportToken(claims, key, edge.clock.nowMs)
  const headers = { ...bearer(token), upgrade: 'websocket' }
  const response = await edge.request(reportsPath(pool), { headers })
  const socket = response.webSocket
  socket?.accept()
  let seq = 0
  return {
    status: response.status,
    close: () => socket?.close(),
    send: async (over) => {
      seq += 1
      const acknowledged = new Promise((resolve) => {
        socket?.addEventListener('message', resolve, { once: true })
      })
      socket?.send(JSON.stringify({ ...report(claims), seq, ...over }))
      await acknowledged
    },
  }
}

function report(claims: { pool: string; backendId: string; incarnation: string }): CapacityReport {
  return {
    version: 1,
    ...claims,
    seq: 1,
    atMs: NOON_MS,
    freeCacheTokens: 100_000,
    cacheTokensMax: 200_000,
    running: 0,
    waiting: 0,
    waitingTokens: 0,
    prefillTokensPerSecond: 0,
    decodeTokensPerSecond: 0,
    draining: false,
    models: [MODEL],
    progress: [],
  }
}

/** A caller at an edge whose pool has an object that no other test knows. */
async function makePooled(pool: string): Promise<Caller> {
  const caller = await makeCaller()
  const { publicJwk } = caller.edge.recordKeys
  const pools = [{ id: pool, url: 'http://pool.test', models: [MODEL], recordPublicKey: publicJwk }]
  caller.edge.bindings = { ...caller.edge.bindings, POOLS: JSON.stringify(pools) }
  return caller
}

describe('a pool that reports', () => {
  it('is dialled by its own backends alone', async () => {
    const caller = await makeCaller()
    const stranger = await makeEdge()
    const foreign = { ...caller.edge, recordKeys: stranger.recordKeys }
    expect((await connect(foreign, POOL)).status).toBe(401)
    expect((await connect(caller.edge, 'no-such-pool')).status).toBe(401)
  })

  it('lets a request wait until a report shows room for it', async () => {
    const caller = await makePooled('pool-waits')
    const backend = await connect(caller.edge, 'pool-waits')
    expect(backend.status).toBe(101)
    await backend.send({ freeCacheTokens: 0 })
    const waiting = caller.chat({ max_tokens: 20 })
    const early = await Promise.race([waiting, scheduler.wait(100)])
    expect(early).toBeUndefined()
    expect(caller.edge.calls).toEqual([])
    await backend.send({})
    expect((await waiting).status).toBe(200)
    backend.close()
  })

  it('keeps a waiting stream open with comments, and sends its answer after them', async () => {
    const caller = await makePooled('pool-comments')
    const backend = await connect(caller.edge, 'pool-comments')
    await backend.send({ freeCacheTokens: 0 })
    const messages = [{ role: 'user', content: 'Hello' }]
    const init = {
      method: 'POST',
      body: JSON.stringify({ model: MODEL, messages, stream: true, max_tokens: 20 }),
      headers: bearer(caller.key),
    }
    const opened = Promise.all([
      caller.edge.request('/v1/chat/completions', init),
      caller.edge.request('/v1/chat/completions', init),
    ])
    // A backend that falls silent is sent a request to find out; this one goes on being full.
    let open = false
    void opened.then(() => (open = true))
    while (!open) {
      await backend.send({ freeCacheTokens: 0 })
      await scheduler.wait(200)
    }
    const [stays, leaves] = await opened
    expect([stays.status, leaves.status]).toEqual([200, 200])
    expect(caller.edge.calls).toEqual([])
    await leaves.body?.cancel()
    const text = stays.text()
    await backend.send({})
    expect(await text).toMatch(/^(: keep-alive\n\n)+data: {"id":"c-1"}\n\ndata: \[DONE\]\n\n$/)
    await caller.edge.settled()
    // What the one who left had reserved has been given back, without a record.
    await settle(caller, stays)
    expect(await billing(caller)).toMatchObject({ held_usd: '0' })
    backend.close()
  }, 30_000)

  it('does not start a request whose key was revoked while it waited', async () => {
    const caller = await makePooled('pool-revokes')
    const backend = await connect(caller.edge, 'pool-revokes')
    await backend.send({ freeCacheTokens: 0 })
    const waiting = caller.chat({ max_tokens: 20 })
    await scheduler.wait(100)
    const keyPath = `/tenants/${caller.tenantId}/keys/${caller.keyId}`
    await caller.edge.admin(keyPath, { method: 'DELETE' })
    caller.edge.clock.nowMs += 1_000
    await backend.send({})
    expect((await waiting).status).toBe(401)
    expect(caller.edge.calls).toEqual([])
    expect(await billing(caller)).toMatchObject({ held_usd: '0' })
    backend.close()
  })

  it('does not refuse, after its object was reset, who waits for backends to come back', async () => {
    const caller = await makePooled('pool-reset')
    const before = await connect(caller.edge, 'pool-reset')
    await before.send({})
    expect((await caller.chat({ max_tokens: 20 })).status).toBe(200)
    await abortAllDurableObjects()
    // More than are let through to find out whether a backend is there at all.
    const answers = Array.from({ length: 6 }, () => caller.chat({ max_tokens: 20 }))
    await expect.poll(() => caller.edge.calls.length).toBe(5)
    await scheduler.wait(1_500)
    const after = await connect(caller.edge, 'pool-reset')
    const reports = setInterval(() => void after.send({}), 300)
    const statuses = (await Promise.all(answers)).map(({ status }) => status)
    clearInterval(reports)
    expect(statuses).toEqual(Array(6).fill(200))
    after.close()
  }, 20_000)

  it('does not give away the room of a client that has left before a report may show it', async () => {
    const caller = await makePooled('pool-leaves')
    const backend = await connect(caller.edge, 'pool-leaves')
    const { backend: answer } = caller.edge
    // Room for one such request, and not for two.
    await backend.send({ freeCacheTokens: 3_500 })
    const large = { messages: [{ role: 'user', content: 'x'.repeat(8_000) }], max_tokens: 1 }
    caller.edge.backend = ({ init: { signal } }) =>
      new Promise((_resolve, reject) => {
        signal?.addEventListener('abort', () => reject(new Error('aborted')))
      })
    const client = new AbortController()
    const init = {
      method: 'POST',
      body: JSON.stringify({ model: MODEL, ...large }),
      headers: bearer(caller.key),
      signal: client.signal,
    }
    const left = caller.edge.request('/v1/chat/completions', init).catch(() => null)
    await expect.poll(() => caller.edge.calls.length).toBe(1)
    client.abort()
    await left
    await caller.edge.settled()
    caller.edge.backend = answer
    const waiting = caller.chat(large)
    expect(await Promise.race([waiting, scheduler.wait(100)])).toBeUndefined()
    const requestId = new Headers(caller.edge.calls[0]?.init.headers).get('x-request-id') ?? ''
    const progress = { requestId, promptTokens: 1, cachedTokens: 0, completionTokens: 0 }
    await backend.send({ freeCacheTokens: 3_500, progress: [progress] })
    expect((await waiting).status).toBe(200)
    backend.close()
  })

  it('refuses at once what no backend could ever hold', async () => {
    const caller = await makePooled('pool-small')
    const backend = await connect(caller.edge, 'pool-small')
    await backend.send({ freeCacheTokens: 10, cacheTokensMax: 10 })
    const response = await caller.chat({ max_tokens: 2000 })
    expect(response.status).toBe(503)
    expect(await response.json()).toMatchObject({
      error: { message: 'No backend of this model has room for a request of this size.' },
    })
    backend.close()
  })

  it('charges what a report says while the answer is still being made', async () => {
    const caller = await makePooled('pool-truth')
    await caller.put('limits', {
      limits: [{ dimension: 'outputTokens', per_minute: 60_000, burst_ms: 6_000 }],
    })
    const backend = await connect(caller.edge, 'pool-truth')
    await backend.send({})
    const response = await caller.chat({ max_tokens: 8000 })
    const requestId = response.headers.get('x-request-id') ?? ''
    expect(response.headers.get('x-ratelimit-remaining-output-tokens')).toBe('3952')
    const progress = { requestId, promptTokens: 100, cachedTokens: 0, completionTokens: 7000 }
    await backend.send({ progress: [progress] })
    const scope = { projectId: 'default', keyId: caller.keyId, model: MODEL }
    const left = async (): Promise<number | undefined> => {
      const states = await tenantOf(caller.tenantId).limitStates(scope, caller.edge.clock.nowMs)
      return states?.[0]?.remaining
    }
    await expect.poll(left).toBe(-912)
    backend.close()
  })
})
