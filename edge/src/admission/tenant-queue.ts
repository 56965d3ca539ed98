import { amountIn } from './cost.ts'
import type { Cost } from './cost.ts'
import type { Limit, Scope } from './limits.ts'
import { NOBODY_AHEAD } from './tenant-admission.ts'
import type {
  Admission,
  AdmitRequest,
  Ahead,
  LeaseAsk,
  Refusal,
  Shortage,
  TenantAdmission,
} from './tenant-admission.ts'
import type { LimitState } from './tenant-capacity.ts'

export interface QueuedRequest extends AdmitRequest {
  /** How long it may wait for room under its tenant's own limits; 0: it is answered at once. */
  readonly maxWaitMs: number
}

export interface TenantQueueLimits {
  readonly waitersMax: number
  /** Estimated tokens of all waiters together. */
  readonly tokensMax: number
}

/** Who decides: the admission core, behind whatever its object checks besides. */
export type Gate = Pick<TenantAdmission, 'admit' | 'limitsOn'>

/** What an admitted or refused request has waited, and the limit that it began to wait for. */
export interface Waited {
  readonly ms: number
  readonly binding: LimitState | null
}

/** The end of someone's wait. */
export interface WaitEnd {
  readonly request: QueuedRequest
  readonly answer: Admission | Refusal
  readonly waited: Waited
  readonly deadlineMs: number
}

export interface Arrival {
  readonly answer: Admission | Refusal | { readonly status: 'waiting' }
  /** Whose waits have ended meanwhile. */
  readonly ended: readonly WaitEnd[]
}

interface Waiter {
  readonly request: QueuedRequest
  readonly sinceMs: number
  readonly deadlineMs: number
  readonly estimate: Cost
  readonly likely: Cost
  readonly binding: LimitState | null
}

export const TENANT_QUEUE_LIMITS: TenantQueueLimits = {
  waitersMax: 1024,
  tokensMax: 8 * 1024 * 1024,
}

/**
 * The likely wait is a matter of averages and off by some. In doubt a request waits: refusing those
 * who would have been served leaves more of a cap unused than it spares waits in vain.
 */
const DOUBT = 1.25

/** Room is looked for no more often than this, however soon the model says that there will be some. */
const TRY_EVERY_MIN_MS = 20

/**
 * Those who wait for room under their tenant's own rates, first come, first served: at each limit
 * nobody passes an earlier one who waits for it, while whoever counts for other limits goes on.
 * Waiters are open calls, so the state is in memory. Whoever could not be served in time, as far as
 * the model can tell, is refused when it comes and not when its time is over.
 *
 * Nobody begins to wait for a place of concurrency: when some answer will end is not known, and a
 * client wants to be told at once that it has too many under way. Who waits for a rate and finds
 * all places taken when its turn comes keeps its turn.
 */
export class TenantQueue {
  readonly #limits: TenantQueueLimits
  /** By arrival. */
  #waiters: readonly Waiter[] = []
  /** Of all waiters, as `serve` last found them. */
  #line = new Line()
  #tryAgainMs = Infinity

  constructor(limits: TenantQueueLimits = TENANT_QUEUE_LIMITS) {
    this.#limits = limits
  }

  get size(): number {
    return this.#waiters.length
  }

  /** Since when a request waits and for which limit; null when it does not. */
  find(requestId: string): Pick<Waiter, 'request' | 'sinceMs' | 'binding'> | null {
    return this.#waiters.find(({ request }) => request.requestId === requestId) ?? null
  }

