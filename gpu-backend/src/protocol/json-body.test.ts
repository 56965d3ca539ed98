import { describe, expect, it } from 'vitest'
import { ApiError } from './errors.ts'
import { decodeBody, parseJsonBody } from './json-body.ts'

function refusalOf(read: () => unknown): [string, string | null, string] {
  try {
    read()
  } catch (error) {
    if (error instanceof ApiError) return [error.code, error.param, error.message]
    throw error
  }
  throw new Error('not refused')
}

const code = 'invalid_request_error'

/** The body's bytes, a # in it replaced by a byte that UTF-8 does not have. */
function broken(body: string): Uint8Array {
  return new TextEncoder().encode(body).map((byte) => (byte === 0x23 ? 0xff : byte))
}

describe('decodeBody', () => {
  it('keeps what it reads, a byte order mark too', () => {
    expect(decodeBody(new TextEncoder().encode('\ufeff{"a": "grün 𝄞"}'))).toBe(
      '\ufeff{"a": "grün 𝄞"}',
    )
  })

  it.each([
    ['{"messages": [{"role": "user", "content": "a"}, {"content": "b#"}]}', 'messages[1].content'],
    ['{"tools": [{"function": {"description": "#"}}]}', 'tools[0].function.description'],
    ['{"stop": "#"}', 'stop'],
  ])('names the field of broken bytes in %s', (body, param) => {
    expect(refusalOf(() => decodeBody(broken(body)))).toEqual([
      code,
      param,
      `'${param}' is not valid UTF-8.`,
    ])
  })

  it.each(['#', '"#"', '{"a": 1, "#": 2}', `${'['.repeat(5000)}"#"${']'.repeat(5000)}`])(
    'names none where none can be made out',
    (body) => {
      expect(refusalOf(() => decodeBody(broken(body)))).toEqual([
        code,
        null,
        'The request body is not valid UTF-8.',
      ])
    },
  )
})

describe('parseJsonBody', () => {
  it.each([
    ['NaN', 'temperature'],
    ['-Infinity', 'top_p'],
    ['Infinity', 'seed'],
  ])('names the field that is %s', (value, param) => {
    const message = `'${param}' is ${value}, which is no number of JSON.`
    expect(refusalOf(() => parseJsonBody(`{"${param}": ${value}}`))).toEqual([code, param, message])
  })

  it.each(['', '{', '{"a": 1,}', '\ufeff{}'])('refuses %j', (text) => {
    expect(refusalOf(() => parseJsonBody(text))).toEqual([
      code,
      null,
      'The request body is not valid JSON.',
    ])
  })
})
