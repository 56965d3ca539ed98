import { describe, expect, it } from 'vitest'
import {
  DEFAULT_POOL_POLICY,
  GRANTED_AT_STEP_MS,
  PoolAdmission,
  quietUntilMs,
} from './pool-admission.ts'
import type { Capacity } from './pool-admission.ts'
import { TurnLeases } from './turn-leases.ts'
import type { StartedTurn, TurnNews } from './turn-leases.ts'

const NOW_MS = 1_000_000
const { leaseTtlMs, grantTtlMs, reportIntervalMs } = DEFAULT_POOL_POLICY
const LEASE = { leaseId: 'l1', tokens: 1000, ttlMs: leaseTtlMs }

function turn(id: string, tokens = 400): StartedTurn {
  return { id, tenantId: 't', tokens }
}

function leasesWith(tokens = 1000): TurnLeases {
  const leases = new TurnLeases()
  leases.receive({ ...LEASE, tokens }, NOW_MS)
  return leases
}

function report(change: Partial<Capacity> = {}): Capacity {
  return {
    backendId: 'b1',
    incarnation: 'one',
    seq: 1,
    freeCacheTokens: 16_000,
    cacheTokensMax: 16_000,
    waitingTokens: 0,
    draining: false,
    progress: [],
    ...change,
  }
}

describe('an isolate’s turns', () => {
  it('start while what is lent holds them, and again when one has ended', () => {
    const leases = leasesWith()
    const started = ['a', 'b', 'c'].map((id) => leases.start(turn(id), NOW_MS))
    expect(started).toEqual([true, true, false])
    leases.end('a')
    expect(leases.start(turn('d'), NOW_MS)).toBe(true)
    expect(leases.news(NOW_MS)).toBeNull()
  })

  it('do not start with a lease that has lapsed', () => {
    const leases = leasesWith()
    expect(leases.start(turn('a'), NOW_MS + leaseTtlMs - 1)).toBe(true)
    expect(leases.start(turn('b'), NOW_MS + leaseTtlMs)).toBe(false)
  })

  it('are told of with the lease they outlive, and then by their end', () => {
    const leases = leasesWith()
    leases.start(turn('a'), NOW_MS)
    leases.start(turn('b'), NOW_MS)
    leases.end('b')
    leases.receive({ ...LEASE, leaseId: 'l2' }, NOW_MS)
    const news = leases.news(NOW_MS)
    expect(news).toEqual({ closed: [{ leaseId: 'l1', running: [turn('a')] }], ended: [] })
    leases.end('a')
    if (news !== null) leases.acknowledge(news)
    expect(leases.news(NOW_MS)).toEqual({ closed: [], ended: ['a'] })
  })

  it('of which nobody has heard are told of again', () => {
    const leases = leasesWith()
    leases.start(turn('a'), NOW_MS)
    leases.close()
    expect(leases.news(NOW_MS)).toEqual(leases.news(NOW_MS + 5000))
  })

  it('are asked for by the last second’s traffic, once there is some and the lease is not young', () => {
    const leases = new TurnLeases()
    for (let i = 0; i < 3; i += 1) leases.count(100, NOW_MS)
    expect(leases.ask('l1', NOW_MS)).toBeNull()
    leases.count(100, NOW_MS)
    expect(leases.ask('l1', NOW_MS)).toEqual({ leaseId: 'l1', tokens: 400 })
    leases.receive(LEASE, NOW_MS)
    expect(leases.ask('l2', NOW_MS + 1)).toBeNull()
    expect(leases.ask('l2', NOW_MS + leaseTtlMs / 2)).toEqual({ leaseId: 'l2', tokens: 400 })
    expect(leases.ask('l3', NOW_MS + 3000)).toBeNull()
  })
})

