import { RATE_DIMENSIONS } from '../../edge/src/admission/cost.ts'
import type { Cost } from '../../edge/src/admission/cost.ts'
import type { RateLimit } from '../../edge/src/admission/limits.ts'
import type { Posting } from '../../edge/src/admission/ledger.ts'
import type { SettledRecord } from '../../edge/src/admission/prices.ts'
import type { LoggedEvent, SimEvent } from './events.ts'
import type { TenantActor } from './tenant-actor.ts'
import { asText } from './tenant-actor.ts'
import { TurnAuditor } from './turn-auditor.ts'
import type { TurnAuditOptions } from './turn-auditor.ts'

export interface Violation {
  readonly invariant: string
  readonly what: string
  readonly atMs: number
}

type EventOf<Kind extends SimEvent['kind']> = Extract<SimEvent, { readonly kind: Kind }> & {
  readonly atMs: number
}

export interface AuditOptions {
  readonly leaseLifeMs: number
  readonly revocationMs: number
  readonly tickMs: number
  /** Nothing is lent and nothing estimated: the cap has to hold to the last request. */
  readonly strict: boolean
  readonly turns: Omit<TurnAuditOptions, 'fail'>
}

/**
 * The core's twin, written the slow way: it believes only what truly happened (`events`) and what is
 * stored, and recomputes everything from the beginning. It shares no arithmetic with the core.
 */
export class Auditor {
  readonly violations: Violation[] = []
  /** What became of a pool's turns and leases, once the run is over. */
  turnCounts: Readonly<Record<string, number>> = {}
  readonly #events: readonly LoggedEvent[]
  readonly #now: () => number

  constructor(events: readonly LoggedEvent[], now: () => number) {
    this.#events = events
    this.#now = now
  }

  fail(invariant: string, what: string): void {
    this.violations.push({ invariant, what, atMs: this.#now() })
  }

  /** After each transaction: what must hold of the rows at every commit. */
  onCommit({ store, terms, tenantId }: TenantActor): void {
    const balance = store.balances.get('tenant')
    if (terms.billing.kind === 'prepaid' && balance < 0n) {
      this.fail('I4', `${tenantId} has a balance of ${balance}`)
    }
    const leases = store.leases.due(Infinity, Infinity)
    const reservations = store.reservations.due(Infinity, Infinity)
    const held = [
      ...reservations.map(({ holdPico }) => holdPico),
      ...leases.map(({ grantedPico, consumedPico }) => grantedPico - consumedPico),
    ].reduce((sum, pico) => sum + BigInt(pico), 0n)
    const stored = store.totals.get('tenant')?.heldPico ?? '0'
    if (held !== BigInt(stored)) this.fail('I2', `holds are ${held} and stored as ${stored}`)
    const taken = new Map<string, number>()
    for (const { id: holderId, limitIds, slots } of store.holders.due(Infinity, Infinity)) {
      if (store.journal.find(holderId) !== undefined) {
        this.fail('I2', `${holderId} is over and still has its place`)
      }
      for (const id of limitIds) taken.set(id, (taken.get(id) ?? 0) + slots)
    }
    for (const limit of terms.limits) {
      if (limit.dimension !== 'concurrency') continue
      const used = store.slots.get(limit.id)?.used ?? 0
      if (used !== (taken.get(limit.id) ?? 0)) this.fail('I2', `${limit.id} counts ${used} places`)
    }
  }

  /** When the run is over. */
  finish(tenants: readonly TenantActor[], options: AuditOptions): void {
    for (const tenant of tenants) {
      this.#checkLedger(tenant)
      this.#checkRest(tenant)
      this.#checkUsed(tenant)
      this.#checkReplay(tenant)
      for (const limit of tenant.terms.limits) {
        if (limit.dimension !== 'concurrency' && limit.burstMs < 60_000) {
          this.#checkCap(tenant.tenantId, limit, options)
        }
      }
    }
    this.#checkLeases(options)
    this.#checkPassing()
    this.#checkRevocations(options)
    this.#checkTurns(options)
    this.#checkDeadlines(options)
    this.#checkDelivery()
  }

  /** I3, I5, I14: one terminal posting per request, of what its record says, and nothing else. */
  #checkLedger({ tenantId, store, terms }: TenantActor): void {
    const records = new Map(
      this.#of('recorded')
        .filter((event) => event.tenantId === tenantId)
        .map(({ record }) => [record.requestId, record]),
    )
    const terminal = new Map<string, Posting[]>()
    const ids = new Set(store.postings.map(({ id }) => id))
    if (ids.size !== store.postings.length) this.fail('I5', `${tenantId} has an id posted twice`)
    const sums = new Map<string, bigint>()
    for (const posting of store.postings) {
      sums.set(posting.from, (sums.get(posting.from) ?? 0n) - posting.amountPico)
      sums.set(posting.to, (sums.get(posting.to) ?? 0n) + posting.amountPico)
      if (posting.kind !== 'settle' && posting.kind !== 'void') continue
      terminal.set(posting.id, [...(terminal.get(posting.id) ?? []), posting])
    }
    for (const [account, sum] of sums) {
      const kept = store.balances.get(account as Posting['from'])
      if (kept !== sum) this.fail('I5', `${account} is ${kept}, its postings make ${sum}`)
    }
    const total = [...sums.values()].reduce((sum, balance) => sum + balance, 0n)
    if (total !== 0n) this.fail('I5', `all accounts together are ${total}`)
    if ((sums.get('writeoff') ?? 0n) !== 0n) this.fail('I4', `${tenantId} could not pay everything`)
    for (const [id, postings] of terminal) {
      if (postings.length !== 1) this.fail('I5', `${id} has ${postings.length} terminal postings`)
    }
    const contracted = terms.prices.contract.length > 0
    for (const [id, record] of records) {
      const posting = terminal.get(id)?.[0]
      const expected = contracted ? null : BigInt(costByHand(record))
      if (posting === undefined) this.fail('I3', `${id} has a record and no posting`)
      else if (posting.kind !== 'settle') this.fail('I3', `${id} ran and was released`)
      else if (expected !== null && posting.amountPico !== expected) {
        this.fail(
          'I14',
          `${id} cost ${expected} by its record and ${posting.amountPico} in the ledger`,
        )
      }
    }
    for (const { requestId } of this.#of('admitted').filter((e) => e.tenantId === tenantId)) {
      const alive = records.has(requestId) || terminal.has(requestId)
      const known = this.#knownToObject(tenantId).has(requestId)
      if (known && !alive) this.fail('I5', `${requestId} was admitted and never came to an end`)
    }
    for (const [id, [posting]] of terminal) {
      if (posting?.kind === 'settle' && !records.has(id)) {
        this.fail('I14', `${id} was charged without a record`)
      }
    }
  }

  /** I2: when all is over, nothing is held, lent or taken. */
  #checkRest({ tenantId, store, terms }: TenantActor): void {
    const rest = {
      reservations: store.reservations.due(Infinity, Infinity).length,
      leases: store.leases.due(Infinity, Infinity).length,
      holders: store.holders.due(Infinity, Infinity).length,
      parked: store.parked.due(Infinity, Infinity).length,
      held: store.totals.get('tenant')?.heldPico ?? '0',
    }
    const clean = { reservations: 0, leases: 0, holders: 0, parked: 0, held: '0' }
    for (const { id } of terms.limits) {
      const held = store.buckets.get(id)?.held ?? 0
      if (held !== 0) this.fail('I2', `${id} of ${tenantId} still holds ${held}`)
    }
    if (asText(rest) !== asText(clean)) this.fail('I2', `${tenantId} is left with ${asText(rest)}`)
  }

