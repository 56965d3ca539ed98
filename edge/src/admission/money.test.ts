import { describe, expect, it } from 'vitest'
import { planMoney } from './money.ts'
import type { MoneyRequest } from './money.ts'

const request: MoneyRequest = {
  bodyBytes: 100,
  outputTokensMax: 50,
  estimate: { requests: 1, inputTokens: 30, uncachedInputTokens: 30, outputTokens: 20 },
  prices: { cacheHitPico: 1, cacheMissPico: 10, outputPico: 100 },
  billing: 'prepaid',
  maxCostPico: null,
}

describe('prepaid', () => {
  it('holds the worst case: every byte a token, every granted token made', () => {
    expect(planMoney(request, 1_000_000n)).toEqual({ grantedOutputTokens: 50, holdPico: 6000 })
  })

  it('grants the output that is left to pay for, down to one token', () => {
    expect(planMoney(request, 3099n)).toEqual({ grantedOutputTokens: 20, holdPico: 3000 })
    expect(planMoney(request, 1100n)).toEqual({ grantedOutputTokens: 1, holdPico: 1100 })
    expect(planMoney(request, 1099n)).toBeNull()
    expect(planMoney(request, -5n)).toBeNull()
  })

  it('stays within what the caller will pay', () => {
    const capped = { ...request, maxCostPico: 1500 }
    expect(planMoney(capped, 1_000_000n)).toEqual({ grantedOutputTokens: 5, holdPico: 1500 })
  })

  it('takes a balance beyond 2^53 for what it is', () => {
    expect(planMoney(request, 2n ** 62n)?.grantedOutputTokens).toBe(50)
  })
})

describe('postpaid', () => {
  const postpaid = { ...request, billing: 'postpaid' } as const

  it('holds the estimate and grants what was asked for', () => {
    expect(planMoney(postpaid, 2300n)).toEqual({ grantedOutputTokens: 50, holdPico: 2300 })
    expect(planMoney(postpaid, 2299n)).toBeNull()
  })

  it('stays within what the caller will pay', () => {
    expect(planMoney({ ...postpaid, maxCostPico: 1250 }, 1_000_000n)).toEqual({
      grantedOutputTokens: 2,
      holdPico: 2300,
    })
    expect(planMoney({ ...postpaid, maxCostPico: 1099 }, 1_000_000n)).toBeNull()
  })
})

describe('what is free', () => {
  it('needs no money, as long as the input is paid', () => {
    const free = { ...request, prices: { ...request.prices, outputPico: 0 } }
    expect(planMoney(free, 1000n)).toEqual({ grantedOutputTokens: 50, holdPico: 1000 })
    expect(planMoney(free, 999n)).toBeNull()
  })
})
