import type { SampledLogprobs } from '../engine/sampling.ts'
import type { OutputProblem, ParserEvent } from '../text/output-events.ts'
import { createOutputParser, type OutputParser } from '../text/output-parser.ts'
import type { DecodeStream, Tokenizer } from '../text/tokenizer.ts'
import { logprobEntry, type LogprobEntry } from './logprobs.ts'
import type { GenerationPlan } from './plan.ts'
import type { ServedModel } from './served-model.ts'
import { StopFilter } from './stop-strings.ts'

type Channel = 'reasoning' | 'content'

/** A piece of an answer, ready to be shown. */
export type AnswerDelta =
  | { readonly kind: Channel; readonly text: string; readonly logprobs: readonly LogprobEntry[] }
  | {
      readonly kind: 'tool_call'
      readonly index: number
      readonly id: string
      readonly name: string
    }
  | { readonly kind: 'arguments'; readonly index: number; readonly text: string }

export type AnswerPlan = Pick<GenerationPlan, 'thinking' | 'toolsAllowed' | 'tools' | 'stops'>

interface PendingLogprob {
  /** Where the token's text begins in its channel, in UTF-16 units. */
  readonly start: number
  readonly entry: LogprobEntry
}

/** One channel of the answer: what has come, what was shown of it, and what waits between the two. */
class ChannelText {
  readonly filter: StopFilter
  #received = 0
  #shown = 0
  #pending: PendingLogprob[] = []

  constructor(stops: readonly string[]) {
    this.filter = new StopFilter(stops)
  }

  /** A token that adds `units` of text. */
  received(units: number, entry: LogprobEntry | null): void {
    if (entry !== null) this.#pending.push({ start: this.#received, entry })
    this.#received += units
  }

  /** Text goes out; with it go the entries of the tokens that have begun within it. */
  show(text: string): LogprobEntry[] {
    this.#shown += text.length
    const entries = this.#pending.filter(({ start }) => start < this.#shown)
    this.#pending = this.#pending.filter(({ start }) => start >= this.#shown)
    return entries.map(({ entry }) => entry)
  }
}

/**
 * Makes an answer of sampled tokens: bytes to text, text to reasoning, content and tool calls, stop
 * strings cut out, and every token counted. Deltas depend on the tokens alone, not on when they come.
 */
export class Answer {
  readonly #tokenizer: Tokenizer
  readonly #endToken: number
  readonly #thinkEndToken: number
  readonly #decoder: DecodeStream
  readonly #parser: OutputParser
  readonly #channels: Readonly<Record<Channel, ChannelText>>
  readonly #randomId: () => string
  /** Which channel a token's text belongs to; null once there are tool calls. */
  #channel: Channel | null
  #completionTokens = 0
  #reasoningTokens = 0
  #toolCalls = 0
  #problems: OutputProblem[] = []

