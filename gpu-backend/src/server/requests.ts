import type { RequestProgress } from '#protocol/capacity-report.ts'
import type { ApiError } from '#protocol/errors.ts'
import type { RequestStatus } from '#protocol/request-status.ts'
import type { ResumableEvents } from './event-output.ts'
import type { ActiveGeneration } from './generation.ts'

/** How many ended requests are remembered with their status. */
const endedMax = 4096

interface EndedRequest {
  readonly tenantId: string
  readonly status: RequestStatus
  /** Kept for whoever missed its end; null when there is nothing to take up. */
  readonly stream: ResumableEvents | null
}

/** Who is being served, and who was lately. A request belongs to its tenant; others see nothing. */
export class Requests {
  readonly #unitsMax: number
  readonly #active = new Map<string, ActiveGeneration>()
  readonly #ended = new Map<string, EndedRequest>()
  #onIdle: (() => void)[] = []

  /** `unitsMax`: text kept of all ended streams together, in UTF-16 units. */
  constructor(unitsMax: number) {
    this.#unitsMax = unitsMax
  }

  /** Runs a request to its end, known to everybody meanwhile. */
  async run(generation: ActiveGeneration): Promise<void> {
    const { requestId } = generation.claims
    this.#active.set(requestId, generation)
    try {
      await generation.run()
    } finally {
      this.#active.delete(requestId)
      this.#end(generation)
      if (this.#active.size === 0) for (const resolve of this.#onIdle.splice(0)) resolve()
    }
  }

  /** Gives every running request up, with an error its client is told. */
  abortAll(error: ApiError): void {
    for (const generation of this.#active.values()) generation.abort(error)
  }

  /** As if the request's client had gone. */
  cancel(requestId: string): void {
    this.#active.get(requestId)?.cancel()
  }

  /** Resolves when no request is running. */
  whenIdle(): Promise<void> {
    if (this.#active.size === 0) return Promise.resolve()
    return new Promise((resolve) => this.#onIdle.push(resolve))
  }

  /** How the tenant's request is doing; null when it has none of this id. */
  status(requestId: string, tenantId: string): RequestStatus | null {
    const active = this.#active.get(requestId)
    if (active !== undefined) return active.claims.tenantId === tenantId ? active.status() : null
    const ended = this.#ended.get(requestId)
    return ended?.tenantId === tenantId ? ended.status : null
  }

  /** The tenant's stream of this id, running or kept; null when there is nothing to take up. */
  stream(requestId: string, tenantId: string): ResumableEvents | null {
    const active = this.#active.get(requestId)
    if (active !== undefined) return active.claims.tenantId === tenantId ? active.resumable : null
    const ended = this.#ended.get(requestId)
    return ended?.tenantId === tenantId ? ended.stream : null
  }

  /** Of every request that has begun, the oldest first. */
  progress(): RequestProgress[] {
    return this.#running().map((generation) => generation.progress())
  }

  /** Requests the engine has not begun, as far as is known here. */
  waiting(): { readonly count: number; readonly promptTokens: number } {
    const waiting = [...this.#active.values()].filter(({ started }) => !started)
    const promptTokens = waiting.reduce((sum, each) => sum + each.progress().promptTokens, 0)
    return { count: waiting.length, promptTokens }
  }

  #running(): ActiveGeneration[] {
    return [...this.#active.values()].filter(({ started }) => started)
  }

  #end(generation: ActiveGeneration): void {
    const { requestId, tenantId } = generation.claims
    const { resumable } = generation
    const stream = resumable?.ended === true ? resumable : null
    const status = generation.status()
    if (stream === null) resumable?.discard()
    stream?.onExpired(() => this.#letGo(requestId))
    this.#ended.set(requestId, { tenantId, status, stream })
    if (stream !== null) this.#boundStreams()
    for (const [oldest, ended] of this.#ended) {
      if (this.#ended.size <= endedMax) break
      ended.stream?.discard()
      this.#ended.delete(oldest)
    }
  }

  /** Lets the oldest streams go while all of them together hold too much. */
  #boundStreams(): void {
    const kept = [...this.#ended].filter(([, ended]) => ended.stream !== null)
    let units = kept.reduce((sum, [, ended]) => sum + (ended.stream?.units ?? 0), 0)
    for (const [requestId, ended] of kept) {
      if (units <= this.#unitsMax) return
      units -= ended.stream?.units ?? 0
      this.#letGo(requestId)
    }
  }

  #letGo(requestId: string): void {
    const ended = this.#ended.get(requestId)
    if (ended === undefined) return
    ended.stream?.discard()
    this.#ended.set(requestId, {
      ...ended,
      stream: null,
      status: { ...ended.status, last_event: null },
    })
  }
}
