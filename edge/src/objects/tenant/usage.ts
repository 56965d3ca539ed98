import type { UsageRecord } from '#protocol/usage-record.ts'
import { textOf } from './columns.ts'

/** What was billed, for one row or for a sum of rows. */
export interface UsageSums {
  readonly requests: number
  readonly promptTokens: number
  readonly cachedTokens: number
  /** Everything billed as output, reasoning included. */
  readonly completionTokens: number
  readonly amountPico: bigint
}

export const USAGE_GROUPS = ['day', 'project', 'key', 'model'] as const
export type UsageGroup = (typeof USAGE_GROUPS)[number]

/** What a row is of: by each grouped column its value. A day is the UTC date, `YYYY-MM-DD`. */
export type UsageOf = Readonly<Partial<Record<UsageGroup, string>>>

export interface UsageRow {
  readonly of: UsageOf
  readonly sums: UsageSums
}

/** Days are inclusive at both ends; an absent filter means all. */
export interface UsageQuery {
  readonly from: string
  readonly to: string
  readonly filter: Readonly<Partial<Record<Exclude<UsageGroup, 'day'>, string>>>
  /** In the order of `USAGE_GROUPS`. */
  readonly groupBy: readonly UsageGroup[]
  /** The last row of the page before, one value a group; null for the first page. */
  readonly after: readonly string[] | null
  readonly limit: number
}

export interface UsageReport {
  /** Of everything the query matches, whatever the page. */
  readonly totals: UsageSums
  readonly rows: readonly UsageRow[]
  readonly hasMore: boolean
  /** Records held back because their key is not one of this tenant's. */
  readonly parkedRecords: number
}

/** The UTC date of an instant, `YYYY-MM-DD`. */
export function dayOf(unixMs: number): string {
  return new Date(unixMs).toISOString().slice(0, 10)
}

/** A record as text that is equal exactly when every field is, whatever order they came in. */
export function canonicalRecord(record: UsageRecord): string {
  return JSON.stringify(record, Object.keys(record).toSorted())
}

const COLUMNS: Readonly<Record<UsageGroup, string>> = {
  day: 'day',
  project: 'project_id',
  key: 'key_id',
  model: 'model',
}

const SUMS = `coalesce(sum(requests), 0) AS requests,
  coalesce(sum(prompt_tokens), 0) AS prompt_tokens,
  coalesce(sum(cached_tokens), 0) AS cached_tokens,
  coalesce(sum(completion_tokens), 0) AS completion_tokens,
  CAST(coalesce(sum(amount_pico), 0) AS TEXT) AS amount_pico`

interface SumColumns extends Record<string, SqlStorageValue> {
  readonly requests: number
  readonly prompt_tokens: number
  readonly cached_tokens: number
  readonly completion_tokens: number
  readonly amount_pico: string
}

/** Sums over the table that every settled posting of the journal is added to. */
export function readUsage(
  sql: SqlStorage,
  query: UsageQuery,
): Pick<UsageReport, 'totals' | 'rows' | 'hasMore'> {
  const { where, bound } = conditionOf(query)
  const totals = sql.exec<SumColumns>(`SELECT ${SUMS} FROM usage WHERE ${where}`, ...bound).one()
  const columns = query.groupBy.map((group) => COLUMNS[group]).join(', ')
  if (columns === '') return { totals: toSums(totals), rows: [], hasMore: false }
  const page = query.after === null ? '' : `AND (${columns}) > (${marks(query.after.length)})`
  const found = sql
    .exec<SumColumns>(
      `SELECT ${columns}, ${SUMS} FROM usage WHERE ${where} ${page}
       GROUP BY ${columns} ORDER BY ${columns} LIMIT ?`,
      ...bound,
      ...(query.after ?? []),
      query.limit + 1,
    )
    .toArray()
  const rows = found.slice(0, query.limit).map((row) => ({
    of: Object.fromEntries(query.groupBy.map((group) => [group, textOf(row[COLUMNS[group]])])),
    sums: toSums(row),
  }))
  return { totals: toSums(totals), rows, hasMore: found.length > query.limit }
}

function conditionOf({ from, to, filter }: UsageQuery): { where: string; bound: string[] } {
  const wanted = (['project', 'key', 'model'] as const).flatMap((group) => {
    const value = filter[group]
    return value === undefined ? [] : [{ column: COLUMNS[group], value }]
  })
  const conditions = ['day BETWEEN ? AND ?', ...wanted.map(({ column }) => `${column} = ?`)]
  return {
    where: conditions.join(' AND '),
    bound: [from, to, ...wanted.map(({ value }) => value)],
  }
}

function marks(count: number): string {
  return Array.from({ length: count }, () => '?').join(', ')
}

function toSums(columns: SumColumns): UsageSums {
  return {
    requests: columns.requests,
    promptTokens: columns.prompt_tokens,
    cachedTokens: columns.cached_tokens,
    completionTokens: columns.completion_tokens,
    amountPico: BigInt(columns.amount_pico),
  }
}
