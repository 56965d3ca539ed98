import { amountIn, mapCost, NO_COST, subtractCost } from './cost.ts'
import type { Cost, RateMeasure } from './cost.ts'
import { charge, EMPTY_BUCKET, hold, remaining, resetMs, waitMs } from './gcra.ts'
import type { Bucket } from './gcra.ts'
import { limitsOn, rateOf } from './limits.ts'
import type { Limit, RateLimit, Scope } from './limits.ts'
import type { TenantStore } from './tenant-store.ts'

/** How one limit stands towards one request, or towards none (`need` 0). */
export interface LimitState {
  readonly limitId: string
  readonly dimension: RateMeasure | 'concurrency'
  /** A minute's worth, or places. */
  readonly limit: number
  readonly need: number
  /** What could be taken at this instant; negative in debt. */
  readonly remaining: number
  /** Until the request would fit; 0 when it does. */
  readonly waitMs: number
  /** Until nothing is owed any more; 0 for concurrency, which time does not free. */
  readonly resetMs: number
}

/** What a change of one request does to the buckets of its limits. */
export interface CapacityChange {
  readonly charged: Cost
  readonly heldOutputTokens: number
}

/** What others who wait already will take before. */
export interface TakenAhead {
  /** By the limit's id. */
  readonly amounts: ReadonlyMap<string, number>
  /** When the first of them will have its turn: a bucket that is idle until then saves nothing up. */
  readonly fromMs: number
}

export const NOTHING_AHEAD: TakenAhead = { amounts: new Map(), fromMs: -Infinity }

/** Limits that count output, which is held until it is made. */
const HOLDING: ReadonlySet<RateMeasure> = new Set(['outputTokens', 'tokens'])

type CapacityStore = Pick<TenantStore, 'buckets' | 'slots' | 'holders'>

/** Rate buckets and places of concurrency of one tenant, over its stored rows. */
export class TenantCapacity {
  readonly #store: CapacityStore
  readonly #limits: readonly Limit[]
  readonly #slotRetryMs: number

  /** `slotRetryMs`: when to try again for a place, which falls free when some answer ends. */
  constructor(store: CapacityStore, limits: readonly Limit[], slotRetryMs: number) {
    this.#store = store
    this.#limits = limits
    this.#slotRetryMs = slotRetryMs
  }

