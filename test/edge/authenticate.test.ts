import { describe, expect, it } from 'vitest'
import { bearer, errorBody, makeEdge } from './edge-app.ts'

const PATH = '/v1/usage'

describe('happy', () => {
  it('takes a key under either header, the scheme in any case', async () => {
    const edge = await makeEdge()
    const { key } = await edge.createKey(await edge.createTenant())
    for (const headers of [
      { authorization: `Bearer ${key}` },
      { authorization: `bearer ${key}` },
      { 'x-api-key': key },
    ]) {
      expect((await edge.request(PATH, { headers })).status).toBe(200)
    }
  })

  it('lets Authorization win when the two headers differ', async () => {
    const edge = await makeEdge()
    const { key } = await edge.createKey(await edge.createTenant())
    const goodFirst = { authorization: `Bearer ${key}`, 'x-api-key': 'sk-other' }
    const badFirst = { authorization: 'Bearer sk-other', 'x-api-key': key }

    expect((await edge.request(PATH, { headers: goodFirst })).status).toBe(200)
    expect((await edge.request(PATH, { headers: badFirst })).status).toBe(401)
  })

  it('asks the tenant once while the answer is fresh, and again after', async () => {
    const edge = await makeEdge()
    const tenantId = await edge.createTenant()
    const { key, keyId } = await edge.createKey(tenantId)
    const headers = bearer(key)

    expect((await edge.request(PATH, { headers })).status).toBe(200)
    await edge.admin(`/tenants/${tenantId}/keys/${keyId}`, { method: 'DELETE' })
    // Not asked again yet: the acceptance is younger than its lifetime.
    edge.clock.nowMs += 1_499
    expect((await edge.request(PATH, { headers })).status).toBe(200)
    edge.clock.nowMs += 1
    expect((await edge.request(PATH, { headers })).status).toBe(401)
  })
})

describe('errors', () => {
  it.each([
    [{}, 'no API key was given; send it as "Authorization: Bearer <key>".'],
    [{ authorization: 'Basic dXNlcjpwYXNz' }, 'the key is not valid.'],
    [{ authorization: 'Bearer ' }, 'the key is not valid.'],
    [{ authorization: 'Bearer short' }, 'the key is not valid.'],
    [{ authorization: 'Bearer sk-not-one-of-ours-7f3a' }, 'the key ending in 7f3a is not valid.'],
    [{ 'x-api-key': 'sk-not-one-of-ours-"><x' }, 'the key is not valid.'],
  ])('refuses %o in the words clients look for', async (headers, reason) => {
    const edge = await makeEdge()
    const response = await edge.request(PATH, { headers: { ...headers } })
    expect(response.status).toBe(401)
    expect(response.headers.get('content-type')).toBe('application/json')
    expect(await response.json()).toEqual(
      errorBody({
        message: `Authentication failed: ${reason}`,
        type: 'authentication_error',
        code: 'invalid_api_key',
      }),
    )
  })

  it('answers an unknown key, a wrong secret and a revoked key alike', async () => {
    const edge = await makeEdge()
    const tenantId = await edge.createTenant()
    const { key, keyId } = await edge.createKey(tenantId)
    await edge.admin(`/tenants/${tenantId}/keys/${keyId}`, { method: 'DELETE' })
    const ending = key.slice(-4)
    const unknownKey = `sk-sluice-${tenantId}aaaaaaaa-${'a'.repeat(48)}${ending}`
    const unknownTenant = `sk-sluice-${'a'.repeat(24)}-${'a'.repeat(48)}${ending}`
    const wrongSecret = `sk-sluice-${keyId}-${'a'.repeat(48)}${ending}`

    const bodies = new Set<string>()
    for (const presented of [key, unknownKey, unknownTenant, wrongSecret]) {
      const response = await edge.request(PATH, { headers: bearer(presented) })
      expect(response.status).toBe(401)
      bodies.add(await response.text())
    }
    expect(bodies.size).toBe(1)
  })

  it('answers 503, never 401, when the tenant cannot be asked', async () => {
    const edge = await makeEdge({ env: { TENANT: brokenNamespace() } })
    const key = `sk-sluice-${'a'.repeat(24)}-${'a'.repeat(52)}`
    const response = await edge.request(PATH, { headers: bearer(key) })

    expect(response.status).toBe(503)
    expect(response.headers.get('retry-after')).toBe('3')
    expect(response.headers.get('retry-after-ms')).toBe('2200')
    expect(await response.json()).toMatchObject({ error: { code: 'server_is_overloaded' } })
  })
})

describe('security', () => {
  it('writes neither key nor secret to its log, nor the whole key to an answer', async () => {
    const edge = await makeEdge()
    const { key } = await edge.createKey(await edge.createTenant())
    const wrong = `${key.slice(0, -1)}a`
    for (const presented of [key, wrong]) {
      const response = await edge.request(PATH, { headers: bearer(presented) })
      expect(await response.text()).not.toContain(presented)
    }
    const secret = key.slice(-52, -4)
    for (const line of edge.logs) expect(line).not.toContain(secret)
  })
})

/** A namespace whose objects are all down. */
function brokenNamespace(): never {
  const stub = {
    verifyKey: async () => {
      throw new Error('Durable Object is overloaded.')
    },
  }
  return { idFromName: (name: string) => name, get: () => stub } as never
}
