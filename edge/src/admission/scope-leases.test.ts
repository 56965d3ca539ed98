import { describe, expect, it } from 'vitest'
import { ScopeLeases } from './scope-leases.ts'
import type { Lease } from './tenant-store.ts'

const NOW_MS = 1_000_000
const scope = { projectId: 'p', keyId: 'k', model: 'm' }
const price = { version: 'v', cacheHitPico: 1, cacheMissPico: 10, outputPico: 100 }

function lease(change: Partial<Lease> = {}): Lease {
  return {
    leaseId: 'l1',
    scope,
    ttlMs: 1500,
    cost: { requests: 2, inputTokens: 100, uncachedInputTokens: 100, outputTokens: 40 },
    pico: 10_000,
    billing: 'prepaid',
    price,
    estimates: { tokensPerByte: 0.5, cachedShare: 0, outputTokens: 20 },
    keyEpoch: 7,
    ...change,
  }
}

function request(requestId: string, change: object = {}) {
  return { requestId, bodyBytes: 40, outputTokensMax: 30, maxCostPico: null, ...change }
}

function leasesWith(change: Partial<Lease> = {}): ScopeLeases {
  const leases = new ScopeLeases('i1')
  leases.receive(lease(change), NOW_MS)
  return leases
}

describe('spend', () => {
  it('takes its estimate, its hold and its place from the lease', () => {
    const leases = leasesWith()
    expect(leases.spend(request('r1'), NOW_MS + 5)).toEqual({
      requestId: 'r1',
      bodyBytes: 40,
      outputTokensMax: 30,
      estimate: { requests: 1, inputTokens: 20, uncachedInputTokens: 20, outputTokens: 20 },
      grantedOutputTokens: 30,
      holdPico: 40 * 10 + 30 * 100,
      agoMs: 0,
      lease: lease(),
      verifiedAtMs: NOW_MS,
    })
    expect(leases.spend(request('r2'), NOW_MS + 5)).not.toBeNull()
    expect(leases.spend(request('r3'), NOW_MS + 5)).toBeNull()
  })

  it.each([
    ['input', { bodyBytes: 202 }, {}],
    ['output', {}, { cost: { ...lease().cost, outputTokens: 19 } }],
    ['money for the whole answer', {}, { pico: 3399 }],
  ])('is refused when the lease has too little %s', (_, ask, change) => {
    expect(leasesWith(change).spend(request('r', ask), NOW_MS)).toBeNull()
  })

  it('ends with the lease, counted from before it was asked for', () => {
    const leases = leasesWith()
    expect(leases.keyEpoch(NOW_MS + 1499)).toBe(7)
    expect(leases.spend(request('r'), NOW_MS + 1500)).toBeNull()
    expect(leases.keyEpoch(NOW_MS + 1500)).toBeNull()
  })
})

describe('reports', () => {
  it('tell what was spent, in order, until it is confirmed', () => {
    const leases = leasesWith()
    expect(leases.reports(NOW_MS)).toEqual([])
    leases.spend(request('r1'), NOW_MS)
    leases.spend(request('r2'), NOW_MS + 10)
    const told = leases.reports(NOW_MS + 20)
    expect(
      told.map(({ first, spends, closes }) => ({ first, closes, spends: spends.length })),
    ).toEqual([{ first: 0, closes: false, spends: 2 }])
    expect(told[0]?.spends.map(({ requestId, agoMs }) => [requestId, agoMs])).toEqual([
      ['r1', 20],
      ['r2', 10],
    ])
    leases.acknowledge('l1', 1)
    expect(leases.reports(NOW_MS + 20)[0]?.spends.map(({ requestId }) => requestId)).toEqual(['r2'])
    leases.acknowledge('l1', 2)
    expect(leases.reports(NOW_MS + 20)).toEqual([])
  })

  it('give a lease back when it is replaced, has expired or is not needed', () => {
    const replaced = leasesWith()
    replaced.receive(lease({ leaseId: 'l2' }), NOW_MS + 1000)
    const expired = leasesWith()
    const idle = leasesWith()
    idle.close()
    const closes = [
      replaced.reports(NOW_MS + 1000),
      expired.reports(NOW_MS + 1500),
      idle.reports(NOW_MS),
    ].map((reports) => reports.map((report) => [report.lease.leaseId, report.closes]))
    expect(closes).toEqual([[['l1', true]], [['l1', true]], [['l1', true]]])
    idle.acknowledge('l1', 0)
    expect(idle.reports(NOW_MS)).toEqual([])
  })

  it('are given up after a minute, when records have long said the same', () => {
    const leases = leasesWith()
    leases.spend(request('r1'), NOW_MS)
    expect(leases.reports(NOW_MS + 61_400).length).toBe(1)
    expect(leases.reports(NOW_MS + 61_500)).toEqual([])
  })
})

describe('receive', () => {
  it('takes the same lease once, however often the answer comes', () => {
    const leases = leasesWith()
    leases.spend(request('r1'), NOW_MS)
    leases.spend(request('r2'), NOW_MS)
    leases.receive(lease(), NOW_MS)
    expect(leases.spend(request('r3'), NOW_MS)).toBeNull()
  })
})

describe('ask', () => {
  it('tells what was admitted in the last second, by whatever way', () => {
    const leases = leasesWith()
    leases.spend(request('r1'), NOW_MS)
    leases.count(
      { requests: 1, inputTokens: 1, uncachedInputTokens: 1, outputTokens: 1 },
      5,
      NOW_MS,
    )
    expect(leases.ask('l2', NOW_MS + 900)).toEqual({
      leaseId: 'l2',
      isolateId: 'i1',
      demand: {
        cost: { requests: 2, inputTokens: 21, uncachedInputTokens: 21, outputTokens: 21 },
        pico: 3405,
      },
      sinceLastMs: 900,
    })
    expect(leases.ask('l3', NOW_MS + 5000).demand.cost.requests).toBe(0)
  })

  it('is due once a second', () => {
    expect(new ScopeLeases('i').wantsRefill(NOW_MS)).toBe(true)
    expect([999, 1000].map((ms) => leasesWith().wantsRefill(NOW_MS + ms))).toEqual([false, true])
  })
})
