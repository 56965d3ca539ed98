import { describe, expect, it } from 'vitest'
import { leaseSize } from './lease-size.ts'
import type { Remaining } from './lease-size.ts'

const demand = {
  cost: { requests: 10, inputTokens: 1000, uncachedInputTokens: 500, outputTokens: 2000 },
  pico: 10_000,
}
const plenty: Remaining = {
  cost: { requests: 1e6, inputTokens: 1e9, uncachedInputTokens: 1e9, outputTokens: 1e9 },
  tokens: Infinity,
  slots: Infinity,
  pico: 10n ** 15n,
}

describe('leaseSize', () => {
  it('is somewhat more than what was used of late', () => {
    expect(leaseSize(demand, plenty)).toEqual({
      cost: { requests: 15, inputTokens: 1500, uncachedInputTokens: 750, outputTokens: 3000 },
      pico: 15_000,
    })
  })

  it.each([
    ['requests', { ...plenty, cost: { ...plenty.cost, requests: 200 } }],
    ['output tokens', { ...plenty, cost: { ...plenty.cost, outputTokens: 40_000 } }],
    ['places', { ...plenty, slots: 200 }],
    ['money', { ...plenty, pico: 200_000n }],
  ])('is at most two in a hundred of the %s that remain', (_, remaining) => {
    expect(leaseSize(demand, remaining)?.cost.requests).toBe(4)
  })

  it('is nothing near a limit, without money, or without demand', () => {
    expect(leaseSize(demand, { ...plenty, slots: 49 })).toBeNull()
    expect(leaseSize(demand, { ...plenty, pico: -1n })).toBeNull()
    expect(leaseSize({ ...demand, cost: { ...demand.cost, requests: 0 } }, plenty)).toBeNull()
  })
})
