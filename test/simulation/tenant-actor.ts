import { memoryTenantStore } from '../../edge/src/admission/memory-store.ts'
import type { AdmissionPolicy } from '../../edge/src/admission/policy.ts'
import { refusal, TenantAdmission } from '../../edge/src/admission/tenant-admission.ts'
import type {
  Admission,
  LeaseAsk,
  Refusal,
  TenantTerms,
} from '../../edge/src/admission/tenant-admission.ts'
import { TenantQueue } from '../../edge/src/admission/tenant-queue.ts'
import type { Gate, QueuedRequest, WaitEnd } from '../../edge/src/admission/tenant-queue.ts'
import type { Host, World } from './world.ts'

class CrashError extends Error {}

type Call<Value> = (core: TenantAdmission, queue: TenantQueue) => Value

/** A call as it was made, for replaying: what ran on the core, and whether it was committed. */
export type RecordedCall =
  | { readonly kind: 'call'; readonly run: Call<unknown>; readonly result: string }
  /** The object died here, and with it its queue. */
  | { readonly kind: 'death' }

export type CallResult<Value> =
  | { readonly ran: true; readonly value: Value; readonly answered: boolean }
  | { readonly ran: false }

/** `broken`: the object has died with the call in hand. */
export type AdmitReply = Admission | Refusal | { readonly status: 'broken' }

/** What was decided of a request; `end` is null when it was at once. */
export interface Decided {
  readonly request: QueuedRequest
  readonly answer: Admission | Refusal
  readonly end: WaitEnd | null
}

export interface TenantOptions {
  readonly tenantId: string
  readonly terms: TenantTerms
  readonly policy: AdmissionPolicy
  readonly onCommit: (actor: TenantActor) => void
  readonly onQueued?: (actor: TenantActor, request: QueuedRequest) => void
  readonly onDecided?: (actor: TenantActor, decided: Decided) => void
  readonly onServed?: (actor: TenantActor) => void
  /** Who waited has left, or all of them are lost (null). */
  readonly onLeft?: (actor: TenantActor, requestId: string | null) => void
}

interface Caller {
  readonly request: QueuedRequest
  readonly replies: ((reply: AdmitReply) => void)[]
}

/**
 * A tenant object: every call is one transaction on rows that survive. It may die before one, at any
 * write of one (which undoes it), or after it and before the answer; what it had in memory is gone,
 * and with it those who waited.
 */
export class TenantActor {
  readonly host: Host = { awakeFromMs: 0 }
  readonly tenantId: string
  readonly terms: TenantTerms
  readonly store = memoryTenantStore(() => this.#beforeWrite())
  /** Keys live in the same database; only what admission needs of them is here. */
  readonly revokedKeys = new Set<string>()
  readonly calls: RecordedCall[] = []
  crashes = 0
  readonly #world: World
  readonly #options: TenantOptions
  #queue = new TenantQueue()
  #callers = new Map<string, Caller>()
  #tickAtMs = Infinity
  #writesUntilCrash = Infinity

  constructor(world: World, options: TenantOptions) {
    this.#world = world
    this.tenantId = options.tenantId
    this.terms = options.terms
    this.#options = options
  }

  /** Who waits, by arrival. */
  get waiting(): readonly QueuedRequest[] {
    return [...this.#callers.values()].map(({ request }) => request)
  }

  /** Replies at once, or when the request's turn has come or will not come. */
  admit(request: QueuedRequest, ask: LeaseAsk | null, reply: (reply: AdmitReply) => void): void {
    const { nowMs } = this.#world
    const gateOf = this.#gates()
    const result = this.#transact((core, queue) => queue.arrive(gateOf(core), request, ask, nowMs))
    if (!result.ran) return
    const { answer, ended } = result.value
    this.#endWaits(ended, result.answered)
    if (answer.status !== 'waiting') {
      this.#options.onDecided?.(this, { request, answer, end: null })
      if (result.answered) reply(answer)
    } else if (result.answered) {
      this.#keepCaller(request, reply)
    }
    this.#schedule()
  }

  /** Gives everything of a request back, its place in the queue or its reservation. */
  release(requestId: string): 'left' | 'released' | 'unknown' {
    const { nowMs } = this.#world
    const result = this.#transact((core, queue) => {
      if (queue.leave(requestId)) return 'left'
      return core.release(requestId, nowMs) ? 'released' : 'unknown'
    })
    if (!result.ran) return 'unknown'
    if (result.value === 'left' && this.#callers.delete(requestId)) {
      this.#options.onLeft?.(this, requestId)
    }
    if (result.answered) this.#serve()
    return result.value
  }

