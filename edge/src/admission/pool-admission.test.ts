import { describe, expect, it } from 'vitest'
import type { Waiter } from './fair-queue.ts'
import { DEFAULT_POOL_POLICY, PoolAdmission } from './pool-admission.ts'
import type { Capacity } from './pool-admission.ts'

const NOW_MS = 1_000_000
const { reportIntervalMs, dispatchWithinMs, grantTtlMs } = DEFAULT_POOL_POLICY

function report(change: Partial<Capacity> = {}): Capacity {
  return {
    backendId: 'b1',
    incarnation: 'one',
    seq: 1,
    freeCacheTokens: 1000,
    cacheTokensMax: 2000,
    waitingTokens: 0,
    draining: false,
    progress: [],
    ...change,
  }
}

function running(requestId: string): Capacity['progress'][number] {
  return { requestId, promptTokens: 1, cachedTokens: 0, completionTokens: 0 }
}

function waiter(id: string, tokens = 400): Waiter {
  return { id, tenantId: id, weight: 1, band: 0, tokens, deadlineMs: NOW_MS + 30_000 }
}

function poolWith(change: Partial<Capacity> = {}): PoolAdmission {
  const pool = new PoolAdmission()
  pool.report(report(change), NOW_MS)
  return pool
}

describe('credits', () => {
  it('are what a report leaves, less what was granted since', () => {
    const pool = poolWith({ waitingTokens: 100 })
    expect(pool.credits('b1', NOW_MS)).toBe(900)
    expect(pool.request(waiter('r1'), NOW_MS)).toEqual({
      status: 'granted',
      grant: {
        requestId: 'r1',
        backendId: 'b1',
        tokens: 400,
        probe: false,
        dispatchByMs: NOW_MS + dispatchWithinMs,
      },
    })
    expect(pool.credits('b1', NOW_MS)).toBe(500)
  })

  it('count a grant until a report shows its request, or must have shown it', () => {
    const pool = poolWith()
    pool.request(waiter('r1'), NOW_MS)
    pool.report(report({ seq: 2 }), NOW_MS + 1)
    expect(pool.credits('b1', NOW_MS + 1)).toBe(600)
    pool.report(report({ seq: 3, freeCacheTokens: 600, progress: [running('r1')] }), NOW_MS + 2)
    expect(pool.credits('b1', NOW_MS + 2)).toBe(600)
    pool.request(waiter('r2'), NOW_MS + 2)
    pool.report(report({ seq: 4, freeCacheTokens: 600 }), NOW_MS + 1 + grantTtlMs)
    expect(pool.credits('b1', NOW_MS + 1 + grantTtlMs)).toBe(200)
    pool.report(report({ seq: 5, freeCacheTokens: 600 }), NOW_MS + 2 + grantTtlMs)
    expect(pool.credits('b1', NOW_MS + 2 + grantTtlMs)).toBe(600)
  })

  it('still count a grant when its time is over and the last report came before that', () => {
    const pool = poolWith()
    pool.request(waiter('r1'), NOW_MS)
    pool.report(report({ seq: 2 }), NOW_MS + grantTtlMs - 1)
    expect(pool.credits('b1', NOW_MS + grantTtlMs + reportIntervalMs - 1)).toBe(600)
  })

  it('come back when a granted request ends or was never sent', () => {
    const pool = poolWith()
    pool.request(waiter('r1'), NOW_MS)
    pool.finish('r1')
    expect(pool.credits('b1', NOW_MS)).toBe(1000)
  })

  it('fade when two reports are missed and are gone after five', () => {
    const pool = poolWith()
    const after = [0, 2, 3, 4, 5, 50].map((missed) =>
      pool.credits('b1', NOW_MS + missed * reportIntervalMs),
    )
    expect(after).toEqual([1000, 1000, 666, 333, 0, 0])
  })

  it('are none of a backend that drains', () => {
    expect(poolWith({ draining: true }).credits('b1', NOW_MS)).toBe(0)
  })
})

describe('reports', () => {
  it('that are older than what is known are passed over', () => {
    const pool = poolWith({ seq: 5 })
    expect(pool.report(report({ seq: 5 }), NOW_MS)).toBe(false)
    expect(pool.report(report({ seq: 4 }), NOW_MS)).toBe(false)
    expect(pool.report(report({ seq: 6 }), NOW_MS)).toBe(true)
  })

  it('of a new process replace the old one’s, whose late ones are passed over', () => {
    const pool = poolWith({ seq: 50 })
    expect(pool.report(report({ incarnation: 'two', seq: 1 }), NOW_MS)).toBe(true)
    expect(pool.report(report({ incarnation: 'one', seq: 51 }), NOW_MS)).toBe(false)
  })

  it('of a process that was out of reach count again', () => {
    const pool = poolWith({ seq: 7 })
    pool.forget('b1')
    expect(pool.credits('b1', NOW_MS)).toBe(0)
    expect(pool.report(report({ seq: 7 }), NOW_MS)).toBe(false)
    expect(pool.report(report({ seq: 8 }), NOW_MS)).toBe(true)
    expect(pool.credits('b1', NOW_MS)).toBe(1000)
  })

  it('of a new process still have to hold what is on its way to the old one', () => {
    const pool = poolWith()
    pool.request(waiter('r1'), NOW_MS)
    pool.report(report({ incarnation: 'two' }), NOW_MS + 10)
    expect(pool.credits('b1', NOW_MS + 10)).toBe(600)
  })

  it('of a new process show at once what has arrived at it', () => {
    const pool = poolWith()
    pool.request(waiter('r1'), NOW_MS)
    const first = { incarnation: 'two', freeCacheTokens: 600, progress: [running('r1')] }
    pool.report(report(first), NOW_MS + 10)
    expect(pool.credits('b1', NOW_MS + 10)).toBe(600)
  })
})

