import { describe, expect, it } from 'vitest'
import { burstOf, charge, EMPTY_BUCKET, hold, remaining, resetMs, waitMs } from './gcra.ts'
import type { Bucket, Rate } from './gcra.ts'

const rate: Rate = { perMinute: 600, burst: 60 }
const NOW_MS = 1_800_000_000_000

describe('waitMs', () => {
  it('agrees with the theoretical arrival time of the textbook', () => {
    let bucket: Bucket = EMPTY_BUCKET
    let tatMs = 0
    let nowMs = NOW_MS
    const perMs = rate.perMinute / 60_000
    for (let step = 0; step < 2000; step++) {
      // A small generator of its own, so that nothing is left to luck.
      nowMs += (step * 7919) % 1301
      const cost = 1 + ((step * 104_729) % 50)
      const excessMs = Math.max(nowMs, tatMs) + cost / perMs - nowMs - rate.burst / perMs
      expect(waitMs(bucket, rate, cost, nowMs)).toBe(Math.max(0, Math.ceil(excessMs)))
      if (excessMs > 0) continue
      tatMs = Math.max(nowMs, tatMs) + cost / perMs
      bucket = charge(bucket, rate, cost, nowMs)
    }
  })

  it('is exact: a millisecond earlier is refused, at the time it is admitted', () => {
    const bucket = charge(EMPTY_BUCKET, { perMinute: 7, burst: 10 }, 9, NOW_MS)
    const wait = waitMs(bucket, { perMinute: 7, burst: 10 }, 3, NOW_MS)
    expect(wait).toBe(Math.ceil((2 * 60_000) / 7))
    expect(waitMs(bucket, { perMinute: 7, burst: 10 }, 3, NOW_MS + wait - 1)).toBeGreaterThan(0)
    expect(waitMs(bucket, { perMinute: 7, burst: 10 }, 3, NOW_MS + wait)).toBe(0)
  })

  it('lets more than the burst in only when nothing is owed or held', () => {
    expect(waitMs(EMPTY_BUCKET, rate, 1000, NOW_MS)).toBe(0)
    const owing = charge(EMPTY_BUCKET, rate, 1, NOW_MS)
    expect(waitMs(owing, rate, 1000, NOW_MS)).toBe(100)
    expect(waitMs(hold(EMPTY_BUCKET, 1), rate, 1000, NOW_MS)).toBe(100)
  })

  it('takes what is held for used, for as long as it is held', () => {
    const bucket = hold(EMPTY_BUCKET, 50)
    expect(waitMs(bucket, rate, 10, NOW_MS)).toBe(0)
    expect(waitMs(bucket, rate, 11, NOW_MS)).toBe(100)
    expect(waitMs(bucket, rate, 11, NOW_MS + 3_600_000)).toBe(100)
    expect(waitMs(hold(bucket, -50), rate, 60, NOW_MS)).toBe(0)
  })
})

describe('charge', () => {
  it('goes into debt, which drains at the rate', () => {
    const bucket = charge(EMPTY_BUCKET, rate, 600, NOW_MS)
    expect(remaining(bucket, rate, NOW_MS)).toBe(-540)
    expect(remaining(bucket, rate, NOW_MS + 30_000)).toBe(-240)
    expect(resetMs(bucket, rate, NOW_MS)).toBe(60_000)
    expect(remaining(bucket, rate, NOW_MS + 60_000)).toBe(60)
  })

  it('gives back no more than is still owed', () => {
    const bucket = charge(EMPTY_BUCKET, rate, 60, NOW_MS)
    const later = charge(bucket, rate, -60, NOW_MS + 5000)
    expect(later).toEqual({ owedUnits: 0, atMs: NOW_MS + 5000, held: 0 })
  })

  it('drains nothing when the clock goes back', () => {
    const bucket = charge(EMPTY_BUCKET, rate, 10, NOW_MS)
    const earlier = charge(bucket, rate, 10, NOW_MS - 60_000)
    expect(earlier).toEqual({ owedUnits: 20 * 60_000, atMs: NOW_MS, held: 0 })
  })

  it('keeps what is owed when the rate changes', () => {
    const bucket = charge(EMPTY_BUCKET, rate, 60, NOW_MS)
    expect(remaining(bucket, { perMinute: 60, burst: 60 }, NOW_MS + 1000)).toBe(1)
  })
})

describe('burstOf', () => {
  it('is a span of the rate, and at least one', () => {
    expect([burstOf(600, 6000), burstOf(100_000, 6000), burstOf(1, 6000)]).toEqual([60, 10_000, 1])
  })
})
