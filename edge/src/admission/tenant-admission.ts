import { assert } from './assert.ts'
import { addCost, costFits, NO_COST, subtractCost } from './cost.ts'
import type { Cost } from './cost.ts'
import { estimateCost, estimatesOf, learn, meanOutputTokens, NEW_ESTIMATOR } from './estimator.ts'
import type { Estimates, EstimatorState, RequestSize } from './estimator.ts'
import { leaseSize } from './lease-size.ts'
import type { Demand } from './lease-size.ts'
import { post } from './ledger.ts'
import type { Account, Posting, PostingKind, PostingUsage, PostStatus } from './ledger.ts'
import type { Limit, Scope } from './limits.ts'
import { planMoney } from './money.ts'
import type { Billing, MoneyPlan } from './money.ts'
import { DEFAULT_POLICY, TRUE_UP_TOKENS } from './policy.ts'
import type { AdmissionPolicy } from './policy.ts'
import { amountOf, billedUsage, priceAt } from './prices.ts'
import type { BilledUsage, Price, PriceVersion, SettledRecord } from './prices.ts'
import { NOTHING_AHEAD, TenantCapacity } from './tenant-capacity.ts'
import type { LimitState, TakenAhead } from './tenant-capacity.ts'
import type { Lease, LeaseRow, ReservationRow, TenantStore, TotalsRow } from './tenant-store.ts'

/** What a tenant has agreed to; the object keeps it and builds the class from it. */
export interface TenantTerms {
  readonly limits: readonly Limit[]
  readonly billing: Billing
  readonly prices: {
    readonly list: readonly PriceVersion[]
    readonly contract: readonly PriceVersion[]
  }
}

export interface AdmitRequest extends RequestSize {
  readonly requestId: string
  readonly scope: Scope
  /** What the caller will pay for it at most; null: whatever it costs. */
  readonly maxCostPico: number | null
}

/** An isolate's wish for a lease beside its request. It makes the id; a repeat gets the same one. */
export interface LeaseAsk {
  readonly leaseId: string
  readonly isolateId: string
  readonly demand: Demand
  /** How long ago, by its own clock, the isolate got its last lease under this scope; null: never. */
  readonly sinceLastMs: number | null
}

export type RefusalReason =
  /** The id has a terminal posting: this request is over. */
  | 'duplicate'
  | 'no_price'
  | 'max_cost'
  | 'balance'
  | 'concurrency'
  | 'rate'
  /** Said by the object, which keeps the keys: this one has been revoked or has expired. */
  | 'key'

export interface Refusal {
  readonly status: 'refused'
  readonly reason: RefusalReason
  /** Every limit the request was held against; empty when it did not come to that. */
  readonly limits: readonly LimitState[]
  /** The limit that takes longest to make room; null when it is not a limit that refuses. */
  readonly binding: LimitState | null
  /** When trying again is of use, without jitter; null when time alone does not help. */
  readonly retryAfterMs: number | null
  /** Where time would make the room that is missing: what waiting for it comes to. */
  readonly shortage: Shortage | null
}

export interface Shortage {
  readonly estimate: Cost
  /** Of the estimate, what such a request uses on average. */
  readonly likely: Cost
  /** The limits without room for it, or that others wait for already. */
  readonly limitIds: readonly string[]
  /** A place of concurrency is missing too: that falls free when some answer ends, not by time. */
  readonly ofPlaces: boolean
  /** Until there is room, if those ahead use what requests use on average. */
  readonly likelyWaitMs: number
}

/** Those who wait already for room under the same tenant's limits, and so come first. */
export interface Ahead {
  /** What they are estimated to take. */
  readonly estimated: TakenAhead
  /** What they are likely to take. */
  readonly likely: TakenAhead
  /** The limits they wait for: nobody else may take room there. */
  readonly limitIds: ReadonlySet<string>
}

export const NOBODY_AHEAD: Ahead = {
  estimated: NOTHING_AHEAD,
  likely: NOTHING_AHEAD,
  limitIds: new Set(),
}

