import { describe, expect, it } from 'vitest'
import { parseJsonSource } from '../text/python-json.ts'
import { answerGrammar, type AnswerForm } from './answer-grammar.ts'
import type { Grammar } from './grammar.ts'
import { SchemaError } from './schema-error.ts'
import { accepts } from './testing/accepts.ts'
import type { ToolForm, ToolsForm } from './tool-call-text.ts'

const path = 'schema'

function schemaOf(schema: unknown, at = path) {
  return {
    node: parseJsonSource(typeof schema === 'string' ? schema : JSON.stringify(schema)),
    path: at,
  }
}

function contentGrammar(content: AnswerForm['content'], thinking = false): Grammar {
  return answerGrammar({ thinking, content, tools: null })
}

const fits = (schema: unknown, text: string): boolean =>
  accepts(contentGrammar(schemaOf(schema)), text)

function refusalOf(make: () => unknown): { path: string; message: string } {
  try {
    make()
  } catch (error) {
    if (error instanceof SchemaError) return { path: error.path, message: error.message }
    throw error
  }
  throw new Error('it was not refused')
}

function tool(parameters: unknown, strict = true): ToolForm {
  return {
    name: 'f',
    strict,
    parameters: parameters === null ? null : schemaOf(parameters, 'tools[0].function.parameters'),
  }
}

function toolGrammar(
  tools: readonly ToolForm[],
  calls: ToolsForm['calls'] = 'one',
  content: AnswerForm['content'] = null,
): Grammar {
  return answerGrammar({ thinking: false, content, tools: { tools, calls } })
}

const nulls = (names: string): string =>
  `{${names
    .split('')
    .map((name) => `"${name}":null`)
    .join()}}`

const object = (properties: Record<string, unknown>, required = Object.keys(properties)) => ({
  type: 'object',
  properties,
  required,
  additionalProperties: false,
})

describe('JSON object mode', () => {
  const grammar = contentGrammar('json_object')

  it.each([
    '{}',
    '{"a": 1}',
    '{"a":[1,-2.5e3,true,false,null,""],"b":{"c":{}}}',
    '{\n  "a": "\\u00e9\\n\\ud83d\\ude00 grün 𝄞"\n}',
  ])('takes %s', (text) => {
    expect(accepts(grammar, text)).toBe(true)
  })

  it.each([
    '',
    '[]',
    '1',
    ' {}',
    '{} ',
    '{"a": 1,}',
    '{"a" 1}',
    '{a: 1}',
    '{"a": 01}',
    '{"a": .5}',
    '{"a": NaN}',
    '{"a": "\\x"}',
    '{"a": "\n"}',
    '{"a": "\\ud83d"}',
    '{"a": [1,]}',
    '{"a": [,1]}',
    '{"a": 1}}',
  ])('refuses %j', (text) => {
    expect(accepts(grammar, text)).toBe(false)
  })

  it('begins behind the chain of thought, which is free', () => {
    const thinking = contentGrammar('json_object', true)
    expect(accepts(thinking, 'Hm {"no": </th</think>{}')).toBe(true)
    expect(accepts(thinking, '{}')).toBe(false)
    expect(accepts(thinking, 'Hm</think>no')).toBe(false)
  })
})

