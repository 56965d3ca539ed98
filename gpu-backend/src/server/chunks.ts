import type { FinishReason, Usage } from '#protocol/usage.ts'
import type { AnswerDelta } from './answer.ts'
import type { LogprobEntry } from './logprobs.ts'

/** What all chunks of a stream, or the one object of an answer, have in common. */
interface CompletionHead {
  readonly id: string
  /** Unix seconds. */
  readonly created: number
  readonly model: string
  readonly systemFingerprint: string
}

export interface ChunkOptions {
  readonly head: CompletionHead
  readonly thinking: boolean
  readonly logprobs: boolean
  /** true: usage in a chunk of its own at the end; false: on the chunk with the finish reason. */
  readonly includeUsage: boolean
}

/** The closing line of a stream that ended well. */
export const doneEvent = 'data: [DONE]\n\n'

/** A stream's events as text, each a whole `data:` event. */
export class ChunkWriter {
  readonly #options: ChunkOptions

  constructor(options: ChunkOptions) {
    this.#options = options
  }

  /** The role, and the text fields this stream will use; no text yet. */
  opening(): string {
    const text = this.#options.thinking ? { content: null, reasoning_content: '' } : { content: '' }
    return this.#choice({ role: 'assistant', ...text })
  }

  delta(delta: AnswerDelta): string {
    switch (delta.kind) {
      case 'reasoning':
        return this.#choice({ reasoning_content: delta.text }, this.#logprobs(delta))
      case 'content':
        return this.#choice({ content: delta.text }, this.#logprobs(delta))
      case 'tool_call': {
        const { index, id, name } = delta
        return this.#choice({
          tool_calls: [{ index, id, type: 'function', function: { name, arguments: '' } }],
        })
      }
      case 'arguments': {
        const { index, text } = delta
        return this.#choice({ tool_calls: [{ index, function: { arguments: text } }] })
      }
    }
  }

  closing(reason: FinishReason, usage: Usage): readonly string[] {
    const choice = { index: 0, delta: {}, logprobs: null, finish_reason: reason }
    if (!this.#options.includeUsage) return [this.#event({ choices: [choice], usage })]
    return [this.#event({ choices: [choice], usage: null }), this.#event({ choices: [], usage })]
  }

  #logprobs(delta: {
    readonly kind: 'reasoning' | 'content'
    readonly logprobs: readonly LogprobEntry[]
  }): object | null {
    if (!this.#options.logprobs) return null
    return delta.kind === 'content'
      ? { content: delta.logprobs, reasoning_content: null }
      : { content: null, reasoning_content: delta.logprobs }
  }

  #choice(delta: object, logprobs: object | null = null): string {
    const choice = { index: 0, delta, logprobs, finish_reason: null }
    return this.#event({
      choices: [choice],
      ...(this.#options.includeUsage ? { usage: null } : {}),
    })
  }

  #event(rest: object): string {
    const { id, created, model, systemFingerprint } = this.#options.head
    const chunk = {
      id,
      object: 'chat.completion.chunk',
      created,
      model,
      system_fingerprint: systemFingerprint,
      ...rest,
    }
    return `data: ${JSON.stringify(chunk)}\n\n`
  }
}

/** The object of an answer that is not streamed, from all of its deltas. */
export function completionObject(
  options: Omit<ChunkOptions, 'includeUsage'>,
  deltas: readonly AnswerDelta[],
  end: { readonly reason: FinishReason; readonly usage: Usage },
): object {
  const { id, created, model, systemFingerprint } = options.head
  const textOf = (kind: 'reasoning' | 'content'): string =>
    deltas.map((delta) => (delta.kind === kind ? delta.text : '')).join('')
  const entriesOf = (kind: 'reasoning' | 'content'): LogprobEntry[] =>
    deltas.flatMap((delta) => (delta.kind === kind ? delta.logprobs : []))
  const toolCalls = collectToolCalls(deltas)
  const logprobs = options.logprobs
    ? { content: entriesOf('content'), reasoning_content: entriesOf('reasoning') }
    : null
  const message = {
    role: 'assistant',
    content: textOf('content'),
    ...(options.thinking ? { reasoning_content: textOf('reasoning') } : {}),
    ...(toolCalls.length > 0 ? { tool_calls: toolCalls } : {}),
  }
  return {
    id,
    object: 'chat.completion',
    created,
    model,
    choices: [{ index: 0, message, logprobs, finish_reason: end.reason }],
    usage: end.usage,
    system_fingerprint: systemFingerprint,
  }
}

function collectToolCalls(deltas: readonly AnswerDelta[]): object[] {
  const argumentsOf = (index: number): string =>
    deltas
      .map((delta) => (delta.kind === 'arguments' && delta.index === index ? delta.text : ''))
      .join('')
  return deltas.flatMap((delta) => {
    if (delta.kind !== 'tool_call') return []
    const { index, id, name } = delta
    return [{ index, id, type: 'function', function: { name, arguments: argumentsOf(index) } }]
  })
}
