import { describe, expect, it } from 'vitest'
import type { Limit } from './limits.ts'
import { memoryTenantStore } from './memory-store.ts'
import type { MemoryTenantStore } from './memory-store.ts'
import type { Billing } from './money.ts'
import { DEFAULT_POLICY } from './policy.ts'
import { LIST_PRICES } from './prices.ts'
import type { SettledRecord } from './prices.ts'
import { TenantAdmission } from './tenant-admission.ts'
import type { Admission, AdmitRequest, LeaseAsk, Refusal } from './tenant-admission.ts'

const NOW_MS = 1_000_000
const USD = 1_000_000_000_000n
const scope = { projectId: 'p', keyId: 'k', model: 'deepseek-v4-flash' }
const requests: Limit = {
  id: 'rpm',
  scope: {},
  dimension: 'requests',
  perMinute: 60,
  burstMs: 6000,
}
const output: Limit = {
  id: 'otpm',
  scope: {},
  dimension: 'outputTokens',
  perMinute: 60_000,
  burstMs: 6000,
}

interface Tenant {
  readonly core: TenantAdmission
  readonly store: MemoryTenantStore
}

function tenant(
  limits: readonly Limit[] = [],
  billing: Billing = { kind: 'postpaid', creditPico: 1000n * USD },
): Tenant {
  const store = memoryTenantStore()
  const terms = { limits, billing, prices: { list: LIST_PRICES, contract: [] } }
  return { store, core: new TenantAdmission(store, terms) }
}

function request(requestId: string, change: Partial<AdmitRequest> = {}): AdmitRequest {
  return { requestId, scope, bodyBytes: 350, outputTokensMax: 1000, maxCostPico: null, ...change }
}

function admitted(answer: Admission | Refusal): Admission {
  if (answer.status !== 'admitted') throw new Error(`refused: ${answer.reason}`)
  return answer
}

function record(requestId: string, change: Partial<SettledRecord> = {}): SettledRecord {
  return {
    requestId,
    ...scope,
    promptTokens: 80,
    cachedTokens: 16,
    completionTokens: 200,
    deliveredTokens: 200,
    outcome: 'stop',
    acceptedAtMs: NOW_MS,
    ...change,
  }
}

const RECORD_PICO = BigInt(16 * 28_000 + 64 * 140_000 + 200 * 280_000)

function ask(leaseId: string, count = 100): LeaseAsk {
  const cost = {
    requests: count,
    inputTokens: 100 * count,
    uncachedInputTokens: 100 * count,
    outputTokens: 1000 * count,
  }
  return { leaseId, isolateId: 'i', demand: { cost, pico: 1000 * count }, sinceLastMs: null }
}

const ROOMY: readonly Limit[] = [
  { ...requests, perMinute: 60_000 },
  { ...output, perMinute: 60_000_000 },
  { id: 'slots', scope: {}, dimension: 'concurrency', max: 1000 },
]

function left(core: TenantAdmission, nowMs = NOW_MS): Record<string, number> {
  return Object.fromEntries(
    core.limits(scope, nowMs).map(({ limitId, remaining }) => [limitId, remaining]),
  )
}

