import { describe, expect, it } from 'vitest'
import { toUsage } from '#protocol/usage.ts'
import type { AnswerDelta } from './answer.ts'
import { ChunkWriter, completionObject, type ChunkOptions } from './chunks.ts'

const head = { id: 'c-1', created: 1777040000, model: 'm', systemFingerprint: 'fp_1' }
const usage = toUsage({ promptTokens: 5, cachedTokens: 0, completionTokens: 3, reasoningTokens: 1 })
const entry = { token: 'a', logprob: -0.5, bytes: [97], top_logprobs: [] }

const deltas: AnswerDelta[] = [
  { kind: 'reasoning', text: 'hm', logprobs: [] },
  { kind: 'content', text: 'a\n', logprobs: [entry] },
  { kind: 'tool_call', index: 0, id: 'call_00_x', name: 'f' },
  { kind: 'arguments', index: 0, text: '{"a":' },
  { kind: 'arguments', index: 0, text: '1}' },
]

function options(changes: Partial<ChunkOptions> = {}): ChunkOptions {
  return { head, thinking: true, logprobs: false, includeUsage: false, ...changes }
}

/** The chunks of a text of events, whose form is checked on the way. */
function chunksOf(text: string): unknown[] {
  expect(text.endsWith('\n\n')).toBe(true)
  return text
    .slice(0, -2)
    .split('\n\n')
    .map((event) => {
      expect(event.startsWith('data: ') && !event.includes('\n')).toBe(true)
      return JSON.parse(event.slice('data: '.length)) as unknown
    })
}

const chunk = (delta: object, more: object = {}): object => ({
  id: 'c-1',
  object: 'chat.completion.chunk',
  created: 1777040000,
  model: 'm',
  system_fingerprint: 'fp_1',
  choices: [{ index: 0, delta, logprobs: null, finish_reason: null }],
  ...more,
})

describe('ChunkWriter', () => {
  it('opens with the role and the text fields of the stream', () => {
    expect(chunksOf(new ChunkWriter(options()).opening())).toEqual([
      chunk({ role: 'assistant', content: null, reasoning_content: '' }),
    ])
    expect(chunksOf(new ChunkWriter(options({ thinking: false })).opening())).toEqual([
      chunk({ role: 'assistant', content: '' }),
    ])
  })

  it('gives each delta its own keys and no others', () => {
    const writer = new ChunkWriter(options())
    expect(chunksOf(deltas.map((delta) => writer.delta(delta)).join(''))).toEqual([
      chunk({ reasoning_content: 'hm' }),
      chunk({ content: 'a\n' }),
      chunk({
        tool_calls: [
          { index: 0, id: 'call_00_x', type: 'function', function: { name: 'f', arguments: '' } },
        ],
      }),
      chunk({ tool_calls: [{ index: 0, function: { arguments: '{"a":' } }] }),
      chunk({ tool_calls: [{ index: 0, function: { arguments: '1}' } }] }),
    ])
  })

  it('puts usage on the last choice when it was not asked for', () => {
    const choices = [{ index: 0, delta: {}, logprobs: null, finish_reason: 'stop' }]
    expect(chunksOf(new ChunkWriter(options()).closing('stop', usage).join(''))).toEqual([
      chunk({}, { choices, usage }),
    ])
  })

  it('puts usage in a chunk of its own when it was, and null in every other', () => {
    const writer = new ChunkWriter(options({ includeUsage: true }))
    const choices = [{ index: 0, delta: {}, logprobs: null, finish_reason: 'length' }]
    expect(chunksOf(writer.opening() + writer.closing('length', usage).join(''))).toEqual([
      chunk({ role: 'assistant', content: null, reasoning_content: '' }, { usage: null }),
      chunk({}, { choices, usage: null }),
      chunk({}, { choices: [], usage }),
    ])
  })

  it('carries the probabilities of its own tokens', () => {
    const writer = new ChunkWriter(options({ logprobs: true }))
    const logprobs = { content: [entry], reasoning_content: null }
    const choices = [{ index: 0, delta: { content: 'a\n' }, logprobs, finish_reason: null }]
    const [, content] = deltas
    expect(content && chunksOf(writer.delta(content))).toEqual([chunk({}, { choices })])
  })
})

describe('completionObject', () => {
  it('puts all deltas of an answer together', () => {
    expect(completionObject(options(), deltas, { reason: 'tool_calls', usage })).toEqual({
      id: 'c-1',
      object: 'chat.completion',
      created: 1777040000,
      model: 'm',
      choices: [
        {
          index: 0,
          message: {
            role: 'assistant',
            content: 'a\n',
            reasoning_content: 'hm',
            tool_calls: [
              {
                index: 0,
                id: 'call_00_x',
                type: 'function',
                function: { name: 'f', arguments: '{"a":1}' },
              },
            ],
          },
          logprobs: null,
          finish_reason: 'tool_calls',
        },
      ],
      usage,
      system_fingerprint: 'fp_1',
    })
  })

  it('has no reasoning without thinking and no calls without a call', () => {
    const answer = completionObject(options({ thinking: false, logprobs: true }), [], {
      reason: 'stop',
      usage,
    })
    expect(answer).toMatchObject({
      choices: [
        {
          message: { role: 'assistant', content: '' },
          logprobs: { content: [], reasoning_content: [] },
        },
      ],
    })
    expect(JSON.stringify(answer)).not.toMatch(/tool_calls|"reasoning_content":"/)
  })
})
