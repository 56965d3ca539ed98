import type { RequestProgress } from '#protocol/capacity-report.ts'
import { ApiError } from '#protocol/errors.ts'
import type { RequestStatus } from '#protocol/request-status.ts'
import type { RequestClaims } from '#protocol/service-token.ts'
import { toUsage, type FinishReason, type TokenCounts } from '#protocol/usage.ts'
import type { UsageRecord } from '#protocol/usage-record.ts'
import type { Timings } from '../config.ts'
import { EngineDiedError, type RunningGeneration } from '../engine/client.ts'
import type { EngineEvent } from '../engine/protocol.ts'
import { errorFields, type Log } from '../log.ts'
import type { KeepUsage, MeasuredUsage } from '../records/recorder.ts'
import { joinDeltas, type Answer, type AnswerDelta } from './answer.ts'
import type { Audience, ResumableEvents } from './event-output.ts'
import type { GenerationPlan } from './plan.ts'
import type { ResponseBody } from './response-body.ts'
import type { ServedModel } from './served-model.ts'
import type { AnswerSink } from './sinks.ts'

export interface GenerationContext {
  readonly claims: RequestClaims
  readonly served: ServedModel
  readonly plan: GenerationPlan
  readonly running: RunningGeneration
  readonly answer: Answer
  readonly sink: AnswerSink
  readonly body: Pick<ResponseBody, 'breakOff'>
  readonly audience: Audience
  /** The same, where the stream can be taken up again. */
  readonly resumable: ResumableEvents | null
  readonly acceptedAtMs: number
  readonly timings: Timings
  readonly now: () => number
  readonly keepUsage: KeepUsage
  /** Told once, when all is over, what the request used. */
  readonly onEnded: (usage: MeasuredUsage) => void
  readonly log: Log
}

type Outcome = UsageRecord['outcome']

/** Why an answer ended, once it has. */
type Ending =
  | { readonly kind: 'finished'; readonly reason: FinishReason & Outcome }
  /** The client has gone; there is nobody to tell. */
  | { readonly kind: 'cancelled' }
  | { readonly kind: 'failed'; readonly error: ApiError }

/** A request from its acceptance by the engine to its last byte and its record on disk. */
export class ActiveGeneration {
  readonly #context: GenerationContext
  readonly #timers: NodeJS.Timeout[] = []
  #queueTimer: NodeJS.Timeout | null = null
  #startedAtMs: number | null = null
  #cachedTokens = 0
  #firstTokenAtMs: number | null = null
  #deliveredTokens = 0
  /** Decided on this side of the engine, which is then told to cancel. */
  #ending: Ending | null = null
  /** What goes on record, once all is over. */
  #usage: MeasuredUsage | null = null
  #recorded = false

  constructor(context: GenerationContext) {
    this.#context = context
  }

  get claims(): RequestClaims {
    return this.#context.claims
  }

  get resumable(): ResumableEvents | null {
    return this.#context.resumable
  }

  /** Its record is on disk. */
  get recorded(): boolean {
    return this.#recorded
  }

  get started(): boolean {
    return this.#startedAtMs !== null
  }

  status(): RequestStatus {
    const { claims, served, resumable, acceptedAtMs } = this.#context
    const counts = this.#counts()
    return {
      id: claims.requestId,
      object: 'request',
      model: served.id,
      state: this.#usage !== null ? 'finished' : this.started ? 'running' : 'queued',
      outcome: this.#usage?.outcome ?? null,
      prompt_tokens: counts.promptTokens,
      cached_tokens: counts.cachedTokens,
      completion_tokens: counts.completionTokens,
      reasoning_tokens: counts.reasoningTokens,
      delivered_tokens: this.#deliveredTokens,
      accepted_at_ms: acceptedAtMs,
      started_at_ms: this.#startedAtMs,
      first_token_at_ms: this.#firstTokenAtMs,
      finished_at_ms: this.#usage?.finishedAtMs ?? null,
      last_event: resumable?.last ?? null,
    }
  }

  progress(): RequestProgress {
    const { promptTokens, cachedTokens, completionTokens } = this.#counts()
    const { requestId } = this.#context.claims
    return { requestId, promptTokens, cachedTokens, completionTokens }
  }

