import { describe, expect, it } from 'vitest'
import { toyServed, tokensOf } from '../../../test/support/toy-served.ts'
import { parseJsonSource } from '../text/python-json.ts'
import { toolShapes } from '../text/tool-shapes.ts'
import { Answer, joinDeltas, type AnswerDelta, type AnswerPlan } from './answer.ts'

const served = toyServed()
const eos = '<｜end▁of▁sentence｜>'
const tools = toolShapes([
  parseJsonSource('{"name":"add","parameters":{"properties":{"a":{},"b":{}},"required":["a"]}}'),
])
const call = (name: string, parameters: string): string =>
  `<｜DSML｜invoke name="${name}">\n${parameters}</｜DSML｜invoke>\n`
const block = (...calls: string[]): string =>
  `\n\n<｜DSML｜tool_calls>\n${calls.join('')}</｜DSML｜tool_calls>`
const parameter = (name: string, json: string): string =>
  `<｜DSML｜parameter name="${name}" string="false">${json}</｜DSML｜parameter>\n`

interface Run {
  readonly answer: Answer
  readonly deltas: AnswerDelta[]
}

/** Feeds the tokens of `text` one by one until a stop string is found, as the server does. */
function run(text: string, changes: Partial<AnswerPlan> = {}, logprobs = false): Run {
  const answer = new Answer({
    plan: { thinking: false, toolsAllowed: false, tools, stops: [], ...changes },
    served,
    randomId: () => 'r',
  })
  const deltas: AnswerDelta[] = []
  for (const token of tokensOf(text)) {
    if (answer.stopped) break
    deltas.push(...answer.push(token, logprobs ? { token, logprob: -1, top: [] } : null))
  }
  return { answer, deltas: [...deltas, ...answer.finish()] }
}

const textOf = (deltas: readonly AnswerDelta[], kind: 'reasoning' | 'content'): string =>
  deltas.map((delta) => (delta.kind === kind ? delta.text : '')).join('')

const logprobTextOf = (deltas: readonly AnswerDelta[], kind: 'reasoning' | 'content'): string =>
  deltas
    .flatMap((delta) => (delta.kind === kind ? delta.logprobs : []))
    .map((entry) => entry.token)
    .join('')

