import { exportJWK, generateKeyPair, SignJWT } from 'jose'
import type { CryptoKey } from 'jose'
import { describe, expect, it } from 'vitest'
import { bearer, errorBody, makeEdge, MODEL, NOON_MS } from './edge-app.ts'
import type { TestEdge } from './edge-app.ts'

const CHAT = '/v1/chat/completions'
const NOON_SECONDS = NOON_MS / 1000

interface MadeKey {
  readonly key: string
  readonly key_id: string
}

async function post<T>(edge: TestEdge, path: string, body: object): Promise<T> {
  const response = await edge.admin(path, { method: 'POST', body: JSON.stringify(body) })
  expect(response.status).toBe(201)
  return response.json<T>()
}

async function makeKey(over: object): Promise<MadeKey & { edge: TestEdge; tenantId: string }> {
  const edge = await makeEdge()
  edge.backend = async () =>
    new Response('data: [DONE]\n\n', { headers: { 'content-type': 'text/event-stream' } })
  const tenantId = await edge.createTenant()
  const made = await post<MadeKey>(edge, `/tenants/${tenantId}/keys`, { name: 'k', ...over })
  return { ...made, edge, tenantId }
}

function chat(edge: TestEdge, key: string): Promise<Response> {
  const messages = [{ role: 'user', content: 'Hello' }]
  const body = JSON.stringify({ model: MODEL, messages, stream: true })
  return edge.request(CHAT, { method: 'POST', body, headers: bearer(key) })
}

describe('scopes', () => {
  it('keep a key to its routes and say which one it lacks', async () => {
    const { edge, key } = await makeKey({ routes: ['usage'] })
    expect((await edge.request('/v1/usage', { headers: bearer(key) })).status).toBe(200)
    const refused = await chat(edge, key)
    expect(refused.status).toBe(403)
    expect(await refused.json()).toEqual(
      errorBody({
        message: "This key may not use the 'chat' routes.",
        type: 'permission_error',
        code: 'permission_denied',
      }),
    )
    expect((await edge.request('/v1/models', { headers: bearer(key) })).status).toBe(403)
  })

  it('keep a key to its models', async () => {
    const allowed = await makeKey({ models: [MODEL] })
    expect((await chat(allowed.edge, allowed.key)).status).toBe(200)
    const kept = await makeKey({ models: ['another-model'] })
    const refused = await chat(kept.edge, kept.key)
    expect(refused.status).toBe(403)
    expect(await refused.json()).toMatchObject({ error: { param: 'model' } })
  })

  it('put a key into a project that there is', async () => {
    const { edge, tenantId } = await makeKey({})
    const keys = `/tenants/${tenantId}/keys`
    const body = JSON.stringify({ name: 'k', project: 'search' })
    expect((await edge.admin(keys, { method: 'POST', body })).status).toBe(422)
    await post(edge, `/tenants/${tenantId}/projects`, { project: 'search', name: 'Search' })
    await post(edge, keys, { name: 'k', project: 'search' })

    const listed = await (await edge.admin(keys)).json<{ data: { project: string }[] }>()
    expect(listed.data.map(({ project }) => project).toSorted()).toEqual(['default', 'search'])
    const projects = await edge.admin(`/tenants/${tenantId}/projects`)
    expect(await projects.json()).toEqual({
      object: 'list',
      data: [{ project: 'search', name: 'Search', created_at: NOON_SECONDS }],
    })
  })
})

describe('expiry and rotation', () => {
  it('end a key at its time, whatever the isolate remembers of it', async () => {
    const { edge, key } = await makeKey({ expires_at: NOON_SECONDS + 1 })
    edge.clock.nowMs += 999
    expect((await chat(edge, key)).status).toBe(200)
    edge.clock.nowMs += 1
    expect((await chat(edge, key)).status).toBe(401)
  })

  it('refuse a time that is past', async () => {
    const { edge, tenantId } = await makeKey({})
    const body = JSON.stringify({ name: 'k', expires_at: NOON_SECONDS })
    const response = await edge.admin(`/tenants/${tenantId}/keys`, { method: 'POST', body })
    expect(response.status).toBe(422)
  })

  it('let both keys work until the overlap is over, with the same rights', async () => {
    const { edge, key, key_id: keyId, tenantId } = await makeKey({ models: [MODEL] })
    const path = `/tenants/${tenantId}/keys/${keyId}/rotate`
    const rotated = await post<MadeKey>(edge, path, { overlap_seconds: 60 })
    expect(rotated).toEqual({
      key: expect.stringMatching(/^sk-sluice-/),
      key_id: expect.stringContaining(tenantId),
      replaces: keyId,
      overlap_ends_at: NOON_SECONDS + 60,
    })
    const statuses = async (): Promise<number[]> => [
      (await chat(edge, key)).status,
      (await chat(edge, rotated.key)).status,
    ]
    edge.clock.nowMs += 59_999
    expect(await statuses()).toEqual([200, 200])
    edge.clock.nowMs += 1
    expect(await statuses()).toEqual([401, 200])
    const again = await edge.admin(path, { method: 'POST', body: '{}' })
    expect(again.status).toBe(422)
  })

  it('say when a key was used last, to the minute', async () => {
    const { edge, key, tenantId } = await makeKey({})
    await chat(edge, key)
    edge.clock.nowMs += 30_000
    await chat(edge, key)
    const lastUsed = async (): Promise<unknown> => {
      const response = await edge.admin(`/tenants/${tenantId}/keys`)
      return (await response.json<{ data: { last_used_at: number }[] }>()).data[0]?.last_used_at
    }
    expect(await lastUsed()).toBe(NOON_SECONDS)
    edge.clock.nowMs += 30_000
    await chat(edge, key)
    expect(await lastUsed()).toBe(NOON_SECONDS + 60)
  })
})

