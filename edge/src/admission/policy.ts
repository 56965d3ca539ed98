/** The spans that admission works with; all milliseconds. */
export interface AdmissionPolicy {
  /** How long an isolate may spend a lease without asking again: what a revocation waits for. */
  readonly leaseTtlMs: number
  /** How long after that the object still waits to hear what was spent. */
  readonly leaseReportGraceMs: number
  /** An isolate gets at most one lease under a scope in this long. */
  readonly leaseRefillMs: number
  /**
   * After a lease has expired unreported: the longest that a request started under it may run and
   * its record be under way. Until then the lease's money is not lent again.
   */
  readonly leaseMoneyMs: number
  /** A place of concurrency falls free when its request is not heard of for this long. */
  readonly slotTtlMs: number
  /** Advised when all places are taken. */
  readonly slotRetryMs: number
  /** How long a record without a reservation waits for one before it is settled without. */
  readonly parkedMs: number
  /**
   * When to ask the backend about a reservation without a record, and again. Longer than a service
   * token lives: what the backend does not know by then can never start.
   */
  readonly askAfterMs: number
  readonly askAgainMs: number
}

export const DEFAULT_POLICY: AdmissionPolicy = {
  leaseTtlMs: 1500,
  leaseReportGraceMs: 1000,
  leaseRefillMs: 1000,
  leaseMoneyMs: 20 * 60_000,
  slotTtlMs: 30_000,
  slotRetryMs: 1000,
  parkedMs: 30_000,
  askAfterMs: 120_000,
  askAgainMs: 30_000,
}

/** Output turns from held into used in steps of this many tokens while it streams. */
export const TRUE_UP_TOKENS = 256