export interface Admission {
  readonly status: 'admitted'
  readonly reservation: ReservationRow
  readonly lease: Lease | null
  readonly limits: readonly LimitState[]
  readonly keyEpoch: number
}

/** A request that an isolate admitted under a lease. */
export interface Spend extends RequestSize {
  readonly requestId: string
  readonly estimate: Cost
  readonly grantedOutputTokens: number
  readonly holdPico: number
  /** How long before the report was sent. */
  readonly agoMs: number
}

/** What became of a lease: every request admitted under it, from the `first`-th on. */
export interface LeaseReport {
  readonly lease: Pick<Lease, 'leaseId' | 'scope' | 'price'>
  readonly first: number
  readonly spends: readonly Spend[]
  /** No further request will be admitted under it; what is left goes back. */
  readonly closes: boolean
}

export interface Progress {
  readonly requestId: string
  readonly promptTokens: number
  readonly cachedTokens: number
  readonly completionTokens: number
}

/**
 * `parked`: nothing known of the request yet. `late`: it had been released as unknown; kept for the
 * operator, billed to nobody.
 */
export type SettleStatus = 'applied' | 'exists' | 'conflict' | 'late' | 'parked'

/** What the backend says of a request whose record is missed. */
export type BackendAnswer =
  | { readonly kind: 'record'; readonly record: SettledRecord }
  | { readonly kind: 'under_way' }
  | { readonly kind: 'unknown' }

const SWEPT_MAX = 500

/**
 * A tenant's limits, money and ledger: what the tenant object does in one transaction each. Rows
 * come from and go to the store; time is an argument; nothing else is read, so the same calls on
 * the same rows make the same decisions.
 */
export class TenantAdmission {
  readonly #store: TenantStore
  readonly #terms: TenantTerms
  readonly #policy: AdmissionPolicy
  readonly #capacity: TenantCapacity

  constructor(store: TenantStore, terms: TenantTerms, policy: AdmissionPolicy = DEFAULT_POLICY) {
    this.#store = store
    this.#terms = terms
    this.#policy = policy
    this.#capacity = new TenantCapacity(store, terms.limits, policy.slotRetryMs)
  }

