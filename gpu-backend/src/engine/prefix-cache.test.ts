import { describe, expect, it } from 'vitest'
import { PageKeys, PrefixCache } from './prefix-cache.ts'

const keysOf = (salt: string, tokens: readonly number[]): readonly string[] => {
  const keys = new PageKeys(salt, 2)
  keys.push(tokens)
  return keys.names
}

describe('PageKeys', () => {
  it('name whole pages, the same however the tokens came', () => {
    const whole = keysOf('a', [1, 2, 3, 4, 5])
    expect(whole).toHaveLength(2)
    const keys = new PageKeys('a', 2)
    for (const part of [[1], [2, 3], [], [4, 5]]) keys.push(part)
    expect(keys.names).toEqual(whole)
    keys.push(Int32Array.of(6))
    expect(keys.names).toHaveLength(3)
    expect(keys.names.slice(0, 2)).toEqual(whole)
  })

  it('differ with every token in front, and with the salt', () => {
    const names = [
      keysOf('a', [1, 2, 3, 4]),
      keysOf('a', [1, 9, 3, 4]),
      keysOf('a', [2, 1, 3, 4]),
      keysOf('a', [3, 4, 1, 2]),
      keysOf('a', [1, 2 + 256, 3, 4]),
      keysOf('b', [1, 2, 3, 4]),
    ].flat()
    expect(new Set(names).size).toBe(12)
    expect(keysOf('a', [1, 2, 3, 5])[0]).toBe(names[0])
  })
})

describe('PrefixCache', () => {
  const text = ['p0', 'p1', 'p2', 'p3']
  const entry = (key: string, pages: number) => ({ key, pages: Array<number>(pages).fill(0) })

  it('finds the longest beginning within the pages asked for', () => {
    const cache = new PrefixCache(3)
    cache.add(entry('p0', 1))
    cache.add(entry('p2', 3))
    const found = (pages: number): string | undefined => cache.find(text, pages)?.key
    expect([0, 1, 2, 3, 9].map(found)).toEqual([undefined, 'p0', 'p0', 'p2', 'p2'])
    expect(cache.find(['other', 'p1'], 2)).toBeNull()
  })

  it('lets go first of what was unused for longest, and of the short before the long', () => {
    const cache = new PrefixCache(3)
    for (const [key, pages] of [
      ['p2', 3],
      ['x', 1],
      ['p0', 1],
    ] as const)
      cache.add(entry(key, pages))
    expect(cache.full).toBe(true)
    cache.touch(text, 3)
    const order: string[] = []
    for (let next = cache.coldest(); next !== null; next = cache.coldest()) {
      order.push(cache.remove(next.key).key)
    }
    expect(order).toEqual(['x', 'p0', 'p2'])
  })

  it('looks for the coldest only among those that serve', () => {
    const cache = new PrefixCache(3)
    for (const key of ['x', 'y', 'z']) cache.add(entry(key, 1))
    expect(cache.coldest(({ key }) => key !== 'x')?.key).toBe('y')
    expect(cache.coldest(() => false)).toBeNull()
  })

  it('catches a place or a name given twice', () => {
    const cache = new PrefixCache(1)
    cache.add(entry('x', 1))
    expect(() => cache.add(entry('y', 1))).toThrow('there is a place')
    cache.remove('x')
    expect(() => cache.remove('x')).toThrow('a prefix that is dropped was kept')
  })

  it('says how much of a prompt an earlier one had', () => {
    const cache = new PrefixCache(1)
    expect(cache.meet(text)).toBe(0)
    expect(cache.meet(['p0', 'p1', 'q2'])).toBe(2)
    expect(cache.meet(text)).toBe(4)
    expect(cache.meet([])).toBe(0)
  })

  it('remembers the latest prompts, and not all there ever were', () => {
    const cache = new PrefixCache(1)
    const long = (name: string): string[] => Array.from({ length: 10_000 }, (_, i) => `${name}${i}`)
    cache.meet(text)
    cache.meet(long('a'))
    expect(cache.meet(text)).toBe(4)
    cache.meet(long('b'))
    cache.meet(long('c'))
    expect(cache.meet(text)).toBe(0)
  })
})
