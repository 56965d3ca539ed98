import type { RequestSize } from './estimator.ts'
import { amountOf } from './prices.ts'
import type { TokenPrices } from './prices.ts'
import type { Cost } from './cost.ts'

/** How a tenant pays: from a balance that never goes below zero, or later and up to a credit. */
export type Billing =
  | { readonly kind: 'prepaid' }
  | { readonly kind: 'postpaid'; readonly creditPico: bigint }

/** What a request may use of the tenant's money. */
export interface MoneyPlan {
  /** Output tokens the backend may make; it ends there with `length`. */
  readonly grantedOutputTokens: number
  /** Kept aside until the request is settled. */
  readonly holdPico: number
}

export interface MoneyRequest extends RequestSize {
  readonly estimate: Cost
  readonly prices: TokenPrices
  readonly billing: Billing['kind']
  /** What the caller of the API will pay at most for this request; null: whatever it costs. */
  readonly maxCostPico: number | null
}

/**
 * How much of `fundsPico` a request takes and how long an answer that allows; null when not even
 * one token could be paid. Prepaid holds the worst case, so that no settlement can exceed its hold:
 * every byte of the request a token that misses the cache, every granted output token made.
 * Postpaid holds the estimate; its limit is one of credit and not of arithmetic.
 */
export function planMoney(request: MoneyRequest, fundsPico: bigint): MoneyPlan | null {
  const { prices, billing, maxCostPico } = request
  const worstInput = amountOf(prices, input(request.bodyBytes))
  const capped = cappedFunds(fundsPico, maxCostPico)
  if (billing === 'prepaid') {
    const granted = affordable(request.outputTokensMax, capped - worstInput, prices.outputPico)
    return granted < 1
      ? null
      : { grantedOutputTokens: granted, holdPico: worstInput + granted * prices.outputPico }
  }
  const holdPico = amountOf(prices, {
    ...input(request.estimate.inputTokens),
    outputTokens: request.estimate.outputTokens,
  })
  if (BigInt(holdPico) > fundsPico) return null
  const ownMax = maxCostPico === null ? Number.MAX_SAFE_INTEGER : maxCostPico - worstInput
  const granted = affordable(request.outputTokensMax, ownMax, prices.outputPico)
  return granted < 1 ? null : { grantedOutputTokens: granted, holdPico }
}

function input(promptTokens: number): {
  promptTokens: number
  cachedTokens: number
  outputTokens: number
} {
  return { promptTokens, cachedTokens: 0, outputTokens: 0 }
}

/** Funds as a number; more than one request can ever cost is as good as that much. */
function cappedFunds(fundsPico: bigint, maxCostPico: number | null): number {
  const max = BigInt(maxCostPico ?? Number.MAX_SAFE_INTEGER)
  if (fundsPico <= 0n) return 0
  return Number(fundsPico < max ? fundsPico : max)
}

function affordable(tokensMax: number, fundsPico: number, pricePico: number): number {
  if (pricePico === 0) return fundsPico >= 0 ? tokensMax : 0
  return Math.min(tokensMax, Math.floor(fundsPico / pricePico))
}