describe('admit', () => {
  it('reserves in every dimension, with the price of the moment', () => {
    const { core } = tenant([requests, output])
    const { reservation } = admitted(core.admit(request('r1'), null, NOW_MS))
    expect(reservation).toMatchObject({
      id: 'r1',
      estimate: { requests: 1, inputTokens: 100, uncachedInputTokens: 100, outputTokens: 1000 },
      price: { version: '2026-04-24' },
      grantedOutputTokens: 1000,
      holdPico: 100 * 140_000 + 1000 * 280_000,
    })
    expect(left(core)).toEqual({ rpm: 5, otpm: 5000 })
  })

  it('reserves in none when one refuses, and names the one that takes longest', () => {
    const { core } = tenant([requests, output])
    for (const id of ['a', 'b', 'c', 'd', 'e', 'f']) core.admit(request(id), null, NOW_MS)
    const refused = core.admit(request('g'), null, NOW_MS)
    expect(refused).toMatchObject({
      status: 'refused',
      reason: 'rate',
      binding: { limitId: 'rpm', dimension: 'requests', need: 1, remaining: 0 },
      retryAfterMs: 1000,
    })
    expect(left(core)).toEqual({ rpm: 0, otpm: 0 })
  })

  it('gives the same reservation to a call that is repeated', () => {
    const { core } = tenant([requests])
    const first = core.admit(request('r1'), null, NOW_MS)
    expect(core.admit(request('r1'), null, NOW_MS)).toEqual(first)
    expect(left(core)).toEqual({ rpm: 5 })
  })

  it('refuses, in this order: what is over, unpriced, too dear, not paid for, limited', () => {
    const { core } = tenant([requests], { kind: 'prepaid' })
    const reasons = (...asked: AdmitRequest[]): string[] =>
      asked.map((one) => {
        const answer = core.admit(one, null, NOW_MS)
        return answer.status === 'refused' ? answer.reason : answer.status
      })
    const unknown = { scope: { ...scope, model: 'unheard-of' } }
    expect(reasons(request('a', unknown), request('b', { maxCostPico: 5 }), request('c'))).toEqual([
      'no_price',
      'max_cost',
      'balance',
    ])
    core.topUp('p', 1000n * USD, NOW_MS)
    for (let index = 0; index < 6; index++) core.admit(request(`r${index}`), null, NOW_MS)
    core.release('r0', NOW_MS)
    expect(reasons(request('r0'), request('d'), request('e'))).toEqual([
      'duplicate',
      'admitted',
      'rate',
    ])
  })

  it('counts places, which free themselves when nothing is heard of their request', () => {
    const { core } = tenant([{ id: 'slots', scope: {}, dimension: 'concurrency', max: 1 }])
    admitted(core.admit(request('r1'), null, NOW_MS))
    const second = core.admit(request('r2'), null, NOW_MS)
    expect(second).toMatchObject({ reason: 'concurrency', binding: { limitId: 'slots' } })
    core.heartbeat(['r1'], NOW_MS + 20_000)
    expect(core.admit(request('r2'), null, NOW_MS + 40_000).status).toBe('refused')
    expect(core.admit(request('r2'), null, NOW_MS + 50_000).status).toBe('admitted')
  })
})

describe('prepaid money', () => {
  it('is spent to the last token it can pay for, and never beyond', () => {
    const { core } = tenant([], { kind: 'prepaid' })
    core.topUp('p', 350n * 140_000n + 10n * 280_000n, NOW_MS)
    const { reservation } = admitted(core.admit(request('r1'), null, NOW_MS))
    expect(reservation.grantedOutputTokens).toBe(10)
    expect(core.availablePico()).toBe(0n)
    expect(core.admit(request('r2'), null, NOW_MS)).toMatchObject({ reason: 'balance' })
  })

  it('five hundred at once on one dollar spend at most one dollar', () => {
    const { core } = tenant([], { kind: 'prepaid' })
    core.topUp('p', USD, NOW_MS)
    const granted = Array.from({ length: 500 }, (_, index) =>
      core.admit(request(`r${index}`, { outputTokensMax: 50_000 }), null, NOW_MS),
    ).filter((answer) => answer.status === 'admitted')
    for (const { reservation } of granted) {
      const tokens = { promptTokens: 350, cachedTokens: 0 }
      const completionTokens = reservation.grantedOutputTokens
      core.settle(record(reservation.id, { ...tokens, completionTokens }), NOW_MS)
    }
    expect(granted.length).toBeGreaterThan(50)
    expect(core.balancePico()).toBeGreaterThanOrEqual(0n)
    expect(core.balancePico()).toBeLessThan(USD / 1000n)
  })

  it('is freed as soon as the prompt’s length is known', () => {
    const { core } = tenant([], { kind: 'prepaid' })
    core.topUp('p', USD, NOW_MS)
    core.admit(request('r1'), null, NOW_MS)
    core.progress(
      { requestId: 'r1', promptTokens: 80, cachedTokens: 0, completionTokens: 1 },
      NOW_MS,
    )
    expect(core.availablePico()).toBe(USD - 80n * 140_000n - 1000n * 280_000n)
  })
})

