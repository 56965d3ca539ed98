import { REQUEST_ID_HEADER } from '#protocol/headers.ts'
import { EventLog, type EventsMissing } from './event-log.ts'
import type { ResponseBody } from './response-body.ts'

/** Where a stream's events go. Each string is one whole event. */
export interface EventOutput {
  /** Nothing more should be written for now. */
  readonly backedUp: boolean
  /** The status and headers go out, and a first comment with them. */
  open(): void
  comment(): void
  /** Waits while the client cannot keep up. */
  write(events: readonly string[]): Promise<void>
  /** The last events. */
  end(events: readonly string[]): void
}

/** Who an answer is for, and whether they are still there. */
export type Audience = Pick<ResponseBody, 'closedEarly' | 'onClose'>

const keepAlive = ': keep-alive\n\n'

/**
 * Headers and a comment, at once: they are what tells proxies that the stream lives and the edge
 * that its client has gone.
 */
function openStream(body: ResponseBody, requestId: string): void {
  body.head(200, {
    'content-type': 'text/event-stream; charset=utf-8',
    'cache-control': 'no-cache',
    'x-accel-buffering': 'no',
    [REQUEST_ID_HEADER]: requestId,
  })
  void body.write(keepAlive)
}

/** Straight to the one connection there is. */
export class DirectEvents implements EventOutput {
  readonly #body: ResponseBody
  readonly #requestId: string

  constructor(body: ResponseBody, requestId: string) {
    this.#body = body
    this.#requestId = requestId
  }

  get backedUp(): boolean {
    return this.#body.backedUp
  }

  open(): void {
    openStream(this.#body, this.#requestId)
  }

  comment(): void {
    void this.#body.write(keepAlive)
  }

  write(events: readonly string[]): Promise<void> {
    return this.#body.write(events.join(''))
  }

  end(events: readonly string[]): void {
    this.#body.end(events.join(''))
  }
}

export interface ResumableOptions {
  readonly body: ResponseBody
  readonly requestId: string
  /** How long the stream is kept without a connection, and after its end. */
  readonly graceMs: number
  /** Text kept, in UTF-16 units. */
  readonly unitsMax: number
}

/**
 * A stream that outlives its connection: events are numbered and kept, and another connection can go
 * on behind the last one its client has seen. It counts as abandoned only when nobody has come for it
 * within the grace time.
 */
export class ResumableEvents implements EventOutput, Audience {
  readonly #options: ResumableOptions
  readonly #log: EventLog
  readonly #onClose: (() => void)[] = []
  #reader: ResponseBody | null = null
  #timer: NodeJS.Timeout | null = null
  #ended = false
  #closedEarly = false
  #onExpired: () => void = () => undefined

  constructor(options: ResumableOptions) {
    this.#options = options
    this.#log = new EventLog(options.unitsMax)
    this.#watch(options.body)
  }

  /** Nobody came back in time. */
  get closedEarly(): boolean {
    return this.#closedEarly
  }

  get backedUp(): boolean {
    return this.#reader === null || this.#reader.backedUp
  }

  /** Number of the latest event. */
  get last(): number {
    return this.#log.last
  }

  /** Text held, in UTF-16 units. */
  get units(): number {
    return this.#log.units
  }

  /** The last event is there; what is kept is kept for whoever missed it. */
  get ended(): boolean {
    return this.#ended
  }

  onClose(listener: () => void): void {
    this.#onClose.push(listener)
  }

  /** Called once when the grace time behind the last event is over. */
  onExpired(listener: () => void): void {
    this.#onExpired = listener
  }

  open(): void {
    openStream(this.#options.body, this.#options.requestId)
  }

  comment(): void {
    void this.#reader?.write(keepAlive)
  }

  async write(events: readonly string[]): Promise<void> {
    const text = this.#append(events)
    await this.#reader?.write(text)
  }

  end(events: readonly string[]): void {
    const text = this.#append(events)
    this.#ended = true
    this.#reader?.end(text)
    this.#restart(() => this.#onExpired())
  }

  /**
   * Another connection takes the stream over behind event `after`; one that is still there is broken
   * off, since its client has plainly lost it.
   */
  resume(body: ResponseBody, after: number): 'resumed' | EventsMissing {
    const missed = this.#log.after(after)
    if (typeof missed === 'string') return missed
    const before = this.#reader
    this.#watch(body)
    before?.breakOff()
    openStream(body, this.#options.requestId)
    if (this.#ended) body.end(missed.join(''))
    else if (missed.length > 0) void body.write(missed.join(''))
    return 'resumed'
  }

  /** Nothing is kept from here on. A reader that has not been given the end is broken off. */
  discard(): void {
    if (this.#timer !== null) clearTimeout(this.#timer)
    this.#timer = null
    if (!this.#ended) this.#reader?.breakOff()
  }

  #append(events: readonly string[]): string {
    return events.map((event) => this.#log.append(event)).join('')
  }

  #watch(body: ResponseBody): void {
    this.#reader = body
    if (!this.#ended && this.#timer !== null) clearTimeout(this.#timer)
    body.onClose(() => this.#left(body))
    if (body.closedEarly) this.#left(body)
  }

  #left(body: ResponseBody): void {
    if (this.#reader !== body) return
    this.#reader = null
    if (!this.#ended) this.#restart(() => this.#abandon())
  }

  #abandon(): void {
    this.#closedEarly = true
    for (const listener of this.#onClose) listener()
  }

  /** Only one grace time runs: for a reader to come, or behind the end. */
  #restart(whenOver: () => void): void {
    if (this.#timer !== null) clearTimeout(this.#timer)
    this.#timer = setTimeout(whenOver, this.#options.graceMs)
    this.#timer.unref()
  }
}
