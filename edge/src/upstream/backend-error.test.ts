import { describe, expect, it } from 'vitest'
import { translateRefusal } from './backend-error.ts'

interface Refusal {
  readonly status: number
  readonly body: unknown
  readonly headers?: Record<string, string>
}

function translate({ status, body, headers = {} }: Refusal): unknown {
  const text = typeof body === 'string' ? body : JSON.stringify(body)
  const error = translateRefusal({ status, headers: new Headers(headers), text }, () => 1)
  return [error.status, error.code, error.message, error.param, error.retryAfterSeconds]
}

function envelope(code: string, over: object = {}): unknown {
  return { error: { message: 'Its words.', type: 'x', param: 'field', code, ...over } }
}

const REBUILT = [
  500,
  'internal_server_error',
  'The backend could not answer this request.',
  null,
  null,
]
const BUSY = [
  503,
  'server_is_overloaded',
  'Every backend for this model is busy. Try again.',
  null,
  2.4,
]

describe('translateRefusal', () => {
  it.each([
    [400, 'invalid_request_error'],
    [400, 'model_not_found'],
    [400, 'context_length_exceeded'],
    [413, 'request_too_large'],
    [422, 'invalid_parameter'],
    [504, 'timeout'],
  ])('passes on a %d with code %s', (status, code) => {
    const body = envelope(code)
    expect(translate({ status, body })).toEqual([status, code, 'Its words.', 'field', null])
  })

  it('passes on how long a full backend asks to wait, or says it itself', () => {
    const body = envelope('server_is_overloaded', { param: null })
    const words = [503, 'server_is_overloaded', 'Its words.', null]
    const asking = { 'retry-after-ms': '7500' }
    expect(translate({ status: 503, body, headers: asking })).toEqual([...words, 7.5])
    expect(translate({ status: 503, body })).toEqual([...words, 2.4])
    const nonsense = { 'retry-after-ms': 'soon' }
    expect(translate({ status: 503, body, headers: nonsense })).toEqual([...words, 2.4])
  })

  it.each([
    ['refuses our token', 401, envelope('invalid_service_token')],
    ['claims the client’s key is bad', 401, envelope('invalid_api_key')],
    ['speaks of balances', 402, envelope('insufficient_balance')],
    ['fails inside', 500, envelope('internal_server_error')],
    ['has a status that is not its code’s', 400, envelope('timeout')],
    ['has a code of its own', 400, envelope('engine_exploded')],
    ['has no message', 400, envelope('invalid_request_error', { message: '' })],
    ['has no param', 400, { error: { message: 'm', code: 'invalid_request_error' } }],
    ['is flat', 400, { object: 'error', message: 'gpu-17' }],
    ['is text', 400, 'gpu-17'],
    ['is nothing', 404, ''],
  ])('rebuilds a refusal that %s', (_how, status, body) => {
    expect(translate({ status, body })).toEqual(REBUILT)
  })

  it.each([429, 503])('reads any other %d as a full backend', (status) => {
    expect(translate({ status, body: 'busy' })).toEqual(BUSY)
    expect(translate({ status, body: envelope('rate_limit_exceeded') })).toEqual(BUSY)
  })
})
