import { describe, expect, it } from 'vitest'
import { ADMIN_TOKEN, bearer, errorBody, makeEdge, MODEL, NOON_MS } from './edge-app.ts'
import { usageRecord } from './usage-records-of.ts'
import { env } from 'cloudflare:workers'

const NOON_SECONDS = NOON_MS / 1000

describe('happy', () => {
  it('makes a tenant and its keys, lists them, and shows a key once', async () => {
    const edge = await makeEdge()
    const made = await edge.admin('/tenants', { method: 'POST', body: '{"name":" Ada "}' })
    expect(made.status).toBe(201)
    const tenant = await made.json<{ tenant_id: string }>()
    expect(tenant).toEqual({
      tenant_id: expect.stringMatching(/^[a-z2-7]{16}$/),
      name: 'Ada',
      created_at: NOON_SECONDS,
    })

    const path = `/tenants/${tenant.tenant_id}/keys`
    const created = await edge.admin(path, { method: 'POST', body: '{"name":"laptop"}' })
    expect(created.status).toBe(201)
    const key = await created.json<{ key: string; key_id: string }>()
    expect(key).toEqual({
      key: expect.stringMatching(/^sk-sluice-[a-z2-7]{24}-[a-z2-7]{52}$/),
      key_id: expect.stringContaining(tenant.tenant_id),
      name: 'laptop',
      created_at: NOON_SECONDS,
    })

    const text = await (await edge.admin(path)).text()
    expect(JSON.parse(text)).toEqual({
      object: 'list',
      data: [
        {
          key_id: key.key_id,
          name: 'laptop',
          last_four: key.key.slice(-4),
          project: 'default',
          models: null,
          routes: null,
          created_at: NOON_SECONDS,
          expires_at: null,
          revoked_at: null,
          last_used_at: null,
        },
      ],
    })
    expect(text).not.toContain(key.key.slice(-20))
  })

  it('revokes a key, and says since when however often it is asked', async () => {
    const edge = await makeEdge()
    const tenantId = await edge.createTenant()
    const { key, keyId } = await edge.createKey(tenantId)
    const revoke = (): Promise<Response> =>
      edge.admin(`/tenants/${tenantId}/keys/${keyId}`, { method: 'DELETE' })

    const first = await revoke()
    edge.clock.nowMs += 5_000
    const second = await revoke()
    const expected = { key_id: keyId, revoked_at: NOON_SECONDS }
    expect([await first.json(), await second.json()]).toEqual([expected, expected])
    expect((await edge.request('/v1/usage', { headers: bearer(key) })).status).toBe(401)
  })

  it('lists tenants page by page', async () => {
    const edge = await makeEdge()
    const made = new Set<string>()
    for (let count = 0; count < 5; count += 1) made.add(await edge.createTenant())

    const seen: string[] = []
    for (let after = ''; ; after = seen.at(-1) ?? '') {
      const response = await edge.admin(`/tenants?limit=2&after=${after}`)
      const page = await response.json<{ data: { tenant_id: string }[]; has_more: boolean }>()
      expect(page.data.length).toBeLessThanOrEqual(2)
      seen.push(...page.data.map((tenant) => tenant.tenant_id))
      if (!page.has_more) break
    }
    expect(new Set(seen).size).toBe(seen.length)
    expect(seen).toEqual(expect.arrayContaining([...made]))
  })

  it('reads a tenant’s usage, with what is held back', async () => {
    const edge = await makeEdge()
    const tenantId = await edge.createTenant()
    const { key, keyId } = await edge.createKey(tenantId)
    const records = [
      usageRecord({ tenantId, keyId }),
      usageRecord({ tenantId, keyId: `${tenantId}zzzzzzzz`, requestId: 'req_2' }),
    ]
    const tenant = env.TENANT.get(env.TENANT.idFromName(tenantId))
    await tenant.applyUsageRecords(records, NOON_MS)
    // Long enough for a reservation to have come before it.
    await tenant.reconcile(0, NOON_MS + 60_000)
    const counts = {
      requests: 1,
      prompt_tokens: 100,
      cached_tokens: 64,
      completion_tokens: 20,
      total_tokens: 120,
      // 36 missed and 64 cached at 140,000 and 28,000 pico-dollars, 20 made at 280,000.
      amount_usd: '0.000012432',
    }
    const view = {
      object: 'usage',
      from: '2096-10-25',
      to: '2096-11-23',
      totals: counts,
      data: [{ day: '2096-11-23', project: 'default', key_id: keyId, model: MODEL, ...counts }],
      has_more: false,
      next: null,
    }

    const operator = await edge.admin(`/tenants/${tenantId}/usage`)
    expect(await operator.json()).toEqual({ ...view, parked_records: 1 })
    const owner = await edge.request('/v1/usage', { headers: bearer(key) })
    expect(await owner.json()).toEqual(view)
  })
})