  /** Admits, refuses, or takes in to wait. Asked again, it says that the request still waits. */
  arrive(gate: Gate, request: QueuedRequest, ask: LeaseAsk | null, nowMs: number): Arrival {
    if (this.find(request.requestId) !== null) return { answer: WAITING, ended: [] }
    const ended = this.serve(gate, nowMs)
    const lent = this.mayLend(gate, request.scope) ? ask : null
    const answer = gate.admit(request, lent, nowMs, this.#line)
    if (answer.status === 'admitted' || !this.#mayWait(request, answer.shortage)) {
      return { answer, ended }
    }
    const { estimate, likely, limitIds } = answer.shortage
    const { binding } = answer
    const deadlineMs = nowMs + request.maxWaitMs
    const waiter = { request, sinceMs: nowMs, deadlineMs, estimate, likely, binding }
    this.#waiters = [...this.#waiters, waiter]
    this.#tryAgain(nowMs, answer)
    this.#line.add(waiter, gate.limitsOn(request.scope), limitIds, this.#tryAgainMs)
    return { answer: WAITING, ended }
  }

  /**
   * Ends the wait of everyone whose turn or deadline has come. Call it at each tick and after
   * whatever may have freed room.
   */
  serve(gate: Gate, nowMs: number): readonly WaitEnd[] {
    const ended: WaitEnd[] = []
    const staying: Waiter[] = []
    const before = new Line()
    this.#tryAgainMs = Infinity
    for (const waiter of this.#waiters) {
      const { request, deadlineMs, sinceMs, binding } = waiter
      const limits = gate.limitsOn(request.scope)
      const overdue = deadlineMs <= nowMs
      if (!overdue && before.isWaitedFor(limits)) {
        staying.push(waiter)
        before.add(waiter, limits, [], this.#tryAgainMs)
        continue
      }
      const answer = gate.admit(request, null, nowMs, overdue ? before : NOBODY_AHEAD)
      if (answer.status === 'admitted' || answer.shortage === null || overdue) {
        ended.push({ request, answer, waited: { ms: nowMs - sinceMs, binding }, deadlineMs })
        continue
      }
      staying.push(waiter)
      this.#tryAgain(nowMs, answer)
      before.add(waiter, limits, answer.shortage.limitIds, this.#tryAgainMs)
    }
    this.#waiters = staying
    this.#line = before
    return ended
  }

  /** Whoever waited has gone away, and `serve` may find others a turn; false when it did not wait. */
  leave(requestId: string): boolean {
    const staying = this.#waiters.filter(({ request }) => request.requestId !== requestId)
    const waited = staying.length < this.#waiters.length
    this.#waiters = staying
    return waited
  }

  /** Leases would let later requests pass those who wait: none where someone does. */
  mayLend(gate: Gate, scope: Scope): boolean {
    return this.size === 0 || !this.#line.isWaitedFor(gate.limitsOn(scope))
  }

  /** When `serve` has something to do at the latest; null when nobody waits. */
  nextTickMs(): number | null {
    if (this.#waiters.length === 0) return null
    const deadlines = this.#waiters.map(({ deadlineMs }) => deadlineMs)
    return Math.min(this.#tryAgainMs, ...deadlines)
  }

  #mayWait({ maxWaitMs }: QueuedRequest, shortage: Shortage | null): shortage is Shortage {
    if (shortage === null || shortage.ofPlaces || maxWaitMs <= 0) return false
    if (shortage.likelyWaitMs > DOUBT * maxWaitMs) return false
    if (this.size >= this.#limits.waitersMax) return false
    const tokens = this.#waiters.reduce(
      (sum, { estimate }) => sum + amountIn(estimate, 'tokens'),
      0,
    )
    return tokens + amountIn(shortage.estimate, 'tokens') <= this.#limits.tokensMax
  }

  /** At the time its own limits would have room; `serve` is called when something frees room before. */
  #tryAgain(nowMs: number, { retryAfterMs }: Refusal): void {
    const inMs = Math.max(TRY_EVERY_MIN_MS, retryAfterMs ?? 0)
    this.#tryAgainMs = Math.min(this.#tryAgainMs, nowMs + inMs)
  }
}

const WAITING = { status: 'waiting' } as const

/** Waiters one after another, summed up for whoever comes behind them. */
class Line implements Ahead {
  readonly estimated = { amounts: new Map<string, number>(), fromMs: -Infinity }
  readonly likely = { amounts: new Map<string, number>(), fromMs: -Infinity }
  readonly limitIds = new Set<string>()

  /** One more, that counts for `limits` and waits for those of `limitIds`. */
  add(
    { estimate, likely }: Pick<Waiter, 'estimate' | 'likely'>,
    limits: readonly Limit[],
    limitIds: readonly string[],
    firstTurnMs: number,
  ): void {
    for (const id of limitIds) this.limitIds.add(id)
    this.estimated.fromMs = firstTurnMs
    addAmounts(this.estimated.amounts, limits, estimate)
    addAmounts(this.likely.amounts, limits, likely)
  }

  isWaitedFor(limits: readonly Limit[]): boolean {
    return limits.some(({ id }) => this.limitIds.has(id))
  }
}

function addAmounts(amounts: Map<string, number>, limits: readonly Limit[], cost: Cost): void {
  for (const { id, dimension } of limits) {
    if (dimension === 'concurrency') continue
    amounts.set(id, (amounts.get(id) ?? 0) + amountIn(cost, dimension))
  }
}