  /**
   * Reserves for one request in all dimensions or in none, and lends the isolate some more where
   * there is plenty. A repeated call gives the reservation there is. Nobody passes those who are
   * `ahead` at a limit that they wait for.
   */
  admit(
    request: AdmitRequest,
    ask: LeaseAsk | null,
    nowMs: number,
    ahead: Ahead = NOBODY_AHEAD,
  ): Admission | Refusal {
    this.#freeDue(nowMs)
    const limits = this.#capacity.limitsOn(request.scope)
    const existing = this.#store.reservations.get(request.requestId)
    if (existing !== undefined) return this.#admitted(existing, ask, limits, nowMs)
    const plan = this.#plan(request, nowMs)
    if ('refused' in plan) return refusal(plan.refused)
    const states = this.#capacity.states(limits, plan.estimate, nowMs)
    const short = states.filter(({ limitId, waitMs }) => waitMs > 0 || ahead.limitIds.has(limitId))
    if (short.length > 0) return this.#limitRefusal(request, { plan, limits, short, ahead }, nowMs)
    const reservation = this.#reserve(request, plan, limits, nowMs)
    if (this.#applyParked(reservation, nowMs)) return refusal('duplicate')
    return this.#admitted(reservation, ask, limits, nowMs)
  }

  limitsOn(scope: Scope): readonly Limit[] {
    return this.#capacity.limitsOn(scope)
  }

  /** A lease without a request, so that none has to wait for it; null where none is to be had. */
  refill(scope: Scope, ask: LeaseAsk, nowMs: number): Lease | null {
    this.#freeDue(nowMs)
    const price = priceAt(scope.model, nowMs, this.#terms.prices)
    if (price === null) return null
    return this.#lend(ask, { scope, price }, this.#capacity.limitsOn(scope), nowMs)
  }

  /** What a request would take and how it would fare, without taking anything. */
  quote(request: Omit<AdmitRequest, 'requestId'>, nowMs: number): Quote {
    const limits = this.#capacity.limitsOn(request.scope)
    const estimate = estimateCost(this.#estimates(request.scope.model), request)
    const price = priceAt(request.scope.model, nowMs, this.#terms.prices)
    const usage = { promptTokens: estimate.inputTokens, outputTokens: estimate.outputTokens }
    return {
      estimate,
      price,
      expectedPico: price === null ? null : amountOf(price, { ...usage, cachedTokens: 0 }),
      availablePico: this.availablePico(),
      limits: this.#capacity.states(limits, estimate, nowMs),
    }
  }

  /** How the limits on `scope` stand, for headers and for the tenant's own view. */
  limits(scope: Scope, nowMs: number): readonly LimitState[] {
    return this.#capacity.states(this.#capacity.limitsOn(scope), NO_COST, nowMs)
  }

  /**
   * Takes in what was admitted under a lease, in the isolate's numbering, and gives the number it
   * has got to: reports may be repeated, overlap, or come after the lease has expired.
   */
  report({ lease, first, spends, closes }: LeaseReport, nowMs: number): number {
    const row = this.#store.leases.get(lease.leaseId)
    const counted = row?.spendsCounted ?? 0
    assert(row === undefined || first <= counted, 'what is confirmed is not forgotten')
    const news = row === undefined ? spends : spends.slice(counted - first)
    this.#store.expect(news.map(({ requestId }) => requestId))
    for (const spend of news) this.#recordSpend(spend, lease, nowMs)
    const total = Math.max(counted, first + spends.length)
    if (closes && row !== undefined && total === first + spends.length) {
      this.#closeLease(lease.leaseId, nowMs)
    }
    return total
  }

  /** How far a running request is. May come twice, late or out of order; nothing goes backwards. */
  progress(update: Progress, nowMs: number): void {
    const row = this.#store.reservations.get(update.requestId)
    if (row === undefined) return
    this.#capacity.keepSlots(row.id, nowMs + this.#policy.slotTtlMs)
    const charged = chargedAfter(row, update)
    const change = {
      charged: subtractCost(charged, row.charged),
      heldOutputTokens: heldOutput(row.estimate, charged) - heldOutput(row.estimate, row.charged),
    }
    this.#capacity.move(row.limitIds, change, nowMs)
    const promptKnown = row.promptKnown || update.promptTokens > 0
    const holdPico = this.#holdAfter(row, charged, promptKnown)
    const news =
      promptKnown !== row.promptKnown || charged.outputTokens !== row.charged.outputTokens
    if (!news) return
    this.#addHeld(holdPico - row.holdPico)
    this.#store.reservations.put({ ...row, charged, promptKnown, holdPico })
  }

  /** These requests still run, says the isolate that streams them. */
  heartbeat(requestIds: readonly string[], nowMs: number): void {
    for (const id of requestIds) this.#capacity.keepSlots(id, nowMs + this.#policy.slotTtlMs)
  }

  /** Applies a backend's record, exactly once by request id, whatever came before it. */
  settle(record: SettledRecord, nowMs: number): SettleStatus {
    const terminal = this.#store.journal.find(record.requestId)
    if (terminal !== undefined) return compareTerminal(terminal, record)
    const reservation = this.#store.reservations.get(record.requestId)
    if (reservation !== undefined) {
      this.#settleReservation(reservation, record, nowMs)
      return 'applied'
    }
    const parked = this.#store.parked.get(record.requestId)
    if (parked !== undefined) return sameBill(parked.record, record) ? 'parked' : 'conflict'
    const dueAtMs = nowMs + this.#policy.parkedMs
    this.#store.parked.put({ id: record.requestId, record, dueAtMs })
    return 'parked'
  }

  /** Ends a reservation that was not and never will be dispatched. False: there is none. */
  release(requestId: string, nowMs: number): boolean {
    const row = this.#store.reservations.get(requestId)
    if (row === undefined) return false
    this.#endReservation(row, NO_COST, nowMs)
    this.#postTerminal('void', row, NOTHING, nowMs)
    return true
  }

  /** The backend's word on a request that `sweep` asked about. */
  answer(
    requestId: string,
    answer: BackendAnswer,
    nowMs: number,
  ): SettleStatus | 'released' | null {
    switch (answer.kind) {
      case 'record':
        return this.settle(answer.record, nowMs)
      case 'unknown':
        return this.release(requestId, nowMs) ? 'released' : null
      case 'under_way':
        this.heartbeat([requestId], nowMs)
        return null
      default:
        return answer satisfies never
    }
  }

  /**
   * What time has made due: leases and places that have expired, records that waited long enough.
   * Gives the requests to ask the backend about. Safe to run at any time and twice.
   */
  sweep(nowMs: number): { readonly ask: readonly string[]; readonly nextDueAtMs: number | null } {
    this.#freeDue(nowMs)
    for (const { id, record } of this.#store.parked.due(nowMs, SWEPT_MAX)) {
      this.#settleUnreserved(record, nowMs)
      this.#store.parked.delete(id)
    }
    const asked = this.#store.reservations.due(nowMs, SWEPT_MAX)
    for (const row of asked) {
      this.#store.reservations.put({ ...row, dueAtMs: nowMs + this.#policy.askAgainMs })
    }
    const tables = [this.#store.leases, this.#store.holders, this.#store.parked]
    const dues = [...tables, this.#store.reservations].map((table) => table.firstDueMs())
    const known = dues.filter((due) => due !== null)
    return {
      ask: asked.map(({ id }) => id),
      nextDueAtMs: known.length === 0 ? null : Math.min(...known),
    }
  }

  /** A payment in; `id` is the payment's own, and a repeat changes nothing. */
  topUp(id: string, amountPico: bigint, nowMs: number): PostStatus {
    return this.#post({ id, kind: 'topup', from: 'world', to: 'tenant', amountPico }, null, nowMs)
  }

  /** Gives back what should not have been charged; `id` names the correction. */
  credit(id: string, amountPico: bigint, nowMs: number): PostStatus {
    const sides = { from: 'revenue', to: 'tenant' } as const
    return this.#post({ id, kind: 'correction', ...sides, amountPico }, null, nowMs)
  }

  /** A key was changed or revoked: whatever isolates know of keys is void within a lease's time. */
  bumpKeyEpoch(): number {
    const totals = this.#totals()
    const keyEpoch = totals.keyEpoch + 1
    this.#store.totals.put({ ...totals, keyEpoch })
    return keyEpoch
  }

  balancePico(): bigint {
    return this.#store.balances.get('tenant')
  }

  /** What new requests can be held against; below zero once a credit is exceeded. */
  availablePico(): bigint {
    const { billing } = this.#terms
    const credit = billing.kind === 'postpaid' ? billing.creditPico : 0n
    return this.balancePico() + credit - BigInt(this.#totals().heldPico)
  }

  /** The limit that takes longest to make room, those ahead included, is the one to name. */
  #limitRefusal(
    { scope: { model } }: AdmitRequest,
    { plan: { estimate }, limits, short, ahead }: ShortPlan,
    nowMs: number,
  ): Refusal {
    const states = this.#capacity.states(limits, estimate, nowMs, ahead.estimated)
    const likelyStates = this.#capacity.states(limits, estimate, nowMs, ahead.likely)
    const limitIds = short.map(({ limitId }) => limitId)
    const binding = longestWait(
      states.filter(({ limitId, waitMs }) => waitMs > 0 || limitIds.includes(limitId)),
    )
    const mean = meanOutputTokens(this.#estimator(model))
    return {
      status: 'refused',
      reason: binding?.dimension === 'concurrency' ? 'concurrency' : 'rate',
      limits: states,
      binding,
      retryAfterMs: binding?.waitMs ?? null,
      shortage: {
        estimate,
        likely: { ...estimate, outputTokens: Math.min(estimate.outputTokens, mean) },
        limitIds,
        ofPlaces: short.some(({ dimension }) => dimension === 'concurrency'),
        likelyWaitMs: longestWait(likelyStates)?.waitMs ?? 0,
      },
    }
  }

  #plan(request: AdmitRequest, nowMs: number): RequestPlan | { readonly refused: RefusalReason } {
    if (this.#store.journal.find(request.requestId) !== undefined) return { refused: 'duplicate' }
    const price = priceAt(request.scope.model, nowMs, this.#terms.prices)
    if (price === null) return { refused: 'no_price' }
    const estimate = estimateCost(this.#estimates(request.scope.model), request)
    const wanted = { ...request, estimate, prices: price, billing: this.#terms.billing.kind }
    if (planMoney(wanted, UNLIMITED) === null) return { refused: 'max_cost' }
    const money = planMoney(wanted, this.availablePico())
    return money === null ? { refused: 'balance' } : { price, estimate, money }
  }

  #reserve(
    request: AdmitRequest,
    { estimate, price, money }: RequestPlan,
    limits: readonly Limit[],
    nowMs: number,
  ): ReservationRow {
    const limitIds = limits.map(({ id }) => id)
    this.#capacity.reserve(limitIds, estimate, nowMs)
    this.#addHeld(money.holdPico)
    return this.#putReservation({
      id: request.requestId,
      scope: request.scope,
      limitIds,
      bodyBytes: request.bodyBytes,
      admittedAtMs: nowMs,
      price,
      estimate,
      charged: { ...estimate, outputTokens: 0 },
      grantedOutputTokens: money.grantedOutputTokens,
      holdPico: money.holdPico,
      promptKnown: false,
      dueAtMs: nowMs + this.#policy.askAfterMs,
    })
  }

  #putReservation(row: ReservationRow): ReservationRow {
    this.#store.reservations.put(row)
    const untilMs = row.dueAtMs - this.#policy.askAfterMs + this.#policy.slotTtlMs
    this.#capacity.holdSlots(row.id, row.limitIds, 1, untilMs)
    return row
  }

  #admitted(
    reservation: ReservationRow,
    ask: LeaseAsk | null,
    limits: readonly Limit[],
    nowMs: number,
  ): Admission {
    return {
      status: 'admitted',
      reservation,
      lease: ask === null ? null : this.#lend(ask, reservation, limits, nowMs),
      limits: this.#capacity.states(limits, NO_COST, nowMs),
      keyEpoch: this.#totals().keyEpoch,
    }
  }

  #lend(
    ask: LeaseAsk,
    { scope, price }: Pick<ReservationRow, 'scope' | 'price'>,
    limits: readonly Limit[],
    nowMs: number,
  ): Lease | null {
    const existing = this.#store.leases.get(ask.leaseId)
    if (existing !== undefined) return existing.state === 'open' ? existing.lease : null
    if (ask.sinceLastMs !== null && ask.sinceLastMs < this.#policy.leaseRefillMs) return null
    const left = this.#capacity.remaining(limits, nowMs)
    const size = leaseSize(ask.demand, { ...left, pico: this.availablePico() })
    if (size === null) return null
    const lease: Lease = {
      leaseId: ask.leaseId,
      scope,
      ttlMs: this.#policy.leaseTtlMs,
      ...size,
      billing: this.#terms.billing.kind,
      price,
      estimates: this.#estimates(scope.model),
      keyEpoch: this.#totals().keyEpoch,
    }
    this.#putLease(
      lease,
      ask.isolateId,
      limits.map(({ id }) => id),
      nowMs,
    )
    return lease
  }

  #putLease(lease: Lease, isolateId: string, limitIds: readonly string[], nowMs: number): void {
    const { leaseId: id, scope, cost, pico } = lease
    const dueAtMs = nowMs + this.#policy.leaseTtlMs + this.#policy.leaseReportGraceMs
    this.#capacity.reserve(limitIds, cost, nowMs)
    this.#capacity.holdSlots(id, limitIds, cost.requests, dueAtMs)
    this.#addHeld(pico)
    this.#store.leases.put({
      id,
      isolateId,
      scope,
      limitIds,
      granted: cost,
      consumed: NO_COST,
      grantedPico: pico,
      consumedPico: 0,
      spendsCounted: 0,
      state: 'open',
      lease,
      dueAtMs,
    })
  }

  /** One request out of a report: out of the lease, into a reservation of its own. */
  #recordSpend(spend: Spend, lease: LeaseReport['lease'], nowMs: number): void {
    const row = this.#store.leases.get(lease.leaseId)
    const over = this.#store.journal.find(spend.requestId) !== undefined
    if (row !== undefined) this.#countSpend(row, spend)
    // A request may be known from elsewhere only by a bug or by its record; both charge it once.
    const fromLease = row?.state === 'open'
    const known = over || this.#store.reservations.get(spend.requestId) !== undefined
    const limitIds = row?.limitIds ?? this.#capacity.limitsOn(lease.scope).map(({ id }) => id)
    if (known) {
      if (fromLease) this.#capacity.unreserve(limitIds, spend.estimate, nowMs)
      return
    }
    if (!fromLease) this.#capacity.reserve(limitIds, spend.estimate, nowMs)
    this.#addHeld(spend.holdPico)
    const admittedAtMs = nowMs - spend.agoMs
    const reservation = this.#putReservation({
      id: spend.requestId,
      scope: lease.scope,
      limitIds,
      bodyBytes: spend.bodyBytes,
      admittedAtMs,
      price: lease.price,
      estimate: spend.estimate,
      charged: { ...spend.estimate, outputTokens: 0 },
      grantedOutputTokens: spend.grantedOutputTokens,
      holdPico: spend.holdPico,
      promptKnown: false,
      dueAtMs: nowMs + this.#policy.askAfterMs,
    })
    this.#applyParked(reservation, nowMs)
  }

  #countSpend(row: LeaseRow, spend: Spend): void {
    const consumed = addCost(row.consumed, spend.estimate)
    const consumedPico = row.consumedPico + spend.holdPico
    assert(costFits(consumed, row.granted), 'an isolate spends no more than its lease')
    assert(consumedPico <= row.grantedPico, 'an isolate spends no more money than its lease')
    const spendsCounted = row.spendsCounted + 1
    this.#addHeld(-spend.holdPico)
    this.#store.leases.put({ ...row, consumed, consumedPico, spendsCounted })
    const places = this.#store.holders.get(row.id)
    if (places === undefined) return
    this.#capacity.holdSlots(row.id, places.limitIds, places.slots - 1, places.dueAtMs)
  }

  #closeLease(leaseId: string, nowMs: number): void {
    const row = this.#store.leases.get(leaseId)
    if (row === undefined) return
    if (row.state === 'open') this.#returnCapacity(row, nowMs)
    this.#addHeld(row.consumedPico - row.grantedPico)
    this.#store.leases.delete(leaseId)
  }

  #returnCapacity({ id, limitIds, granted, consumed }: LeaseRow, nowMs: number): void {
    this.#capacity.unreserve(limitIds, subtractCost(granted, consumed), nowMs)
    this.#capacity.freeSlots(id)
  }

  /** An isolate that is not heard of gives its capacity back at once and its money later. */
  #freeDue(nowMs: number): void {
    for (const row of this.#store.leases.due(nowMs, SWEPT_MAX)) {
      if (row.state === 'expired') {
        this.#closeLease(row.id, nowMs)
        continue
      }
      this.#returnCapacity(row, nowMs)
      const dueAtMs = nowMs + this.#policy.leaseMoneyMs
      this.#store.leases.put({ ...row, state: 'expired', dueAtMs })
    }
    this.#capacity.freeDueSlots(nowMs, SWEPT_MAX)
  }

  #applyParked(reservation: ReservationRow, nowMs: number): boolean {
    const parked = this.#store.parked.get(reservation.id)
    if (parked === undefined) return false
    this.#store.parked.delete(reservation.id)
    this.#settleReservation(reservation, parked.record, nowMs)
    return true
  }

  #settleReservation(row: ReservationRow, record: SettledRecord, nowMs: number): void {
    this.#endReservation(row, usedCost(record), nowMs)
    this.#postTerminal('settle', row, billedUsage(record), nowMs)
    this.#learn(row, record)
  }

  /** Buckets end at what was really used; hold and place are freed. */
  #endReservation(row: ReservationRow, used: Cost, nowMs: number): void {
    const change = {
      charged: subtractCost(used, row.charged),
      heldOutputTokens: -heldOutput(row.estimate, row.charged),
    }
    this.#capacity.move(row.limitIds, change, nowMs)
    this.#capacity.freeSlots(row.id)
    this.#addHeld(-row.holdPico)
    this.#store.reservations.delete(row.id)
  }

  /** A record whose request nobody has reported: its isolate died. What was used is charged. */
  #settleUnreserved(record: SettledRecord, nowMs: number): void {
    const { requestId: id, projectId, keyId, model, acceptedAtMs } = record
    const scope = { projectId, keyId, model }
    const price = priceAt(model, acceptedAtMs, this.#terms.prices)
    const limitIds = this.#capacity.limitsOn(scope).map((limit) => limit.id)
    this.#capacity.move(limitIds, { charged: usedCost(record), heldOutputTokens: 0 }, nowMs)
    const terms = { id, scope, price: price ?? FREE, admittedAtMs: acceptedAtMs }
    this.#postTerminal('settle', terms, billedUsage(record), nowMs)
  }

  /** A prepaid balance pays what it can; what exceeds it is the operator's loss, and shows as one. */
  #postTerminal(
    kind: 'settle' | 'void',
    request: Pick<ReservationRow, 'id' | 'scope' | 'price' | 'admittedAtMs'>,
    billed: BilledUsage,
    nowMs: number,
  ): void {
    const { id, scope, price, admittedAtMs } = request
    const usage = { ...scope, ...billed, admittedAtMs, priceVersion: price.version }
    const cost = BigInt(amountOf(price, billed))
    const prepaid = this.#terms.billing.kind === 'prepaid'
    const balance = this.balancePico()
    const amountPico = prepaid && cost > balance ? balance : cost
    const sides = { from: 'tenant', to: 'revenue' } as const
    const posted = this.#post({ id, kind, ...sides, amountPico }, usage, nowMs)
    assert(posted === 'posted', 'a request has one terminal posting')
    if (amountPico === cost) return
    const loss = { kind: 'writeoff', from: 'writeoff', to: 'revenue' } as const
    this.#post({ id: `${id}#writeoff`, ...loss, amountPico: cost - amountPico }, null, nowMs)
  }

  #post(
    posting: { id: string; kind: PostingKind; from: Account; to: Account; amountPico: bigint },
    usage: PostingUsage | null,
    atMs: number,
  ): PostStatus {
    return post(this.#store.journal, this.#store.balances, { ...posting, usage, atMs })
  }

  /**
   * Prepaid: once the prompt's length is known, its bytes need not stand in for it. Postpaid: the
   * hold follows what has been charged, so that a credit is used up while an answer streams.
   */
  #holdAfter(row: ReservationRow, charged: Cost, promptKnown: boolean): number {
    if (this.#terms.billing.kind === 'postpaid') {
      const usage = { promptTokens: charged.inputTokens, outputTokens: charged.outputTokens }
      return Math.max(row.holdPico, amountOf(row.price, { ...usage, cachedTokens: 0 }))
    }
    if (!promptKnown || row.promptKnown) return row.holdPico
    const worst = {
      promptTokens: charged.inputTokens,
      cachedTokens: 0,
      outputTokens: row.grantedOutputTokens,
    }
    return Math.min(row.holdPico, amountOf(row.price, worst))
  }

  #estimates(model: string): Estimates {
    return estimatesOf(this.#estimator(model))
  }

  #estimator(model: string): EstimatorState {
    return this.#store.estimators.get(model)?.state ?? NEW_ESTIMATOR
  }

  #learn({ scope: { model }, bodyBytes }: ReservationRow, record: SettledRecord): void {
    if (record.outcome === 'failed') return
    const state = learn(this.#estimator(model), { bodyBytes, ...record })
    this.#store.estimators.put({ id: model, state })
  }

  #totals(): TotalsRow {
    return this.#store.totals.get('tenant') ?? { id: 'tenant', heldPico: '0', keyEpoch: 0 }
  }

  #addHeld(pico: number): void {
    if (pico === 0) return
    const totals = this.#totals()
    const held = BigInt(totals.heldPico) + BigInt(pico)
    assert(held >= 0n, 'no more is released than was held')
    this.#store.totals.put({ ...totals, heldPico: String(held) })
  }
}

