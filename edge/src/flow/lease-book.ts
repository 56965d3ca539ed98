import { BoundedMap } from '../bounded-map.ts'
import { randomLetters } from '../bytes.ts'
import type { RandomBytes } from '../bytes.ts'
import { estimateCost, estimatesOf, NEW_ESTIMATOR } from '../admission/estimator.ts'
import type { Scope } from '../admission/limits.ts'
import { planMoney } from '../admission/money.ts'
import { ScopeLeases } from '../admission/scope-leases.ts'
import type { AdmitRequest, LeaseReport, Spend } from '../admission/tenant-admission.ts'
import type { LimitState } from '../admission/tenant-capacity.ts'
import type { Price } from '../admission/prices.ts'
import { slicesOf } from '../slices.ts'

const SCOPES_MAX = 10_000
const ID_LETTERS = 24
/** While a postpaid tenant's object is down: so many requests of one scope at an isolate. */
const ALLOWANCE = 20
/** So many go in one call: nobody else's call to the object waits long behind it. */
const SPENDS_A_CALL = 32

/** What the tenant's object said last of a scope. */
export interface ScopeNews {
  readonly limits: readonly LimitState[]
  readonly weight: number
  readonly billing: 'prepaid' | 'postpaid'
  readonly price: Price
}

/** One (tenant, project, key, model) at this isolate. */
export interface ScopeEntry {
  readonly tenantId: string
  readonly scope: Scope
  readonly leases: ScopeLeases
  news: ScopeNews | null
  /** Requests let through while the object was down, until it has heard of them. */
  unreported: Omit<Spend, 'agoMs'>[]
  unreportedLeaseId: string
  /** Until when somebody is on the way to the object with reports; if cut short, another goes. */
  reportingUntilMs: number
  /** Requests let in so far, to see whether the scope has gone idle. */
  admitted: number
}

/** The leases of this isolate. Values are shared between requests, promises never. */
export class LeaseBook {
  readonly #randomBytes: RandomBytes
  readonly #entries = new BoundedMap<string, ScopeEntry>(SCOPES_MAX)
  /** Drawn at the first use: an isolate has no randomness while it starts. */
  #isolateId = ''

  constructor(randomBytes: RandomBytes) {
    this.#randomBytes = randomBytes
  }

  entry(tenantId: string, scope: Scope): ScopeEntry {
    const id = JSON.stringify([scope.keyId, scope.projectId, scope.model])
    const entry = this.#entries.get(id) ?? this.#newEntry(tenantId, scope)
    // Those least lately used go first.
    this.#entries.set(id, entry)
    return entry
  }

  newId(prefix: string): string {
    return `${prefix}_${randomLetters(ID_LETTERS, this.#randomBytes)}`
  }

  #newEntry(tenantId: string, scope: Scope): ScopeEntry {
    if (this.#isolateId === '') this.#isolateId = this.newId('iso')
    return {
      tenantId,
      scope,
      leases: new ScopeLeases(this.#isolateId),
      news: null,
      unreported: [],
      unreportedLeaseId: '',
      reportingUntilMs: 0,
      admitted: 0,
    }
  }
}

/**
 * Lets a request of a postpaid tenant through though its object cannot be asked, up to a small
 * number a scope; what was let through is told the object as soon as it answers. Null: not this one.
 */
export function admitUnasked(
  entry: ScopeEntry,
  request: Omit<AdmitRequest, 'scope'>,
  newId: (prefix: string) => string,
): Omit<Spend, 'agoMs'> | null {
  const { news } = entry
  if (news === null || news.billing !== 'postpaid') return null
  if (entry.unreported.length >= ALLOWANCE) return null
  const estimate = estimateCost(estimatesOf(NEW_ESTIMATOR), request)
  const wanted = { ...request, estimate, prices: news.price, billing: news.billing }
  const money = planMoney(wanted, BigInt(Number.MAX_SAFE_INTEGER))
  if (money === null) return null
  const { requestId, bodyBytes, outputTokensMax } = request
  const spend = { requestId, bodyBytes, outputTokensMax, estimate, ...money }
  if (entry.unreported.length === 0) entry.unreportedLeaseId = newId('open')
  entry.unreported = [...entry.unreported, spend]
  return spend
}

/** Everything an entry's object has to hear of, the outage's requests first. */
export function reportsOf(entry: ScopeEntry, nowMs: number): readonly LeaseReport[] {
  const { news, unreported, scope } = entry
  const reports = entry.leases.reports(nowMs)
  if (unreported.length === 0 || news === null) return reports
  const lease = { leaseId: entry.unreportedLeaseId, scope, price: news.price }
  const spends = unreported.map((spend) => ({ ...spend, agoMs: 0 }))
  return [{ lease, first: 0, spends, closes: true }, ...reports]
}

/** The calls that tell `reports`, in the order in which the object has to hear them. */
export function callsOf(reports: readonly LeaseReport[]): LeaseReport[][] {
  const calls: LeaseReport[][] = []
  // The first piece opens a call.
  let told = Infinity
  for (const piece of reports.flatMap(piecesOf)) {
    told += piece.spends.length
    if (told > SPENDS_A_CALL) {
      calls.push([])
      told = piece.spends.length
    }
    calls.at(-1)?.push(piece)
  }
  return calls
}

/** A report as several, none with more than a call takes; the last one closes the lease. */
export function piecesOf(report: LeaseReport): LeaseReport[] {
  const { first, spends, closes } = report
  const slices = spends.length === 0 ? [spends] : [...slicesOf(spends, SPENDS_A_CALL)]
  return slices.map((some, index) => ({
    ...report,
    first: first + index * SPENDS_A_CALL,
    spends: some,
    closes: closes && index === slices.length - 1,
  }))
}

/** The object has heard all of `reports`; `counted` is its answer, one number a report. */
export function acknowledge(
  entry: ScopeEntry,
  reports: readonly LeaseReport[],
  counted: readonly number[],
): void {
  for (const [index, { lease, spends }] of reports.entries()) {
    if (lease.leaseId === entry.unreportedLeaseId) {
      // By id: two reports of the same requests may have been under way at once.
      const told = new Set(spends.map(({ requestId }) => requestId))
      entry.unreported = entry.unreported.filter(({ requestId }) => !told.has(requestId))
    } else {
      entry.leases.acknowledge(lease.leaseId, counted[index] ?? 0)
    }
  }
}
