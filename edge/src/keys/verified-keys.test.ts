import { describe, expect, it } from 'vitest'
import { VerifiedKeys } from './verified-keys.ts'

describe('VerifiedKeys', () => {
  it('remembers an acceptance until its time is up, counted from the question', () => {
    const verified = new VerifiedKeys({ keysMax: 10, ttlMs: 1_500 })
    verified.add('a', 1_000)
    expect(verified.has('a', 1_000)).toBe(true)
    expect(verified.has('a', 2_499)).toBe(true)
    expect(verified.has('a', 2_500)).toBe(false)
    expect(verified.size).toBe(0)
  })

  it('knows only what it was told', () => {
    const verified = new VerifiedKeys({ keysMax: 10, ttlMs: 1_500 })
    verified.add('a', 0)
    expect(verified.has('b', 0)).toBe(false)
  })

  it('forgets the oldest when it is full; asking again makes a key young', () => {
    const verified = new VerifiedKeys({ keysMax: 2, ttlMs: 1_500 })
    verified.add('a', 0)
    verified.add('b', 0)
    verified.add('a', 1)
    verified.add('c', 2)
    expect(verified.size).toBe(2)
    expect(['a', 'b', 'c'].map((key) => verified.has(key, 2))).toEqual([true, false, true])
  })
})