  constructor(options: {
    readonly plan: AnswerPlan
    readonly served: Pick<ServedModel, 'tokenizer' | 'endToken' | 'thinkEndToken'>
    readonly randomId: () => string
  }) {
    const { plan, served, randomId } = options
    this.#tokenizer = served.tokenizer
    this.#endToken = served.endToken
    this.#thinkEndToken = served.thinkEndToken
    this.#decoder = served.tokenizer.decodeStream()
    this.#parser = createOutputParser(plan)
    this.#channels = {
      reasoning: new ChannelText(plan.stops),
      content: new ChannelText(plan.stops),
    }
    this.#randomId = randomId
    this.#channel = plan.thinking ? 'reasoning' : 'content'
  }

  /** Tokens taken in, an end token included. */
  get completionTokens(): number {
    return this.#completionTokens
  }

  /** Of those, the ones in front of the token that ends the chain of thought. */
  get reasoningTokens(): number {
    return this.#reasoningTokens
  }

  get hasToolCalls(): boolean {
    return this.#toolCalls > 0
  }

  /** A stop string was found: the answer is over, and further tokens are no part of it. */
  get stopped(): boolean {
    return this.#channels.reasoning.filter.stopped || this.#channels.content.filter.stopped
  }

  /** What the parser could not read as markup, for the log. */
  get problems(): readonly OutputProblem[] {
    return this.#problems
  }

  push(token: number, logprobs: SampledLogprobs | null): AnswerDelta[] {
    this.#completionTokens += 1
    if (token === this.#endToken) return []
    const text = this.#decoder.push([token])
    if (token === this.#thinkEndToken && this.#channel === 'reasoning') {
      this.#channel = 'content'
    } else if (this.#channel !== null) {
      if (this.#channel === 'reasoning') this.#reasoningTokens += 1
      const entry = logprobs === null ? null : logprobEntry(this.#tokenizer, logprobs)
      this.#channels[this.#channel].received(text.length, entry)
    }
    return this.#toDeltas(this.#parser.push(text))
  }

  /** Everything that was held back. Call once, when no token follows. */
  finish(): AnswerDelta[] {
    if (this.stopped) return []
    const events = [...this.#parser.push(this.#decoder.flush()), ...this.#parser.finish()]
    const deltas = this.#toDeltas(events)
    return this.stopped
      ? deltas
      : [...deltas, ...this.#flush('reasoning'), ...this.#flush('content')]
  }

  #toDeltas(events: readonly ParserEvent[]): AnswerDelta[] {
    const deltas: AnswerDelta[] = []
    for (const event of events) {
      if (this.stopped) break
      deltas.push(...this.#toDelta(event))
    }
    return deltas
  }

  #toDelta(event: ParserEvent): AnswerDelta[] {
    switch (event.type) {
      case 'reasoning':
        return this.#show('reasoning', this.#channels.reasoning.filter.push(event.text))
      case 'content':
        // The end of the chain of thought spelt with ordinary tokens ends it just as well.
        if (this.#channel === 'reasoning') this.#channel = 'content'
        return [
          ...this.#flush('reasoning'),
          ...this.#show('content', this.#channels.content.filter.push(event.text)),
        ]
      case 'tool_call_start':
        this.#channel = null
        return [...this.#flush('reasoning'), ...this.#flush('content'), this.#openCall(event)]
      case 'tool_call_arguments':
        return [{ kind: 'arguments', index: event.index, text: event.text }]
      case 'tool_call_end':
        return []
      case 'unparsed':
        this.#problems.push(event.reason)
        return []
    }
  }

  #openCall({ index, name }: { readonly index: number; readonly name: string }): AnswerDelta {
    this.#toolCalls += 1
    const id = `call_${String(index).padStart(2, '0')}_${this.#randomId()}`
    return { kind: 'tool_call', index, id, name }
  }

  #flush(channel: Channel): AnswerDelta[] {
    return this.#show(channel, this.#channels[channel].filter.flush())
  }

  #show(kind: Channel, text: string): AnswerDelta[] {
    if (text === '') return []
    return [{ kind, text, logprobs: this.#channels[kind].show(text) }]
  }
}

/**
 * Neighbouring pieces of one text as one: what a slow reader gets instead of many small chunks. In
 * one pass, since what piles up behind a reader that has stopped may be a whole long answer.
 */
export function joinDeltas(deltas: readonly AnswerDelta[]): AnswerDelta[] {
  const runs: [AnswerDelta, ...AnswerDelta[]][] = []
  for (const delta of deltas) {
    const run = runs.at(-1)
    if (run !== undefined && continues(run[0], delta)) run.push(delta)
    else runs.push([delta])
  }
  return runs.map((run) => (run.length === 1 ? run[0] : joinRun(run)))
}

function continues(first: AnswerDelta, next: AnswerDelta): boolean {
  if (first.kind !== next.kind || first.kind === 'tool_call') return false
  return first.kind !== 'arguments' || next.kind !== 'arguments' || first.index === next.index
}

function joinRun(run: readonly [AnswerDelta, ...AnswerDelta[]]): AnswerDelta {
  const [first] = run
  if (first.kind === 'tool_call') return first
  const text = run.map((delta) => ('text' in delta ? delta.text : '')).join('')
  if (first.kind === 'arguments') return { ...first, text }
  return {
    kind: first.kind,
    text,
    logprobs: run.flatMap((delta) => ('logprobs' in delta ? delta.logprobs : [])),
  }
}