describe('JSON schemas', () => {
  it('keeps properties in the order in which the schema lists them, integer-like ones too', () => {
    const schema =
      '{"type":"object","properties":{"b":{"type":"null"},"1":{"type":"null"}},"required":["b","1"]}'
    expect(fits(schema, '{"b": null, "1": null}')).toBe(true)
    expect(fits(schema, '{"1": null, "b": null}')).toBe(false)
    expect(fits(schema, '{"b": null}')).toBe(false)
    expect(fits(schema, '{"b": null, "1": null, "c": null}')).toBe(false)
  })

  it('leaves optional properties out or in, commas as they fall', () => {
    const nothing = { type: 'null' }
    const schema = object({ a: nothing, b: nothing, c: nothing }, ['b'])
    for (const names of ['b', 'ab', 'bc', 'abc']) {
      expect(fits(schema, nulls(names)), names).toBe(true)
    }
    for (const names of ['', 'a', 'c', 'ac', 'ba', 'bb']) {
      expect(fits(schema, nulls(names)), names).toBe(false)
    }
  })

  it('makes other properties where the schema asks for them, under other names', () => {
    const schema = {
      ...object({ ab: { type: 'null' } }, []),
      additionalProperties: { type: 'integer' },
    }
    expect(fits(schema, '{"ab": null, "a": 1, "abc": 2, "ä": 3}')).toBe(true)
    expect(fits(schema, '{"x": 1}')).toBe(true)
    expect(fits(schema, '{"ab": 1}')).toBe(false)
    expect(fits(schema, '{"ab": null, "ab": 1}')).toBe(false)
    expect(fits(schema, '{"\\u0061b": 1}')).toBe(false)
    expect(fits(schema, '{"x": null}')).toBe(false)
  })

  it('takes a silent object for any object', () => {
    expect(fits({ type: 'object' }, '{"x": [1]}')).toBe(true)
    expect(fits({ type: 'object', properties: {} }, '{"x": [1]}')).toBe(false)
    expect(fits({}, '[{"x": 1}]')).toBe(true)
  })

  it.each<[unknown, string[], string[]]>([
    [{ const: 'a"\n' }, ['"a\\"\\n"'], ['"a"']],
    [{ enum: ['x', 1, null, { a: [1] }] }, ['"x"', '1', 'null', '{"a": [1]}'], ['2', '"1"']],
    [{ type: 'string', enum: ['x', 1] }, ['"x"'], ['1']],
    [{ type: ['boolean', 'null'] }, ['true', 'false', 'null'], ['0', '""']],
    [{ anyOf: [{ type: 'integer' }, { type: 'string' }] }, ['12', '"12"'], ['1.5', 'true']],
    [{ oneOf: [{ type: 'integer' }, { const: 'x' }] }, ['12', '"x"'], ['"y"']],
    [{ allOf: [{ type: 'integer' }], description: 'd' }, ['12'], ['1.5']],
    [{ type: 'string', minLength: 1, maxLength: 2 }, ['"a"', '"𝄞\\n"'], ['""', '"abc"']],
    [
      { type: 'array', items: { type: 'null' }, minItems: 1, maxItems: 2 },
      ['[null]', '[null,null]'],
      ['[]', '[null,null,null]'],
    ],
    [{ type: 'array', items: { type: 'null' }, maxItems: 0 }, ['[]'], ['[null]']],
    [
      { type: 'array', items: { type: 'null' }, minItems: 2 },
      ['[null,null]', '[null,null,null]'],
      ['[null]'],
    ],
    [
      { type: 'integer', minimum: -12, maximum: 105 },
      ['-12', '-9', '0', '99', '105'],
      ['-13', '106', '1000', '00', '-0'],
    ],
    [{ type: 'integer', exclusiveMinimum: 9, exclusiveMaximum: 12 }, ['10', '11'], ['9', '12']],
    [{ type: 'integer', minimum: 100 }, ['100', '999', '1000'], ['99', '-100']],
    [
      { type: 'number', minimum: -1, maximum: 1 },
      ['-1', '-0.25', '0.5', '1'],
      ['1.5', '-1.5', '1e0'],
    ],
  ])('holds values to %j', (schema, good, bad) => {
    for (const text of good) expect(fits(schema, text), text).toBe(true)
    for (const text of bad) expect(fits(schema, text), text).toBe(false)
  })

  it('follows references, also into themselves', () => {
    const schema = {
      ...object({
        next: { anyOf: [{ $ref: '#' }, { type: 'null' }] },
        own: { $ref: '#/$defs/a~1b' },
      }),
      $defs: { 'a/b': { type: 'integer' } },
    }
    expect(fits(schema, '{"next": {"next": null, "own": 1}, "own": 2}')).toBe(true)
    expect(fits(schema, '{"next": {"own": 1}, "own": 2}')).toBe(false)
  })

  it.each<[string, unknown, string, string]>([
    [
      'an unknown keyword',
      object({ a: { type: 'string', pattern: 'x' } }),
      'schema.properties.a.pattern',
      'is not a supported keyword',
    ],
    [
      'a keyword of another type',
      { type: 'string', minItems: 1 },
      'schema.minItems',
      "needs the 'type' it belongs to",
    ],
    [
      'an unknown type',
      { type: 'text' },
      'schema.type',
      'must be one of object, array, string, number, integer, boolean, null',
    ],
    [
      'a schema that is none',
      object({ a: 3 }),
      'schema.properties.a',
      'must be a schema: an object, true or false',
    ],
    [
      'a remote reference',
      { $ref: 'https://x.test' },
      'schema.$ref',
      "must be a reference within the schema, '#…'",
    ],
    [
      'a reference to nowhere',
      { $ref: '#/$defs/%zz' },
      'schema.$ref',
      "'#/$defs/%zz' leads nowhere",
    ],
    ['a reference to itself', { $ref: '#' }, 'schema', 'describes no value'],
    [
      'keywords beside a reference',
      { $ref: '#/$defs/a', minimum: 1, $defs: { a: {} } },
      'schema.minimum',
      "cannot stand beside '$ref'",
    ],
    [
      'a value without end',
      object({ next: { $ref: '#' } }),
      'schema',
      'is fitted by no value short enough for an answer',
    ],
    ['an empty enum', { type: 'integer', enum: ['a'] }, 'schema', 'describes no value'],
    [
      'a required stranger',
      { type: 'object', properties: {}, required: ['x'] },
      'schema.required',
      "names 'x', which is no property",
    ],
    [
      'bounds that cross',
      { type: 'integer', minimum: 3, maximum: 2 },
      'schema.minimum',
      'leaves no whole number',
    ],
    [
      'more than one in allOf',
      { allOf: [{}, {}] },
      'schema.allOf',
      'is supported with one schema in it',
    ],
    ['broken Unicode', { const: '\ud800' }, 'schema.const', 'is not valid Unicode'],
    [
      'an enormous count',
      { type: 'array', minItems: 100_000 },
      'schema.minItems',
      'must be a whole number up to 1000',
    ],
  ])('refuses %s by its path', (_, schema, at, message) => {
    expect(refusalOf(() => contentGrammar(schemaOf(schema)))).toEqual({ path: at, message })
  })

  it('takes oneOf where no value fits two of its schemas, and refuses it elsewhere', () => {
    const kind = (value: string) => object({ kind: { const: value }, own: { type: 'integer' } })
    expect(fits({ oneOf: [kind('a'), kind('b')] }, '{"kind": "b", "own": 1}')).toBe(true)
    const { path: at } = refusalOf(() =>
      contentGrammar(schemaOf({ oneOf: [{ type: 'number' }, { type: 'integer' }] })),
    )
    expect(at).toBe('schema.oneOf')
  })
})

