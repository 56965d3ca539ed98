import { describe, expect, it } from 'vitest'
import { ApiError, ERROR_KINDS, errorEvent } from './errors.ts'

describe('ApiError', () => {
  it('has one status and one type for each code', () => {
    const table = Object.entries(ERROR_KINDS).map(([code, { status, type }]) => [
      code,
      status,
      type,
    ])
    expect(table).toEqual([
      ['invalid_request_error', 400, 'invalid_request_error'],
      ['invalid_parameter', 422, 'invalid_request_error'],
      ['model_not_found', 400, 'invalid_request_error'],
      ['context_length_exceeded', 400, 'invalid_request_error'],
      ['invalid_api_key', 401, 'authentication_error'],
      ['invalid_service_token', 401, 'authentication_error'],
      ['insufficient_balance', 402, 'insufficient_balance'],
      ['permission_denied', 403, 'permission_error'],
      ['not_found', 404, 'invalid_request_error'],
      ['method_not_allowed', 405, 'invalid_request_error'],
      ['request_too_large', 413, 'invalid_request_error'],
      ['rate_limit_exceeded', 429, 'rate_limit_error'],
      ['internal_server_error', 500, 'server_error'],
      ['server_is_overloaded', 503, 'server_error'],
      ['timeout', 504, 'server_error'],
    ])
  })

  it('has exactly the four keys of the contract in its body', () => {
    const bare = new ApiError('not_found', 'no such thing')
    expect(bare.toEnvelope()).toEqual({
      error: {
        message: 'no such thing',
        type: 'invalid_request_error',
        param: null,
        code: 'not_found',
      },
    })
    expect(new ApiError('invalid_parameter', 'm', { param: 'n' }).toEnvelope().error.param).toBe(
      'n',
    )
  })

  it.each([
    [0, '1', '1000', undefined],
    [0.4, '1', '1000', undefined],
    [1.2, '2', '1200', undefined],
    [60, '60', '60000', undefined],
    [61, '61', '61000', 'false'],
  ])('tells a wait of %d s in whole seconds and milliseconds', (wait, seconds, ms, retry) => {
    const error = new ApiError('server_is_overloaded', 'full', { retryAfterSeconds: wait })
    expect(error.toHeaders()).toEqual({
      'retry-after': seconds,
      'retry-after-ms': ms,
      ...(retry === undefined ? {} : { 'x-should-retry': retry }),
    })
  })

  it('promises no retry where none makes sense', () => {
    expect(new ApiError('invalid_request_error', 'm').toHeaders()).toEqual({})
  })

  it('is one event of a stream, whatever its message holds', () => {
    const event = errorEvent(new ApiError('server_is_overloaded', 'two\nlines'))
    expect(event).toBe(
      'data: {"error":{"message":"two\\nlines","type":"server_error","param":null,' +
        '"code":"server_is_overloaded"}}\n\n',
    )
  })
})
