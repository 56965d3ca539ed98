import { ApiError } from '#protocol/errors.ts'
import { isProjectId } from './keys/access.ts'
import { isKeyId } from './keys/api-key.ts'
import { dayOf, USAGE_GROUPS } from './objects/tenant/usage.ts'
import type { UsageGroup, UsageQuery, UsageReport, UsageSums } from './objects/tenant/usage.ts'
import { formatUsd } from './usd.ts'

const DAY_MS = 86_400_000
const DEFAULT_DAYS = 30
const DAYS_MAX = 366
const MODEL_LENGTH_MAX = 256
const ROWS_DEFAULT = 1_000
const ROWS_MAX = 10_000

/** A report of `GET /v1/usage` or its admin twin, as JSON. */
export interface UsageView {
  readonly object: 'usage'
  /** First and last day, UTC, both included. */
  readonly from: string
  readonly to: string
  readonly totals: SumsView
  readonly data: readonly UsageRowView[]
  readonly has_more: boolean
  /** For `after`, to read on. The totals are whole on every page. */
  readonly next: string | null
}

type UsageRowView = SumsView & { readonly [group in (typeof GROUP_FIELDS)[UsageGroup]]?: string }

export interface SumsView {
  readonly requests: number
  readonly prompt_tokens: number
  readonly cached_tokens: number
  readonly completion_tokens: number
  readonly total_tokens: number
  /** In full, to the pico-dollar. */
  readonly amount_usd: string
}

const GROUP_FIELDS = { day: 'day', project: 'project', key: 'key_id', model: 'model' } as const

/**
 * The query string's `from`, `to`, `project`, `key`, `model`, `group_by`, `limit` and `after`; the
 * default is the last 30 days by day, project, key and model.
 */
export function parseUsageQuery(params: URLSearchParams, nowMs: number): UsageQuery {
  const to = parseDay(params, 'to') ?? dayOf(nowMs)
  const from = parseDay(params, 'from') ?? dayOf(Date.parse(to) - (DEFAULT_DAYS - 1) * DAY_MS)
  if (from > to) refuseRange('from', `'from' (${from}) is after 'to' (${to}).`)
  const days = (Date.parse(to) - Date.parse(from)) / DAY_MS + 1
  if (days > DAYS_MAX) refuseRange('from', `'from' to 'to' may span at most ${DAYS_MAX} days.`)
  const groupBy = parseGroups(params.get('group_by'))
  const after = params.get('after')
  return {
    from,
    to,
    filter: parseFilter(params),
    groupBy,
    after: after === null ? null : parseCursor(after, groupBy.length),
    limit: parseRows(params.get('limit')),
  }
}

function parseFilter(params: URLSearchParams): UsageQuery['filter'] {
  const [project, key, model] = [params.get('project'), params.get('key'), params.get('model')]
  if (project !== null && !isProjectId(project)) {
    refuseShape('project', "'project' must be a project's id.")
  }
  if (key !== null && !isKeyId(key)) refuseShape('key', "'key' must be a key's id.")
  if (model !== null && (model === '' || model.length > MODEL_LENGTH_MAX)) {
    refuseShape('model', "'model' must be a model's id.")
  }
  return {
    ...(project === null ? {} : { project }),
    ...(key === null ? {} : { key }),
    ...(model === null ? {} : { model }),
  }
}

function parseGroups(text: string | null): readonly UsageGroup[] {
  if (text === null) return USAGE_GROUPS
  const wanted = text === '' ? [] : text.split(',')
  const known = USAGE_GROUPS.filter((group) => wanted.includes(group))
  if (known.length === wanted.length) return known
  return refuseShape('group_by', `'group_by' must be of ${USAGE_GROUPS.join(', ')}, each once.`)
}

function parseRows(text: string | null): number {
  if (text === null) return ROWS_DEFAULT
  const limit = /^\d{1,5}$/.test(text) ? Number(text) : 0
  if (limit >= 1 && limit <= ROWS_MAX) return limit
  return refuseRange('limit', `'limit' must be a whole number from 1 to ${ROWS_MAX}.`)
}

function formatCursor(last: readonly string[]): string {
  return encodeURIComponent(JSON.stringify(last))
}

function parseCursor(text: string, length: number): readonly string[] {
  try {
    const value: unknown = JSON.parse(decodeURIComponent(text))
    const strings = Array.isArray(value) ? value.filter((part) => typeof part === 'string') : []
    if (strings.length === length && length > 0) return strings
  } catch {
    // No JSON: refused like any other cursor that is not ours.
  }
  return refuseShape('after', "'after' must be the 'next' of a page of this query.")
}

export function viewUsage(query: UsageQuery, report: UsageReport): UsageView {
  const last = report.rows.at(-1)
  const values = last === undefined ? [] : query.groupBy.map((group) => last.of[group] ?? '')
  return {
    object: 'usage',
    from: query.from,
    to: query.to,
    totals: viewSums(report.totals),
    data: report.rows.map(({ of, sums }) => ({ ...viewGroups(query, of), ...viewSums(sums) })),
    has_more: report.hasMore,
    next: report.hasMore ? formatCursor(values) : null,
  }
}

function viewGroups(query: UsageQuery, of: UsageReport['rows'][number]['of']) {
  return Object.fromEntries(query.groupBy.map((group) => [GROUP_FIELDS[group], of[group] ?? '']))
}

/** One page as CSV (RFC 4180): a header line, then a line a row. */
export function usageCsv(query: UsageQuery, report: UsageReport): string {
  const groups = query.groupBy.map((group) => GROUP_FIELDS[group])
  const lines = report.rows.map(({ of, sums }) => {
    const values = query.groupBy.map((group) => of[group] ?? '')
    return [...values, ...Object.values(viewSums(sums))].map(csvField).join(',')
  })
  const header = [...groups, ...Object.keys(viewSums(report.totals))].join(',')
  return [header, ...lines, ''].join('\r\n')
}

/** Quoted where it must be; what a spreadsheet would take for a formula is made text. */
function csvField(value: string | number): string {
  const text = String(value)
  const safe = /^[=+\-@\t\r]/.test(text) && !/^-?\d+(\.\d+)?$/.test(text) ? `'${text}` : text
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe
}

export function viewSums(sums: UsageSums): SumsView {
  return {
    requests: sums.requests,
    prompt_tokens: sums.promptTokens,
    cached_tokens: sums.cachedTokens,
    completion_tokens: sums.completionTokens,
    total_tokens: sums.promptTokens + sums.completionTokens,
    amount_usd: formatUsd(sums.amountPico),
  }
}

function parseDay(params: URLSearchParams, name: 'from' | 'to'): string | null {
  const text = params.get(name)
  if (text === null) return null
  const unixMs = /^\d{4}-\d{2}-\d{2}$/.test(text) ? Date.parse(text) : Number.NaN
  // The round trip refuses the 30th of February, which some parsers read as a day in March.
  if (Number.isNaN(unixMs) || dayOf(unixMs) !== text) {
    refuseShape(name, `'${name}' must be a date, YYYY-MM-DD.`)
  }
  return text
}

function refuseShape(param: string, message: string): never {
  throw new ApiError('invalid_request_error', message, { param })
}

function refuseRange(param: string, message: string): never {
  throw new ApiError('invalid_parameter', message, { param })
}
