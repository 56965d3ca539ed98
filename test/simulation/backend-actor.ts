import type { Capacity } from '../../edge/src/admission/pool-admission.ts'
import type { SettledRecord } from '../../edge/src/admission/prices.ts'
import type { BackendAnswer } from '../../edge/src/admission/tenant-admission.ts'
import type { SimEvent } from './events.ts'
import type { Host, World } from './world.ts'

/** A request as the backend gets it, with what its model will make of it. */
export interface Dispatch {
  readonly requestId: string
  readonly tenantId: string
  readonly projectId: string
  readonly keyId: string
  readonly model: string
  readonly promptTokens: number
  readonly cachedTokens: number
  /** Where the model would stop by itself. */
  readonly naturalTokens: number
  readonly grantedOutputTokens: number
  /** Whether the engine breaks in the middle of it. */
  readonly breaks: boolean
  readonly dispatchByMs: number
}

export interface StreamEnd {
  readonly outcome: SettledRecord['outcome'] | 'broken'
  readonly deliveredTokens: number
}

interface Running {
  readonly dispatch: Dispatch
  readonly acceptedAtMs: number
  startedAtMs: number | null
  readonly onEnd: (end: StreamEnd) => void
}

const PREFILL_TOKENS_PER_MS = 50
const DECODE_TOKENS_PER_MS = 0.05

/**
 * A machine with a cache of so many tokens: what fits runs at once, the rest waits in order. Its
 * records are on disk before a stream ends and are pushed until acknowledged; a crash loses what
 * runs, not what is recorded.
 */
export class BackendActor {
  readonly host: Host = { awakeFromMs: 0 }
  readonly backendId: string
  readonly unacknowledged = new Map<string, { tenantId: string; record: SettledRecord }>()
  /** Every record there ever was. */
  readonly records = new Map<string, { tenantId: string; record: SettledRecord }>()
  readonly #world: World
  readonly #cacheTokensMax: number
  readonly #log: (event: SimEvent) => void
  #running = new Map<string, Running>()
  #seen = new Set<string>()
  #draining = false
  #incarnation = 0
  #seq = 0

  constructor(
    world: World,
    backendId: string,
    cacheTokensMax: number,
    log: (event: SimEvent) => void,
  ) {
    this.#log = log
    this.#world = world
    this.backendId = backendId
    this.#cacheTokensMax = cacheTokensMax
  }

