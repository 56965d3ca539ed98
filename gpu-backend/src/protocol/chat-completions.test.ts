import { describe, expect, it } from 'vitest'
import {
  contentText,
  parseChatRequest,
  requestedMaxTokens,
  thinkingEnabled,
} from './chat-completions.ts'
import { ApiError } from './errors.ts'

const user = { role: 'user', content: 'Hi' }
const base = { model: 'm', messages: [user] }
const tool = (name: string): object => ({ type: 'function', function: { name } })
const assistantCall = {
  role: 'assistant',
  content: '',
  reasoning_content: '',
  tool_calls: [{ id: 'c1', type: 'function', function: { name: 'f', arguments: '{' } }],
}

/** Status, code and field of the refusal; null when it is accepted. */
function refusal(body: unknown): [number, string, string | null] | null {
  try {
    parseChatRequest(body)
    return null
  } catch (error) {
    if (error instanceof ApiError) return [error.status, error.code, error.param]
    throw error
  }
}

const wrong = (param: string | null): [number, string, string | null] => [
  400,
  'invalid_request_error',
  param,
]
const outOfRange = (param: string): [number, string, string | null] => [
  422,
  'invalid_parameter',
  param,
]

describe('parseChatRequest accepts', () => {
  it.each([
    ['the least there can be', {}],
    ['unknown keys', { logit_bias: {}, whatever: [1] }],
    [
      'null for whatever may be left out',
      {
        thinking: null,
        reasoning_effort: null,
        max_tokens: null,
        response_format: null,
        stop: null,
        stream: null,
        stream_options: null,
        temperature: null,
        top_p: null,
        tools: null,
        tool_choice: null,
        logprobs: null,
        top_logprobs: null,
        user_id: null,
        frequency_penalty: null,
        presence_penalty: null,
        n: null,
        seed: null,
      },
    ],
    ['every effort by its name', { reasoning_effort: 'xhigh' }],
    ['the AI SDK’s own word for thinking', { thinking: { type: 'adaptive' } }],
    ['max_tokens at the ceiling', { max_tokens: 393_216 }],
    ['sampling at its limits', { temperature: 2, top_p: 1, presence_penalty: -2 }],
    ['a stop of 1024 characters', { stop: 'x'.repeat(1024) }],
    ['16 stops', { stop: Array.from({ length: 16 }, (_, index) => `s${index}`) }],
    ['128 tools', { tools: Array.from({ length: 128 }, (_, index) => tool(`f${index}`)) }],
    ['top_logprobs with logprobs', { logprobs: true, top_logprobs: 20 }],
    ['stream options of a stream', { stream: true, stream_options: { include_usage: true } }],
    ['512 characters of user id', { user_id: 'a'.repeat(512) }],
    ['one answer and a seed', { n: 1, seed: 7 }],
    [
      'calls, broken arguments and all, and their results',
      { messages: [user, assistantCall, { role: 'tool', tool_call_id: 'c1', content: 'r' }] },
    ],
    [
      'system messages anywhere, names, and parts',
      {
        messages: [
          { role: 'user', content: [{ type: 'text', text: 'a' }], name: 'n' },
          { role: 'system', content: 's' },
          { role: 'developer', content: 'd' },
        ],
      },
    ],
    [
      'a prefix at the end',
      { messages: [user, { role: 'assistant', content: 'x', prefix: true }] },
    ],
    ['a forced call without thinking', { thinking: { type: 'disabled' }, tool_choice: 'required' }],
  ])('%s', (_, changes) => {
    expect(refusal({ ...base, ...changes })).toBeNull()
  })
})