  limitsOn(scope: Scope): readonly Limit[] {
    return limitsOn(this.#limits, scope)
  }

  /**
   * How each of `limits` stands towards a request of this cost, which takes one place, if it comes
   * after those `ahead`.
   */
  states(
    limits: readonly Limit[],
    cost: Cost,
    nowMs: number,
    ahead: TakenAhead = NOTHING_AHEAD,
  ): readonly LimitState[] {
    return limits.map((limit) =>
      limit.dimension === 'concurrency'
        ? this.#slotsState(limit.id, limit.max, cost.requests)
        : this.#rateState(limit, amountIn(cost, limit.dimension), nowMs, ahead),
    )
  }

  /** The least that any of `limits` has left, in each dimension; Infinity where none counts. */
  remaining(
    limits: readonly Limit[],
    nowMs: number,
  ): { cost: Cost; tokens: number; slots: number } {
    const leastOf = (dimension: Limit['dimension'], leftOf: (limit: Limit) => number): number =>
      limits
        .filter((limit) => limit.dimension === dimension)
        .reduce((least, limit) => Math.min(least, leftOf(limit)), Infinity)
    const inBucket = (limit: Limit): number =>
      limit.dimension === 'concurrency'
        ? Math.max(0, limit.max - this.#slotsUsed(limit.id))
        : Math.max(0, remaining(this.#bucket(limit.id), rateOf(limit), nowMs))
    return {
      cost: mapCost((dimension) => leastOf(dimension, inBucket)),
      tokens: leastOf('tokens', inBucket),
      slots: leastOf('concurrency', inBucket),
    }
  }

  /** Takes what a request is estimated at: its output is held, all else is used at once. */
  reserve(limitIds: readonly string[], cost: Cost, nowMs: number): void {
    const { outputTokens } = cost
    this.move(
      limitIds,
      { charged: { ...cost, outputTokens: 0 }, heldOutputTokens: outputTokens },
      nowMs,
    )
  }

  /** Gives back what `reserve` has taken. */
  unreserve(limitIds: readonly string[], cost: Cost, nowMs: number): void {
    this.reserve(limitIds, subtractCost(NO_COST, cost), nowMs)
  }

  /** Moves every bucket that counts; negative amounts give back. */
  move(limitIds: readonly string[], change: CapacityChange, nowMs: number): void {
    const { charged, heldOutputTokens } = change
    const known = new Map(this.#limits.map((limit) => [limit.id, limit]))
    for (const id of limitIds) {
      const limit = known.get(id)
      if (limit === undefined) {
        this.#letGo(id, heldOutputTokens)
        continue
      }
      if (limit.dimension === 'concurrency') continue
      const amount = amountIn(charged, limit.dimension)
      const held = HOLDING.has(limit.dimension) ? heldOutputTokens : 0
      if (amount === 0 && held === 0) continue
      const bucket = charge(this.#bucket(id), rateOf(limit), amount, nowMs)
      this.#store.buckets.put({ id, ...hold(bucket, held) })
    }
  }

  /** The limit has been dropped. Should it come back, it must not find what nobody holds any more. */
  #letGo(limitId: string, change: number): void {
    const row = this.#store.buckets.get(limitId)
    if (row === undefined || row.held === 0) return
    this.#store.buckets.put({ ...row, held: Math.max(0, row.held + change) })
  }

  /** Takes places for a request or a lease, or more or fewer for one that has some. */
  holdSlots(id: string, limitIds: readonly string[], slots: number, untilMs: number): void {
    const concurrencyIds = this.#limits
      .filter((limit) => limit.dimension === 'concurrency' && limitIds.includes(limit.id))
      .map((limit) => limit.id)
    this.freeSlots(id)
    if (concurrencyIds.length === 0 || slots === 0) return
    this.#addSlots(concurrencyIds, slots)
    this.#store.holders.put({ id, limitIds: concurrencyIds, slots, dueAtMs: untilMs })
  }

  /** A holder has been heard of; its places last until `untilMs` at least. */
  keepSlots(id: string, untilMs: number): void {
    const holder = this.#store.holders.get(id)
    if (holder === undefined || holder.dueAtMs >= untilMs) return
    this.#store.holders.put({ ...holder, dueAtMs: untilMs })
  }

  freeSlots(id: string): void {
    const holder = this.#store.holders.get(id)
    if (holder === undefined) return
    this.#addSlots(holder.limitIds, -holder.slots)
    this.#store.holders.delete(id)
  }

  /** Frees the places of holders not heard of in time; how many there were. */
  freeDueSlots(nowMs: number, limit: number): number {
    const due = this.#store.holders.due(nowMs, limit)
    for (const { id } of due) this.freeSlots(id)
    return due.length
  }

  #rateState(limit: RateLimit, need: number, nowMs: number, ahead: TakenAhead): LimitState {
    const bucket = this.#bucket(limit.id)
    const rate = rateOf(limit)
    const before = ahead.amounts.get(limit.id) ?? 0
    const fromMs = before > 0 ? Math.max(nowMs, ahead.fromMs) : nowMs
    return {
      limitId: limit.id,
      dimension: limit.dimension,
      limit: limit.perMinute,
      need,
      remaining: remaining(bucket, rate, nowMs),
      waitMs: fromMs - nowMs + waitMs(bucket, rate, need, fromMs, before),
      resetMs: resetMs(bucket, rate, nowMs),
    }
  }

  #slotsState(limitId: string, max: number, need: number): LimitState {
    const left = max - this.#slotsUsed(limitId)
    return {
      limitId,
      dimension: 'concurrency',
      limit: max,
      need,
      remaining: left,
      waitMs: need <= left ? 0 : this.#slotRetryMs,
      resetMs: 0,
    }
  }

  #bucket(limitId: string): Bucket {
    return this.#store.buckets.get(limitId) ?? EMPTY_BUCKET
  }

  #slotsUsed(limitId: string): number {
    return this.#store.slots.get(limitId)?.used ?? 0
  }

  #addSlots(limitIds: readonly string[], slots: number): void {
    for (const id of limitIds) this.#store.slots.put({ id, used: this.#slotsUsed(id) + slots })
  }
}
