import { describe, expect, it } from 'vitest'
import { EngineStreamError, readWholeAnswer, UsageFrames } from './usage-frames.ts'

const frame = (value: unknown): string => `data: ${JSON.stringify(value)}\n\n`
const chunk = (delta: object, finish_reason: string | null = null): object => ({
  id: 'c-1',
  choices: [{ index: 0, delta, finish_reason }],
})
const USAGE = {
  prompt_tokens: 10,
  completion_tokens: 3,
  total_tokens: 13,
  prompt_tokens_details: { cached_tokens: 4 },
  completion_tokens_details: { reasoning_tokens: 1 },
}
const COUNTED = { promptTokens: 10, cachedTokens: 4, completionTokens: 3, reasoningTokens: 1 }
const ANSWER = [
  ': keep-alive\n\n',
  frame(chunk({ role: 'assistant', content: '' })),
  frame(chunk({ reasoning_content: 'hm' })),
  frame(chunk({ content: 'né' })),
  frame(chunk({ tool_calls: [{ index: 0 }], content: null })),
  frame(chunk({ tool_calls: [] }, 'tool_calls')),
]
const USAGE_FRAME = frame({ choices: [], usage: USAGE })
const DONE = 'data: [DONE]\n\n'

/** Everything that passes when the stream comes in pieces of this many bytes. */
function read(text: string, options: { usageWanted: boolean; pieceBytes?: number }) {
  const frames = new UsageFrames(options.usageWanted)
  const bytes = new TextEncoder().encode(text)
  const step = options.pieceBytes ?? bytes.length
  let passed = ''
  const decoder = new TextDecoder()
  for (let at = 0; at < bytes.length; at += step) {
    passed += decoder.decode(frames.take(bytes.subarray(at, at + step)), { stream: true })
  }
  return { passed, soFar: frames.soFar }
}

describe('UsageFrames', () => {
  const whole = [...ANSWER, USAGE_FRAME, DONE].join('')

  it.each([1, 2, 7, 1000])('reads a stream in pieces of %i bytes', (pieceBytes) => {
    expect(read(whole, { usageWanted: true, pieceBytes })).toEqual({
      passed: whole,
      soFar: { usage: COUNTED, finishReason: 'tool_calls', outputFrames: 3, ended: true },
    })
  })

  it('takes out the frame that only we have asked for, and nothing else', () => {
    const { passed, soFar } = read(whole, { usageWanted: false })
    expect(passed).toBe([...ANSWER, DONE].join(''))
    expect(soFar.usage).toEqual(COUNTED)
  })

  it('leaves usage where it rides on a frame with a choice, and keeps the latest', () => {
    const early = frame({
      ...chunk({ content: 'a' }),
      usage: { prompt_tokens: 10, completion_tokens: 1 },
    })
    const { passed, soFar } = read(`${early}${USAGE_FRAME}`, { usageWanted: false })
    expect(passed).toBe(early)
    expect(soFar.usage).toEqual(COUNTED)
  })

  it('holds details to what they are details of', () => {
    const usage = {
      prompt_tokens: 2,
      completion_tokens: 1,
      prompt_cache_hit_tokens: 9,
      completion_tokens_details: { reasoning_tokens: 9 },
    }
    expect(read(frame({ choices: [], usage }), { usageWanted: false }).soFar.usage).toEqual({
      promptTokens: 2,
      cachedTokens: 2,
      completionTokens: 1,
      reasoningTokens: 1,
    })
  })

  it.each([
    ['an engine’s own error', frame({ error: { message: 'gpu-17 is on fire' } })],
    ['what is no JSON', 'data: {"id"\n\n'],
    ['a negative count', frame({ choices: [], usage: { ...USAGE, prompt_tokens: -1 } })],
    ['an event without end', 'data: '.padEnd(5_000_000, 'x')],
  ])('refuses %s', (_name, text) => {
    expect(() => read(text, { usageWanted: true })).toThrow(EngineStreamError)
  })
})

describe('readWholeAnswer', () => {
  const read = (value: unknown) => readWholeAnswer(new TextEncoder().encode(JSON.stringify(value)))

  it('finds usage and end', () => {
    expect(read({ choices: [{ finish_reason: 'length' }], usage: USAGE })).toEqual({
      usage: COUNTED,
      finishReason: 'length',
      outputFrames: 0,
      ended: true,
    })
  })

  it('refuses an answer that cannot be billed', () => {
    expect(() => read({ choices: [{ finish_reason: 'stop' }] })).toThrow(EngineStreamError)
    expect(() => readWholeAnswer(new Uint8Array([0x7b]))).toThrow(EngineStreamError)
  })
})
