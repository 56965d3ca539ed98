import { assert } from './assert.ts'

/** Someone who waits for a turn. */
export interface Waiter {
  readonly id: string
  readonly tenantId: string
  /** Larger gets more, in proportion; above 0. */
  readonly weight: number
  /** Index into the queue's bands, 0 the first to be served. */
  readonly band: number
  /** Estimated tokens: what a turn costs and what room it takes. */
  readonly tokens: number
  /** No turn is given to it after this. */
  readonly deadlineMs: number
}

export interface FairQueueLimits {
  /**
   * For each priority band, the share of what is served that it gets while others are preferred to
   * it: at least 0, together less than 1. The first band's is of no use and stays 0.
   */
  readonly bandFloors: readonly number[]
  readonly waitersMax: number
  readonly tokensMax: number
}

interface Entry {
  readonly waiter: Waiter
  readonly start: number
  readonly order: number
}

interface Band {
  readonly entries: Entry[]
  /** Virtual time: the start tag last served. */
  clock: number
  /** Per tenant, where its last request's share ends. */
  readonly finish: Map<string, number>
  /** Tokens that the band's floor has earned and not been served. */
  owedTokens: number
}

/**
 * Start-time fair queueing: each request gets a start tag, the later of the queue's virtual time
 * and the end of its tenant's last one, which is that start plus tokens over weight; the smallest
 * tag is next. Two tenants who both wait are never served further apart, weighed, than one largest
 * request of each. Between bands the first goes first, except that a band with a floor is served
 * what it is owed.
 *
 * A tenant may fill only as much of the queue as it leaves free, so one alone cannot shut it.
 */
export class FairQueue {
  readonly #limits: FairQueueLimits
  readonly #bands: readonly Band[]
  readonly #ids = new Set<string>()
  readonly #tenants = new Map<string, { waiters: number; tokens: number }>()
  #waiters = 0
  #tokens = 0
  #order = 0

  constructor(limits: FairQueueLimits) {
    const floors = limits.bandFloors
    assert(floors.length > 0 && floors[0] === 0, 'the first band has no floor')
    assert(floors.reduce((sum, floor) => sum + floor, 0) < 1, 'floors leave something to the first')
    this.#limits = limits
    this.#bands = floors.map(() => ({ entries: [], clock: 0, finish: new Map(), owedTokens: 0 }))
  }

  get size(): { readonly waiters: number; readonly tokens: number } {
    return { waiters: this.#waiters, tokens: this.#tokens }
  }

  has(id: string): boolean {
    return this.#ids.has(id)
  }

  /** Takes a waiter in; false when there is no room for it. */
  enqueue(waiter: Waiter): boolean {
    assert(waiter.tokens > 0 && waiter.weight > 0, 'a waiter has tokens and a weight')
    assert(!this.#ids.has(waiter.id), 'nobody waits twice')
    const own = this.#tenants.get(waiter.tenantId) ?? { waiters: 0, tokens: 0 }
    const freeWaiters = this.#limits.waitersMax - this.#waiters
    const freeTokens = this.#limits.tokensMax - this.#tokens
    const crowded = own.waiters + 1 > freeWaiters || own.tokens + waiter.tokens > freeTokens
    // Room for one is left to a tenant who has none, however much it would take.
    if (crowded && (own.waiters > 0 || freeWaiters < 1 || waiter.tokens > freeTokens)) return false
    const band = this.#band(waiter.band)
    const start = Math.max(band.clock, band.finish.get(waiter.tenantId) ?? 0)
    band.finish.set(waiter.tenantId, start + waiter.tokens / waiter.weight)
    band.entries.push({ waiter, start, order: this.#order++ })
    this.#account(waiter, 1)
    return true
  }

  /** Whose turn it is, without giving it; null when nobody waits. Overdue waiters stay until `expire`. */
  peek(): Waiter | null {
    return this.#next()?.entry.waiter ?? null
  }

  /** Gives the turn to whom `peek` names. */
  take(): Waiter | null {
    const next = this.#next()
    if (next === null) return null
    const { band, entry } = next
    const { tokens } = entry.waiter
    for (const [index, other] of this.#bands.entries()) {
      if (other.entries.length > 0) other.owedTokens += this.#floor(index) * tokens
    }
    band.owedTokens = Math.max(0, band.owedTokens - tokens)
    band.clock = Math.max(band.clock, entry.start)
    this.#remove(band, entry)
    return entry.waiter
  }

  /** Takes out whoever has gone away; false when not there. */
  remove(id: string): boolean {
    if (!this.#ids.has(id)) return false
    for (const band of this.#bands) {
      const entry = band.entries.find((candidate) => candidate.waiter.id === id)
      if (entry === undefined) continue
      this.#remove(band, entry)
      return true
    }
    return false
  }

  /** Takes out everyone whose deadline has come, in the order of deadlines. */
  expire(nowMs: number): readonly Waiter[] {
    const overdue = this.#bands.flatMap((band) =>
      band.entries.filter(({ waiter }) => waiter.deadlineMs <= nowMs),
    )
    for (const entry of overdue) this.#remove(this.#band(entry.waiter.band), entry)
    return overdue
      .toSorted((a, b) => a.waiter.deadlineMs - b.waiter.deadlineMs || a.order - b.order)
      .map(({ waiter }) => waiter)
  }

  firstDeadlineMs(): number | null {
    const deadlines = this.#bands.flatMap(({ entries }) =>
      entries.map(({ waiter }) => waiter.deadlineMs),
    )
    return deadlines.length === 0 ? null : Math.min(...deadlines)
  }

  #next(): { readonly band: Band; readonly entry: Entry } | null {
    const heads = this.#bands.flatMap((band, index) => {
      const entry = band.entries.reduce<Entry | null>(earlier, null)
      return entry === null ? [] : [{ band, entry, index }]
    })
    const owed = heads.filter(({ band, entry }) => band.owedTokens >= entry.waiter.tokens)
    const mostOwed = owed.toSorted((a, b) => b.band.owedTokens - a.band.owedTokens)[0]
    return mostOwed ?? heads[0] ?? null
  }

  #remove(band: Band, entry: Entry): void {
    band.entries.splice(band.entries.indexOf(entry), 1)
    this.#account(entry.waiter, -1)
    if (band.entries.length > 0) return
    // Nobody waits: tags only order those who wait together, and an idle band saves nothing up.
    band.finish.clear()
    band.clock = 0
    band.owedTokens = 0
  }

  #account({ id, tenantId, tokens }: Waiter, sign: 1 | -1): void {
    const own = this.#tenants.get(tenantId) ?? { waiters: 0, tokens: 0 }
    const after = { waiters: own.waiters + sign, tokens: own.tokens + sign * tokens }
    if (after.waiters === 0) this.#tenants.delete(tenantId)
    else this.#tenants.set(tenantId, after)
    if (sign > 0) this.#ids.add(id)
    else this.#ids.delete(id)
    this.#waiters += sign
    this.#tokens += sign * tokens
  }

  #band(index: number): Band {
    const band = this.#bands[index]
    assert(band !== undefined, 'a waiter is of a band that there is')
    return band
  }

  #floor(index: number): number {
    return this.#limits.bandFloors[index] ?? 0
  }
}

function earlier(best: Entry | null, entry: Entry): Entry {
  if (best === null) return entry
  if (entry.start !== best.start) return entry.start < best.start ? entry : best
  return entry.order < best.order ? entry : best
}
