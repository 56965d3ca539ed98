import { describe, expect, it } from 'vitest'
import { seededRandom } from '../engine/random.ts'
import { appendEvent, collectOutput } from './output-events.ts'
import type { ParserEvent } from './output-events.ts'
import { OutputParseError, createOutputParser, parseComplete } from './output-parser.ts'
import type { OutputParserOptions } from './output-parser.ts'
import { promptText, renderPrompt } from './prompt.ts'
import { fromValue } from './python-json.ts'
import { toolShapes } from './tool-shapes.ts'

const E = '<｜end▁of▁sentence｜>'
const tools = toolShapes([
  fromValue({
    name: 'add',
    parameters: { properties: { a: {}, b: {}, note: {} }, required: ['a', 'b'] },
  }),
  fromValue({ name: 'wrapped', parameters: { properties: { input: {} } } }),
  fromValue({ name: 'free', parameters: { type: 'object' } }),
])
const chat: OutputParserOptions = { thinking: false, toolsAllowed: true, tools }
const thinking: OutputParserOptions = { ...chat, thinking: true }
const withoutTools: OutputParserOptions = { thinking: false, toolsAllowed: false }

/** Events of the chunks, neighbouring pieces of one text joined. */
function parse(chunks: readonly string[], options: OutputParserOptions): ParserEvent[] {
  const parser = createOutputParser(options)
  const events: ParserEvent[] = []
  for (const chunk of chunks) for (const event of parser.push(chunk)) appendEvent(events, event)
  for (const event of parser.finish()) appendEvent(events, event)
  return events
}

const content = (text: string): ParserEvent => ({ type: 'content', text })
const reasoning = (text: string): ParserEvent => ({ type: 'reasoning', text })
const unparsed = (reason: string, fragment = ''): ParserEvent =>
  ({ type: 'unparsed', reason, fragment }) as ParserEvent
const called = (index: number, name: string, args: string, complete = true): ParserEvent[] => [
  { type: 'tool_call_start', index, name },
  ...(args === '' ? [] : [{ type: 'tool_call_arguments', index, text: args } as const]),
  { type: 'tool_call_end', index, complete },
]

const parameter = (name: string, value: string, isString = false): string =>
  `<｜DSML｜parameter name="${name}" string="${isString}">${value}</｜DSML｜parameter>\n`
const invoke = (name: string, ...parameters: string[]): string =>
  `<｜DSML｜invoke name="${name}">\n${parameters.join('') || '\n'}</｜DSML｜invoke>\n`
const block = (...invokes: string[]): string =>
  `\n\n<｜DSML｜tool_calls>\n${invokes.join('')}</｜DSML｜tool_calls>`

describe('reasoning and content', () => {
  it('splits at the end of thinking', () => {
    expect(parse([`why</think>ans${E}`], thinking)).toEqual([reasoning('why'), content('ans')])
  })

  it('takes an answer in chat mode for content', () => {
    expect(parse([`ans${E}`], chat)).toEqual([content('ans')])
  })

  it('takes everything for reasoning when the thinking never ends', () => {
    expect(parse(['why not', ' </thi'], thinking)).toEqual([reasoning('why not </thi')])
  })

  it('keeps a second end of thinking, and one in chat mode, as text', () => {
    expect(parse(['a</think>b</think>c'], thinking)).toEqual([
      reasoning('a'),
      content('b</think>c'),
    ])
    expect(parse(['b</think>c'], chat)).toEqual([content('b</think>c')])
  })

  it('keeps an end-of-sentence literal that something follows', () => {
    expect(parse([`a${E}`, 'b'], chat)).toEqual([content(`a${E}b`)])
    expect(parse([`a${E}${E}`], chat)).toEqual([content(`a${E}`)])
  })

  it('holds back what may begin a tag and gives it out as soon as it cannot', () => {
    const parser = createOutputParser(chat)
    expect(parser.push('2 <')).toEqual([content('2 ')])
    expect(parser.push(' 3\n')).toEqual([content('< 3')])
    expect(parser.push('\n')).toEqual([])
    expect(parser.push('\n')).toEqual([content('\n')])
    expect(parser.push('<｜DSML｜tool')).toEqual([])
    expect(parser.push('box')).toEqual([content('\n\n<｜DSML｜toolbox')])
    expect(parser.finish()).toEqual([])
  })

  it('gives out what is held back when the answer ends', () => {
    expect(parse(['2 <'], chat)).toEqual([content('2 <')])
    expect(parse(['a\n\n<｜DSML｜tool_calls'], chat)).toEqual([content('a\n\n<｜DSML｜tool_calls')])
  })

  it('emits nothing for nothing', () => {
    expect(parse([], thinking)).toEqual([])
    expect(parse(['', E], chat)).toEqual([])
  })

  it('passes markup through as content, at once, when the request has no tools', () => {
    const text = block(invoke('add', parameter('a', '1')))
    const parser = createOutputParser(withoutTools)
    expect(parser.push(text)).toEqual([content(text)])
    expect(parser.finish()).toEqual([])
  })
})