export interface Quote {
  readonly estimate: Cost
  readonly price: Price | null
  /** With nothing cached; null where the model has no price. */
  readonly expectedPico: number | null
  readonly availablePico: bigint
  readonly limits: readonly LimitState[]
}

interface RequestPlan {
  readonly price: Price
  readonly estimate: Cost
  readonly money: MoneyPlan
}

interface ShortPlan {
  readonly plan: RequestPlan
  readonly limits: readonly Limit[]
  readonly short: readonly LimitState[]
  readonly ahead: Ahead
}

const NOTHING: BilledUsage = { promptTokens: 0, cachedTokens: 0, outputTokens: 0 }

/** More than any request can cost: to see whether its own ceiling is what stops it. */
const UNLIMITED = BigInt(Number.MAX_SAFE_INTEGER)

/** Of a model whose price has been withdrawn from under a request nobody reserved for. */
const FREE: Price = { version: 'none', cacheHitPico: 0, cacheMissPico: 0, outputPico: 0 }

/** What a request has used of the limits. One that failed before its first word used nothing. */
function usedCost(record: SettledRecord): Cost {
  if (record.outcome === 'failed' && record.deliveredTokens === 0) return NO_COST
  return {
    requests: 1,
    inputTokens: record.promptTokens,
    uncachedInputTokens: record.promptTokens - record.cachedTokens,
    outputTokens: record.completionTokens,
  }
}

