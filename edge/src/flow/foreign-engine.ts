import { ApiError } from '#protocol/errors.ts'
import type { UsageRecord } from '#protocol/usage-record.ts'
import { TRUE_UP_TOKENS } from '../admission/policy.ts'
import { readWhole } from '../bytes.ts'
import type { AppContext, AppDeps } from '../context.ts'
import { logFailure } from '../failures.ts'
import { tenantObject } from '../objects/stubs.ts'
import { readWholeAnswer, UsageFrames } from '../upstream/usage-frames.ts'
import type { AnswerSoFar } from '../upstream/usage-frames.ts'
import type { Admitted } from './admit.ts'

/**
 * Engines that are not ours keep no records: what they say of usage in the answer itself is read as it
 * passes and is settled from. The one case where JavaScript stands in a stream's way.
 */

const WHOLE_BYTES_MAX = 64 * 1024 * 1024
const SETTLE_ATTEMPTS = 3
const SETTLE_PAUSE_MS = 1_000

/** A request as such an engine understands it, with a limit that the tenant's money pays for. */
export interface ForeignRequest {
  readonly body: Uint8Array
  /** Whether the client itself has asked for the stream's frame of usage. */
  readonly usageWanted: boolean
}

/** `body` has been checked: it is a chat request. */
export function foreignRequest(body: Uint8Array, grantedOutputTokens: number): ForeignRequest {
  const request = JSON.parse(new TextDecoder().decode(body)) as {
    readonly stream?: boolean | null
    readonly stream_options?: { readonly include_usage?: boolean | null } | null
  }
  const { stream, stream_options: options } = request
  const changed = {
    ...request,
    // Of the two names only the older is understood everywhere.
    max_completion_tokens: undefined,
    max_tokens: grantedOutputTokens,
    ...(stream === true ? { stream_options: { ...options, include_usage: true } } : {}),
  }
  return {
    body: new TextEncoder().encode(JSON.stringify(changed)),
    usageWanted: options?.include_usage === true,
  }
}

/** An answer under way, and whose it is. */
export interface ForeignAnswer {
  readonly upstream: Response
  readonly poolId: string
  readonly model: string
  readonly streamed: boolean
  readonly usageWanted: boolean
  readonly admitted: Admitted
  /** Aborts when the client has gone, and the call to the engine with it. */
  readonly signal: AbortSignal
}

/** The same answer for the client, settled when it has passed, or when it no longer will. */
export async function meterForeign(
  c: AppContext,
  answer: ForeignAnswer,
  deps: AppDeps,
): Promise<Response> {
  const meter = new Meter(c, answer, deps)
  const { body, headers } = answer.upstream
  const metered = answer.streamed ? meter.stream(body) : await meter.whole(body)
  return new Response(metered, { headers: { 'content-type': headers.get('content-type') ?? '' } })
}

class Meter {
  readonly #c: AppContext
  readonly #answer: ForeignAnswer
  readonly #deps: AppDeps
  readonly #startedAtMs: number
  #firstAtMs: number | null = null
  #toldSteps = 0

  constructor(c: AppContext, answer: ForeignAnswer, deps: AppDeps) {
    this.#c = c
    this.#answer = answer
    this.#deps = deps
    this.#startedAtMs = deps.now()
  }