describe('progress', () => {
  const at = (completionTokens: number) => ({
    requestId: 'r1',
    promptTokens: 80,
    cachedTokens: 16,
    completionTokens,
  })

  it('turns held output into used in steps, and goes beyond the estimate', () => {
    const { core, store } = tenant([output])
    core.admit(request('r1', { outputTokensMax: 600 }), null, NOW_MS)
    const states = [255, 256, 700, 300].map((made) => {
      core.progress(at(made), NOW_MS)
      const { held = 0, owedUnits = 0 } = store.buckets.get('otpm') ?? {}
      return [held, owedUnits / 60_000]
    })
    expect(states).toEqual([
      [600, 0],
      [344, 256],
      [88, 512],
      [88, 512],
    ])
    core.settle(record('r1', { completionTokens: 700 }), NOW_MS)
    expect(store.buckets.get('otpm')).toEqual({
      id: 'otpm',
      held: 0,
      owedUnits: 700 * 60_000,
      atMs: NOW_MS,
    })
  })

  it('holds the output of a limit that was dropped no longer than its request lasts', () => {
    const { core, store } = tenant([output])
    core.admit(request('r1'), null, NOW_MS)
    const terms = {
      limits: [],
      billing: { kind: 'prepaid' as const },
      prices: { list: LIST_PRICES, contract: [] },
    }
    new TenantAdmission(store, terms).settle(
      record('r1', { outcome: 'failed', deliveredTokens: 0 }),
      NOW_MS,
    )
    expect(left(core)).toEqual({ otpm: 6000 })
  })
})

describe('settle', () => {
  it('charges what the record says, once', () => {
    const { core, store } = tenant([requests, output])
    core.admit(request('r1'), null, NOW_MS)
    const statuses = [record('r1'), record('r1'), record('r1', { completionTokens: 201 })].map(
      (one) => core.settle(one, NOW_MS),
    )
    expect(statuses).toEqual(['applied', 'exists', 'conflict'])
    expect(core.balancePico()).toBe(-RECORD_PICO)
    expect(core.availablePico()).toBe(1000n * USD - RECORD_PICO)
    expect(store.postings).toEqual([
      {
        id: 'r1',
        kind: 'settle',
        atMs: NOW_MS,
        from: 'tenant',
        to: 'revenue',
        amountPico: RECORD_PICO,
        usage: {
          ...scope,
          promptTokens: 80,
          cachedTokens: 16,
          outputTokens: 200,
          admittedAtMs: NOW_MS,
          priceVersion: '2026-04-24',
        },
      },
    ])
    expect(left(core)).toEqual({ rpm: 5, otpm: 5800 })
  })

  it('gives everything back for what failed before its first word', () => {
    const { core } = tenant([requests, output])
    core.admit(request('r1'), null, NOW_MS)
    core.settle(record('r1', { outcome: 'failed', deliveredTokens: 0 }), NOW_MS)
    expect(core.balancePico()).toBe(0n)
    expect(left(core)).toEqual({ rpm: 6, otpm: 6000 })
  })

  it('parks a record that nothing is known of, and settles it without when none comes', () => {
    const { core } = tenant([requests])
    expect([core.settle(record('r9'), NOW_MS), core.settle(record('r9'), NOW_MS)]).toEqual([
      'parked',
      'parked',
    ])
    expect(core.balancePico()).toBe(0n)
    expect(core.sweep(NOW_MS + DEFAULT_POLICY.parkedMs - 1).ask).toEqual([])
    expect(core.balancePico()).toBe(0n)
    core.sweep(NOW_MS + DEFAULT_POLICY.parkedMs)
    expect(core.balancePico()).toBe(-RECORD_PICO)
    expect(core.settle(record('r9'), NOW_MS)).toBe('exists')
  })

  it('asks about what stays away: what the backend does not know is released', () => {
    const { core } = tenant([requests])
    core.admit(request('r1'), null, NOW_MS)
    const dueMs = NOW_MS + DEFAULT_POLICY.askAfterMs
    expect(core.sweep(dueMs - 1)).toEqual({ ask: [], nextDueAtMs: dueMs })
    expect(core.sweep(dueMs).ask).toEqual(['r1'])
    expect(core.answer('r1', { kind: 'under_way' }, dueMs)).toBeNull()
    expect(core.sweep(dueMs + DEFAULT_POLICY.askAgainMs).ask).toEqual(['r1'])
    expect(core.answer('r1', { kind: 'unknown' }, dueMs)).toBe('released')
    expect(core.answer('r1', { kind: 'unknown' }, dueMs)).toBeNull()
    expect(core.settle(record('r1'), dueMs)).toBe('late')
    expect(core.balancePico()).toBe(0n)
  })

  it('shows as a loss what a prepaid balance cannot pay', () => {
    const { core, store } = tenant([], { kind: 'prepaid' })
    core.topUp('p', 1000n, NOW_MS)
    core.settle(record('r1'), NOW_MS)
    core.sweep(NOW_MS + DEFAULT_POLICY.parkedMs)
    expect(core.balancePico()).toBe(0n)
    expect(store.balances.get('writeoff')).toBe(1000n - RECORD_PICO)
    expect(store.balances.get('revenue')).toBe(RECORD_PICO)
  })

  it('ends in the same ledger whatever the order of admission, progress and record', () => {
    type Step = (core: TenantAdmission) => void
    const report = {
      lease: {
        leaseId: 'gone',
        scope,
        price: {
          version: '2026-04-24',
          cacheHitPico: 28_000,
          cacheMissPico: 140_000,
          outputPico: 280_000,
        },
      },
      first: 0,
      spends: [
        {
          ...request('r1'),
          estimate: { requests: 1, inputTokens: 100, uncachedInputTokens: 100, outputTokens: 500 },
          grantedOutputTokens: 1000,
          holdPico: 5,
          agoMs: 0,
        },
      ],
      closes: false,
    }
    const steps: readonly Step[] = [
      (core) => void core.report(report, NOW_MS),
      (core) => void core.settle(record('r1'), NOW_MS),
      (core) =>
        core.progress(
          { requestId: 'r1', promptTokens: 80, cachedTokens: 16, completionTokens: 150 },
          NOW_MS,
        ),
      (core) => void core.settle(record('r1'), NOW_MS),
      (core) => void core.report(report, NOW_MS),
    ]
    const ends = permutations(steps).map((order) => {
      const { core, store } = tenant([requests, output])
      for (const step of order) step(core)
      return [left(core), core.balancePico(), core.availablePico(), store.postings]
    })
    for (const end of ends) expect(end).toEqual(ends[0])
  })
})

