import type { RateMeasure } from './cost.ts'
import { burstOf } from './gcra.ts'
import type { Rate } from './gcra.ts'

/** Whom a request is counted for, besides its tenant. */
export interface Scope {
  readonly projectId: string
  readonly keyId: string
  readonly model: string
}

/** Absent members match everything: `{}` is the whole tenant, `{model}` one model of it. */
export type LimitScope = Partial<Scope>

interface LimitBase {
  /** Names the limit's stored state and its place in answers; unique within a tenant. */
  readonly id: string
  readonly scope: LimitScope
}

export interface RateLimit extends LimitBase {
  readonly dimension: RateMeasure
  readonly perMinute: number
  /** How many milliseconds of the rate may be used at once; see `defaultBurstMs`. */
  readonly burstMs: number
}

export interface ConcurrencyLimit extends LimitBase {
  readonly dimension: 'concurrency'
  readonly max: number
}

export type Limit = RateLimit | ConcurrencyLimit

/** The limits that a request has to pass, in the order they were given. */
export function limitsOn(limits: readonly Limit[], scope: Scope): readonly Limit[] {
  return limits.filter(
    ({ scope: { projectId, keyId, model } }) =>
      (projectId === undefined || projectId === scope.projectId) &&
      (keyId === undefined || keyId === scope.keyId) &&
      (model === undefined || model === scope.model),
  )
}

/**
 * Six seconds keep any minute within a tenth of its rate. Output is held until it is made, so its
 * burst also bounds how many answers may be under way: with less than ten seconds the cap would
 * stand partly empty.
 */
export function defaultBurstMs(dimension: RateMeasure): number {
  return dimension === 'outputTokens' ? 10_000 : 6_000
}

export function rateOf(limit: RateLimit): Rate {
  return { perMinute: limit.perMinute, burst: burstOf(limit.perMinute, limit.burstMs) }
}