  /**
   * I2: a limit so wide that it never binds and so slow that it hardly drains is a meter. In the
   * end it has to read what the records say was used: whatever was lent, returned, expired, trued
   * up and refunded in between has to have cancelled out.
   */
  #checkUsed({ tenantId, store, terms }: TenantActor): void {
    const records = this.#of('recorded').filter((event) => event.tenantId === tenantId)
    for (const limit of terms.limits) {
      if (limit.dimension === 'concurrency' || limit.burstMs < 60_000) continue
      const bucket = store.buckets.get(limit.id)
      if (bucket === undefined) continue
      const expected = records.reduce(
        (sum, { record }) => sum + inMeasure(usedByHand(record), limit.dimension),
        0,
      )
      const minutes = (this.#now() - FIRST_MS) / 60_000
      const read = bucket.owedUnits / 60_000
      if (read > expected || read < expected - minutes - 1) {
        this.fail('I2', `${limit.id} of ${tenantId} reads ${read}, used were ${expected}`)
      }
    }
  }

  /** The same calls on an empty store give the same answers and the same journal. */
  #checkReplay(tenant: TenantActor): void {
    const { firstDifference, journal } = tenant.replay()
    if (firstDifference !== null) this.fail('I5', `call ${firstDifference} replays differently`)
    if (journal !== asText(tenant.store.postings))
      this.fail('I5', 'the journal replays differently')
  }

  /** I1, window by window, over every pair of admissions. */
  #checkCap(tenantId: string, limit: RateLimit, { strict, leaseLifeMs }: AuditOptions): void {
    const own = (event: { tenantId: string; scope: { keyId: string } }): boolean =>
      event.tenantId === tenantId &&
      (limit.scope.keyId === undefined || limit.scope.keyId === event.scope.keyId)
    const admitted = this.#firstAdmissions().filter(own)
    const lent = this.#of('lent').filter(own)
    const costs = admitted.map(({ cost }) => inMeasure(cost, limit.dimension))
    const burst = Math.max(1, Math.floor((limit.perMinute * limit.burstMs) / 60_000))
    const allowed = Math.max(burst, ...costs)
    const refunds = this.#refunds(tenantId, limit.dimension)
    for (const [first, { atMs: fromMs }] of admitted.entries()) {
      let sum = 0
      for (const [offset, { atMs, cost }] of admitted.slice(first).entries()) {
        sum += inMeasure(cost, limit.dimension)
        const drained = ((atMs - fromMs) * limit.perMinute) / 60_000
        if (sum <= allowed + drained) continue
        const slack = strict
          ? 0
          : sumOf(
              lent.filter((l) => l.atMs > fromMs - leaseLifeMs && l.atMs <= atMs),
              ({ cost: share }) => inMeasure(share, limit.dimension),
            )
        const back = sumOf(
          refunds.filter((refund) => refund.untilMs >= fromMs && refund.fromMs <= atMs),
          ({ amount }) => amount,
        )
        if (sum <= allowed + drained + slack + back + 1e-6) continue
        const window = `${offset + 1} requests within ${atMs - fromMs} ms`
        this.fail('I1', `${limit.id} of ${tenantId} took ${sum} in ${window}`)
        return
      }
    }
  }

  /** What estimates were too high by, and when it may have been given back. */
  #refunds(
    tenantId: string,
    dimension: RateLimit['dimension'],
  ): readonly { fromMs: number; untilMs: number; amount: number }[] {
    const records = new Map(this.#of('recorded').map((event) => [event.record.requestId, event]))
    const applied = new Map(this.#of('applied').map((event) => [event.requestId, event.atMs]))
    const released = new Map(this.#of('released').map((event) => [event.requestId, event.atMs]))
    const arrivals = new Map(this.#of('arrived').map((event) => [event.requestId, event.atMs]))
    return this.#firstAdmissions()
      .filter((event) => event.tenantId === tenantId)
      .flatMap(({ requestId, cost }) => {
        const recorded = records.get(requestId)
        const used = recorded === undefined ? 0 : inMeasure(usedByHand(recorded.record), dimension)
        const amount = inMeasure(cost, dimension) - used
        const untilMs = applied.get(requestId) ?? released.get(requestId) ?? Infinity
        // Nothing is known to be less than estimated before a backend has the request.
        const fromMs = Math.min(arrivals.get(requestId) ?? Infinity, untilMs)
        return amount > 0 ? [{ fromMs, untilMs, amount }] : []
      })
  }

  /** I2 and I6: no lease is overspent, nor spent after its time. */
  #checkLeases({ leaseLifeMs }: AuditOptions): void {
    const lent = new Map(this.#of('lent').map((event) => [event.leaseId, event]))
    const spent = new Map<string, Cost>()
    for (const { leaseId, cost, atMs, requestId } of this.#firstAdmissions()) {
      if (leaseId === null) continue
      const lease = lent.get(leaseId)
      if (lease === undefined) {
        this.fail('I6', `${requestId} came from a lease that nobody gave`)
        continue
      }
      if (atMs > lease.atMs + leaseLifeMs) {
        this.fail('I6', `${requestId} came from a lease ${atMs - lease.atMs} ms old`)
      }
      const before = spent.get(leaseId)
      const sum = before === undefined ? cost : addByHand(before, cost)
      spent.set(leaseId, sum)
      if (RATE_DIMENSIONS.some((dimension) => sum[dimension] > lease.cost[dimension])) {
        this.fail('I2', `lease ${leaseId} was overspent`)
      }
    }
  }

  /**
   * I7 within a tenant: of requests that count for the same limits nobody is let in, and nobody is
   * lent anything, while an earlier one waits. What had been lent before may still be spent.
   */
  #checkPassing(): void {
    const waiting = new Map<string, EventOf<'queued'>>()
    const order = new Map<string, number>()
    for (const { event, atMs } of this.#events) {
      if (event.kind === 'queued') {
        waiting.set(event.requestId, { ...event, atMs })
        order.set(event.requestId, order.size)
      } else if (event.kind === 'unqueued') {
        for (const [id, { tenantId }] of waiting) {
          const lost = event.requestId === null && event.tenantId === tenantId
          if (lost || event.requestId === id) waiting.delete(id)
        }
      } else if (event.kind === 'lent' || (event.kind === 'admitted' && event.leaseId === null)) {
        const passer = event.kind === 'admitted' ? event.requestId : event.leaseId
        const place = order.get(passer) ?? order.size
        // Admitted once: a repeated call that says so again passes nobody.
        order.set(passer, -1)
        const passed = [...waiting.values()].find(
          ({ requestId, tenantId, keyId }) =>
            tenantId === event.tenantId &&
            keyId === event.scope.keyId &&
            (order.get(requestId) ?? 0) < place,
        )
        if (passed !== undefined) this.fail('I7', `${passer} passed ${passed.requestId}`)
      }
    }
  }

  /** I12, of admissions and of dispatches. */
  #checkRevocations({ revocationMs }: AuditOptions): void {
    for (const { tenantId, keyId, atMs: revokedAtMs } of this.#of('revoked')) {
      const late = [
        ...this.#firstAdmissions().map((event) => ({ ...event, keyId: event.scope.keyId })),
        ...this.#of('dispatched'),
      ].filter(
        (event) =>
          event.tenantId === tenantId &&
          event.keyId === keyId &&
          event.atMs > revokedAtMs + revocationMs,
      )
      for (const { requestId, atMs } of late) {
        this.fail('I12', `${requestId} passed ${atMs - revokedAtMs} ms after ${keyId} was revoked`)
      }
    }
  }

  /** I10, and with it the rest of what holds of a pool's turns. */
  #checkTurns({ turns }: AuditOptions): void {
    const fail = (invariant: string, what: string, atMs: number): void => {
      this.violations.push({ invariant, what, atMs })
    }
    const auditor = new TurnAuditor({ ...turns, fail })
    auditor.check(this.#events)
    this.turnCounts = auditor.counts
  }

  /** I13. */
  #checkDeadlines({ tickMs }: AuditOptions): void {
    for (const { requestId, deadlineMs, atMs } of this.#of('turn')) {
      if (atMs > deadlineMs + tickMs) {
        this.fail('I13', `${requestId} was answered ${atMs - deadlineMs} ms after its deadline`)
      }
    }
  }

  /** I14, seen from the client: it is billed for no token that did not reach it. */
  #checkDelivery(): void {
    const delivered = new Map(this.#of('delivered').map((event) => [event.requestId, event.tokens]))
    for (const { record } of this.#of('recorded')) {
      const reached = delivered.get(record.requestId)
      if (reached !== undefined && reached !== record.deliveredTokens) {
        this.fail(
          'I14',
          `${record.requestId} delivered ${reached}, recorded ${record.deliveredTokens}`,
        )
      }
    }
  }

  #knownToObject(tenantId: string): ReadonlySet<string> {
    const direct = this.#of('admitted').filter(
      (event) => event.tenantId === tenantId && event.leaseId === null,
    )
    return new Set(direct.map(({ requestId }) => requestId))
  }

  /** A repeated call is logged again; it admits nothing more. */
  #firstAdmissions(): readonly EventOf<'admitted'>[] {
    const seen = new Set<string>()
    return this.#of('admitted').filter(({ requestId }) => {
      if (seen.has(requestId)) return false
      seen.add(requestId)
      return true
    })
  }

  #of<Kind extends SimEvent['kind']>(kind: Kind): EventOf<Kind>[] {
    return this.#events.flatMap(({ event, atMs }) =>
      event.kind === kind ? [{ ...(event as Extract<SimEvent, { kind: Kind }>), atMs }] : [],
    )
  }
}

