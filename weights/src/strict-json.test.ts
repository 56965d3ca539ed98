import { describe, expect, it } from 'vitest'
import { CheckpointError } from './checkpoint-error.ts'
import { parseJson } from './strict-json.ts'

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text)
const fault = (input: Uint8Array): unknown => {
  try {
    return parseJson(input, 'x.json')
  } catch (error) {
    return error instanceof CheckpointError ? [error.code, error.subject] : error
  }
}

describe('JSON from a file', () => {
  it.each([
    ['{"a": {"a": 1}, "b": [{"a": 1}, {"a": 2}], "c:": "{\\"a\\": 1, \\"a\\": 2}"}'],
    ['["a", "a", {"": 0}]'],
    ['"\\"a\\":"'],
    ['{"back\\\\": 1, "slash": 2}'],
  ])('%s is what JSON.parse makes of it', (text) => {
    expect(parseJson(bytes(text), 'x.json')).toEqual(JSON.parse(text))
  })

  it.each([
    ['a key twice', bytes('{"a": 1, "b": 2, "a": 3}')],
    ['a key twice, spelt differently', bytes('{"a": 1, "\\u0061": 2}')],
    ['a key twice in an inner object', bytes('[{"x": {"a": 1, "a": 1}}]')],
    ['a key twice after an array', bytes('{"a": [1, {"a": 2}], "a": 3}')],
    ['text after the end', bytes('{} {}')],
    ['nothing', bytes('')],
    ['a byte-order mark', bytes('\uFEFF{}')],
    ['broken UTF-8', Uint8Array.of(0x22, 0xc3, 0x28, 0x22)],
    ['nesting without end', bytes('['.repeat(40) + ']'.repeat(40))],
  ])('with %s is refused', (_, input) => {
    expect(fault(input)).toEqual(['json_invalid', 'x.json'])
  })
})
