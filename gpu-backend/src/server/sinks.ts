import { errorEvent, type ApiError } from '#protocol/errors.ts'
import { REQUEST_ID_HEADER } from '#protocol/headers.ts'
import type { FinishReason, Usage } from '#protocol/usage.ts'
import type { AnswerDelta } from './answer.ts'
import { ChunkWriter, completionObject, doneEvent, type ChunkOptions } from './chunks.ts'
import type { EventOutput } from './event-output.ts'
import type { ResponseBody } from './response-body.ts'

export interface AnswerEnd {
  readonly reason: FinishReason
  readonly usage: Usage
}

/** Where an answer goes: out as it comes, or out as one. */
export interface AnswerSink {
  /** The request was accepted; whatever happens from here on is the sink's to tell. */
  open(): void
  /** Called at a fixed interval while the answer is under way. */
  tick(): void
  /** The answer has begun. */
  begin(): void
  /** Waits while the client cannot keep up. */
  write(deltas: readonly AnswerDelta[]): Promise<void>
  end(end: AnswerEnd): void
  /** The answer cannot be finished. */
  fail(error: ApiError): void
}

export interface SinkOptions extends ChunkOptions {
  readonly body: ResponseBody
  readonly requestId: string
}

/** Server-sent events, wherever they go. */
export class EventStreamSink implements AnswerSink {
  readonly #out: EventOutput
  readonly #chunks: ChunkWriter
  /** Nothing but comments since the last tick. */
  #silent = true
  #opened = false

  constructor(out: EventOutput, options: ChunkOptions) {
    this.#out = out
    this.#chunks = new ChunkWriter(options)
  }

  open(): void {
    this.#out.open()
  }

  tick(): void {
    if (this.#silent && !this.#out.backedUp) this.#out.comment()
    this.#silent = true
  }

  begin(): void {
    // The role goes out with the first text: an empty chunk of its own is one more packet.
  }

  write(deltas: readonly AnswerDelta[]): Promise<void> {
    this.#silent = false
    return this.#out.write([...this.#opening(), ...deltas.map((d) => this.#chunks.delta(d))])
  }

  end({ reason, usage }: AnswerEnd): void {
    this.#out.end([...this.#opening(), ...this.#chunks.closing(reason, usage), doneEvent])
  }

  /** A typed error and no `[DONE]`: a broken answer never looks like a whole one. */
  fail(error: ApiError): void {
    this.#out.end([errorEvent(error)])
  }

  #opening(): string[] {
    if (this.#opened) return []
    this.#opened = true
    return [this.#chunks.opening()]
  }
}

/**
 * One JSON object. An answer that is made within a tick of its beginning goes out in one piece, with
 * its length. Of a longer one, or when the hold time is over before it begins, the status goes first,
 * and blank lines, which JSON allows, follow while it is made: a client that has gone is noticed by
 * them. A failure before the status is answered as one.
 */
export class WholeAnswerSink implements AnswerSink {
  readonly #options: SinkOptions
  readonly #deltas: AnswerDelta[] = []
  #begun = false

  constructor(options: SinkOptions) {
    this.#options = options
  }

  open(): void {
    // Nothing may be promised yet.
  }

  tick(): void {
    const { body } = this.#options
    if (!this.#begun || body.closedEarly) return
    if (!body.headersSent) body.head(200, this.#headers())
    void body.write('\n')
  }

  /** The answer has begun, or has been waited for long enough. */
  begin(): void {
    this.#begun = true
  }

  write(deltas: readonly AnswerDelta[]): Promise<void> {
    this.#deltas.push(...deltas)
    return Promise.resolve()
  }

  end(end: AnswerEnd): void {
    const { body } = this.#options
    const text = JSON.stringify(completionObject(this.#options, this.#deltas, end))
    if (!body.headersSent && !body.closedEarly) {
      body.head(200, { ...this.#headers(), 'content-length': String(Buffer.byteLength(text)) })
    }
    body.end(text)
  }

  /** Before the status went out its error takes its place; after, only breaking off is left. */
  fail(error: ApiError): void {
    const { body } = this.#options
    if (body.headersSent) {
      body.breakOff()
      return
    }
    body.head(error.status, { ...this.#headers(), ...error.toHeaders() })
    body.end(JSON.stringify(error.toEnvelope()))
  }

  #headers(): Record<string, string> {
    return {
      'content-type': 'application/json',
      [REQUEST_ID_HEADER]: this.#options.requestId,
    }
  }
}
