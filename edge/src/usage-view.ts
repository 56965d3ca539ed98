import { ApiError } from '#protocol/errors.ts'
import { isKeyId } from './keys/api-key.ts'
import { dayOf } from './objects/tenant/usage.ts'
import type { UsageCounts, UsageQuery, UsageReport } from './objects/tenant/usage.ts'

const DAY_MS = 86_400_000
const DEFAULT_DAYS = 30
const DAYS_MAX = 366
const MODEL_LENGTH_MAX = 256

/** A report of `GET /v1/usage` or its admin twin, as JSON. */
export interface UsageView {
  readonly object: 'usage'
  /** First and last day, UTC, both included. */
  readonly from: string
  readonly to: string
  readonly totals: CountsView
  readonly data: readonly UsageRowView[]
  /** Whether rows were left out for their number; the totals are whole all the same. */
  readonly truncated: boolean
}

interface UsageRowView extends CountsView {
  readonly day: string
  readonly key_id: string
  readonly model: string
}

interface CountsView {
  readonly requests: number
  readonly prompt_tokens: number
  readonly cached_tokens: number
  readonly completion_tokens: number
  readonly reasoning_tokens: number
  readonly total_tokens: number
}

/** The query string's `from`, `to`, `key` and `model`; the default is the last 30 days. */
export function parseUsageQuery(params: URLSearchParams, nowMs: number): UsageQuery {
  const to = parseDay(params, 'to') ?? dayOf(nowMs)
  const from = parseDay(params, 'from') ?? dayOf(Date.parse(to) - (DEFAULT_DAYS - 1) * DAY_MS)
  if (from > to) refuseRange(`'from' (${from}) is after 'to' (${to}).`)
  const days = (Date.parse(to) - Date.parse(from)) / DAY_MS + 1
  if (days > DAYS_MAX) refuseRange(`'from' to 'to' may span at most ${DAYS_MAX} days.`)
  const keyId = params.get('key')
  if (keyId !== null && !isKeyId(keyId)) refuseShape('key', "'key' must be a key's id.")
  const model = params.get('model')
  if (model !== null && (model === '' || model.length > MODEL_LENGTH_MAX)) {
    refuseShape('model', "'model' must be a model's id.")
  }
  return { from, to, ...(keyId === null ? {} : { keyId }), ...(model === null ? {} : { model }) }
}

export function viewUsage(query: UsageQuery, report: UsageReport): UsageView {
  return {
    object: 'usage',
    from: query.from,
    to: query.to,
    totals: viewCounts(report.totals),
    data: report.rows.map(({ day, keyId, model, ...counts }) => ({
      day,
      key_id: keyId,
      model,
      ...viewCounts(counts),
    })),
    truncated: report.truncated,
  }
}

function viewCounts(counts: UsageCounts): CountsView {
  return {
    requests: counts.requests,
    prompt_tokens: counts.promptTokens,
    cached_tokens: counts.cachedTokens,
    completion_tokens: counts.completionTokens,
    reasoning_tokens: counts.reasoningTokens,
    total_tokens: counts.promptTokens + counts.completionTokens,
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

function refuseRange(message: string): never {
  throw new ApiError('invalid_parameter', message, { param: 'from' })
}