/** What of a reservation's estimated output has not been made yet. */
function heldOutput(estimate: Cost, charged: Cost): number {
  return Math.max(0, estimate.outputTokens - charged.outputTokens)
}

/** What is to be charged of a running request by now: output as it is made, in whole steps. */
function chargedAfter(row: ReservationRow, update: Progress): Cost {
  const { charged } = row
  const known = !row.promptKnown && update.promptTokens > 0
  const stepped = Math.floor(update.completionTokens / TRUE_UP_TOKENS) * TRUE_UP_TOKENS
  return {
    requests: charged.requests,
    inputTokens: known ? update.promptTokens : charged.inputTokens,
    uncachedInputTokens: known
      ? update.promptTokens - update.cachedTokens
      : charged.uncachedInputTokens,
    outputTokens: Math.max(charged.outputTokens, stepped),
  }
}

function compareTerminal(terminal: Posting, record: SettledRecord): SettleStatus {
  if (terminal.kind === 'void') return 'late'
  const { promptTokens, cachedTokens, outputTokens } = billedUsage(record)
  const { usage } = terminal
  return usage?.promptTokens === promptTokens &&
    usage.cachedTokens === cachedTokens &&
    usage.outputTokens === outputTokens
    ? 'exists'
    : 'conflict'
}

function sameBill(a: SettledRecord, b: SettledRecord): boolean {
  return JSON.stringify(billedUsage(a)) === JSON.stringify(billedUsage(b))
}

function longestWait(states: readonly LimitState[]): LimitState | null {
  return states.toSorted((a, b) => b.waitMs - a.waitMs)[0] ?? null
}

/** A refusal that time does not cure. */
export function refusal(reason: RefusalReason): Refusal {
  const noLimit = { limits: [], binding: null, retryAfterMs: null, shortage: null }
  return { status: 'refused', reason, ...noLimit }
}