  /** Takes a request in, once; one that comes too late is refused, and never runs. */
  dispatch(dispatch: Dispatch, onEnd: (end: StreamEnd) => void): void {
    const { requestId } = dispatch
    if (this.#seen.has(requestId)) return
    if (this.#world.nowMs >= dispatch.dispatchByMs) {
      onEnd({ outcome: 'broken', deliveredTokens: 0 })
      return
    }
    this.#seen.add(requestId)
    // A prompt that could never run is refused, whatever it was thought to be.
    if (this.#draining || roomOf(dispatch) > this.#cacheTokensMax) {
      this.#log({ kind: 'freed', backendId: this.backendId, requestId })
      onEnd({ outcome: 'broken', deliveredTokens: 0 })
      return
    }
    this.#log({ kind: 'arrived', backendId: this.backendId, requestId })
    const acceptedAtMs = this.#world.nowMs
    this.#running.set(requestId, { dispatch, acceptedAtMs, startedAtMs: null, onEnd })
    this.#startWaiting()
  }

  /** The client has gone: the stream ends at the token it is at. */
  cancel(requestId: string): void {
    const running = this.#running.get(requestId)
    if (running !== undefined) this.#end(running, 'cancelled', this.#tokensNow(running))
  }

  crash(): void {
    const lost = [...this.#running.values()]
    this.#running = new Map()
    this.#incarnation++
    this.#seq = 0
    this.host.awakeFromMs = this.#world.nowMs + this.#world.random.between(200, 8000)
    for (const running of lost) {
      const { requestId } = running.dispatch
      this.#log({ kind: 'freed', backendId: this.backendId, requestId })
      running.onEnd({ outcome: 'broken', deliveredTokens: this.#tokensNow(running) })
    }
  }

  /** Takes nothing more for a while; what it has goes on. */
  drain(forMs: number): void {
    this.#draining = true
    this.#world.after(forMs, () => (this.#draining = false))
  }

  /** Room that neither what runs nor what waits here will take. */
  get unused(): number {
    if (this.#draining || this.host.awakeFromMs > this.#world.nowMs) return 0
    const rooms = [...this.#running.values()].map(({ dispatch }) => roomOf(dispatch))
    return rooms.reduce((left, room) => left - room, this.#cacheTokensMax)
  }

  report(): Capacity {
    const running = [...this.#running.values()]
    const waiting = running.filter(({ startedAtMs }) => startedAtMs === null)
    this.#seq++
    return {
      backendId: this.backendId,
      incarnation: `${this.backendId}/${this.#incarnation}`,
      seq: this.#seq,
      freeCacheTokens: this.#freeTokens(),
      cacheTokensMax: this.#cacheTokensMax,
      waitingTokens: waiting.reduce((sum, { dispatch }) => sum + roomOf(dispatch), 0),
      draining: this.#draining,
      progress: running.map((entry) => ({
        requestId: entry.dispatch.requestId,
        promptTokens: entry.dispatch.promptTokens,
        cachedTokens: entry.dispatch.cachedTokens,
        completionTokens: this.#tokensNow(entry),
      })),
    }
  }

  tenantOf(requestId: string): string | undefined {
    return this.#running.get(requestId)?.dispatch.tenantId
  }

  lookUp(requestId: string): BackendAnswer {
    if (this.#running.has(requestId)) return { kind: 'under_way' }
    const recorded = this.records.get(requestId)
    return recorded === undefined
      ? { kind: 'unknown' }
      : { kind: 'record', record: recorded.record }
  }

  #startWaiting(): void {
    for (const running of this.#running.values()) {
      if (running.startedAtMs !== null) continue
      if (roomOf(running.dispatch) > this.#freeTokens()) return
      running.startedAtMs = this.#world.nowMs
      const { promptTokens, cachedTokens } = running.dispatch
      const prefillMs = (promptTokens - cachedTokens) / PREFILL_TOKENS_PER_MS
      const decodeMs = outputOf(running.dispatch) / DECODE_TOKENS_PER_MS
      this.#world.after(prefillMs + decodeMs, () => this.#finish(running))
    }
  }

  #finish(running: Running): void {
    const { requestId, naturalTokens, grantedOutputTokens, breaks } = running.dispatch
    if (this.#running.get(requestId) !== running) return
    if (breaks) {
      const made = this.#world.random.between(0, outputOf(running.dispatch))
      this.#end(running, 'failed', made)
      return
    }
    const outcome = naturalTokens > grantedOutputTokens ? 'length' : 'stop'
    this.#end(running, outcome, outputOf(running.dispatch))
  }

  #end(running: Running, outcome: SettledRecord['outcome'], made: number): void {
    const { dispatch, startedAtMs, acceptedAtMs } = running
    const { requestId, tenantId, projectId, keyId, model, promptTokens, cachedTokens } = dispatch
    const delivered =
      outcome === 'cancelled' ? Math.max(0, made - this.#world.random.between(0, 3)) : made
    const record: SettledRecord = {
      requestId,
      projectId,
      keyId,
      model,
      promptTokens,
      cachedTokens: startedAtMs === null ? 0 : cachedTokens,
      prefilledTokens: startedAtMs === null ? 0 : promptTokens - cachedTokens,
      completionTokens: made,
      deliveredTokens: delivered,
      outcome,
      acceptedAtMs,
    }
    this.#running.delete(requestId)
    this.#log({ kind: 'freed', backendId: this.backendId, requestId })
    this.records.set(requestId, { tenantId, record })
    this.unacknowledged.set(requestId, { tenantId, record })
    this.#log({ kind: 'delivered', requestId, tokens: delivered })
    running.onEnd({ outcome, deliveredTokens: delivered })
    this.#startWaiting()
  }

  #tokensNow({ dispatch, startedAtMs }: Running): number {
    if (startedAtMs === null) return 0
    const prefillMs = (dispatch.promptTokens - dispatch.cachedTokens) / PREFILL_TOKENS_PER_MS
    const decoding = Math.max(0, this.#world.nowMs - startedAtMs - prefillMs)
    return Math.min(outputOf(dispatch), Math.floor(decoding * DECODE_TOKENS_PER_MS))
  }

  #freeTokens(): number {
    const started = [...this.#running.values()].filter(({ startedAtMs }) => startedAtMs !== null)
    return started.reduce((left, { dispatch }) => left - roomOf(dispatch), this.#cacheTokensMax)
  }
}

function outputOf({ naturalTokens, grantedOutputTokens }: Dispatch): number {
  return Math.min(naturalTokens, grantedOutputTokens)
}

/** What a request may come to hold. */
function roomOf(dispatch: Dispatch): number {
  return dispatch.promptTokens + outputOf(dispatch)
}
