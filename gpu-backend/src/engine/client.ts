import { strict as assert } from 'node:assert'
import type {
  EngineCommand,
  EngineEvent,
  EngineReport,
  EngineStats,
  GenerationRequest,
  LoadProgress,
} from './protocol.ts'
import type { SchedulerLimits } from './scheduler.ts'

/** What the client needs of a `node:worker_threads` Worker. */
export interface EngineThread {
  postMessage(command: EngineCommand): void
  on(event: 'message', listener: (report: EngineReport) => void): unknown
  on(event: 'error', listener: (error: unknown) => void): unknown
  on(event: 'exit', listener: (code: number) => void): unknown
}

export type EngineStatus =
  | { readonly phase: 'loading'; readonly progress: LoadProgress | null }
  | { readonly phase: 'ready'; readonly device: string }
  /** For good: its thread has ended. `error` is what ended it. */
  | { readonly phase: 'dead'; readonly error: Error }

/** The engine's thread ended under a request. */
export class EngineDiedError extends Error {
  constructor(options: ErrorOptions) {
    super('the engine ended before it had finished this request', options)
    this.name = 'EngineDiedError'
  }
}

export type NewGeneration = Omit<GenerationRequest, 'id'>
export type RefusedSubmission = 'queue_full' | 'not_ready'

/**
 * The engine as the server's thread sees it. A full queue is known at once, without asking the other
 * thread: what is under way and what waits is counted here, and may only be too high.
 */
export class EngineClient {
  readonly #thread: EngineThread
  readonly #limits: SchedulerLimits
  readonly #onStatus: (status: EngineStatus) => void
  readonly #onNote: (note: string) => void
  readonly #running = new Map<number, RunningGeneration>()
  /** Prompt tokens of the requests that have not started. */
  readonly #waiting = new Map<number, number>()
  #status: EngineStatus = { phase: 'loading', progress: null }
  #stats: EngineStats | null = null
  #nextId = 1

  constructor(options: {
    readonly thread: EngineThread
    readonly limits: SchedulerLimits
    readonly onStatus: (status: EngineStatus) => void
    readonly onNote?: (note: string) => void
  }) {
    const { thread, limits, onStatus, onNote = () => undefined } = options
    this.#thread = thread
    this.#limits = limits
    this.#onStatus = onStatus
    this.#onNote = onNote
    thread.on('message', (report) => {
      this.#receive(report)
    })
    thread.on('error', (cause) => {
      this.#die(cause instanceof Error ? cause : new Error(String(cause)))
    })
    thread.on('exit', (code) => {
      this.#die(new Error(`the engine's thread ended with code ${code}`))
    })
  }

  get status(): EngineStatus {
    return this.#status
  }

  /** The latest report of how the engine stands; null until it is ready. */
  get stats(): EngineStats | null {
    return this.#stats
  }

  /** Requests that are running or waiting. */
  get underWay(): number {
    return this.#running.size
  }

  submit(wanted: NewGeneration): RunningGeneration | RefusedSubmission {
    if (this.#status.phase !== 'ready') return 'not_ready'
    const promptTokens = wanted.prompt.length
    if (!this.#hasRoom(promptTokens)) return 'queue_full'
    const id = this.#nextId
    this.#nextId += 1
    const generation = new RunningGeneration(() => {
      if (this.#running.has(id)) this.#thread.postMessage({ kind: 'cancel', id })
    })
    this.#running.set(id, generation)
    this.#waiting.set(id, promptTokens)
    this.#thread.postMessage({ kind: 'generate', request: { ...wanted, id } })
    return generation
  }

  /** As the scheduler sees it, or stricter. */
  #hasRoom(promptTokens: number): boolean {
    const { runningMax, waitingMax, waitingTokensMax } = this.#limits
    if (this.#running.size >= runningMax + waitingMax) return false
    if (this.#waiting.size === 0) return true
    const tokens = [...this.#waiting.values()].reduce((total, count) => total + count, promptTokens)
    return tokens <= waitingTokensMax
  }

  #receive(report: EngineReport): void {
    switch (report.kind) {
      case 'progress':
        this.#setStatus({ phase: 'loading', progress: report.progress })
        return
      case 'note':
        this.#onNote(report.note)
        return
      case 'ready':
        this.#setStatus({ phase: 'ready', device: report.device })
        return
      case 'events':
        this.#deliver(report.events)
        return
      case 'stats':
        this.#stats = report.stats
        return
      default:
        report satisfies never
    }
  }

  #deliver(events: readonly EngineEvent[]): void {
    for (const event of events) {
      const generation = this.#running.get(event.id)
      assert(generation !== undefined, `request ${event.id} is under way`)
      this.#waiting.delete(event.id)
      if (event.kind === 'finished') this.#running.delete(event.id)
      generation.deliver(event)
    }
  }

  #die(error: Error): void {
    // A thread that throws reports the error and then its exit: the first says more.
    if (this.#status.phase === 'dead') return
    const died = new EngineDiedError({ cause: error })
    for (const generation of this.#running.values()) generation.fail(died)
    this.#running.clear()
    this.#waiting.clear()
    this.#setStatus({ phase: 'dead', error })
  }

  #setStatus(status: EngineStatus): void {
    this.#status = status
    this.#onStatus(status)
  }
}

interface Waiter {
  readonly resolve: (events: readonly EngineEvent[]) => void
  readonly reject: (error: Error) => void
}

/** One request's events, for one reader that may be slower than the engine. */
export class RunningGeneration {
  /** Ends the request within a step; its `finished` event still comes. */
  readonly cancel: () => void
  #queued: EngineEvent[] = []
  #failure: Error | null = null
  #waiter: Waiter | null = null

  constructor(cancel: () => void) {
    this.cancel = cancel
  }

  /**
   * Everything that has happened since the last call, at least one event. Rejects with
   * `EngineDiedError` once what came before the engine's end has been read.
   */
  next(): Promise<readonly EngineEvent[]> {
    assert(this.#waiter === null, 'one reader, one call at a time')
    return new Promise((resolve, reject) => {
      this.#waiter = { resolve, reject }
      this.#settle()
    })
  }

  deliver(event: EngineEvent): void {
    this.#queued.push(event)
    this.#settle()
  }

  fail(error: Error): void {
    this.#failure = error
    this.#settle()
  }

  #settle(): void {
    const waiter = this.#waiter
    if (waiter === null) return
    if (this.#queued.length > 0) {
      this.#waiter = null
      const events = this.#queued
      this.#queued = []
      waiter.resolve(events)
    } else if (this.#failure !== null) {
      this.#waiter = null
      waiter.reject(this.#failure)
    }
  }
}
