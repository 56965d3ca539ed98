import { describe, expect, it } from 'vitest'
import { amountOf, billedUsage, checkedPico, LIST_PRICES, priceAt } from './prices.ts'
import type { PriceVersion, SettledRecord } from './prices.ts'

const record: SettledRecord = {
  requestId: 'r',
  projectId: 'p',
  keyId: 'k',
  model: 'deepseek-v4-flash',
  promptTokens: 1000,
  cachedTokens: 400,
  prefilledTokens: 500,
  completionTokens: 100,
  deliveredTokens: 90,
  outcome: 'stop',
  acceptedAtMs: 0,
}

const contract: readonly PriceVersion[] = [
  {
    version: 'contract-1',
    fromMs: 1000,
    models: { 'deepseek-v4-pro': { cacheHitPico: 1, cacheMissPico: 2, outputPico: 3 } },
  },
]

describe('priceAt', () => {
  it('is the list’s, to the pico-dollar', () => {
    const prices = { list: LIST_PRICES, contract: [] }
    expect(priceAt('deepseek-v4-flash', 1, prices)).toEqual({
      version: '2026-04-24',
      cacheHitPico: 28_000,
      cacheMissPico: 140_000,
      outputPico: 280_000,
    })
    expect(priceAt('deepseek-v4-pro', 1, prices)).toEqual({
      version: '2026-04-24',
      cacheHitPico: 145_000,
      cacheMissPico: 1_740_000,
      outputPico: 3_480_000,
    })
  })

  it('is the contract’s from its first millisecond, for the models it names', () => {
    const prices = { list: LIST_PRICES, contract }
    expect(priceAt('deepseek-v4-pro', 999, prices)?.version).toBe('2026-04-24')
    expect(priceAt('deepseek-v4-pro', 1000, prices)?.version).toBe('contract-1')
    expect(priceAt('deepseek-v4-flash', 1000, prices)?.version).toBe('2026-04-24')
  })

  it('is the newest version in force', () => {
    const [first] = LIST_PRICES
    const list = [
      ...LIST_PRICES,
      { ...first, version: 'next', fromMs: 5000, models: first?.models ?? {} },
    ]
    const versions = [4999, 5000].map(
      (atMs) => priceAt('deepseek-v4-flash', atMs, { list, contract: [] })?.version,
    )
    expect(versions).toEqual(['2026-04-24', 'next'])
  })

  it('is none for a model nobody priced, whatever its name', () => {
    expect(priceAt('toString', 1, { list: LIST_PRICES, contract: [] })).toBeNull()
  })
})

describe('billedUsage', () => {
  it.each(['stop', 'length', 'tool_calls'] as const)('is everything after %s', (outcome) => {
    expect(billedUsage({ ...record, outcome })).toEqual({
      promptTokens: 1000,
      cachedTokens: 400,
      outputTokens: 100,
    })
  })

  it('is what was worked on and delivered when the client has left', () => {
    const left = { ...record, outcome: 'cancelled' as const }
    expect(billedUsage(left)).toEqual({ promptTokens: 900, cachedTokens: 400, outputTokens: 90 })
    const { prefilledTokens: _, ...early } = left
    expect(billedUsage(early).promptTokens).toBe(1000)
  })

  it('is nothing when we have failed', () => {
    expect(billedUsage({ ...record, outcome: 'failed' })).toEqual({
      promptTokens: 0,
      cachedTokens: 0,
      outputTokens: 0,
    })
  })
})

describe('amounts', () => {
  it('are hits, misses and output at their prices', () => {
    const prices = { cacheHitPico: 28_000, cacheMissPico: 140_000, outputPico: 280_000 }
    expect(amountOf(prices, billedUsage(record))).toBe(400 * 28_000 + 600 * 140_000 + 100 * 280_000)
  })

  it('are exact or not at all', () => {
    expect(checkedPico(2 ** 53 - 1)).toBe(2 ** 53 - 1)
    expect(() => checkedPico(2 ** 53)).toThrow('an amount is a whole number below 2^53')
    expect(() => checkedPico(-1)).toThrow('an amount is a whole number below 2^53')
  })
})