  call<Value>(run: Call<Value>): CallResult<Value> {
    const result = this.#transact(run)
    if (result.ran && result.answered) this.#serve()
    return result
  }

  /** What `run` would say, without a trace of it. */
  pretend<Value>(run: (core: TenantAdmission) => Value): Value {
    const value = run(new TenantAdmission(this.store, this.terms, this.#options.policy))
    this.store.rollback()
    return value
  }

  /** Runs every committed call again on an empty store; the first whose answer differs, or null. */
  replay(): { readonly firstDifference: number | null; readonly journal: string } {
    const store = memoryTenantStore()
    const core = new TenantAdmission(store, this.terms, this.#options.policy)
    let queue = new TenantQueue()
    const different = this.calls.findIndex((call) => {
      if (call.kind === 'call') return asText(call.run(core, queue)) !== call.result
      queue = new TenantQueue()
      return false
    })
    return {
      firstDifference: different < 0 ? null : different,
      journal: asText(store.postings),
    }
  }

  #transact<Value>(run: Call<Value>): CallResult<Value> {
    const { random, faults } = this.#world
    const crash = random.chance(faults.crash) ? random.pick(CRASH_POINTS) : null
    if (crash === 'before') return this.#die()
    if (crash === 'within') this.#writesUntilCrash = random.between(0, 12)
    try {
      const value = run(
        new TenantAdmission(this.store, this.terms, this.#options.policy),
        this.#queue,
      )
      this.store.commit()
      this.calls.push({ kind: 'call', run, result: asText(value) })
      this.#options.onCommit(this)
      if (crash === 'after') this.#die()
      return { ran: true, value, answered: crash !== 'after' }
    } catch (error) {
      if (!(error instanceof CrashError)) throw error
      this.store.rollback()
      return this.#die()
    } finally {
      this.#writesUntilCrash = Infinity
    }
  }

  #serve(): void {
    if (this.#queue.size > 0) {
      const { nowMs } = this.#world
      const gateOf = this.#gates()
      const result = this.#transact((core, queue) => queue.serve(gateOf(core), nowMs))
      if (!result.ran) return
      this.#endWaits(result.value, result.answered)
      if (result.answered) this.#options.onServed?.(this)
    }
    this.#schedule()
  }

  /** The core behind its keys, as they are now: a replay has to find them the same. */
  #gates(): (core: TenantAdmission) => Gate {
    const revoked = new Set(this.revokedKeys)
    return (core) => ({
      limitsOn: (scope) => core.limitsOn(scope),
      admit: (request, ...rest) =>
        revoked.has(request.scope.keyId) ? refusal('key') : core.admit(request, ...rest),
    })
  }

  #endWaits(ended: readonly WaitEnd[], answered: boolean): void {
    for (const end of ended) {
      const { request, answer } = end
      const caller = this.#callers.get(request.requestId)
      this.#callers.delete(request.requestId)
      this.#options.onDecided?.(this, { request, answer, end })
      if (answered) caller?.replies.forEach((reply) => reply(answer))
    }
  }

  #keepCaller(request: QueuedRequest, reply: (reply: AdmitReply) => void): void {
    const known = this.#callers.get(request.requestId)
    known?.replies.push(reply)
    if (known !== undefined) return
    this.#callers.set(request.requestId, { request, replies: [reply] })
    this.#options.onQueued?.(this, request)
  }

  #schedule(): void {
    const atMs = this.#queue.nextTickMs() ?? Infinity
    if (atMs >= this.#tickAtMs) return
    this.#tickAtMs = atMs
    this.#world.on(this.host, atMs - this.#world.nowMs, () => {
      if (this.#tickAtMs !== atMs) return
      this.#tickAtMs = Infinity
      this.#serve()
    })
  }

  #die(): { readonly ran: false } {
    this.crashes++
    this.host.awakeFromMs = this.#world.nowMs + this.#world.random.between(10, 800)
    this.calls.push({ kind: 'death' })
    const callers = [...this.#callers.values()]
    this.#callers = new Map()
    this.#queue = new TenantQueue()
    this.#tickAtMs = Infinity
    this.#options.onLeft?.(this, null)
    for (const { replies } of callers) replies.forEach((reply) => reply({ status: 'broken' }))
    return { ran: false }
  }

  #beforeWrite(): void {
    if (this.#writesUntilCrash-- <= 0) throw new CrashError()
  }
}

const CRASH_POINTS = ['before', 'within', 'after'] as const

export function asText(value: unknown): string {
  return JSON.stringify(value, (_key, part: unknown) =>
    typeof part === 'bigint' ? `${part}n` : part,
  )
}
