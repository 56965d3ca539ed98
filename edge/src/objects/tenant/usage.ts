import type { UsageRecord } from '#protocol/usage-record.ts'

/** What is counted, for one row or for a sum of rows. */
export interface UsageCounts {
  readonly requests: number
  readonly promptTokens: number
  readonly cachedTokens: number
  /** Everything generated, reasoning included. */
  readonly completionTokens: number
  readonly reasoningTokens: number
}

export interface UsageRow extends UsageCounts {
  /** UTC date, `YYYY-MM-DD`. */
  readonly day: string
  readonly keyId: string
  readonly model: string
}

/** Days are inclusive at both ends; an absent key or model means all of them. */
export interface UsageQuery {
  readonly from: string
  readonly to: string
  readonly keyId?: string
  readonly model?: string
}

export interface UsageReport {
  readonly totals: UsageCounts
  /** By day, then key, then model. The totals cover rows beyond the limit too. */
  readonly rows: readonly UsageRow[]
  readonly truncated: boolean
  /** Records held back because their key is not one of this tenant's. */
  readonly parkedRecords: number
}

/** The UTC date of an instant, `YYYY-MM-DD`. */
export function dayOf(unixMs: number): string {
  return new Date(unixMs).toISOString().slice(0, 10)
}

/**
 * Where a record is counted and what it adds. The day is that of acceptance, not of completion: a
 * request that runs past midnight belongs to the day whose terms it was accepted under.
 */
export function rowOf(record: UsageRecord): UsageRow {
  return {
    day: dayOf(record.acceptedAtMs),
    keyId: record.keyId,
    model: record.model,
    requests: 1,
    promptTokens: record.promptTokens,
    cachedTokens: record.cachedTokens,
    completionTokens: record.completionTokens,
    reasoningTokens: record.reasoningTokens,
  }
}

/** A record as text that is equal exactly when every field is, whatever order they came in. */
export function canonicalRecord(record: UsageRecord): string {
  return JSON.stringify(record, Object.keys(record).toSorted())
}