describe('leases', () => {
  it('are lent beside a request, of all dimensions, places and money', () => {
    const { core } = tenant(ROOMY)
    const { lease, reservation } = admitted(core.admit(request('r1'), ask('l1'), NOW_MS))
    expect(lease).toMatchObject({
      leaseId: 'l1',
      ttlMs: DEFAULT_POLICY.leaseTtlMs,
      cost: { requests: 19, inputTokens: 1900, uncachedInputTokens: 1900, outputTokens: 19_000 },
      pico: 19_000,
      keyEpoch: 0,
    })
    expect(left(core)).toMatchObject({ rpm: 5980, slots: 980 })
    expect(core.availablePico()).toBe(1000n * USD - BigInt(reservation.holdPico) - 19_000n)
  })

  it('are given once a second at most, and the same one to a call that is repeated', () => {
    const { core } = tenant(ROOMY)
    const first = core.refill(scope, ask('l1'), NOW_MS)
    expect(first).not.toBeNull()
    expect(core.refill(scope, ask('l1'), NOW_MS)).toEqual(first)
    expect(core.refill(scope, { ...ask('l2'), sinceLastMs: 999 }, NOW_MS)).toBeNull()
  })

  it('give their capacity back when they expire, and their money when nothing can be owed', () => {
    const { core } = tenant(ROOMY)
    core.refill(scope, ask('l1'), NOW_MS)
    const endMs = NOW_MS + DEFAULT_POLICY.leaseTtlMs + DEFAULT_POLICY.leaseReportGraceMs
    core.sweep(endMs)
    expect(left(core, endMs)).toEqual({ rpm: 6000, otpm: 6_000_000, slots: 1000 })
    expect(core.availablePico()).toBe(1000n * USD - 20_000n)
    core.sweep(endMs + DEFAULT_POLICY.leaseMoneyMs)
    expect(core.availablePico()).toBe(1000n * USD)
  })

  it('carry the key epoch of the moment', () => {
    const { core } = tenant(ROOMY)
    expect(core.bumpKeyEpoch()).toBe(1)
    expect(core.refill(scope, ask('l1'), NOW_MS)?.keyEpoch).toBe(1)
  })
})

function permutations<Item>(items: readonly Item[]): Item[][] {
  if (items.length === 0) return [[]]
  return items.flatMap((item, index) =>
    permutations(items.toSpliced(index, 1)).map((rest) => [item, ...rest]),
  )
}
