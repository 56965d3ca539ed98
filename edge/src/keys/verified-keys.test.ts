import { describe, expect, it } from 'vitest'
import { VerifiedKeys } from './verified-keys.ts'

function asked(askedAtMs: number, untilMs: number | null = null) {
  return { askedAtMs, untilMs }
}

describe('VerifiedKeys', () => {
  it('remembers an acceptance until its time is up, counted from the question', () => {
    const verified = new VerifiedKeys<string>({ keysMax: 10, ttlMs: 1_500 })
    verified.add('a', 'Ada', asked(1_000))
    expect(verified.get('a', 1_000)).toBe('Ada')
    expect(verified.get('a', 2_499)).toBe('Ada')
    expect(verified.get('a', 2_500)).toBeNull()
    expect(verified.size).toBe(0)
  })

  it('forgets a credential when it expires, if that is sooner', () => {
    const verified = new VerifiedKeys<string>({ keysMax: 10, ttlMs: 1_500 })
    verified.add('a', 'Ada', asked(1_000, 1_200))
    expect(verified.get('a', 1_199)).toBe('Ada')
    expect(verified.get('a', 1_200)).toBeNull()
  })

  it('keeps no key in memory that has lapsed when the next one comes', () => {
    const verified = new VerifiedKeys<string>({ keysMax: 10, ttlMs: 1_500 })
    verified.add('a', 'Ada', asked(0))
    verified.add('b', 'Bob', asked(1_000))
    verified.add('c', 'Cy', asked(1_500))
    expect(verified.size).toBe(2)
  })

  it('knows only what it was told', () => {
    const verified = new VerifiedKeys<string>({ keysMax: 10, ttlMs: 1_500 })
    verified.add('a', 'Ada', asked(0))
    expect(verified.get('b', 0)).toBeNull()
  })

  it('forgets the oldest when it is full; asking again makes a key young', () => {
    const verified = new VerifiedKeys<string>({ keysMax: 2, ttlMs: 1_500 })
    verified.add('a', 'Ada', asked(0))
    verified.add('b', 'Bob', asked(0))
    verified.add('a', 'Ada', asked(1))
    verified.add('c', 'Cy', asked(2))
    expect(verified.size).toBe(2)
    expect(['a', 'b', 'c'].map((key) => verified.get(key, 2))).toEqual(['Ada', null, 'Cy'])
  })
})