const ISSUER = 'https://login.test'
const JWKS_URL = `${ISSUER}/keys`

interface Issued {
  readonly edge: TestEdge
  readonly tenantId: string
  readonly token: (claims?: object, key?: CryptoKey) => Promise<string>
  /** How often the issuer was asked for its keys. */
  readonly asked: () => number
  readonly issuer: { down: boolean }
}

/** An edge that takes tokens of an issuer whose claim `org` names the tenant. */
async function makeIssued(over: object = {}): Promise<Issued> {
  const pair = await generateKeyPair('ES256', { extractable: true })
  const jwks = { keys: [{ ...(await exportJWK(pair.publicKey)), kid: 'one', alg: 'ES256' }] }
  const issuers = [
    {
      issuer: ISSUER,
      audience: 'sluice',
      jwksUrl: JWKS_URL,
      algorithm: 'ES256',
      tenantClaim: 'org',
      ...over,
    },
  ]
  const edge = await makeEdge({ env: { OIDC_ISSUERS: JSON.stringify(issuers) } })
  const issuer = { down: false }
  edge.backend = async ({ url }) =>
    url === JWKS_URL && !issuer.down ? Response.json(jwks) : new Response('', { status: 503 })
  const tenantId = await edge.createTenant()
  const token = (claims: object = {}, key: CryptoKey = pair.privateKey): Promise<string> =>
    new SignJWT({ org: tenantId, ...claims })
      .setProtectedHeader({ alg: 'ES256', kid: 'one' })
      .setIssuer(ISSUER)
      .setAudience('sluice')
      .setSubject('ada@example.test')
      .setExpirationTime(NOON_SECONDS + 300)
      .sign(key)
  const asked = (): number => edge.calls.filter(({ url }) => url === JWKS_URL).length
  return { edge, tenantId, token, asked, issuer }
}

function usage(edge: TestEdge, token: string): Promise<Response> {
  return edge.request('/v1/usage', { headers: bearer(token) })
}

describe('tokens of an issuer', () => {
  it('stand for one identity of the tenant, asked for its keys once', async () => {
    const { edge, tenantId, token, asked } = await makeIssued()
    expect((await usage(edge, await token())).status).toBe(200)
    expect((await usage(edge, await token({ jti: 'another' }))).status).toBe(200)
    expect(asked()).toBe(1)
    const listed = await (await edge.admin(`/tenants/${tenantId}/keys`)).json()
    expect(listed).toMatchObject({ data: [{ name: 'ada@example.test', last_four: '' }] })
  })

  it('carry scopes, and end by themselves', async () => {
    const { edge, token } = await makeIssued()
    const scoped = await token({ sluice_routes: ['models'] })
    expect((await usage(edge, scoped)).status).toBe(403)
    const plain = await token()
    edge.clock.nowMs += 310_000
    expect((await usage(edge, plain)).status).toBe(401)
  })

  it('are revoked like a key', async () => {
    const { edge, tenantId, token } = await makeIssued()
    const bearerToken = await token()
    await usage(edge, bearerToken)
    const keys = `/tenants/${tenantId}/keys`
    const listed = await (await edge.admin(keys)).json<{ data: { key_id: string }[] }>()
    await edge.admin(`${keys}/${listed.data[0]?.key_id}`, { method: 'DELETE' })
    edge.clock.nowMs += 1_500
    expect((await usage(edge, bearerToken)).status).toBe(401)
  })

  it('are refused from a stranger, for another audience, of another algorithm', async () => {
    const { edge, token } = await makeIssued()
    const stranger = await generateKeyPair('ES256')
    expect((await usage(edge, await token({}, stranger.privateKey))).status).toBe(401)
    expect((await usage(edge, await token({ org: 'elsewhere' }))).status).toBe(401)
    const other = await makeIssued({ audience: 'other' })
    expect((await usage(other.edge, await other.token())).status).toBe(401)
    const pinned = await makeIssued({ algorithm: 'RS256' })
    expect((await usage(pinned.edge, await pinned.token())).status).toBe(401)
  })

  it('of one tenant’s own issuer reach no other tenant', async () => {
    const { edge, tenantId: wanted } = await makeIssued()
    const own = await edge.createTenant()
    const bound = await makeIssued({ tenant: own, tenantClaim: undefined })
    expect((await usage(bound.edge, await bound.token({ org: wanted }))).status).toBe(200)
    const listed = await (await bound.edge.admin(`/tenants/${wanted}/keys`)).json()
    expect(listed).toEqual({ object: 'list', data: [] })
  })

  it('are a 503, not a 401, while the issuer was never reached; later its old keys serve', async () => {
    const { edge, token, issuer } = await makeIssued()
    issuer.down = true
    expect((await usage(edge, await token())).status).toBe(503)
    issuer.down = false
    expect((await usage(edge, await token())).status).toBe(200)
    issuer.down = true
    edge.clock.nowMs += 299_000
    expect((await usage(edge, await token({ jti: 'later' }))).status).toBe(200)
  })
})