describe('errors', () => {
  it.each([
    ['GET', '/tenants/aaaaaaaaaaaaaaaa/keys'],
    ['POST', '/tenants/aaaaaaaaaaaaaaaa/keys'],
    ['GET', '/tenants/aaaaaaaaaaaaaaaa/usage'],
    ['GET', '/tenants/..%2f..%2fdirectory/keys'],
    ['GET', '/tenants/directory/usage'],
    ['DELETE', '/tenants/aaaaaaaaaaaaaaaa/keys/aaaaaaaaaaaaaaaabbbbbbbb'],
    ['DELETE', '/tenants/aaaaaaaaaaaaaaaa/keys/aaaaaaaaaaaaaaaccccccccc'],
    ['DELETE', '/tenants/aaaaaaaaaaaaaaaa/keys/x'],
    ['GET', '/nothing/here'],
  ])('answers %s %s with 404', async (method, path) => {
    const edge = await makeEdge()
    const body = method === 'POST' ? { body: '{"name":"x"}' } : {}
    const response = await edge.admin(path, { method, ...body })
    expect(response.status).toBe(404)
    expect(await response.json()).toMatchObject({ error: { code: 'not_found' } })
  })

  it.each(['', '{}', '{"name":""}', '{"name":7}', `{"name":"${'n'.repeat(201)}"}`])(
    'asks for a name instead of %s',
    async (body) => {
      const edge = await makeEdge()
      const response = await edge.admin('/tenants', { method: 'POST', body })
      expect(response.status).toBe(400)
    },
  )

  it('refuses a page size out of range', async () => {
    const edge = await makeEdge()
    const response = await edge.admin('/tenants?limit=0')
    expect(response.status).toBe(422)
    expect(await response.json()).toMatchObject({ error: { param: 'limit' } })
  })

  it('says which methods a path takes', async () => {
    const edge = await makeEdge()
    const response = await edge.admin('/tenants', { method: 'DELETE' })
    expect(response.status).toBe(405)
    expect(response.headers.get('allow')).toBe('GET, POST')
  })
})

describe('security', () => {
  it.each([
    ['no token', {}],
    ['a wrong token', bearer('b'.repeat(ADMIN_TOKEN.length))],
    ['the token cut short', bearer(ADMIN_TOKEN.slice(0, -1))],
    ['the token and more', bearer(`${ADMIN_TOKEN}x`)],
    ['an empty token', bearer('')],
  ])('refuses %s, whatever the path', async (_name, headers) => {
    const edge = await makeEdge()
    for (const path of ['/admin/tenants', '/admin/nothing']) {
      const response = await edge.request(path, { headers })
      expect(response.status).toBe(401)
      expect(await response.json()).toEqual(
        errorBody({
          message: 'Authentication failed: the admin token is not valid.',
          type: 'authentication_error',
          code: 'invalid_api_key',
        }),
      )
    }
  })

  it('takes no API key for the token, and no token for an API key', async () => {
    const edge = await makeEdge()
    const { key } = await edge.createKey(await edge.createTenant())
    expect((await edge.request('/admin/tenants', { headers: bearer(key) })).status).toBe(401)
    expect((await edge.request('/v1/usage', { headers: bearer(ADMIN_TOKEN) })).status).toBe(401)
  })

  it('revokes no key under another tenant’s path', async () => {
    const edge = await makeEdge()
    const [mine, theirs] = [await edge.createTenant(), await edge.createTenant()]
    const { key, keyId } = await edge.createKey(theirs)
    const response = await edge.admin(`/tenants/${mine}/keys/${keyId}`, { method: 'DELETE' })
    expect(response.status).toBe(404)
    expect((await edge.request('/v1/usage', { headers: bearer(key) })).status).toBe(200)
  })

  it('shows a tenant nothing of another’s usage', async () => {
    const edge = await makeEdge()
    const [mine, theirs] = [await edge.createTenant(), await edge.createTenant()]
    const [myKey, theirKey] = [await edge.createKey(mine), await edge.createKey(theirs)]
    const record = usageRecord({ tenantId: theirs, keyId: theirKey.keyId })
    await env.TENANT.get(env.TENANT.idFromName(theirs)).applyUsageRecords([record], NOON_MS)

    const path = `/v1/usage?key=${theirKey.keyId}`
    const response = await edge.request(path, { headers: bearer(myKey.key) })
    expect(await response.json()).toMatchObject({ totals: { requests: 0 }, data: [] })
  })
})