  /** Without a readable answer nothing is settled: whoever hears of the failure gives all back. */
  async whole(body: ReadableStream<Uint8Array> | null): Promise<Uint8Array> {
    try {
      const bytes = await readWhole(body, WHOLE_BYTES_MAX)
      const read = readWholeAnswer(bytes ?? new Uint8Array(0))
      this.#end(read, 'ended')
      return bytes ?? new Uint8Array(0)
    } catch (cause) {
      logFailure(this.#deps, 'backend_answer_invalid', cause, { pool: this.#answer.poolId })
      const message = 'The backend could not answer this request.'
      throw new ApiError('internal_server_error', message, { cause })
    }
  }

  stream(body: ReadableStream<Uint8Array> | null): ReadableStream<Uint8Array> {
    const reader = (body ?? new ReadableStream<Uint8Array>()).getReader()
    const frames = new UsageFrames(this.#answer.usageWanted)
    return new ReadableStream<Uint8Array>({
      pull: async (controller) => {
        try {
          await this.#pull(reader, frames, controller)
        } catch (cause) {
          if (this.#answer.signal.aborted) this.#left(frames.soFar)
          else this.#end(frames.soFar, 'failed')
          await reader.cancel().catch(() => undefined)
          controller.error(cause)
        }
      },
      cancel: async (reason) => {
        this.#left(frames.soFar)
        await reader.cancel(reason)
      },
    })
  }

  /** Until there is something to pass on: a stream's `pull` is called once for nothing given. */
  async #pull(
    reader: ReadableStreamDefaultReader<Uint8Array>,
    frames: UsageFrames,
    controller: ReadableStreamDefaultController<Uint8Array>,
  ): Promise<void> {
    for (;;) {
      const { done, value } = await reader.read()
      if (done) {
        if (!frames.soFar.ended) throw new Error('the engine ended without [DONE]')
        this.#end(frames.soFar, 'ended')
        controller.close()
        return
      }
      const passed = frames.take(value)
      this.#tell(frames.soFar)
      if (passed.byteLength === 0) continue
      controller.enqueue(passed)
      return
    }
  }

  /** Limits are charged while an answer streams, in steps; what was told wrong the record puts right. */
  #tell({ usage, outputFrames }: AnswerSoFar): void {
    if (outputFrames > 0) this.#firstAtMs ??= this.#deps.now()
    const completionTokens = usage?.completionTokens ?? outputFrames
    const steps = Math.floor(completionTokens / TRUE_UP_TOKENS)
    if (steps <= this.#toldSteps) return
    this.#toldSteps = steps
    const { promptTokens, cachedTokens } = usage ?? NO_PROMPT
    const { requestId } = this.#c.get('trace')
    const update = { requestId, promptTokens, cachedTokens, completionTokens }
    const told = this.#tenant().progress([update], this.#deps.now())
    this.#c.executionCtx.waitUntil(told.catch(() => undefined))
  }

  /** For a client that left before anything came, nothing is known to have been done. */
  #left(read: AnswerSoFar): void {
    this.#end(read, read.outputFrames === 0 ? 'failed' : 'cancelled')
  }

  #end(read: AnswerSoFar, how: 'ended' | 'cancelled' | 'failed'): void {
    this.#c.executionCtx.waitUntil(this.#settle(this.#recordOf(read, how)))
  }

  /**
   * Nobody else has this record: it is tried for a while, and lost with this isolate. Then its
   * reservation is given back two minutes after it was made, to the tenant's advantage.
   */
  async #settle(record: UsageRecord): Promise<void> {
    for (let attempt = 1; ; attempt += 1) {
      try {
        await this.#tenant().applyUsageRecords([record], this.#deps.now())
        return
      } catch (cause) {
        logFailure(this.#deps, 'object_unreachable', cause, { request_id: record.requestId })
        if (attempt === SETTLE_ATTEMPTS) return
        await scheduler.wait(SETTLE_PAUSE_MS * attempt)
      }
    }
  }

  #recordOf(read: AnswerSoFar, how: 'ended' | 'cancelled' | 'failed'): UsageRecord {
    const { poolId, model, admitted } = this.#answer
    const { tenantId, keyId } = this.#c.get('caller')
    // Who leaves before the engine has said what it counted pays for what it was estimated at and
    // for each frame that came: else leaving just before the end would make everything free.
    const counts = read.usage ?? {
      promptTokens: admitted.estimate.inputTokens,
      cachedTokens: 0,
      completionTokens: read.outputFrames,
      reasoningTokens: 0,
    }
    return {
      version: 1,
      requestId: this.#c.get('trace').requestId,
      tenantId,
      keyId,
      pool: poolId,
      backendId: poolId,
      model,
      checkpointHash: 'unknown',
      ...counts,
      prefilledTokens: counts.promptTokens - counts.cachedTokens,
      deliveredTokens: counts.completionTokens,
      outcome: how === 'ended' ? outcomeOf(read.finishReason) : how,
      acceptedAtMs: this.#startedAtMs,
      startedAtMs: this.#startedAtMs,
      firstTokenAtMs: this.#firstAtMs,
      finishedAtMs: this.#deps.now(),
    }
  }

  #tenant() {
    return tenantObject(this.#c.env, this.#c.get('caller').tenantId)
  }
}

const NO_PROMPT = { promptTokens: 0, cachedTokens: 0 }
function outcomeOf(finishReason: string | null): UsageRecord['outcome'] {
  return finishReason === 'length' || finishReason === 'tool_calls' ? finishReason : 'stop'
}
