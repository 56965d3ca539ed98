import { strict as assert } from 'node:assert'
import { describe, expect, it } from 'vitest'
import { parseModelConfig } from '#weights/layout/config.ts'
import { toyConfig } from '#weights/toy/config.ts'
import { ReferenceDevice } from '../device/reference.ts'
import {
  Cache,
  type CachedSequence,
  type CacheLimits,
  type CacheRows,
  type KeptPrefix,
} from './cache.ts'
import { ModelError } from './error.ts'
import { modelShape } from './shape.ts'

const shape = modelShape(parseModelConfig(toyConfig))

function newCache(
  limits: Partial<CacheLimits> = {},
  rows: CacheRows = 'plain',
): { cache: Cache; device: ReferenceDevice } {
  const device = new ReferenceDevice()
  const all = { sequencesMax: 2, tokensMax: 1024, rollbackMax: 3, prefixesMax: 2, ...limits }
  return { cache: new Cache(device, shape, { limits: all, draft: true, rows }), device }
}

function refusal(call: () => unknown): { code: string; message: string } | null {
  try {
    call()
  } catch (error) {
    if (error instanceof ModelError) return { code: error.code, message: error.message }
    throw error
  }
  return null
}

function pageTable(device: ReferenceDevice, cache: Cache, slot: number, count: number): number[] {
  const width = cache.pageTable.shape[1] ?? 0
  const into = new Int32Array(count)
  device.read(cache.pageTable.buffer, slot * width * 4, new Uint8Array(into.buffer))
  return [...into]
}

describe('admission', () => {
  it('takes a slot and no page', () => {
    const { cache } = newCache()
    cache.create(257)
    expect(cache.capacity()).toEqual({
      pageTokens: 256,
      pagesFree: 4,
      pagesMax: 4,
      sequencesUsed: 1,
      sequencesMax: 2,
      prefixesFree: 2,
      prefixesMax: 2,
      bytesAllocated: cache.bytes().slots,
    })
  })

  it('refuses a sequence more than there are slots', () => {
    const { cache } = newCache()
    for (let i = 0; i < 2; i++) cache.create(4096)
    expect(refusal(() => cache.create(1))).toEqual({
      code: 'cache_full',
      message: 'all 2 sequences are in use',
    })
  })

  it("refuses more than the model's context", () => {
    expect(refusal(() => newCache().cache.create(4097))).toEqual({
      code: 'context_exceeded',
      message: "4097 tokens exceed the model's context of 4096",
    })
  })

  it('takes everything back on release, once', () => {
    const { cache, device } = newCache()
    const sequence = cache.create(1024)
    cache.grow(sequence, 1024)
    const held = device.memory().allocatedBytes
    cache.release(sequence)
    expect(() => cache.release(sequence)).toThrow('a sequence is released once')
    expect(cache.capacity()).toMatchObject({ sequencesUsed: 0, pagesFree: 4 })
    cache.grow(cache.create(1024), 1024)
    expect(device.memory().allocatedBytes).toBe(held)
  })
})

describe('growth', () => {
  it('maps a page a 256 tokens, and tells the device which', () => {
    const { cache, device } = newCache()
    const [first, second] = [cache.create(512), cache.create(512)]
    cache.grow(first, 1)
    cache.grow(second, 256)
    cache.grow(first, 257)
    expect(pageTable(device, cache, first.slot, 2)).toEqual([0, 2])
    expect(pageTable(device, cache, second.slot, 1)).toEqual([1])
  })

  it("stops at the sequence's ceiling", () => {
    const { cache } = newCache()
    expect(refusal(() => cache.grow(cache.create(10), 11))).toEqual({
      code: 'context_exceeded',
      message: 'a sequence of at most 10 tokens cannot hold 11',
    })
  })

  it('finds room for all of a step or refuses it, and takes nothing', () => {
    const { cache } = newCache()
    const [first, second] = [cache.create(1024), cache.create(1024)]
    cache.grow(first, 257)
    const both = (length: number) => () =>
      cache.checkRoom([
        { sequence: first, length: 512 },
        { sequence: second, length },
      ])
    expect(refusal(both(513))).toEqual({
      code: 'cache_full',
      message: 'the step takes 3 pages of the cache; 2 of 4 are left',
    })
    expect(refusal(both(512))).toBeNull()
    expect(cache.capacity().pagesFree).toBe(2)
  })

  it('counts its bytes, and frees all of them', () => {
    const { cache, device } = newCache()
    cache.grow(cache.create(512), 512)
    expect(cache.capacity().bytesAllocated).toBe(device.memory().allocatedBytes)
    cache.close()
    expect(device.memory()).toMatchObject({ allocatedBytes: 0, buffers: 0 })
  })

  it('gives rings the rows of a window or a block, and the head-room to take tokens back', () => {
    const { cache } = newCache()
    cache.grow(cache.create(256), 1)
    const [swa, csa, hca] = cache.layers
    expect(swa?.window.tensor.shape).toEqual([2, 16 + 3, 128])
    expect([swa?.compressor, swa?.index, hca?.index]).toEqual([null, null, null])
    expect(csa?.compressor?.values.tensor.shape).toEqual([2, 8 + 3, 256])
    expect(csa?.index?.scores.tensor.shape).toEqual([2, 8 + 3, 256])
    expect(csa?.index?.entries.tensor.shape).toEqual([4, 64, 128])
    expect(hca?.compressor?.values.tensor.shape).toEqual([2, 16 + 3, 128])
    expect(hca?.compressor?.entries.tensor.shape).toEqual([4, 16, 128])
    expect(cache.draft?.window.tensor.shape).toEqual([2, 16 + 3, 128])
  })
})