/** The instant worlds begin at. */
export const FIRST_MS = 1_000_000

/** Flash's list price of 24 April 2026, spelt out. */
function costByHand(record: SettledRecord): number {
  if (record.outcome === 'failed') return 0
  const left = record.outcome === 'cancelled'
  const output = left ? record.deliveredTokens : record.completionTokens
  const cached = record.cachedTokens
  const miss = left ? (record.prefilledTokens ?? 0) : record.promptTokens - cached
  return cached * 28_000 + miss * 140_000 + output * 280_000
}

function usedByHand(record: SettledRecord): Cost {
  const nothing = record.outcome === 'failed' && record.deliveredTokens === 0
  const times = nothing ? 0 : 1
  return {
    requests: times,
    inputTokens: times * record.promptTokens,
    uncachedInputTokens: times * (record.promptTokens - record.cachedTokens),
    outputTokens: times * record.completionTokens,
  }
}

function inMeasure(cost: Cost, measure: RateLimit['dimension']): number {
  if (measure !== 'tokens') return cost[measure]
  return cost.inputTokens + cost.outputTokens
}

function addByHand(a: Cost, b: Cost): Cost {
  return {
    requests: a.requests + b.requests,
    inputTokens: a.inputTokens + b.inputTokens,
    uncachedInputTokens: a.uncachedInputTokens + b.uncachedInputTokens,
    outputTokens: a.outputTokens + b.outputTokens,
  }
}

function sumOf<Item>(items: readonly Item[], amountOf: (item: Item) => number): number {
  return items.reduce((sum, item) => sum + amountOf(item), 0)
}
