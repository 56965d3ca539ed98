import { describe, expect, it } from 'vitest'
import { SplitMix } from './splitmix.ts'

/** The definition, in wide arithmetic. */
function outputs(name: string, count: number): bigint[] {
  let seed = 0xcbf29ce484222325n
  for (const byte of new TextEncoder().encode(name)) {
    seed = BigInt.asUintN(64, (seed ^ BigInt(byte)) * 0x100000001b3n)
  }
  return Array.from({ length: count }, (_, index) => {
    let z = BigInt.asUintN(64, seed + BigInt(index + 1) * 0x9e3779b97f4a7c15n)
    z = BigInt.asUintN(64, (z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n)
    z = BigInt.asUintN(64, (z ^ (z >> 27n)) * 0x94d049bb133111ebn)
    return z ^ (z >> 31n)
  })
}

describe('the toy number source', () => {
  it('gives the published first two numbers for embed.weight', () => {
    const numbers = new SplitMix('embed.weight')
    numbers.next()
    expect([numbers.high, numbers.low]).toEqual([0x847c3095, 0x632f2542])
    numbers.next()
    expect([numbers.high, numbers.low]).toEqual([0xf1e1a69c, 0x1637ae02])
  })

  it.each(['', 'head.weight', 'layers.2.ffn.experts.3.w2.weight', 'mtp.0.ü｜'])(
    'agrees with wide arithmetic over 20,000 numbers from %j',
    (name) => {
      const numbers = new SplitMix(name)
      for (const expected of outputs(name, 20_000)) {
        numbers.next()
        const found = (BigInt(numbers.high) << 32n) | BigInt(numbers.low)
        if (found !== expected) expect(found).toBe(expected)
        if (numbers.modulo7 !== Number(expected % 7n)) expect(numbers.modulo7).toBe(expected % 7n)
        const uniform = Number(expected >> 40n) / 2 ** 23 - 1
        if (numbers.uniform !== uniform) expect(numbers.uniform).toBe(uniform)
      }
    },
  )
})
