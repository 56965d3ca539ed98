import { describe, expect, it } from 'vitest'
import { bearer, errorBody, makeEdge } from './edge-app.ts'

describe('happy', () => {
  it.each(['/', '/v1', '/v1/', '/beta', '/beta/v1', '/health'])(
    'answers a probe of %s without a key',
    async (path) => {
      const edge = await makeEdge()
      const response = await edge.request(path)
      expect(response.status).toBe(200)
      expect(await response.json()).toEqual({ status: 'ok' })
      expect((await edge.request(path, { method: 'HEAD' })).status).toBe(200)
    },
  )

  it('gives every response its own request id and the times it took', async () => {
    const edge = await makeEdge()
    const first = await edge.request('/health', { headers: { 'x-request-id': 'mine' } })
    const second = await edge.request('/nowhere')
    const ids = [first, second].map((response) => response.headers.get('x-request-id'))

    for (const id of ids) expect(id).toMatch(/^req_[a-z2-7]{24}$/)
    expect(ids[0]).not.toBe(ids[1])
    expect(first.headers.get('server-timing')).toBe('total;dur=0')
  })

  it('answers a preflight, allowing the client library families by prefix', async () => {
    const edge = await makeEdge()
    const response = await edge.request('/v1/chat/completions', {
      method: 'OPTIONS',
      headers: { 'access-control-request-headers': 'Authorization, X-Stainless-OS, x-evil' },
    })
    expect(response.status).toBe(204)
    expect(response.headers.get('access-control-allow-origin')).toBe('*')
    expect(response.headers.get('access-control-allow-headers')).toBe(
      'authorization, content-type, x-api-key, anthropic-version, anthropic-beta, last-event-id, ' +
        'x-max-cost, x-max-wait, x-sluice-resumable, x-stainless-os',
    )
  })

  it('lets a page read every header, of errors too', async () => {
    const edge = await makeEdge()
    const response = await edge.request('/v1/models')
    expect(response.status).toBe(401)
    expect(response.headers.get('access-control-allow-origin')).toBe('*')
    expect(response.headers.get('access-control-expose-headers')).toBe('*')
  })
})

describe('errors', () => {
  it('answers an unknown path with 401 before 404', async () => {
    const edge = await makeEdge()
    const { key } = await edge.createKey(await edge.createTenant())

    expect((await edge.request('/v2/nowhere')).status).toBe(401)
    const response = await edge.request('/v2/nowhere', { headers: bearer(key) })
    expect(response.status).toBe(404)
    expect(response.headers.get('content-type')).toBe('application/json')
    expect(await response.json()).toEqual(
      errorBody({
        message: 'There is nothing at this path.',
        type: 'invalid_request_error',
        code: 'not_found',
      }),
    )
  })

  it.each([
    ['GET', '/v1/chat/completions', 'POST'],
    ['DELETE', '/beta/chat/completions', 'POST'],
    ['POST', '/v1/models', 'GET, HEAD'],
    ['POST', '/models/some', 'GET, HEAD'],
    ['PUT', '/v1/usage', 'GET, HEAD'],
  ])('answers %s %s with 405 and what it takes', async (method, path, allowed) => {
    const edge = await makeEdge()
    const { key } = await edge.createKey(await edge.createTenant())
    const response = await edge.request(path, { method, headers: bearer(key) })
    expect(response.status).toBe(405)
    expect(response.headers.get('allow')).toBe(allowed)
    expect(await response.json()).toMatchObject({ error: { code: 'method_not_allowed' } })
  })

  it.each([
    ['POOLS', undefined, 'POOLS is not set'],
    ['POOLS', '[]', 'POOLS is invalid: Too small'],
    ['EDGE_SIGNING_KEY', 'not json', 'EDGE_SIGNING_KEY is not valid JSON'],
    ['ADMIN_TOKEN', 'hunter2-hunter2', 'ADMIN_TOKEN is shorter than 32 characters'],
    ['MAX_BODY_BYTES', '16 MiB', 'MAX_BODY_BYTES must be a whole number of at least 1'],
  ])('names %s=%s in its log and nothing in its answer', async (variable, value, logged) => {
    const edge = await makeEdge({ env: { [variable]: value } })
    const response = await edge.request('/health')

    expect(response.status).toBe(500)
    expect(await response.json()).toEqual(
      errorBody({
        message: 'The service failed. The request id helps us find why.',
        type: 'server_error',
        code: 'internal_server_error',
      }),
    )
    expect(response.headers.get('x-request-id')).toMatch(/^req_/)
    expect(edge.logs[0]).toContain('"event":"settings_invalid"')
    expect(edge.logs[0]).toContain(logged)
    if (value !== undefined && value !== '[]') expect(edge.logs.join('\n')).not.toContain(value)
  })
})

describe('security', () => {
  it('keeps web pages away from the admin API and the backends route', async () => {
    const edge = await makeEdge()
    for (const path of ['/admin/tenants', '/internal/usage-records']) {
      const response = await edge.request(path, { method: 'OPTIONS' })
      expect(response.headers.get('access-control-allow-origin')).toBeNull()
    }
  })
})
