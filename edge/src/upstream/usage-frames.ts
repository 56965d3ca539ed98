import { z } from 'zod'

/** What an engine says it has counted. Any of the two customs of telling cached tokens. */
const count = z.int().min(0)
const usageSchema = z.object({
  prompt_tokens: count,
  completion_tokens: count,
  prompt_tokens_details: z.object({ cached_tokens: count.nullish() }).nullish(),
  prompt_cache_hit_tokens: count.nullish(),
  completion_tokens_details: z.object({ reasoning_tokens: count.nullish() }).nullish(),
})

const choiceSchema = z.object({
  finish_reason: z.string().nullish(),
  delta: z.record(z.string(), z.unknown()).nullish(),
})

const frameSchema = z.object({
  error: z.null().optional(),
  usage: usageSchema.nullish(),
  choices: z.array(choiceSchema),
})

export interface EngineUsage {
  readonly promptTokens: number
  readonly cachedTokens: number
  readonly completionTokens: number
  readonly reasoningTokens: number
}

/** What has been read of an answer so far. */
export interface AnswerSoFar {
  /** Null until the engine has told it. */
  readonly usage: EngineUsage | null
  readonly finishReason: string | null
  /** Frames with something for the reader in them: a token each, or nearly. */
  readonly outputFrames: number
  /** `[DONE]` has come. */
  readonly ended: boolean
}

/** An engine's stream that is not chat completions' any more, or that tells of its failure. */
export class EngineStreamError extends Error {}

const EVENT_END = /\r?\n\r?\n/
const PENDING_MAX = 4 * 1024 * 1024

/**
 * Reads an engine's stream on its way to the client. `usageWanted`: whether the client has asked for
 * the frame that holds nothing but usage; else it is taken out, since only we have asked for it.
 */
export class UsageFrames {
  readonly #usageWanted: boolean
  readonly #decoder = new TextDecoder()
  readonly #encoder = new TextEncoder()
  #pending = ''
  #usage: EngineUsage | null = null
  #finishReason: string | null = null
  #outputFrames = 0
  #ended = false

  constructor(usageWanted: boolean) {
    this.#usageWanted = usageWanted
  }

  get soFar(): AnswerSoFar {
    return {
      usage: this.#usage,
      finishReason: this.#finishReason,
      outputFrames: this.#outputFrames,
      ended: this.#ended,
    }
  }

  /** What of it goes to the client: whole events. Throws `EngineStreamError`. */
  take(bytes: Uint8Array): Uint8Array {
    const events = (this.#pending + this.#decoder.decode(bytes, { stream: true })).split(EVENT_END)
    this.#pending = events.pop() ?? ''
    if (this.#pending.length > PENDING_MAX) throw new EngineStreamError('an event has no end')
    const passed = events.filter((event) => this.#passes(event)).map((event) => `${event}\n\n`)
    return this.#encoder.encode(passed.join(''))
  }

  #passes(event: string): boolean {
    const data = /^data: ?(.*)$/m.exec(event)?.[1]
    if (data === undefined) return true
    if (data === '[DONE]') {
      this.#ended = true
      return true
    }
    const { usage, choices } = parseFrame(data)
    if (usage != null) this.#usage = engineUsage(usage)
    const [choice] = choices
    if (choice === undefined) return usage == null || this.#usageWanted
    this.#finishReason = choice.finish_reason ?? this.#finishReason
    if (saysSomething(choice.delta ?? {})) this.#outputFrames += 1
    return true
  }
}

const wholeSchema = z.object({
  usage: usageSchema,
  choices: z.array(z.object({ finish_reason: z.string().nullish() })).min(1),
})

/** What an answer that came whole says of itself. Throws `EngineStreamError` when that is nothing. */
export function readWholeAnswer(bytes: Uint8Array): AnswerSoFar {
  try {
    const { usage, choices } = wholeSchema.parse(JSON.parse(new TextDecoder().decode(bytes)))
    const finishReason = choices[0]?.finish_reason ?? null
    return { usage: engineUsage(usage), finishReason, outputFrames: 0, ended: true }
  } catch (cause) {
    throw new EngineStreamError('no answer with its usage', { cause })
  }
}

function parseFrame(data: string): z.infer<typeof frameSchema> {
  try {
    return frameSchema.parse(JSON.parse(data))
  } catch (cause) {
    throw new EngineStreamError('an event is no frame of an answer', { cause })
  }
}

function saysSomething(delta: Readonly<Record<string, unknown>>): boolean {
  return Object.entries(delta).some(
    ([name, value]) => name !== 'role' && value != null && value !== '' && !isEmptyList(value),
  )
}

function isEmptyList(value: unknown): boolean {
  return Array.isArray(value) && value.length === 0
}

/** Details that exceed what they are details of are cut down to it: they move the price. */
function engineUsage(usage: z.infer<typeof usageSchema>): EngineUsage {
  const { prompt_tokens: promptTokens, completion_tokens: completionTokens } = usage
  const cached = usage.prompt_tokens_details?.cached_tokens ?? usage.prompt_cache_hit_tokens ?? 0
  const reasoning = usage.completion_tokens_details?.reasoning_tokens ?? 0
  return {
    promptTokens,
    cachedTokens: Math.min(cached, promptTokens),
    completionTokens,
    reasoningTokens: Math.min(reasoning, completionTokens),
  }
}