describe('tool calls', () => {
  it('give their arguments as one JSON object', () => {
    const text = `r</think>pre${block(invoke('add', parameter('a', '1'), parameter('note', 'x\ny', true)))}${E}`
    expect(parse([text], thinking)).toEqual([
      reasoning('r'),
      content('pre'),
      ...called(0, 'add', '{"a": 1, "note": "x\\ny"}'),
    ])
  })

  it('are counted through the block, and empty arguments are an empty object', () => {
    const text = block(invoke('f'), invoke('g', parameter('x', '[1, {"y": null}]')), invoke('f'))
    expect(parse([text], chat)).toEqual([
      ...called(0, 'f', '{}'),
      ...called(1, 'g', '{"x": [1, {"y": null}]}'),
      ...called(2, 'f', '{}'),
    ])
  })

  it('are read back from what the prompt renders of them', () => {
    const args =
      '{"s": "a \\"q\\" \\\\ \\u0001 é\\n</｜DSML｜x>", "n": 1.0, "o": {"2": [true]}, "": ""}'
    const withoutEmptyName = args.replace(', "": ""', '')
    const pieces = renderPrompt(
      {
        messages: [
          {
            role: 'assistant',
            content: 'c',
            toolCalls: [{ id: 'x', name: 'f', arguments: withoutEmptyName }],
          },
        ],
      },
      { thinking: false, effort: 'default', constants: {}, addBos: false },
    )
    expect(parseComplete(promptText(pieces), { thinking: false })).toEqual({
      reasoning: '',
      content: 'c',
      toolCalls: [{ name: 'f', arguments: withoutEmptyName, complete: true }],
    })
  })

  it('stream a long string as it comes, escaped', () => {
    const parser = createOutputParser(chat)
    parser.push('\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name="add">\n')
    expect(parser.push('<｜DSML｜parameter name="note" string="true">say "')).toEqual([
      { type: 'tool_call_arguments', index: 0, text: '{"note": "say \\"' },
    ])
    expect(parser.push('hi" </｜DSML')).toEqual([
      { type: 'tool_call_arguments', index: 0, text: 'hi\\" ' },
    ])
    expect(parser.push('｜parameters>')).toEqual([
      { type: 'tool_call_arguments', index: 0, text: '</｜DSML｜parameters>' },
    ])
    expect(parser.push('</｜DSML｜parameter>')).toEqual([
      { type: 'tool_call_arguments', index: 0, text: '"' },
    ])
  })

  it('open with the name as soon as it is known', () => {
    const parser = createOutputParser(chat)
    expect(parser.push('\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name="add"')).toEqual([])
    expect(parser.push('>')).toEqual([{ type: 'tool_call_start', index: 0, name: 'add' }])
  })

  it('may name tools that the request does not have', () => {
    expect(parse([block(invoke('made_up'))], chat)).toEqual(called(0, 'made_up', '{}'))
  })

  it('pass broken JSON and repeated names on as they are', () => {
    const text = block(invoke('add', parameter('a', '{oops'), parameter('a', '2')))
    expect(parse([text], chat)).toEqual(called(0, 'add', '{"a": {oops, "a": 2}'))
  })

  it('may be followed by text, and by another block', () => {
    const text = `${block(invoke('f'))}\nand\n${block(invoke('g'))} \n`
    expect(parse([text], chat)).toEqual([
      ...called(0, 'f', '{}'),
      content('\nand\n'),
      ...called(1, 'g', '{}'),
    ])
  })

  it('are accepted with fewer newlines before the block', () => {
    expect(parse([`a${block(invoke('f')).trimStart()}`], chat)).toEqual([
      content('a'),
      ...called(0, 'f', '{}'),
    ])
  })
})