  /** Nobody wants the answer any more: as if the client had gone. */
  cancel(): void {
    this.#endWith({ kind: 'cancelled' })
  }

  /** Gives the request up for a reason of ours. The client is told; the record says `failed`. */
  abort(error: ApiError): void {
    this.#endWith({ kind: 'failed', error })
  }

  /** After a bug: the engine stops, and the client sees a connection that broke. */
  breakOff(): void {
    this.#context.running.cancel()
    this.#context.body.breakOff()
  }

  /** Resolves when everything is over. Never rejects for what a client or the engine does. */
  async run(): Promise<void> {
    const { sink, audience } = this.#context
    audience.onClose(() => {
      if (audience.closedEarly) this.cancel()
    })
    if (audience.closedEarly) this.cancel()
    sink.open()
    this.#startTimers()
    try {
      const ending = await this.#readToEnd().catch((error: unknown) => this.#crashed(error))
      await this.#conclude(ending)
    } finally {
      for (const timer of this.#timers) clearTimeout(timer)
    }
  }

  #startTimers(): void {
    const { plan, sink, timings } = this.#context
    this.#queueTimer = setTimeout(() => {
      this.abort(new ApiError('timeout', 'The request was not started in time. Try again later.'))
    }, timings.queueLimitMs)
    this.#timers.push(
      this.#queueTimer,
      setInterval(() => sink.tick(), timings.keepAliveMs),
    )
    if (plan.stream) return
    this.#timers.push(
      setTimeout(() => sink.begin(), timings.holdMs),
      setTimeout(
        () => this.#endWith({ kind: 'finished', reason: 'length' }),
        timings.wholeAnswerLimitMs,
      ),
    )
  }

  /** The first ending decided upon stays; the engine stops within a step. */
  #endWith(ending: Ending): void {
    if (this.#ending !== null) return
    this.#ending = ending
    this.#context.running.cancel()
  }

  async #readToEnd(): Promise<Ending> {
    const { running } = this.#context
    for (;;) {
      const events = await running.next().catch((error: unknown) => {
        if (error instanceof EngineDiedError) return null
        throw error
      })
      if (events === null) return this.#ending ?? { kind: 'failed', error: engineDied() }
      const deltas = joinDeltas(events.flatMap((event) => this.#take(event)))
      if (deltas.length > 0) await this.#deliver(deltas)
      const last = events.at(-1)
      if (last?.kind === 'finished') return this.#ending ?? this.#endingOf(last)
    }
  }

  #take(event: EngineEvent): AnswerDelta[] {
    const { answer, sink, now } = this.#context
    switch (event.kind) {
      case 'started':
        // A request that had to give its place up starts again; it has waited only once.
        if (this.#startedAtMs === null) this.#cachedTokens = event.cachedTokens
        this.#startedAtMs ??= now()
        if (this.#queueTimer !== null) clearTimeout(this.#queueTimer)
        return []
      case 'token': {
        // Behind a stop string nothing belongs to the answer any more, and nobody pays for it.
        if (answer.stopped) return []
        this.#firstTokenAtMs ??= now()
        sink.begin()
        const deltas = answer.push(event.token, event.logprobs)
        if (answer.stopped) this.#endWith({ kind: 'finished', reason: 'stop' })
        return deltas
      }
      case 'finished':
        return []
    }
  }

  /** A bug on this side, or a token that the tokenizer does not have: still told and recorded. */
  #crashed(error: unknown): Ending {
    const { claims, log, running } = this.#context
    log.error('request_crashed', { request_id: claims.requestId, ...errorFields(error) })
    running.cancel()
    const message = 'The backend failed on this answer.'
    return { kind: 'failed', error: new ApiError('internal_server_error', message) }
  }

  async #deliver(deltas: readonly AnswerDelta[]): Promise<void> {
    const { answer, audience, plan, sink } = this.#context
    const tokens = answer.completionTokens
    await sink.write(deltas)
    // What is not streamed is delivered with its last byte or not at all.
    if (plan.stream && !audience.closedEarly) this.#deliveredTokens = tokens
  }

  #endingOf(event: Extract<EngineEvent, { readonly kind: 'finished' }>): Ending {
    switch (event.reason) {
      case 'stop':
      case 'length':
        return { kind: 'finished', reason: event.reason }
      case 'expired':
        return { kind: 'failed', error: new ApiError('timeout', 'The deadline has passed.') }
      case 'refused':
        return { kind: 'failed', error: overloaded('This request does not fit the cache.') }
      case 'cancelled':
        // Nobody here asked for it, so the engine is going down.
        return { kind: 'failed', error: engineDied() }
    }
  }

  /** The record is on disk before the client sees that the answer is whole. */
  async #conclude(ending: Ending): Promise<void> {
    const { log, claims, keepUsage, onEnded } = this.#context
    let told = ending.kind === 'finished' ? await this.#deliverRest(ending.reason) : ending
    let usage = this.#measure(told)
    try {
      await keepUsage(claims, usage)
      this.#recorded = true
    } catch (error) {
      log.error('usage_record_not_kept', { request_id: claims.requestId, ...errorFields(error) })
      told = { kind: 'failed', error: overloaded('This answer could not be accounted for.') }
      usage = { ...usage, outcome: 'failed' }
    }
    this.#usage = usage
    this.#tell(told)
    this.#logEnd(told)
    onEnded(usage)
  }

  /** Brings out what was held back, which may be a call or hold a stop string. */
  async #deliverRest(reason: FinishReason & Outcome): Promise<Ending> {
    const { answer, audience, sink } = this.#context
    const rest = answer.finish()
    if (rest.length > 0) await sink.write(rest)
    if (!audience.closedEarly) this.#deliveredTokens = answer.completionTokens
    if (answer.hasToolCalls) return { kind: 'finished', reason: 'tool_calls' }
    return { kind: 'finished', reason: answer.stopped ? 'stop' : reason }
  }

  #measure(ending: Ending): MeasuredUsage {
    const { served, acceptedAtMs, now } = this.#context
    const counts = this.#counts()
    // The first token comes with the last of the prompt; how far an earlier end had got is unknown.
    const prefilled = this.#firstTokenAtMs !== null
    return {
      model: served.id,
      checkpointHash: served.checkpointHash,
      ...counts,
      prefilledTokens: prefilled ? counts.promptTokens - counts.cachedTokens : 0,
      deliveredTokens: this.#deliveredTokens,
      outcome: outcomeOf(ending),
      acceptedAtMs,
      startedAtMs: this.#startedAtMs,
      firstTokenAtMs: this.#firstTokenAtMs,
      finishedAtMs: now(),
    }
  }

  #counts(): TokenCounts {
    const { answer, plan } = this.#context
    return {
      promptTokens: plan.generation.prompt.length,
      cachedTokens: this.#cachedTokens,
      completionTokens: answer.completionTokens,
      reasoningTokens: answer.reasoningTokens,
    }
  }

  #tell(ending: Ending): void {
    const { sink } = this.#context
    if (ending.kind === 'finished') {
      sink.end({ reason: ending.reason, usage: toUsage(this.#counts()) })
    } else if (ending.kind === 'failed') {
      sink.fail(ending.error)
    }
  }

  #logEnd(ending: Ending): void {
    const { claims, served, plan, answer, acceptedAtMs, now, log } = this.#context
    const since = (ms: number | null): number | null => (ms === null ? null : ms - acceptedAtMs)
    log.info('request', {
      request_id: claims.requestId,
      tenant_id: claims.tenantId,
      model: served.id,
      stream: plan.stream,
      outcome: outcomeOf(ending),
      ...(ending.kind === 'failed' ? { code: ending.error.code } : {}),
      prompt_tokens: plan.generation.prompt.length,
      cached_tokens: this.#cachedTokens,
      completion_tokens: answer.completionTokens,
      reasoning_tokens: answer.reasoningTokens,
      delivered_tokens: this.#deliveredTokens,
      queued_ms: since(this.#startedAtMs),
      first_token_ms: since(this.#firstTokenAtMs),
      total_ms: now() - acceptedAtMs,
      ...(answer.problems.length > 0 ? { unparsed: answer.problems.join(',') } : {}),
    })
  }
}

function outcomeOf(ending: Ending): Outcome {
  return ending.kind === 'finished' ? ending.reason : ending.kind
}

function overloaded(message: string): ApiError {
  return new ApiError('server_is_overloaded', message, { retryAfterSeconds: 1 })
}

function engineDied(): ApiError {
  return overloaded('The backend stopped before finishing this answer. Try again.')
}
