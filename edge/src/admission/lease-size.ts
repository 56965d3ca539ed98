import { amountIn, RATE_DIMENSIONS } from './cost.ts'
import type { Cost } from './cost.ts'

/** What an isolate has lately admitted under one scope, over `LEASE_REFILL_MS`. */
export interface Demand {
  readonly cost: Cost
  readonly pico: number
}

/** What is left to lend: the tightest of the limits in each dimension. */
export interface Remaining {
  readonly cost: Cost
  /** Of limits on input and output together. */
  readonly tokens: number
  /** Places of concurrency; Infinity where no limit counts them. */
  readonly slots: number
  readonly pico: bigint
}

export interface LeaseSize {
  readonly cost: Cost
  readonly pico: number
}

/** At most this share of what remains is lent at once, so that no isolate sits on much of it. */
const SHARE_MAX = 0.02
/** Somewhat more than the last interval used, so that growing traffic stays on leases. */
const HEADROOM = 1.5

/**
 * A whole number of the isolate's average requests, so that no dimension is lent without the
 * others; null when less than one fits: near a limit each request is admitted by the object itself.
 */
export function leaseSize(demand: Demand, remaining: Remaining): LeaseSize | null {
  const seen = demand.cost.requests
  if (seen < 1) return null
  const average = averageOf(demand.cost)
  const averagePico = Math.ceil(demand.pico / seen)
  let requests = Math.min(Math.ceil(seen * HEADROOM), Math.floor(remaining.slots * SHARE_MAX))
  for (const dimension of RATE_DIMENSIONS) {
    const lendable = Math.floor(remaining.cost[dimension] * SHARE_MAX)
    requests = Math.min(requests, Math.floor(lendable / average[dimension]))
  }
  const lendableTokens = Math.floor(remaining.tokens * SHARE_MAX)
  requests = Math.min(requests, Math.floor(lendableTokens / amountIn(average, 'tokens')))
  if (averagePico > 0) {
    const lendable = remaining.pico / BigInt(Math.round(1 / SHARE_MAX))
    const payable = lendable / BigInt(averagePico)
    if (payable < BigInt(requests)) requests = Number(payable)
  }
  if (requests < 1) return null
  return { cost: timesRequests(average, requests), pico: averagePico * requests }
}

function averageOf(cost: Cost): Cost {
  const each = (total: number): number => Math.max(1, Math.ceil(total / cost.requests))
  return {
    requests: 1,
    inputTokens: each(cost.inputTokens),
    uncachedInputTokens: each(cost.uncachedInputTokens),
    outputTokens: each(cost.outputTokens),
  }
}

function timesRequests(average: Cost, requests: number): Cost {
  return {
    requests,
    inputTokens: average.inputTokens * requests,
    uncachedInputTokens: average.uncachedInputTokens * requests,
    outputTokens: average.outputTokens * requests,
  }
}
