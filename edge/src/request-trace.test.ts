import { expect, it } from 'vitest'
import { RequestTrace } from './request-trace.ts'

const END = { method: 'POST', route: '/v1/chat/completions', status: 200, nowMs: 1_250 }

it('writes what it knows and leaves out what it does not', () => {
  const trace = new RequestTrace('req_1', 1_000)
  const known = {
    event: 'request',
    request_id: 'req_1',
    method: 'POST',
    route: '/v1/chat/completions',
    status: 200,
    duration_ms: 250,
  }
  expect(JSON.parse(trace.toLine(END))).toEqual(known)

  trace.tenantId = 't'
  trace.keyId = 'k'
  trace.model = 'm'
  expect(JSON.parse(trace.toLine({ ...END, bodyEnd: 'broken' }))).toEqual({
    ...known,
    tenant_id: 't',
    key_id: 'k',
    model: 'm',
    body: 'broken',
  })
})

it('lists its phases and their total for browsers and proxies to read', () => {
  const trace = new RequestTrace('req_1', 1_000)
  trace.addPhase('auth', 2)
  trace.addPhase('backend', 40)
  expect(trace.serverTiming(1_050)).toBe('auth;dur=2, backend;dur=40, total;dur=50')
})