describe('a forgotten block opener', () => {
  const full = invoke('add', parameter('a', '1'), parameter('b', '2'))

  it('is no matter for a call of a known tool with all it requires', () => {
    expect(parse([`a\n\n${full}`], chat)).toEqual([
      content('a'),
      ...called(0, 'add', '{"a": 1, "b": 2}'),
    ])
    expect(parse([`${full}${full}</｜DSML｜tool_calls>${E}`], chat)).toEqual([
      ...called(0, 'add', '{"a": 1, "b": 2}'),
      ...called(1, 'add', '{"a": 1, "b": 2}'),
    ])
  })

  it('makes a call only once it closes', () => {
    const parser = createOutputParser(chat)
    expect(parser.push(full.slice(0, -3))).toEqual([])
    expect(parser.push('e>')).toEqual(called(0, 'add', '{"a": 1, "b": 2}'))
  })

  it('leaves text after the call as content', () => {
    expect(parse([`${full}Done.`], chat)).toEqual([
      ...called(0, 'add', '{"a": 1, "b": 2}'),
      content('\nDone.'),
    ])
  })

  it('makes content of a call that lacks a required argument, and says so', () => {
    const text = invoke('add', parameter('a', '1'))
    expect(parse([text], chat)).toEqual([
      content(text.trimEnd()),
      unparsed('unfit_bare_call'),
      content('\n'),
    ])
  })

  it('makes content of a call that does not close, and says so', () => {
    const text = full.slice(0, -10)
    const end = text.lastIndexOf('\n')
    expect(parse([text], chat)).toEqual([
      content(text.slice(0, end)),
      unparsed('unterminated'),
      content(text.slice(end)),
    ])
  })

  it('makes content of a call that goes astray, and says so', () => {
    const text = full.replace('</｜DSML｜invoke>', 'oops')
    expect(parse([text], chat)).toEqual([
      content(text.slice(0, text.indexOf('\noops'))),
      unparsed('expected_parameter'),
      content('\noops\n'),
    ])
  })

  it('makes content of a call of an unknown tool, as of any mention of the markup', () => {
    const text = `Write ${invoke('other')}, or \`<｜DSML｜invoke name="\`.`
    expect(parse([text], chat)).toEqual([content(text)])
  })

  it('is not guessed at without knowing the tools', () => {
    expect(parse([full], { thinking: false, toolsAllowed: true })).toEqual([content(full)])
  })

  it('does not keep a later block from being read', () => {
    const text = `Like <｜DSML｜invoke name="add"> so:${block(invoke('f'))}`
    expect(parse([text], chat)).toEqual([
      content('Like <｜DSML｜invoke name="add">'),
      unparsed('expected_parameter'),
      content(' so:'),
      ...called(0, 'f', '{}'),
    ])
  })
})

describe('wrapped arguments', () => {
  const wrapper = (name: string, value: string, isString: boolean, tool = 'add'): ParserEvent[] =>
    parse([block(invoke(tool, parameter(name, value, isString)))], chat)

  it('are unwrapped, be they written as text or as JSON', () => {
    const value = ' {"a": 1.0, "b": "x"}\n'
    expect(wrapper('arguments', value, true)).toEqual(called(0, 'add', value.trim()))
    expect(wrapper('input', value, false)).toEqual(called(0, 'add', value.trim()))
  })

  it.each<[string, string, string, boolean, string]>([
    ['the tool has such a property', 'wrapped', '{"a": 1}', false, '{"input": {"a": 1}}'],
    ['the tool lists no properties', 'free', '{"a": 1}', false, '{"input": {"a": 1}}'],
    ['the tool is not known', 'other', '{"a": 1}', false, '{"input": {"a": 1}}'],
    ['the value is no object', 'add', '[1]', false, '{"input": [1]}'],
    ['the value is no JSON', 'add', 'say "x"', true, '{"input": "say \\"x\\""}'],
  ])('are left alone where %s', (_what, tool, value, isString, args) => {
    expect(wrapper('input', value, isString, tool)).toEqual(called(0, tool, args))
  })

  it('are left alone where another argument stands beside them', () => {
    const first = block(invoke('add', parameter('input', '{}'), parameter('a', '1')))
    expect(parse([first], chat)).toEqual(called(0, 'add', '{"input": {}, "a": 1}'))
    const second = block(invoke('add', parameter('a', '1'), parameter('input', '{}')))
    expect(parse([second], chat)).toEqual(called(0, 'add', '{"a": 1, "input": {}}'))
  })

  it('come out as they stand when the text ends in or after them', () => {
    const begun =
      '\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name="add">\n' +
      '<｜DSML｜parameter name="input" string="true">{"a": "b'
    expect(parse([begun], chat)).toEqual([
      ...called(0, 'add', '{"input": "{\\"a\\": \\"b', false),
      unparsed('unterminated'),
    ])
    expect(parse([`${begun}"}</｜DSML｜parameter>\n</`], chat)).toEqual([
      ...called(0, 'add', '{"input": "{\\"a\\": \\"b\\"}"', false),
      unparsed('unterminated', '\n</'),
    ])
  })
})

