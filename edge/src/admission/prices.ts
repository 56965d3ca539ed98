import type { UsageRecord } from '#protocol/usage-record.ts'
import { assert } from './assert.ts'

/**
 * Money is whole pico-dollars (1e-12 USD), so that every list price is whole per token. What one
 * request or one lease can cost is a `number`, checked to be exact (below 9,007 dollars); sums and
 * balances are `bigint`.
 */

/** Pico-dollars a token. */
export interface TokenPrices {
  readonly cacheHitPico: number
  readonly cacheMissPico: number
  readonly outputPico: number
}

/** Versions are never edited once in force: a change of price is another version. */
export interface PriceVersion {
  readonly version: string
  /** Unix milliseconds; in force until the next one's. */
  readonly fromMs: number
  readonly models: Readonly<Record<string, TokenPrices>>
}

/** Fixed when a request is admitted, and written into its reservation. */
export interface Price extends TokenPrices {
  readonly version: string
}

const FLASH: TokenPrices = { cacheHitPico: 28_000, cacheMissPico: 140_000, outputPico: 280_000 }
const PRO: TokenPrices = { cacheHitPico: 145_000, cacheMissPico: 1_740_000, outputPico: 3_480_000 }

/** The list of 24 April 2026: dollars a million tokens are pico-dollars a token times a million. */
export const LIST_PRICES: readonly PriceVersion[] = [
  {
    version: '2026-04-24',
    fromMs: 0,
    models: {
      'deepseek-v4-flash': FLASH,
      'deepseek-v4-pro': PRO,
      // Never sold: its price lets a laptop show the same bills.
      'deepseek-v4-toy': FLASH,
    },
  },
]

/**
 * What `model` costs a request admitted at `atMs`; null when neither the tenant's contract nor the
 * list has a price for it. Both are in order of `fromMs`; a contract wins where it names the model.
 */
export function priceAt(
  model: string,
  atMs: number,
  prices: { readonly list: readonly PriceVersion[]; readonly contract: readonly PriceVersion[] },
): Price | null {
  return latest(prices.contract, model, atMs) ?? latest(prices.list, model, atMs)
}

function latest(versions: readonly PriceVersion[], model: string, atMs: number): Price | null {
  for (const { version, fromMs, models } of versions.toReversed()) {
    const prices = Object.hasOwn(models, model) ? models[model] : undefined
    if (fromMs <= atMs && prices !== undefined) return { version, ...prices }
  }
  return null
}

/** What a request is billed for. Cached tokens are part of the prompt's. */
export interface BilledUsage {
  readonly promptTokens: number
  readonly cachedTokens: number
  readonly outputTokens: number
}

/** A backend's record, and the project that its key belongs to. */
export interface SettledRecord extends Pick<
  UsageRecord,
  | 'requestId'
  | 'keyId'
  | 'model'
  | 'promptTokens'
  | 'cachedTokens'
  | 'prefilledTokens'
  | 'completionTokens'
  | 'deliveredTokens'
  | 'outcome'
  | 'acceptedAtMs'
> {
  readonly projectId: string
}

const NOTHING_BILLED: BilledUsage = { promptTokens: 0, cachedTokens: 0, outputTokens: 0 }

/**
 * What of a record is charged: all of a finished answer; of one that the client left, as much of
 * the prompt as was worked on and the output that was delivered; of one that we broke, nothing.
 */
export function billedUsage(record: SettledRecord): BilledUsage {
  const { outcome, promptTokens, cachedTokens, prefilledTokens } = record
  if (outcome === 'failed') return NOTHING_BILLED
  if (outcome !== 'cancelled') {
    return { promptTokens, cachedTokens, outputTokens: record.completionTokens }
  }
  return {
    promptTokens: prefilledTokens === undefined ? promptTokens : cachedTokens + prefilledTokens,
    cachedTokens,
    outputTokens: record.deliveredTokens,
  }
}

export function amountOf(prices: TokenPrices, usage: BilledUsage): number {
  const missTokens = usage.promptTokens - usage.cachedTokens
  return checkedPico(
    usage.cachedTokens * prices.cacheHitPico +
      missTokens * prices.cacheMissPico +
      usage.outputTokens * prices.outputPico,
  )
}

/** The amount itself, having checked that it is exact. */
export function checkedPico(pico: number): number {
  assert(Number.isSafeInteger(pico) && pico >= 0, 'an amount is a whole number below 2^53')
  return pico
}