describe('parseChatRequest refuses', () => {
  it.each([
    ['no object', [], wrong(null)],
    ['no model', { messages: [user] }, wrong('model')],
    ['no messages', { model: 'm' }, wrong('messages')],
    ['empty messages', { ...base, messages: [] }, wrong('messages')],
    [
      'an unknown role',
      { ...base, messages: [{ role: 'bot', content: 'x' }] },
      wrong('messages[0].role'),
    ],
    [
      'a number for content',
      { ...base, messages: [{ role: 'user', content: 1 }] },
      wrong('messages[0].content'),
    ],
    [
      'an image',
      { ...base, messages: [{ role: 'user', content: [{ type: 'image_url', image_url: {} }] }] },
      wrong('messages[0].content'),
    ],
    [
      'an assistant with nothing',
      { ...base, messages: [user, { role: 'assistant' }] },
      wrong('messages[1].content'),
    ],
    [
      'the result of a call that never was',
      { ...base, messages: [user, { role: 'tool', tool_call_id: 'c9', content: 'r' }] },
      wrong('messages[1].tool_call_id'),
    ],
    [
      'a prefix that is not the end',
      { ...base, messages: [{ role: 'assistant', content: 'x', prefix: true }, user] },
      wrong('messages[0].prefix'),
    ],
    ['an unknown effort', { ...base, reasoning_effort: 'banana' }, wrong('reasoning_effort')],
    ['two answers', { ...base, n: 2 }, wrong('n')],
    ['17 stops', { ...base, stop: Array.from({ length: 17 }, String) }, wrong('stop')],
    ['an empty stop', { ...base, stop: '' }, wrong('stop')],
    ['an empty stop among others', { ...base, stop: ['x', ''] }, wrong('stop[1]')],
    ['a stop of 1025 characters', { ...base, stop: 'x'.repeat(1025) }, wrong('stop')],
    ['half a character to stop at', { ...base, stop: '\ud83d' }, wrong('stop')],
    [
      '129 tools',
      { ...base, tools: Array.from({ length: 129 }, () => tool('f')) },
      outOfRange('tools'),
    ],
    [
      'a function name with a space',
      { ...base, tools: [tool('a b')] },
      wrong('tools[0].function.name'),
    ],
    ['max_tokens 0', { ...base, max_tokens: 0 }, outOfRange('max_tokens')],
    ['max_tokens above the ceiling', { ...base, max_tokens: 393_217 }, outOfRange('max_tokens')],
    ['max_tokens as text', { ...base, max_tokens: '9' }, wrong('max_tokens')],
    ['a fraction of a token', { ...base, max_tokens: 1.5 }, wrong('max_tokens')],
    ['a hot temperature', { ...base, temperature: 2.1 }, outOfRange('temperature')],
    ['top_p above 1', { ...base, top_p: 1.1 }, outOfRange('top_p')],
    ['21 top_logprobs', { ...base, logprobs: true, top_logprobs: 21 }, outOfRange('top_logprobs')],
    ['top_logprobs alone', { ...base, top_logprobs: 1 }, wrong('top_logprobs')],
    ['stream options without a stream', { ...base, stream_options: {} }, wrong('stream_options')],
    ['a forced call while thinking', { ...base, tool_choice: 'required' }, wrong('tool_choice')],
    ['513 characters of user id', { ...base, user_id: 'a'.repeat(513) }, outOfRange('user_id')],
    ['a user id with a space', { ...base, user_id: 'a b' }, wrong('user_id')],
  ])('%s', (_, body, expected) => {
    expect(refusal(body)).toEqual(expected)
  })

  it('without repeating what it was sent', () => {
    expect(() => parseChatRequest({ ...base, model: { secret: 'sk-123' } })).toThrow(
      expect.not.objectContaining({ message: expect.stringContaining('sk-123') as string }),
    )
  })
})

describe('what a request means', () => {
  const thinks = (changes: object): boolean =>
    thinkingEnabled(parseChatRequest({ ...base, ...changes }))

  it('thinks unless it is switched off; the switch outranks the effort', () => {
    expect(thinks({})).toBe(true)
    expect(thinks({ reasoning_effort: 'none' })).toBe(false)
    expect(thinks({ thinking: { type: 'enabled' }, reasoning_effort: 'none' })).toBe(true)
    expect(thinks({ thinking: { type: 'adaptive' } })).toBe(true)
    expect(thinks({ thinking: { type: 'disabled' }, reasoning_effort: 'max' })).toBe(false)
  })

  it('takes the smaller of two limits', () => {
    const limit = (changes: object): number | null =>
      requestedMaxTokens(parseChatRequest({ ...base, ...changes }))
    expect(limit({})).toBeNull()
    expect(limit({ max_completion_tokens: 9 })).toBe(9)
    expect(limit({ max_tokens: 5, max_completion_tokens: 9 })).toBe(5)
  })

  it('joins the parts of a text without anything between them', () => {
    const parts = [
      { type: 'text' as const, text: 'a' },
      { type: 'text' as const, text: 'b' },
    ]
    expect([contentText(parts), contentText('x'), contentText(null)]).toEqual(['ab', 'x', ''])
  })
})