describe('markup that breaks', () => {
  it.each<[string, string, ParserEvent[]]>([
    [
      'off inside a string',
      '\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name="f">\n<｜DSML｜parameter name="a" string="true">x</｜DS',
      [...called(0, 'f', '{"a": "x', false), unparsed('unterminated', '</｜DS')],
    ],
    [
      'off between arguments',
      `\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name="f">\n${parameter('a', '1')}<｜DSML｜param`,
      [...called(0, 'f', '{"a": 1', false), unparsed('unterminated', '\n<｜DSML｜param')],
    ],
    [
      "off in an argument's name",
      '\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name="f">\n<｜DSML｜parameter name="a" str',
      [...called(0, 'f', '', false), unparsed('unterminated', '\n<｜DSML｜parameter name="a" str')],
    ],
    [
      'off after a call',
      `\n\n<｜DSML｜tool_calls>\n${invoke('f')}<｜DSML｜invoke name="g`,
      [...called(0, 'f', '{}'), unparsed('unterminated', '\n<｜DSML｜invoke name="g')],
    ],
    [
      'off before a call is named',
      'a\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name="f',
      [
        content('a\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke'),
        unparsed('unterminated'),
        content(' name="f'),
      ],
    ],
    [
      'into text before a call',
      'a\n\n<｜DSML｜tool_calls>\nHello',
      [content('a\n\n<｜DSML｜tool_calls>'), unparsed('expected_invoke'), content('\nHello')],
    ],
    [
      'into an empty block',
      block(),
      [
        content('\n\n<｜DSML｜tool_calls>'),
        unparsed('expected_invoke'),
        content('\n</｜DSML｜tool_calls>'),
      ],
    ],
    [
      'into text after a call',
      `\n\n<｜DSML｜tool_calls>\n${invoke('f')}Hello`,
      [...called(0, 'f', '{}'), unparsed('expected_invoke'), content('\nHello')],
    ],
    [
      'into text inside a call',
      `\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name="f">\n${parameter('a', '1')}Hello`,
      [...called(0, 'f', '{"a": 1', false), unparsed('expected_parameter'), content('\nHello')],
    ],
    [
      "in an argument's header",
      '\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name="f">\n<｜DSML｜parameter name="a">1',
      [...called(0, 'f', '', false), unparsed('unterminated', '\n<｜DSML｜parameter name="a">1')],
    ],
    [
      "in an argument's header, over a line",
      '\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name="f">\n<｜DSML｜parameter name="a">1\n2',
      [
        ...called(0, 'f', '', false),
        content('\n<｜DSML｜parameter'),
        unparsed('bad_parameter_header'),
        content(' name="a">1\n2'),
      ],
    ],
    [
      "in a call's header",
      block('<｜DSML｜invoke id="1">\n'),
      [
        content('\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke'),
        unparsed('bad_invoke_header'),
        content(' id="1">\n</｜DSML｜tool_calls>'),
      ],
    ],
    [
      'in a name without end',
      block(`<｜DSML｜invoke name="${'x'.repeat(2000)}">\n`),
      [
        content('\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke'),
        unparsed('bad_invoke_header'),
        content(` name="${'x'.repeat(2000)}">\n</｜DSML｜tool_calls>`),
      ],
    ],
    [
      'in endless whitespace',
      `\n\n<｜DSML｜tool_calls>${' '.repeat(100)}${invoke('f')}`,
      [
        content('\n\n<｜DSML｜tool_calls>'),
        unparsed('expected_invoke'),
        content(`${' '.repeat(100)}${invoke('f')}`),
      ],
    ],
  ])('%s is reported and never dropped', (_what, text, events) => {
    expect(parse([text], chat)).toEqual(events)
  })

  it('keeps an end-of-sentence out of a string that breaks off', () => {
    const text = `\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name="f">\n<｜DSML｜parameter name="a" string="true">x${E}`
    expect(parse([text], chat)).toEqual([
      ...called(0, 'f', '{"a": "x', false),
      unparsed('unterminated'),
    ])
  })
})

