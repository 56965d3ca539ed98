import { describe, expect, it } from 'vitest'
import { toStoreError } from './s3-errors.ts'
import { StoreError } from './store.ts'

const reply = (status: number, name = 'Whatever'): Error =>
  Object.assign(new Error('a sentence'), { name, $metadata: { httpStatusCode: status } })
const system = (code: string): Error => Object.assign(new Error(`connect ${code}`), { code })
const named = (name: string): Error => Object.assign(new Error('x'), { name })
const codeOf = (error: unknown): unknown => {
  const mapped = toStoreError(error, 'k', 's3://b')
  return mapped instanceof StoreError ? mapped.code : mapped
}

describe('an error of the S3 client', () => {
  it.each([
    ['404', reply(404), 'not_found'],
    ['401', reply(401), 'access_denied'],
    ['403', reply(403), 'access_denied'],
    ['416', reply(416), 'range_not_satisfiable'],
    ['408', reply(408), 'unavailable'],
    ['429', reply(429), 'unavailable'],
    ['500', reply(500), 'unavailable'],
    ['503', reply(503, 'SlowDown'), 'unavailable'],
    ['301', reply(301, 'PermanentRedirect'), 'rejected'],
    ['400', reply(400), 'rejected'],
    ['a refused connection', system('ECONNREFUSED'), 'unavailable'],
    ['a reset', system('ECONNRESET'), 'unavailable'],
    ['a timeout', named('TimeoutError'), 'unavailable'],
    ['missing credentials', named('CredentialsProviderError'), 'access_denied'],
    ['an abort', named('AbortError'), 'aborted'],
  ])('%s has its code', (_, error, code) => {
    expect(codeOf(error)).toBe(code)
  })

  it('keeps what the client said, and its cause', () => {
    const cause = reply(503, 'SlowDown')
    const error = toStoreError(cause, 'k', 's3://b') as StoreError
    expect(error.message).toBe('k of s3://b: SlowDown, a sentence, HTTP 503')
    expect([error.key, error.cause]).toEqual(['k', cause])
  })

  it('that is a bug stays what it is', () => {
    const bug = new TypeError('x is not a function')
    expect(toStoreError(bug, 'k', 's3://b')).toBe(bug)
    const own = new StoreError('short_read', 'k', '')
    expect(toStoreError(own, 'k', 's3://b')).toBe(own)
  })
})
