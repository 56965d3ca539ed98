import { describe, expect, it } from 'vitest'
import {
  JsonSourceError,
  escapeJsonText,
  fromValue,
  jsonAt,
  parseJsonSource,
  pythonJson,
} from './python-json.ts'

const printed = (text: string): string => pythonJson(parseJsonSource(text))

function codeOf(run: () => unknown): string {
  try {
    run()
  } catch (error) {
    if (error instanceof JsonSourceError) return error.code
    throw error
  }
  return 'accepted'
}

describe('pythonJson', () => {
  it('separates with a comma and a colon followed by one space', () => {
    expect(printed('{"a":[1,2,{"b":null}],"c":{},"d":[]}')).toBe(
      '{"a": [1, 2, {"b": null}], "c": {}, "d": []}',
    )
  })

  it('keeps the order of integer-like keys, which JavaScript objects do not', () => {
    expect(printed('{"z":1,"10":2,"2":3,"a":4}')).toBe('{"z": 1, "10": 2, "2": 3, "a": 4}')
  })

  it('keeps numbers as they were written', () => {
    expect(printed('[1.0, -0, 0.10, 1e5, 1E+2, 12345678901234567890]')).toBe(
      '[1.0, -0, 0.10, 1e5, 1E+2, 12345678901234567890]',
    )
  })

  it('gives a repeated key its first place and its last value, as a Python dict does', () => {
    expect(printed('{"a":1,"b":2,"a":3}')).toBe('{"a": 3, "b": 2}')
  })

  it('keeps a key named like an object method or prototype', () => {
    expect(printed('{"__proto__":1,"constructor":2}')).toBe('{"__proto__": 1, "constructor": 2}')
  })

  it('escapes quote, backslash and what lies below the space, and nothing else', () => {
    const text = '\u0000\u0001\b\t\n\u000b\f\r\u001f "\\/\u007f\u0080é毕\u2028😀'
    expect(pythonJson({ kind: 'string', value: text })).toBe(
      '"\\u0000\\u0001\\b\\t\\n\\u000b\\f\\r\\u001f \\"\\\\/\u007f\u0080é毕\u2028😀"',
    )
  })

  it('unescapes what the source escaped without need', () => {
    expect(printed('"\\u00e9\\/\\ud83d\\ude00"')).toBe('"é/😀"')
  })

  it('escapes a text cut anywhere as it escapes it whole', () => {
    const text = 'a"\\😀\n\u0001'
    for (let at = 0; at <= text.length; at += 1) {
      expect(escapeJsonText(text.slice(0, at)) + escapeJsonText(text.slice(at))).toBe(
        escapeJsonText(text),
      )
    }
  })
})

describe('parseJsonSource', () => {
  it.each([
    '',
    ' ',
    '{',
    '[1,]',
    '{"a":1,}',
    "{'a':1}",
    '{"a" 1}',
    '{a:1}',
    '01',
    '1.',
    '.5',
    '+1',
    '-',
    'NaN',
    'Infinity',
    'nul',
    'truee',
    '1 2',
    '"a',
    '"a\\',
    '"\\x"',
    '"\\u12"',
    '"a\nb"',
    '[1]]',
    '\ufeff1',
  ])('refuses %j, as JSON.parse does', (text) => {
    expect(() => JSON.parse(text) as unknown).toThrow(SyntaxError)
    expect(codeOf(() => parseJsonSource(text))).toBe('invalid_json')
  })

  it.each([
    'null',
    ' true ',
    '\t-1.5e-3\r\n',
    '"\\"\\\\\\b\\f\\n\\r\\t\\u0041"',
    '{"a":{"b":[[],{},"",0]}}',
    '[ 1 , 2 ]',
  ])('reads %j as JSON.parse does', (text) => {
    const value = JSON.parse(text) as unknown
    expect(JSON.parse(printed(text))).toEqual(value)
    expect(parseJsonSource(JSON.stringify(value))).toEqual(fromValue(value))
  })

  it('reads 128 levels and refuses the next', () => {
    expect(printed('['.repeat(128) + ']'.repeat(128))).toHaveLength(256)
    expect(codeOf(() => parseJsonSource('['.repeat(130) + ']'.repeat(130)))).toBe('too_deep')
    expect(codeOf(() => parseJsonSource('{"a":'.repeat(1_000_000)))).toBe('too_deep')
  })

  it('names the offset of what it did not expect', () => {
    expect(() => parseJsonSource('{"a": tru}')).toThrow('unexpected "t" at offset 6 of the JSON')
  })
})

describe('fromValue', () => {
  it('leaves out members that are undefined', () => {
    expect(pythonJson(fromValue({ a: undefined, b: 1 }))).toBe('{"b": 1}')
  })

  it.each([[undefined], [Number.NaN], [Number.POSITIVE_INFINITY], [1n], [() => 1]])(
    'refuses %s, which JSON cannot carry',
    (value) => {
      expect(codeOf(() => fromValue(value))).toBe('unsupported_value')
      expect(codeOf(() => fromValue(['x', value]))).toBe('unsupported_value')
    },
  )

  it('refuses a value that contains itself', () => {
    const loop: unknown[] = []
    loop.push(loop)
    expect(codeOf(() => fromValue(loop))).toBe('too_deep')
  })
})

describe('jsonAt', () => {
  const node = parseJsonSource('{"function":{"name":"f","parameters":[1]}}')

  it('walks object members', () => {
    expect(jsonAt(node, 'function', 'name')).toEqual({ kind: 'string', value: 'f' })
    expect(jsonAt(node)).toBe(node)
  })

  it('gives undefined where a step is missing or no object', () => {
    expect(jsonAt(node, 'function', 'x', 'y')).toBeUndefined()
    expect(jsonAt(node, 'function', 'parameters', '0')).toBeUndefined()
  })
})