describe('any cutting of any text', () => {
  const fragments = [
    ['</think>', E, '<｜DSML｜', '</｜DSML｜', 'tool_calls>', 'invoke', 'parameter', '｜DSML｜'],
    [' name="add"', ' name="x"', '">\n', '>', '" string="true">', '" string="false">', '\n\n'],
    ['\n', ' ', '<', '"', '\\', 'a', '2', '😀', '{"a": 1}', ' '.repeat(70), block()],
    ['<｜DSML｜tool_calls>\n', '<｜DSML｜invoke name="add">\n', '<｜DSML｜invoke name="g">'],
    ['<｜DSML｜parameter name="b" string="true">', parameter('a', '1'), parameter('b', '"', true)],
    ['</｜DSML｜parameter>\n', '</｜DSML｜invoke>\n', '</｜DSML｜tool_calls>'],
    [block(invoke('add', parameter('a', '1', true))), invoke('add', parameter('input', '{}'))],
    [invoke('add', parameter('a', '1'), parameter('b', '2'))],
  ].flat()

  const seed = 4_052_026

  function randomAnswer(random: () => number): string {
    const count = 1 + Math.floor(random() * 25)
    return Array.from(
      { length: count },
      () => fragments[Math.floor(random() * fragments.length)] ?? '',
    ).join('')
  }

  function randomChunks(random: () => number, text: string): string[] {
    const chunks: string[] = []
    for (let at = 0; at < text.length;) {
      const length = random() < 0.5 ? 1 : 1 + Math.floor(random() * 12)
      chunks.push(text.slice(at, at + length))
      at += length
    }
    return chunks
  }

  const variants: OutputParserOptions[] = [
    chat,
    thinking,
    withoutTools,
    { ...chat, tools: undefined },
  ]

  it('gives the same events', () => {
    const random = seededRandom(seed)
    for (let round = 0; round < 4000; round += 1) {
      const text = randomAnswer(random)
      for (const options of variants) {
        const chunked = parse(randomChunks(random, text), options)
        expect(chunked, `seed ${seed}, round ${round}`).toEqual(parse([text], options))
      }
    }
  })

  it('keeps every call balanced and numbered in order', () => {
    const random = seededRandom(seed + 1)
    let calls = 0
    for (let round = 0; round < 4000; round += 1) {
      let open = -1
      let next = 0
      for (const event of parse([randomAnswer(random)], chat)) {
        if (event.type === 'tool_call_start') {
          expect([event.index, open]).toEqual([next, -1])
          open = next
          next += 1
          calls += 1
        } else if (event.type === 'tool_call_arguments') expect(event.index).toBe(open)
        else if (event.type === 'tool_call_end') {
          expect(event.index).toBe(open)
          open = -1
        } else expect(open).toBe(-1)
      }
      expect(open).toBe(-1)
    }
    expect(calls).toBeGreaterThan(1000)
  })

  it('delivers every character where no call was read', () => {
    const random = seededRandom(seed + 2)
    let checked = 0
    for (let round = 0; round < 4000; round += 1) {
      const text = randomAnswer(random)
      const events = parse([text], chat)
      if (events.some(({ type }) => type === 'tool_call_start')) continue
      checked += 1
      const delivered = events.map((event) => ('text' in event ? event.text : '')).join('')
      expect(delivered).toBe(text.endsWith(E) ? text.slice(0, -E.length) : text)
    }
    expect(checked).toBeGreaterThan(1000)
  })

  it.each([
    '<｜DSML｜invoke name="add">\n<｜DSML｜parameter name="a" string="true">',
    '<｜DSML｜invoke name="add">\n',
    '<｜DSML｜tool_calls>\n',
    '</｜DSML｜par',
    '\n',
    invoke('add', parameter('a', '1'), parameter('b', '2')),
  ])('gets through a megabyte of %j, whole and in small pieces', (unit) => {
    const text = unit.repeat(1_000_000 / unit.length)
    const whole = collectOutput(parse([text], chat))
    expect(whole.content.length + whole.toolCalls.length).toBeGreaterThan(5000)
    expect(collectOutput(parse(text.match(/[^]{1,7}/gu) ?? [], chat))).toEqual(whole)
  })
})