describe('turns', () => {
  it('are waited for and given in order as room is made', () => {
    const pool = poolWith({ freeCacheTokens: 0 })
    expect(pool.request(waiter('a'), NOW_MS)).toEqual({ status: 'waiting' })
    expect(pool.request(waiter('b'), NOW_MS)).toEqual({ status: 'waiting' })
    expect(pool.dispatch(NOW_MS)).toEqual([])
    pool.report(report({ seq: 2, freeCacheTokens: 700 }), NOW_MS + 5)
    expect(pool.dispatch(NOW_MS + 5).map(({ requestId }) => requestId)).toEqual(['a'])
    expect(pool.waiting).toEqual({ waiters: 1, tokens: 400 })
  })

  it('do not pass by whoever waits already', () => {
    const pool = poolWith({ freeCacheTokens: 500 })
    pool.request(waiter('large', 900), NOW_MS)
    expect(pool.request(waiter('small', 10), NOW_MS)).toEqual({ status: 'waiting' })
  })

  it('are the same turn for a request that asks again', () => {
    const pool = poolWith()
    pool.report(report({ backendId: 'b2', incarnation: 'x' }), NOW_MS)
    const first = pool.request(waiter('r'), NOW_MS)
    expect(pool.request(waiter('r'), NOW_MS + 1)).toEqual(first)
  })

  it('are refused to what no backend could hold', () => {
    expect(poolWith().request(waiter('r', 2001), NOW_MS)).toEqual({
      status: 'refused',
      reason: 'too_large',
    })
  })

  it('are not given to the overdue, whom expire answers', () => {
    const pool = poolWith({ freeCacheTokens: 0 })
    pool.request(waiter('r'), NOW_MS)
    const lateMs = NOW_MS + 30_000
    pool.report(report({ seq: 2 }), lateMs)
    expect(pool.dispatch(lateMs)).toEqual([])
    expect(pool.expire(lateMs).map(({ id }) => id)).toEqual(['r'])
  })

  it('are looked for again within a report’s interval while somebody waits, and at deadlines', () => {
    const pool = poolWith({ freeCacheTokens: 0 })
    pool.dispatch(NOW_MS)
    expect(pool.nextTickMs()).toBeNull()
    pool.request(waiter('r1'), NOW_MS + 1)
    pool.request(waiter('r2'), NOW_MS + 400)
    // Those who come meanwhile do not put it off.
    expect(pool.nextTickMs()).toBe(NOW_MS + reportIntervalMs)
    pool.request({ ...waiter('r3'), deadlineMs: NOW_MS + 450 }, NOW_MS + 400)
    expect(pool.nextTickMs()).toBe(NOW_MS + 450)
    pool.expire(NOW_MS + 450)
    pool.dispatch(NOW_MS + 450)
    expect(pool.nextTickMs()).toBe(NOW_MS + 450 + reportIntervalMs)
  })

  it('go to a silent backend one at a time, to see whether it lives', () => {
    const pool = poolWith()
    const silentMs = NOW_MS + 5 * reportIntervalMs
    const probe = pool.request(waiter('p1'), silentMs)
    expect(probe.status === 'granted' && probe.grant.probe).toBe(true)
    expect(pool.request(waiter('p2'), silentMs).status).toBe('waiting')
    expect(pool.dispatch(silentMs + DEFAULT_POOL_POLICY.probeEveryMs).length).toBe(1)
  })

  it('are not given by a new object before a report that shows what the one before had granted', () => {
    const pool = new PoolAdmission(DEFAULT_POOL_POLICY, NOW_MS + 3000)
    pool.report(report(), NOW_MS)
    expect(pool.request(waiter('r'), NOW_MS)).toEqual({ status: 'waiting' })
    pool.report(report({ seq: 2 }), NOW_MS + 2999)
    expect(pool.dispatch(NOW_MS + 3000)).toEqual([])
    pool.report(report({ seq: 3 }), NOW_MS + 3001)
    expect(pool.dispatch(NOW_MS + 3001).length).toBe(1)
  })
})
