import { describe, expect, it } from 'vitest'
import { discardBytes, equalInConstantTime, randomLetters, readWhole, sha256 } from './bytes.ts'

function streamOf(...chunks: readonly number[][]): ReadableStream<Uint8Array> {
  const rest = [...chunks]
  return new ReadableStream({
    pull(controller) {
      const chunk = rest.shift()
      if (chunk === undefined) controller.close()
      else controller.enqueue(new Uint8Array(chunk))
    },
  })
}

describe('randomLetters', () => {
  it('makes each of the 32 letters from eight of the 256 bytes', () => {
    const text = randomLetters(256, () => Uint8Array.from({ length: 256 }, (_, byte) => byte))
    const seen = Map.groupBy(text, (letter) => letter)
    expect([...seen.keys()].toSorted().join('')).toBe('234567abcdefghijklmnopqrstuvwxyz')
    expect(new Set([...seen.values()].map((letters) => letters.length))).toEqual(new Set([8]))
  })
})

describe('sha256', () => {
  it('is the digest of the standard’s example', async () => {
    const digits = Array.from(await sha256('abc'), (byte) => byte.toString(16).padStart(2, '0'))
    expect(digits.join('')).toBe('ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad')
  })
})

describe('equalInConstantTime', () => {
  it('tells equal from unequal, and lengths apart without throwing', () => {
    const bytes = (...values: number[]): Uint8Array => new Uint8Array(values)
    expect(equalInConstantTime(bytes(1, 2), bytes(1, 2))).toBe(true)
    expect(equalInConstantTime(bytes(1, 2), bytes(1, 3))).toBe(false)
    expect(equalInConstantTime(bytes(1, 2), bytes(1))).toBe(false)
  })
})

describe('readWhole', () => {
  it('joins what arrives', async () => {
    expect(await readWhole(streamOf([1, 2], [], [3]), 3)).toEqual(new Uint8Array([1, 2, 3]))
    expect(await readWhole(streamOf([1, 2]), 3)).toEqual(new Uint8Array([1, 2]))
    expect(await readWhole(streamOf(), 3)).toEqual(new Uint8Array(0))
    expect(await readWhole(null, 3)).toEqual(new Uint8Array(0))
  })

  it('stops at the first byte over the limit and cancels the rest', async () => {
    const endless = endlessStream()
    expect(await readWhole(endless.stream, 3)).toBeNull()
    expect(endless.cancelled()).toBe(true)
  })
})

describe('discardBytes', () => {
  it('reads a body to its end when that is near', async () => {
    const reader = streamOf([1, 2], [3]).getReader()
    await discardBytes(reader, 10)
    expect((await reader.read()).done).toBe(true)
  })

  it('gives an endless one up', async () => {
    const endless = endlessStream()
    await discardBytes(endless.stream.getReader(), 100)
    expect(endless.cancelled()).toBe(true)
  })
})

function endlessStream(): { stream: ReadableStream<Uint8Array>; cancelled: () => boolean } {
  let cancelled = false
  const stream = new ReadableStream<Uint8Array>({
    pull: (controller) => controller.enqueue(new Uint8Array(2)),
    cancel: () => {
      cancelled = true
    },
  })
  return { stream, cancelled: () => cancelled }
}
