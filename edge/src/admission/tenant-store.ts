import type { Cost } from './cost.ts'
import type { EstimatorState, Estimates } from './estimator.ts'
import type { Bucket } from './gcra.ts'
import type { Balances, Journal } from './ledger.ts'
import type { Scope } from './limits.ts'
import type { Price, SettledRecord } from './prices.ts'

/**
 * What a tenant object keeps, as rows of plain JSON under a text id. Every operation of
 * `TenantAdmission` reads and writes rows here at once, in the caller's transaction; nothing lives
 * in the class, so an object that is evicted or reset loses nothing.
 */
export interface TenantStore {
  /** By limit id. */
  readonly buckets: Table<BucketRow>
  /** By limit id. */
  readonly slots: Table<SlotsRow>
  /** By request or lease id. */
  readonly holders: DueTable<HolderRow>
  /** By lease id. */
  readonly leases: DueTable<LeaseRow>
  /** By request id. */
  readonly reservations: DueTable<ReservationRow>
  /** By request id. */
  readonly parked: DueTable<ParkedRow>
  /** By model. */
  readonly estimators: Table<EstimatorRow>
  /** One row, of id `tenant`. */
  readonly totals: Table<TotalsRow>
  readonly journal: Journal
  readonly balances: Balances
  /** All that is known of these requests will be asked for: it can be fetched together. */
  expect(requestIds: readonly string[]): void
}

export interface Table<Row extends { readonly id: string }> {
  get(id: string): Row | undefined
  put(row: Row): void
  delete(id: string): void
}

/** Rows that something must be done about at an instant. */
export interface DueTable<
  Row extends { readonly id: string; readonly dueAtMs: number },
> extends Table<Row> {
  /** At most `limit` rows with `dueAtMs <= nowMs`, by time and then id. */
  due(nowMs: number, limit: number): readonly Row[]
  /** The earliest `dueAtMs` of all rows. */
  firstDueMs(): number | null
}

export interface BucketRow extends Bucket {
  readonly id: string
}

export interface SlotsRow {
  readonly id: string
  /** Of a concurrency limit, what its holders hold together. */
  readonly used: number
}

/** Places of concurrency that fall free by themselves unless their holder is heard of. */
export interface HolderRow {
  readonly id: string
  readonly limitIds: readonly string[]
  readonly slots: number
  readonly dueAtMs: number
}

/** What an isolate has been lent, as the object knows it. */
export interface LeaseRow {
  readonly id: string
  readonly isolateId: string
  readonly scope: Scope
  readonly limitIds: readonly string[]
  readonly granted: Cost
  /** Of the granted, what reported requests have used. */
  readonly consumed: Cost
  readonly grantedPico: number
  readonly consumedPico: number
  /** Requests reported so far: they are numbered, so that repeats are told from news. */
  readonly spendsCounted: number
  /**
   * `expired`: its capacity has gone back; its money waits until whatever was spent of it
   * unreported must have been settled.
   */
  readonly state: 'open' | 'expired'
  readonly lease: Lease
  readonly dueAtMs: number
}

/** A lease as the isolate gets it. Times are spans: two machines' clocks differ. */
export interface Lease {
  readonly leaseId: string
  readonly scope: Scope
  /** From the moment the isolate asked for it. */
  readonly ttlMs: number
  readonly cost: Cost
  /** Requests it may have started; each holds a place of concurrency. */
  readonly pico: number
  readonly billing: 'prepaid' | 'postpaid'
  readonly price: Price
  readonly estimates: Estimates
  /** Goes up whenever a key changes; what was verified under an earlier one is void. */
  readonly keyEpoch: number
}

export interface ReservationRow {
  readonly id: string
  readonly scope: Scope
  readonly limitIds: readonly string[]
  readonly bodyBytes: number
  readonly admittedAtMs: number
  readonly price: Price
  /** The estimate it was admitted with. */
  readonly estimate: Cost
  /**
   * What the buckets have been charged so far; of the output, what has been made. The remainder of
   * the estimated output is held.
   */
  readonly charged: Cost
  readonly grantedOutputTokens: number
  readonly holdPico: number
  /** Whether the prompt's true length has replaced its estimate. */
  readonly promptKnown: boolean
  /** When to ask the backend what has become of it. */
  readonly dueAtMs: number
}

/** A record that came before anything was known of its request. */
export interface ParkedRow {
  readonly id: string
  readonly record: SettledRecord
  readonly dueAtMs: number
}

export interface EstimatorRow {
  readonly id: string
  readonly state: EstimatorState
}

export interface TotalsRow {
  readonly id: 'tenant'
  /** All holds of reservations and leases; a decimal, since it may exceed 2^53. */
  readonly heldPico: string
  readonly keyEpoch: number
}