describe('Answer', () => {
  it('splits reasoning from content and counts every token, the end token too', () => {
    const { answer, deltas } = run(`Look first.</think>Done.${eos}`, { thinking: true })
    expect(joinDeltas(deltas)).toEqual([
      { kind: 'reasoning', text: 'Look first.', logprobs: [] },
      { kind: 'content', text: 'Done.', logprobs: [] },
    ])
    const reasoning = tokensOf('Look first.').length
    expect([answer.reasoningTokens, answer.completionTokens]).toEqual([
      reasoning,
      reasoning + 1 + tokensOf('Done.').length + 1,
    ])
  })

  it('takes everything for reasoning when the answer ends inside it', () => {
    const { answer, deltas } = run('still at it', { thinking: true })
    expect(joinDeltas(deltas)).toEqual([{ kind: 'reasoning', text: 'still at it', logprobs: [] }])
    expect(answer.reasoningTokens).toBe(answer.completionTokens)
  })

  it('counts no reasoning where none was asked for', () => {
    expect(run(`plain${eos}`).answer.reasoningTokens).toBe(0)
  })

  it('never cuts a character, however many tokens it takes', () => {
    const text = 'a😀é毕🧵z'
    const { deltas } = run(text)
    expect(textOf(deltas, 'content')).toBe(text)
    for (const delta of deltas) expect('text' in delta && delta.text.isWellFormed()).toBe(true)
  })

  it('opens a call once, streams its arguments and leaves no markup in the content', () => {
    const markup = block(
      call('add', parameter('a', '1') + parameter('b', '[2]')),
      call('add', parameter('a', '3')),
    )
    const { answer, deltas } = run(`Adding.${markup}${eos}`, { toolsAllowed: true })
    expect(joinDeltas(deltas)).toEqual([
      { kind: 'content', text: 'Adding.', logprobs: [] },
      { kind: 'tool_call', index: 0, id: 'call_00_r', name: 'add' },
      { kind: 'arguments', index: 0, text: '{"a": 1, "b": [2]}' },
      { kind: 'tool_call', index: 1, id: 'call_01_r', name: 'add' },
      { kind: 'arguments', index: 1, text: '{"a": 3}' },
    ])
    expect([answer.hasToolCalls, answer.problems]).toEqual([true, []])
  })

  it('delivers markup that leads nowhere as content, and tells', () => {
    const broken = '\n\n<｜DSML｜tool_calls>\nno call at all'
    const { answer, deltas } = run(`x${broken}${eos}`, { toolsAllowed: true })
    expect(textOf(deltas, 'content')).toBe(`x${broken}`)
    expect([answer.hasToolCalls, answer.problems]).toEqual([false, ['expected_invoke']])
  })

  it('ends at a stop string and counts no token behind the one that completed it', () => {
    const { answer, deltas } = run('one two STOP three', { stops: ['STOP'] })
    expect(textOf(deltas, 'content')).toBe('one two ')
    expect(answer.stopped).toBe(true)
    const all = tokensOf('one two STOP three')
    const needed = all.findIndex((_, index) =>
      served.tokenizer.decode(all.slice(0, index + 1)).includes('STOP'),
    )
    expect(needed).toBeLessThan(all.length - 1)
    expect(answer.completionTokens).toBe(needed + 1)
  })

  it('ends at a stop string in the reasoning too', () => {
    const { answer, deltas } = run('so wait</think>x', { thinking: true, stops: ['wait'] })
    expect([textOf(deltas, 'reasoning'), textOf(deltas, 'content')]).toEqual(['so ', ''])
    expect(answer.stopped).toBe(true)
  })

  it('brings out what only looked like a stop string, in front of what follows', () => {
    const { deltas } = run(`maybe ST</think>OP`, { thinking: true, stops: ['STOP'] })
    expect(joinDeltas(deltas)).toEqual([
      { kind: 'reasoning', text: 'maybe ST', logprobs: [] },
      { kind: 'content', text: 'OP', logprobs: [] },
    ])
  })

  it('does not look for stop strings in the arguments of a call', () => {
    const markup = block(call('add', parameter('a', '"STOP"')))
    const { answer } = run(markup, { toolsAllowed: true, stops: ['STOP'] })
    expect([answer.stopped, answer.hasToolCalls]).toEqual([false, true])
  })

  it('gives each shown token one probability entry in the channel of its text', () => {
    const { deltas } = run(`think</think>answer text${eos}`, { thinking: true }, true)
    expect(logprobTextOf(deltas, 'reasoning')).toBe('think')
    expect(logprobTextOf(deltas, 'content')).toBe('answer text')
    for (const delta of deltas) {
      if (delta.kind === 'content')
        expect(delta.logprobs.map(({ token }) => token).join('')).toBe(delta.text)
    }
  })

  it('gives no entry for text that a stop string or a call has swallowed', () => {
    const stopped = run('one STOP', { stops: ['STOP'] }, true)
    expect(logprobTextOf(stopped.deltas, 'content').trimEnd()).toBe('one')
    const called = run(`x${block(call('add', parameter('a', '1')))}`, { toolsAllowed: true }, true)
    expect(logprobTextOf(called.deltas, 'content')).toBe('x')
  })

  it('keeps the entry of a token back for as long as its text', () => {
    const answer = new Answer({
      plan: { thinking: false, toolsAllowed: false, tools, stops: ['ab'] },
      served,
      randomId: () => 'r',
    })
    const [token = 0] = tokensOf('a')
    const push = (): AnswerDelta[] => answer.push(token, { token, logprob: -1, top: [] })
    const entry = { token: 'a', logprob: -1, bytes: [97], top_logprobs: [] }
    const shown = { kind: 'content', text: 'a', logprobs: [entry] }
    expect([push(), push(), answer.finish()]).toEqual([[], [shown], [shown]])
  })

  it('keeps the entries of the bytes of one character together', () => {
    const { deltas } = run('😀', {}, true)
    const bytes = deltas.flatMap((delta) =>
      delta.kind === 'content' ? delta.logprobs.flatMap((entry) => entry.bytes) : [],
    )
    expect(bytes).toEqual([...new TextEncoder().encode('😀')])
  })
})
