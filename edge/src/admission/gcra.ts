import { assert } from './assert.ts'

/**
 * The generic cell rate algorithm in whole numbers. The textbook form keeps a theoretical arrival
 * time and admits iff `max(now, TAT) + cost/rate - now <= burst/rate`. Kept here is the same thing
 * times the rate, the amount that has not drained yet: `owed = (max(now, TAT) - now) * rate`, so the
 * test reads `owed + cost <= burst`. Nothing is divided, so nothing is rounded, decisions replay
 * bit by bit, and a changed rate leaves what is owed as it is. Times are whole milliseconds.
 *
 * What will be used over some time, the output of an answer under way, is held first: it takes room
 * and does not drain. As it is made, it turns from held into owed. Had it drained from the start,
 * a reservation that proves too high would be given back after having drained, and would be had
 * twice; so a minute can exceed its rate by the burst, and not by what estimates are wrong.
 */

/** A millisecond drains `perMinute` units, so a token or request is this many of them. */
const UNITS = 60_000

export interface Rate {
  /** Requests or tokens a minute; whole, at least 1. */
  readonly perMinute: number
  /** What may be admitted at one instant by an idle bucket; whole, at least 1. */
  readonly burst: number
}

/** Above `burst` the bucket is in debt and admits nothing. */
export interface Bucket {
  readonly owedUnits: number
  readonly atMs: number
  /** Requests or tokens that are reserved and not used yet. */
  readonly held: number
}

export const EMPTY_BUCKET: Bucket = { owedUnits: 0, atMs: 0, held: 0 }

/** The burst that `burstMs` of a rate make: six to ten seconds keep any minute within 10 to 17 %. */
export function burstOf(perMinute: number, burstMs: number): number {
  return Math.max(1, Math.floor((perMinute * burstMs) / 60_000))
}

/**
 * How long until `cost` fits, in milliseconds; 0 when it does now. Alone, with nothing held by then,
 * a retry after exactly this long is admitted. More than the whole burst fits only into a bucket
 * that owes and holds nothing. `ahead` is what others will take first.
 */
export function waitMs(bucket: Bucket, rate: Rate, cost: number, nowMs: number, ahead = 0): number {
  const roomUnits = Math.max(0, rate.burst - cost) * UNITS
  const excess = owedAt(bucket, rate, nowMs) + (bucket.held + ahead) * UNITS - roomUnits
  return excess <= 0 ? 0 : Math.ceil(excess / rate.perMinute)
}

/**
 * Takes `amount`, whether it fits or not; a negative one gives back. What has drained already
 * cannot be given back twice: a bucket never owes less than nothing.
 */
export function charge(bucket: Bucket, rate: Rate, amount: number, nowMs: number): Bucket {
  assert(Number.isInteger(amount), 'a bucket is charged whole amounts')
  const owedUnits = Math.max(0, owedAt(bucket, rate, nowMs) + amount * UNITS)
  assert(Number.isSafeInteger(owedUnits), 'what a bucket owes is counted exactly')
  return { ...bucket, owedUnits, atMs: Math.max(bucket.atMs, nowMs) }
}

/** Holds `amount` more; a negative one lets go. */
export function hold(bucket: Bucket, amount: number): Bucket {
  const held = bucket.held + amount
  assert(Number.isSafeInteger(held) && held >= 0, 'no more is let go than was held')
  return { ...bucket, held }
}

/** What could be taken now; negative while in debt. */
export function remaining(bucket: Bucket, rate: Rate, nowMs: number): number {
  return rate.burst - Math.ceil(owedAt(bucket, rate, nowMs) / UNITS) - bucket.held
}

/** Until the bucket is full again, if what it holds is used at once. */
export function resetMs(bucket: Bucket, rate: Rate, nowMs: number): number {
  return Math.ceil((owedAt(bucket, rate, nowMs) + bucket.held * UNITS) / rate.perMinute)
}

/** A clock that went back drains nothing and takes nothing. */
function owedAt(bucket: Bucket, rate: Rate, nowMs: number): number {
  const drained = Math.max(0, nowMs - bucket.atMs) * rate.perMinute
  return Math.max(0, bucket.owedUnits - drained)
}