describe('schema bombs', () => {
  it('refuses an enumeration that is too long, by its path', () => {
    const values = Array.from({ length: 20_000 }, (_, index) => `${index} of many values`)
    const found = refusalOf(() => contentGrammar(schemaOf(object({ a: { enum: values } }))))
    expect(found.path).toBe('schema.properties.a')
    expect(found.message).toMatch('makes the schema too large: it needs more than')
  })

  it('refuses counts within counts, by their path', () => {
    const counted = { type: 'string', minLength: 900 }
    const schema = { type: 'array', minItems: 900, items: object({ a: counted, b: counted }) }
    expect(() => contentGrammar(schemaOf(schema))).not.toThrow()
    const wide = object(
      Object.fromEntries(
        Array.from({ length: 100 }, (_, index) => [
          `p${index}`,
          { ...counted, minLength: 999 - index },
        ]),
      ),
    )
    expect(refusalOf(() => contentGrammar(schemaOf(wide))).path).toMatch(
      /^schema\.properties\.p\d+$/,
    )
  })

  it('takes references that double at every step for what they are', () => {
    // Written out, the schema would be 2^200 long; and so would be its shortest value without null.
    const doubling = (stop: object[]): object => {
      const $defs = Object.fromEntries(
        Array.from({ length: 200 }, (_, index) => {
          const next = { anyOf: [{ $ref: `#/$defs/d${index + 1}` }, ...stop] }
          return [`d${index}`, object({ a: next, b: next })]
        }),
      )
      return { $defs: { ...$defs, d200: { type: 'boolean' } }, $ref: '#/$defs/d0' }
    }
    const grammar = contentGrammar(schemaOf(doubling([{ type: 'null' }])))
    expect(grammar.ends.length).toBeLessThan(20_000)
    expect(refusalOf(() => contentGrammar(schemaOf(doubling([]))))).toEqual({
      path: 'schema',
      message: 'is fitted by no value short enough for an answer',
    })
  })

  it.each<[string, unknown, string, string]>([
    [
      'oneOf in oneOf',
      Array.from({ length: 18 }).reduce<object>(
        (inner) => ({ oneOf: [{ oneOf: [inner, { const: 1 }] }, { const: 2 }] }),
        { type: 'null' },
      ),
      'oneOf',
      'stands in itself, or in too many others of its kind',
    ],
    [
      'oneOf of itself',
      { oneOf: [{ $ref: '#' }, { type: 'null' }] },
      'oneOf',
      'stands in itself, or in too many others of its kind',
    ],
    [
      'a hundred thousand alternatives',
      { anyOf: Array.from({ length: 100_000 }, () => ({})) },
      '',
      'has more than 1024 alternatives',
    ],
    [
      'a hundred thousand types',
      { type: Array.from({ length: 100_000 }, () => 'null') },
      'type',
      'names a type twice',
    ],
    [
      'a hundred thousand required properties',
      object(Object.fromEntries(Array.from({ length: 100_000 }, (_, index) => [index, {}]))),
      '',
      'makes the schema too large: it needs more than 65536 states',
    ],
    [
      'other names beside a long one',
      { ...object({ ['x'.repeat(5000)]: {} }), additionalProperties: true },
      'additionalProperties',
      'is supported beside names of up to 1024 bytes in all',
    ],
  ])('refuses %s', (_, schema, at, message) => {
    const found = refusalOf(() => contentGrammar(schemaOf(schema)))
    const inner = found.path.split('.').at(-1) ?? ''
    expect([inner.replace('schema', ''), found.message]).toEqual([at, message])
  })

  it('tries the schemas of many tools out no longer than one schema may take', () => {
    const long = {
      type: 'string',
      enum: Array.from({ length: 500 }, (_, index) => `value ${index}`),
    }
    const wide = object(
      Object.fromEntries(Array.from({ length: 16 }, (_, index) => [`p${index}`, long])),
    )
    const tools = Array.from({ length: 128 }, () => tool(wide, false))
    expect(toolGrammar(tools, 'some').ends.length).toBeLessThan(65_537)
  })

  it('refuses alternatives of alternatives without end', () => {
    const $defs = Object.fromEntries(
      Array.from({ length: 3000 }, (_, index) => [
        `d${index}`,
        { anyOf: [{ const: index }, { $ref: `#/$defs/d${index + 1}` }] },
      ]),
    )
    const all = { $defs: { ...$defs, d3000: { type: 'null' } }, $ref: '#/$defs/d0' }
    expect(refusalOf(() => contentGrammar(schemaOf(all)))).toEqual({
      path: 'schema',
      message: 'has more than 1024 alternatives',
    })
  })
})