describe('parseComplete', () => {
  const codeOf = (text: string, isThinking = false): string => {
    try {
      parseComplete(text, { thinking: isThinking })
    } catch (error) {
      if (error instanceof OutputParseError) return error.code
      throw error
    }
    return 'accepted'
  }

  it("reads the specification's answers", () => {
    expect(parseComplete(`why</think>ans${E}`, { thinking: true })).toEqual({
      reasoning: 'why',
      content: 'ans',
      toolCalls: [],
    })
    expect(parseComplete(`ans${E}`, { thinking: false })).toEqual({
      reasoning: '',
      content: 'ans',
      toolCalls: [],
    })
    const calls = block(invoke('add', parameter('a', '1'), parameter('note', 'x\ny', true)))
    expect(parseComplete(`r</think>pre${calls}${E}`, { thinking: true })).toEqual({
      reasoning: 'r',
      content: 'pre',
      toolCalls: [{ name: 'add', arguments: '{"a": 1, "note": "x\\ny"}', complete: true }],
    })
  })

  it.each([
    ['missing_eos', 'ans'],
    ['control_token_in_text', `a</think>b${E}`],
    ['control_token_in_text', `a<think>b${E}`],
    ['control_token_in_text', `a${E}b${E}`],
    ['control_token_in_text', `a<｜begin▁of▁sentence｜>${E}`],
    ['control_token_in_text', `a ｜DSML｜${E}`],
    ['control_token_in_text', `a\n<｜DSML｜tool_calls>\n${invoke('f')}</｜DSML｜tool_calls>${E}`],
    ['control_token_in_text', `a\n\n${invoke('f')}${E}`],
    ['text_after_calls', `${block(invoke('f'))}\n${E}`],
    ['expected_invoke', `${block()}${E}`],
    ['expected_invoke', `${block('x')}${E}`],
    ['expected_parameter', `${block(invoke('f', 'x'))}${E}`],
    ['bad_invoke_header', `${block('<｜DSML｜invoke>\n')}${E}`],
    ['bad_parameter_header', `${block(invoke('f', '<｜DSML｜parameter>'))}${E}`],
    ['bad_whitespace', `${block(`\n${invoke('f')}`)}${E}`],
    ['bad_whitespace', `${block(invoke('f', parameter('a', '1'), '\n'))}${E}`],
    ['bad_whitespace', `${block(invoke('f', `\n${parameter('a', '1')}`))}${E}`],
    ['bad_whitespace', `${block(`${invoke('f')} `)}${E}`],
    ['duplicate_parameter', `${block(invoke('f', parameter('a', '1'), parameter('a', '2')))}${E}`],
    ['invalid_json_value', `${block(invoke('f', parameter('a', 'x')))}${E}`],
    ['invalid_json_value', `${block(invoke('f', parameter('a', '1, "b": 2')))}${E}`],
    ['unterminated', `${block(invoke('f')).slice(0, -5)}${E}`],
    ['unterminated', `\n\n<｜DSML｜tool_calls>\n${E}`],
  ])('refuses with %s: %j', (code, text) => {
    expect(codeOf(text)).toBe(code)
  })

  it.each([
    ['missing_think_end', `why${E}`],
    ['tool_calls_in_reasoning', `r${block(invoke('f'))}</think>${E}`],
    ['control_token_in_text', `r<think></think>${E}`],
  ])('refuses with %s when thinking: %j', (code, text) => {
    expect(codeOf(text, true)).toBe(code)
  })
})

describe('toolShapes', () => {
  it('reads names, properties and what is required, and skips what has no name', () => {
    const shapes = toolShapes([
      fromValue({ name: 'f', parameters: { properties: { a: {} }, required: ['a', 1] } }),
      fromValue({ name: 'g' }),
      fromValue({ description: 'x' }),
    ])
    expect([...shapes]).toEqual([
      ['f', { properties: new Set(['a']), required: ['a'] }],
      ['g', { properties: undefined, required: [] }],
    ])
  })
})
