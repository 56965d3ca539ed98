import type { RateMeasure } from './admission/cost.ts'

/** Where one limit stands right after a decision. */
export interface LimitView {
  readonly dimension: RateMeasure | 'concurrency'
  /** A minute's worth; of concurrency the number of places. */
  readonly limit: number
  /** What could be taken now, at most the burst. Below zero in debt. */
  readonly remaining: number
  /** Until the bucket is full again; 0 for concurrency. */
  readonly resetMs: number
}

/** Of a request that was not held against any limit. */
export const NO_LIMITS: readonly LimitView[] = []

/** A dimension as headers and refusals call it. */
export const DIMENSION_NAMES = {
  requests: 'requests',
  inputTokens: 'input-tokens',
  uncachedInputTokens: 'uncached-input-tokens',
  outputTokens: 'output-tokens',
  tokens: 'tokens',
  concurrency: 'concurrency',
} as const satisfies Record<LimitView['dimension'], string>

const TOKEN_DIMENSIONS = ['inputTokens', 'uncachedInputTokens', 'outputTokens', 'tokens'] as const
const WINDOW_SECONDS = 60

/**
 * `x-ratelimit-*` as OpenAI's clients know them, and the IETF's `RateLimit` fields. Where several
 * limits count one dimension (of the tenant, its project, its key), the tightest is shown.
 */
export function rateLimitHeaders(views: readonly LimitView[]): Record<string, string> {
  const headers: Record<string, string> = {}
  const tightest = new Map<LimitView['dimension'], LimitView>()
  for (const view of views) {
    const known = tightest.get(view.dimension)
    if (known === undefined || view.remaining < known.remaining) tightest.set(view.dimension, view)
  }
  for (const view of tightest.values()) put(headers, DIMENSION_NAMES[view.dimension], view)
  const tokens = TOKEN_DIMENSIONS.flatMap((dimension) => tightest.get(dimension) ?? [])
  const [first, ...rest] = tokens
  if (first !== undefined) {
    put(
      headers,
      'tokens',
      rest.reduce((least, view) => (view.remaining < least.remaining ? view : least), first),
    )
  }
  return { ...headers, ...ietfFields([...tightest.values()]) }
}

function put(headers: Record<string, string>, name: string, view: LimitView): void {
  headers[`x-ratelimit-limit-${name}`] = String(view.limit)
  headers[`x-ratelimit-remaining-${name}`] = String(Math.max(0, view.remaining))
  if (view.dimension === 'concurrency') return
  headers[`x-ratelimit-reset-${name}`] = formatDuration(view.resetMs)
}

/** draft-ietf-httpapi-ratelimit-headers: a policy's quota and window, what remains, and for how long. */
function ietfFields(views: readonly LimitView[]): Record<string, string> {
  if (views.length === 0) return {}
  const policies = views.map(({ dimension, limit }) => {
    const window =
      dimension === 'concurrency' ? ';qu="concurrent-requests"' : `;w=${WINDOW_SECONDS}`
    return `"${DIMENSION_NAMES[dimension]}";q=${limit}${window}`
  })
  const states = views.map(({ dimension, remaining, resetMs }) => {
    const reset = dimension === 'concurrency' ? '' : `;t=${Math.ceil(resetMs / 1000)}`
    return `"${DIMENSION_NAMES[dimension]}";r=${Math.max(0, remaining)}${reset}`
  })
  return { 'ratelimit-policy': policies.join(', '), ratelimit: states.join(', ') }
}

/**
 * An answer's own headers and those of its limits, in one object that a response copies: that costs
 * a fraction of setting each, and under a lease many answers show one state of the limits.
 */
export class AnswerHeaders {
  readonly #own: Readonly<Record<string, string>>
  readonly #made = new WeakMap<readonly LimitView[], Headers>()

  constructor(own: Readonly<Record<string, string>>) {
    this.#own = own
  }

  /** Not to be changed: others show it too. */
  with(limits: readonly LimitView[]): Headers {
    const made = this.#made.get(limits)
    if (made !== undefined) return made
    const headers = new Headers({ ...this.#own, ...rateLimitHeaders(limits) })
    this.#made.set(limits, headers)
    return headers
  }
}

/** `6m0s`, `1.2s`, `100ms`: whole milliseconds in the notation that clients parse. */
export function formatDuration(ms: number): string {
  if (ms < 1000) return `${Math.ceil(ms)}ms`
  const minutes = Math.floor(ms / 60_000)
  const seconds = (Math.ceil(ms) - minutes * 60_000) / 1000
  return minutes === 0 ? `${seconds}s` : `${minutes}m${seconds}s`
}