describe('compact rows', () => {
  it('are counted in bytes: FP8, bf16 and scales of a key, FP4 and scales of an index key', () => {
    const { cache } = newCache({}, 'compact')
    cache.grow(cache.create(256), 1)
    const [swa, csa] = cache.layers
    // 64 + 2·64 + 1, padded to 200; 128 ÷ 2 + 128 ÷ 32.
    expect(swa?.window.tensor).toMatchObject({ dtype: 'u8', shape: [2, 16 + 3, 200] })
    expect(csa?.compressor?.entries.tensor).toMatchObject({ dtype: 'u8', shape: [4, 64, 200] })
    expect(csa?.index?.entries.tensor).toMatchObject({ dtype: 'u8', shape: [4, 64, 68] })
    expect(csa?.index?.scores.tensor).toMatchObject({ dtype: 'f32', shape: [2, 8 + 3, 256] })
  })
})

describe('rollback', () => {
  it('reaches as far behind the furthest position as the rings have head-room', () => {
    const { cache } = newCache()
    const sequence = cache.create(256)
    Object.assign(sequence, { length: 20, furthest: 20, draftLength: 19 })
    cache.rollback(sequence, 18)
    expect([sequence.length, sequence.furthest, sequence.draftLength]).toEqual([18, 20, 18])
    cache.rollback(sequence, 17)
    expect(() => cache.rollback(sequence, 16)).toThrow('position 16 is more than 3 behind 20')
    expect(() => cache.rollback(sequence, 18)).toThrow('taken back to 0…17, not 18')
  })

  it('gives back pages that nothing is left in', () => {
    const { cache } = newCache()
    const sequence = sequenceOf(cache, 258)
    cache.rollback(sequence, 257)
    expect([sequence.pages, cache.capacity().pagesFree]).toEqual([[0, 1], 2])
    cache.rollback(sequence, 256)
    expect([sequence.pages, cache.capacity().pagesFree]).toEqual([[0], 3])
  })
})

/** A sequence that looks as if `length` tokens had been fed to it. */
function sequenceOf(cache: Cache, length: number): CachedSequence {
  const sequence = cache.create(4096)
  cache.grow(sequence, length)
  return Object.assign(sequence, { length, furthest: length })
}

function keep(cache: Cache, sequence: CachedSequence): KeptPrefix {
  const prefix = cache.keep(sequence)
  assert(prefix !== null, 'a place is left')
  return prefix
}

describe('a kept prefix', () => {
  it('shares its pages with every sequence that starts behind it', () => {
    const { cache, device } = newCache({ sequencesMax: 3 })
    const donor = sequenceOf(cache, 512)
    const prefix = keep(cache, donor)
    expect([prefix.length, prefix.pages]).toEqual([512, [0, 1]])
    expect(cache.capacity()).toMatchObject({ pagesFree: 2, prefixesFree: 1 })
    const [first, second] = [cache.create(600, prefix), cache.create(600, prefix)]
    expect([first.length, first.furthest]).toEqual([512, 512])
    expect(cache.capacity().pagesFree).toBe(2)
    cache.grow(second, 513)
    expect(pageTable(device, cache, first.slot, 2)).toEqual([0, 1])
    expect(pageTable(device, cache, second.slot, 3)).toEqual([0, 1, 2])
  })

  it('holds its pages until nobody needs them', () => {
    const { cache } = newCache()
    const donor = sequenceOf(cache, 512)
    const prefix = keep(cache, donor)
    const sequence = cache.create(600, prefix)
    const free = (): number => cache.capacity().pagesFree
    cache.release(donor)
    expect(free()).toBe(2)
    cache.drop(prefix)
    expect(free()).toBe(2)
    expect(() => cache.drop(prefix)).toThrow('a prefix is dropped once')
    cache.release(sequence)
    expect([free(), cache.capacity().prefixesFree]).toEqual([4, 2])
  })

  it('is whole pages, and is not kept where no place is left', () => {
    const { cache } = newCache({ prefixesMax: 1 })
    const sequence = sequenceOf(cache, 256)
    keep(cache, sequence)
    expect(cache.keep(sequence)).toBeNull()
    expect(() => cache.keep(sequenceOf(cache, 255))).toThrow('255 tokens are no whole pages of 256')
  })

  it('is not written into by a sequence that is taken back', () => {
    const { cache } = newCache()
    const sequence = sequenceOf(cache, 256)
    const prefix = keep(cache, sequence)
    expect(() => cache.rollback(sequence, 255)).toThrow('first 256 tokens are shared with a prefix')
    expect(() => cache.rollback(cache.create(300, prefix), 255)).toThrow('are shared with a prefix')
  })

  it('is not taken from rings that no longer reach it', () => {
    const { cache } = newCache()
    const sequence = sequenceOf(cache, 256)
    sequence.furthest = 260
    expect(() => cache.keep(sequence)).toThrow('whose step failed half-way cannot be kept')
  })

  it('keeps the window, and raw rows only where blocks overlap', () => {
    const { cache, device } = newCache({ prefixesMax: 1 })
    keep(cache, sequenceOf(cache, 256))
    const [window, overlapping] = [16 * 128 * 4, 4 * 256 * 4]
    // Five layers and the draft block have a window; two compress overlapping blocks, twice each.
    const streams = 4 * 256 * 4
    expect(cache.bytes().snapshots).toBe(6 * window + 2 * 2 * 2 * overlapping + streams)
    expect(cache.capacity().bytesAllocated).toBe(device.memory().allocatedBytes)
    cache.close()
    expect(device.memory()).toMatchObject({ allocatedBytes: 0, buffers: 0 })
  })
})