const block = (...calls: string[]): string =>
  `\n\n<｜DSML｜tool_calls>\n${calls.map((call) => `<｜DSML｜invoke name="f">\n${call}</｜DSML｜invoke>\n`).join('')}</｜DSML｜tool_calls>`
const parameter = (name: string, string: boolean, value: string): string =>
  `<｜DSML｜parameter name="${name}" string="${string}">${value}</｜DSML｜parameter>\n`

describe('tool calls', () => {
  const schema = object({ city: { type: 'string' }, days: { type: ['integer', 'null'] } })

  it('holds a strict tool to its schema: strings plain, everything else as JSON', () => {
    const grammar = toolGrammar([tool(schema)])
    const city = parameter('city', true, 'São "Paulo" </｜no')
    expect(accepts(grammar, block(city + parameter('days', false, '3')))).toBe(true)
    expect(accepts(grammar, block(city + parameter('days', false, 'null')))).toBe(true)
    expect(accepts(grammar, block(city))).toBe(false)
    expect(accepts(grammar, block(city + parameter('days', true, '3')))).toBe(false)
    expect(accepts(grammar, block(city + parameter('days', false, '3.5')))).toBe(false)
    expect(accepts(grammar, 'Hello')).toBe(false)
  })

  it('makes one call where one is named, several where some call is required', () => {
    const empty = '\n'
    const none = tool(null)
    expect(accepts(toolGrammar([none], 'one'), block(empty))).toBe(true)
    expect(accepts(toolGrammar([none], 'one'), block(empty, empty))).toBe(false)
    expect(accepts(toolGrammar([none], 'some'), block(empty, empty))).toBe(true)
    expect(accepts(toolGrammar([none], 'some'), block())).toBe(false)
  })

  it('lets text stand alone or before calls where they are optional', () => {
    const grammar = toolGrammar([tool(schema)], 'optional')
    expect(accepts(grammar, 'Hello < there')).toBe(true)
    expect(accepts(grammar, '')).toBe(true)
    const call = parameter('city', true, 'x') + parameter('days', false, '1')
    expect(accepts(grammar, `Well.${block(call)}`)).toBe(true)
    expect(accepts(grammar, `Well.${block('')}`)).toBe(false)
    expect(accepts(grammar, `${block(call)} and more`)).toBe(false)
  })

  it('lets JSON stand instead of calls where both were asked for', () => {
    const grammar = toolGrammar([tool(schema)], 'optional', 'json_object')
    expect(accepts(grammar, '{"a": "<b>"}')).toBe(true)
    expect(accepts(grammar, '{"a": "<｜DSML｜tool_calls>"}')).toBe(false)
    expect(accepts(grammar, 'text')).toBe(false)
  })

  it('leaves arguments free that are not strict and whose schema is not supported', () => {
    const unsupported = object({ a: { type: 'string', pattern: 'x' } })
    const grammar = toolGrammar([tool(unsupported, false)])
    expect(accepts(grammar, block(parameter('a', true, 'y') + parameter('b', false, '[1]')))).toBe(
      true,
    )
    expect(accepts(grammar, block(parameter('b', false, '[1')))).toBe(false)
    const { path: at } = refusalOf(() => toolGrammar([tool(unsupported)]))
    expect(at).toBe('tools[0].function.parameters.properties.a.pattern')
  })

  it('holds arguments that are not strict to a schema that is supported', () => {
    const grammar = toolGrammar([
      tool({ type: 'object', properties: { n: { type: 'integer' } } }, false),
    ])
    expect(accepts(grammar, block(parameter('n', false, '1')))).toBe(true)
    expect(accepts(grammar, block(''))).toBe(true)
    expect(accepts(grammar, block(parameter('n', false, '"1"')))).toBe(false)
  })

  it.each<[string, unknown, string]>([
    ['minLength', object({ a: { type: 'string', minLength: 1 } }), 'properties.a.minLength'],
    [
      'maxItems',
      object({ a: { type: 'array', items: { type: 'null' }, maxItems: 1 } }),
      'properties.a.maxItems',
    ],
    ['a property that may be missing', object({ a: { type: 'null' } }, []), 'required'],
    ['an open object', { type: 'object', properties: {} }, 'additionalProperties'],
    [
      'an open object inside',
      object({ a: { type: 'object', properties: {} } }),
      'properties.a.additionalProperties',
    ],
    ['arguments that are no object', { type: 'string' }, ''],
    ['a name that markup cannot spell', object({ 'a"b': { type: 'null' } }), 'properties.a"b'],
    ['markup in a value', object({ a: { const: '</｜DSML｜parameter>' } }), 'properties.a'],
  ])('refuses %s in a strict tool', (_, parameters, at) => {
    const root = 'tools[0].function.parameters'
    expect(refusalOf(() => toolGrammar([tool(parameters)])).path).toBe(
      at === '' ? root : `${root}.${at}`,
    )
  })
})

describe('keys', () => {
  it('are the same for the same form, and no other', () => {
    const key = (schema: unknown): string => contentGrammar(schemaOf(schema)).key
    expect(key({ type: 'null' })).toBe(key({ type: 'null', description: 'x' }))
    expect(key({ type: 'null' })).not.toBe(key({ type: 'boolean' }))
  })
})
