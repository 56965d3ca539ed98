/** What a rate limit can count. Cached input is part of `inputTokens` and not of the uncached. */
export const RATE_DIMENSIONS = [
  'requests',
  'inputTokens',
  'uncachedInputTokens',
  'outputTokens',
] as const

export type RateDimension = (typeof RATE_DIMENSIONS)[number]

/** What a rate limit can be set on: one dimension, or input and output together. */
export const RATE_MEASURES = [...RATE_DIMENSIONS, 'tokens'] as const

export type RateMeasure = (typeof RATE_MEASURES)[number]

/** An amount in every dimension: whole numbers of requests and tokens. */
export type Cost = Readonly<Record<RateDimension, number>>

export const NO_COST: Cost = {
  requests: 0,
  inputTokens: 0,
  uncachedInputTokens: 0,
  outputTokens: 0,
}

export function addCost(a: Cost, b: Cost): Cost {
  return mapCost((dimension) => a[dimension] + b[dimension])
}

export function subtractCost(a: Cost, b: Cost): Cost {
  return mapCost((dimension) => a[dimension] - b[dimension])
}

/** Whether `part` is at most `whole` in every dimension. */
export function costFits(part: Cost, whole: Cost): boolean {
  return RATE_DIMENSIONS.every((dimension) => part[dimension] <= whole[dimension])
}

export function amountIn(cost: Cost, measure: RateMeasure): number {
  return measure === 'tokens' ? cost.inputTokens + cost.outputTokens : cost[measure]
}

export function mapCost(amountOf: (dimension: RateDimension) => number): Cost {
  return {
    requests: amountOf('requests'),
    inputTokens: amountOf('inputTokens'),
    uncachedInputTokens: amountOf('uncachedInputTokens'),
    outputTokens: amountOf('outputTokens'),
  }
}
