/** A request that has begun with a lease's room. */
export interface StartedTurn {
  readonly id: string
  readonly tenantId: string
  readonly tokens: number
}

/** Room at a pool that an isolate gives out by itself. */
export interface TurnLease {
  readonly leaseId: string
  readonly tokens: number
  readonly ttlMs: number
}

export interface TurnLeaseAsk {
  readonly leaseId: string
  readonly tokens: number
}

/** A lease that is given back, and what still runs of it. */
export interface ClosedTurns {
  readonly leaseId: string
  readonly running: readonly StartedTurn[]
}

/** What the pool has not heard of; saying it twice says it once. */
export interface TurnNews {
  readonly closed: readonly ClosedTurns[]
  /** Requests that the pool knows of and that are over. */
  readonly ended: readonly string[]
}

interface HeldLease {
  readonly leaseId: string
  /** By the isolate's clock, before it asked: the end is earlier than in the pool's own idea. */
  readonly expiresAtMs: number
  /** From when on the next one may be asked for. */
  readonly renewFromMs: number
  left: number
  readonly running: Map<string, StartedTurn>
}

/** Demand is counted over this, and below so many requests a lease would cost more than it saves. */
const DEMAND_SPAN_MS = 1000
const REQUESTS_MIN = 4
/** News that nobody takes is given up in the end: grants lapse by themselves. */
const CLOSED_MAX = 16
const ENDED_MAX = 10_000

interface Demand {
  readonly requests: number
  readonly tokens: number
}

const NO_DEMAND: Demand = { requests: 0, tokens: 0 }

/**
 * What one isolate has of one pool's room. `start` is the hot path: a subtraction. What runs at a
 * time of a lease never comes to more than was lent, so a request that ends makes room for the next
 * without a word to the pool, which hears only of those that outlive the lease they began with.
 */
export class TurnLeases {
  #current: HeldLease | null = null
  /** Leases that are over, until the pool knows. */
  #closed: ClosedTurns[] = []
  #ended = new Set<string>()
  readonly #leaseOf = new Map<string, HeldLease>()
  #demand = NO_DEMAND
  #demandBefore = NO_DEMAND
  #demandFromMs = 0
  /** Requests counted so far, to see whether the isolate has gone idle. */
  counted = 0

  /** Starts a request with the lease in hand; false when there is none, or too little is left. */
  start(turn: StartedTurn, nowMs: number): boolean {
    const held = this.#usable(nowMs)
    if (held === null || held.left < turn.tokens) return false
    this.count(turn.tokens, nowMs)
    held.left -= turn.tokens
    held.running.set(turn.id, turn)
    this.#leaseOf.set(turn.id, held)
    return true
  }

  /** Counts a request that the pool let through itself: the next lease's size follows the demand. */
  count(tokens: number, nowMs: number): void {
    this.counted += 1
    this.#turnDemand(nowMs)
    const { requests, tokens: before } = this.#demand
    this.#demand = { requests: requests + 1, tokens: before + tokens }
  }

  /** A request that was started here is over; false when the pool knows of it, or nobody does. */
  putBack(requestId: string): boolean {
    const held = this.#leaseOf.get(requestId)
    if (held === undefined) return false
    this.#leaseOf.delete(requestId)
    held.left += held.running.get(requestId)?.tokens ?? 0
    held.running.delete(requestId)
    return true
  }

  /** A request is over, however it was let through. */
  end(requestId: string): void {
    if (!this.putBack(requestId) && this.#ended.size < ENDED_MAX) this.#ended.add(requestId)
  }

  /**
   * What to ask the pool for with a call that is made anyway; null while the lease in hand is young,
   * or with too little traffic for one to pay. `leaseId` is new with every call.
   */
  ask(leaseId: string, nowMs: number): TurnLeaseAsk | null {
    const held = this.#usable(nowMs)
    if (held !== null && nowMs < held.renewFromMs) return null
    this.#turnDemand(nowMs)
    const { requests, tokens } =
      this.#demand.requests > this.#demandBefore.requests ? this.#demand : this.#demandBefore
    return requests < REQUESTS_MIN ? null : { leaseId, tokens }
  }

  /** A lease has come, asked for at `askedAtMs`; the one before it is over. */
  receive({ leaseId, tokens, ttlMs }: TurnLease, askedAtMs: number): void {
    this.close()
    this.#current = {
      leaseId,
      expiresAtMs: askedAtMs + ttlMs,
      renewFromMs: askedAtMs + ttlMs / 2,
      left: tokens,
      running: new Map(),
    }
  }

  /** Whether to ask for the next lease now, so that there is no gap. */
  wantsRenewal(nowMs: number): boolean {
    const held = this.#usable(nowMs)
    return held !== null && nowMs >= held.renewFromMs
  }

  news(nowMs: number): TurnNews | null {
    this.#usable(nowMs)
    if (this.#closed.length === 0 && this.#ended.size === 0) return null
    return { closed: this.#closed, ended: [...this.#ended] }
  }

  /** The pool has heard all of `news`. */
  acknowledge({ closed, ended }: TurnNews): void {
    this.#closed = this.#closed.filter((one) => !closed.includes(one))
    for (const id of ended) this.#ended.delete(id)
  }

  /** Whether there is a lease to look after. */
  holds(nowMs: number): boolean {
    return this.#usable(nowMs) !== null
  }

  /** Gives up what is in hand; what runs of it becomes the pool's to know. */
  close(): void {
    if (this.#current === null) return
    const { leaseId, running } = this.#current
    for (const id of running.keys()) this.#leaseOf.delete(id)
    const closed = { leaseId, running: [...running.values()] }
    this.#closed = [...this.#closed, closed].slice(-CLOSED_MAX)
    this.#current = null
  }

  #usable(nowMs: number): HeldLease | null {
    if (this.#current !== null && nowMs >= this.#current.expiresAtMs) this.close()
    return this.#current
  }

  #turnDemand(nowMs: number): void {
    const span = nowMs - this.#demandFromMs
    if (span < DEMAND_SPAN_MS) return
    this.#demandBefore = span < 2 * DEMAND_SPAN_MS ? this.#demand : NO_DEMAND
    this.#demand = NO_DEMAND
    this.#demandFromMs = nowMs
  }
}