describe('lending', () => {
  it('is an eighth of what is free to one, half of it to all, and counts as granted', () => {
    const pool = new PoolAdmission()
    pool.report(report(), NOW_MS)
    const lend = (leaseId: string) => pool.lend({ leaseId, tokens: 1e9 }, NOW_MS)?.tokens
    expect(lend('a')).toBe(2000)
    expect(pool.credits('b1', NOW_MS)).toBe(14_000)
    const more = ['b', 'c', 'd', 'e', 'f', 'g'].map(lend)
    expect(more).toEqual([1750, 1531, 1339, 1172, 208, undefined])
    expect(pool.credits('b1', NOW_MS)).toBe(8000)
  })

  it('is not done while somebody waits, and counts until it must have shown', () => {
    const pool = new PoolAdmission()
    pool.report(report({ freeCacheTokens: 8000 }), NOW_MS)
    expect(pool.lend({ leaseId: 'a', tokens: 500 }, NOW_MS)).toEqual({
      leaseId: 'a',
      tokens: 500,
      ttlMs: leaseTtlMs,
    })
    const waiter = { ...turn('w', 7800), weight: 1, band: 0, deadlineMs: NOW_MS + 30_000 }
    expect(pool.request(waiter, NOW_MS)).toEqual({ status: 'waiting' })
    expect(pool.lend({ leaseId: 'b', tokens: 500 }, NOW_MS)).toBeNull()
    const shownMs = NOW_MS + leaseTtlMs + grantTtlMs
    pool.report(report({ seq: 2, freeCacheTokens: 8000 }), shownMs - 1)
    expect(pool.dispatch(shownMs + 400)).toEqual([])
    pool.report(report({ seq: 3, freeCacheTokens: 8000 }), shownMs + 400)
    expect(pool.dispatch(shownMs + 400).length).toBe(1)
  })

  it('asked for twice with one message is one lease, of one size', () => {
    const pool = new PoolAdmission()
    pool.report(report(), NOW_MS)
    const lease = pool.lend({ leaseId: 'a', tokens: 1e9 }, NOW_MS)
    expect(pool.lend({ leaseId: 'a', tokens: 1e9 }, NOW_MS + 100)).toEqual(lease)
    expect(pool.credits('b1', NOW_MS + 100)).toBe(14_000)
  })

  it('that has lapsed does not count once more when it is told to be over', () => {
    const pool = new PoolAdmission()
    pool.report(report(), NOW_MS)
    pool.lend({ leaseId: 'a', tokens: 1000 }, NOW_MS)
    const shownMs = NOW_MS + leaseTtlMs + grantTtlMs
    pool.report(report({ seq: 2 }), shownMs)
    pool.close({ leaseId: 'a', running: [turn('r')] }, shownMs)
    expect(pool.credits('b1', shownMs)).toBe(16_000)
  })

  it('is not done by a new object before a report that shows what the one before had lent', () => {
    const quietMs = quietUntilMs(NOW_MS)
    const pool = new PoolAdmission(DEFAULT_POOL_POLICY, quietMs)
    pool.report(report(), quietMs - 1)
    expect(pool.lend({ leaseId: 'a', tokens: 500 }, quietMs)).toBeNull()
    pool.report(report({ seq: 2 }), quietMs)
    expect(pool.lend({ leaseId: 'a', tokens: 500 }, quietMs)?.tokens).toBe(500)
    expect(quietMs).toBeGreaterThanOrEqual(NOW_MS + GRANTED_AT_STEP_MS + leaseTtlMs + grantTtlMs)
  })

  it('ends with what still runs granted by name', () => {
    const pool = new PoolAdmission()
    pool.report(report(), NOW_MS)
    pool.lend({ leaseId: 'a', tokens: 1000 }, NOW_MS)
    const closed = { leaseId: 'a', running: [turn('r')] }
    pool.close(closed, NOW_MS)
    pool.close(closed, NOW_MS)
    expect(pool.credits('b1', NOW_MS)).toBe(15_600)
    const progress = [{ requestId: 'r', promptTokens: 1, cachedTokens: 0, completionTokens: 0 }]
    pool.report(report({ seq: 2, freeCacheTokens: 15_600, progress }), NOW_MS + 1)
    expect(pool.credits('b1', NOW_MS + 1)).toBe(15_600)
  })
})

/** What truly happens at a backend: a request takes room when it arrives and gives it back. */
class World {
  readonly pool = new PoolAdmission()
  readonly isolates = [new TurnLeases(), new TurnLeases(), new TurnLeases()]
  readonly running = new Map<string, { tokens: number; isolate: TurnLeases }>()
  readonly messages: { atMs: number; run: () => void }[] = []
  readonly random: () => number
  nowMs = NOW_MS
  started = 0
  hits = 0
  #seq = 0

  constructor(seed: number) {
    let state = seed
    this.random = () => {
      state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
      return state / 2 ** 32
    }
  }

  get used(): number {
    return [...this.running.values()].reduce((sum, { tokens }) => sum + tokens, 0)
  }

  later(run: () => void, lost = 0): void {
    if (this.random() < lost) return
    this.messages.push({ atMs: this.nowMs + this.random() * 120, run })
  }

  arrive(isolate: TurnLeases): void {
    const one = turn(`r${(this.started += 1)}`, 50 + Math.floor(this.random() * 400))
    const dispatch = (): void => {
      this.later(() => void this.running.set(one.id, { tokens: one.tokens, isolate }))
    }
    if (isolate.start(one, this.nowMs)) {
      this.hits += 1
      dispatch()
      return
    }
    const askedAtMs = this.nowMs
    const ask = isolate.ask(`lease-${one.id}`, askedAtMs)
    isolate.count(one.tokens, askedAtMs)
    this.later(() => {
      const waiter = { ...one, weight: 1, band: 0, deadlineMs: 0 }
      if (this.pool.request(waiter, this.nowMs).status !== 'granted') {
        this.pool.cancel(one.id)
        return
      }
      const lease = ask === null ? null : this.pool.lend(ask, this.nowMs)
      this.later(() => {
        if (lease !== null) isolate.receive(lease, askedAtMs)
        dispatch()
      })
    })
  }

  /** An isolate speaks; the message, or the answer to it, may be lost. */
  tell(isolate: TurnLeases): void {
    const askedAtMs = this.nowMs
    const news: TurnNews | null = isolate.news(askedAtMs)
    const ask = isolate.wantsRenewal(askedAtMs)
      ? isolate.ask(`lease-${askedAtMs}-${this.random()}`, askedAtMs)
      : null
    this.later(() => {
      for (const closed of news?.closed ?? []) this.pool.close(closed, this.nowMs)
      for (const id of news?.ended ?? []) this.pool.finish(id)
      const lease = ask === null ? null : this.pool.lend(ask, this.nowMs)
      this.later(() => {
        if (news !== null) isolate.acknowledge(news)
        if (lease !== null) isolate.receive(lease, askedAtMs)
      }, 0.1)
    }, 0.1)
  }

  report(cacheTokensMax: number): void {
    const progress = [...this.running.keys()].map((requestId) => ({
      requestId,
      promptTokens: 1,
      cachedTokens: 0,
      completionTokens: 1,
    }))
    const freeCacheTokens = cacheTokensMax - this.used
    this.pool.report(
      report({ seq: (this.#seq += 1), freeCacheTokens, cacheTokensMax, progress }),
      this.nowMs,
    )
  }

  end(): void {
    const [id] = this.running.keys()
    const isolate = id === undefined ? undefined : this.running.get(id)?.isolate
    if (id === undefined || isolate === undefined) return
    this.running.delete(id)
    this.later(() => isolate.end(id))
  }

  deliver(): void {
    const due = this.messages.filter(({ atMs }) => atMs <= this.nowMs)
    for (const message of due) this.messages.splice(this.messages.indexOf(message), 1)
    for (const { run } of due) run()
  }
}

describe('I10 with turns lent', () => {
  it('more is never started than fits, whatever is lost, late or told twice', () => {
    const cacheTokensMax = 20_000
    let hits = 0
    for (let seed = 1; seed <= 40; seed += 1) {
      const world = new World(seed)
      world.report(cacheTokensMax)
      for (let step = 0; step < 1500; step += 1) {
        world.nowMs += 10
        if (step % 10 === 0) world.report(cacheTokensMax)
        if (step % 20 === 0) for (const isolate of world.isolates) world.tell(isolate)
        const isolate = world.isolates[Math.floor(world.random() * world.isolates.length)]
        if (isolate !== undefined && world.random() < 0.5) world.arrive(isolate)
        if (world.random() < (step < 700 ? 0.3 : 0.6)) world.end()
        world.deliver()
        expect(world.used).toBeLessThanOrEqual(cacheTokensMax)
      }
      hits += world.hits / world.started
      expect(world.nowMs).toBe(NOW_MS + 1500 * 10)
    }
    // The run shows something only when many requests did start by themselves.
    expect(hits / 40).toBeGreaterThan(0.3)
    expect(reportIntervalMs).toBeGreaterThan(100)
  })
})
