import { describe, expect, it } from 'vitest'
import { parseModelConfig } from '#weights/layout/config.ts'
import { toyConfig } from '#weights/toy/config.ts'
import { ReferenceDevice } from '../device/reference.ts'
import { Cache, type CacheLimits, type CacheRows } from './cache.ts'
import { ModelError } from './error.ts'
import { modelShape } from './shape.ts'

const shape = modelShape(parseModelConfig(toyConfig))

function newCache(
  limits: Partial<CacheLimits> = {},
  rows: CacheRows = 'plain',
): { cache: Cache; device: ReferenceDevice } {
  const device = new ReferenceDevice()
  const all = { sequencesMax: 2, tokensMax: 1024, rollbackMax: 3, ...limits }
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
  it('reserves whole pages for the longest a sequence may become', () => {
    const { cache } = newCache()
    cache.create(257)
    expect(cache.capacity()).toMatchObject({
      pageTokens: 256,
      sequencesUsed: 1,
      sequencesMax: 2,
      tokensReserved: 512,
      tokensMax: 1024,
    })
  })

  it('refuses what would not fit, saying how much is left', () => {
    const { cache } = newCache()
    cache.create(600)
    expect(refusal(() => cache.create(512))).toEqual({
      code: 'cache_full',
      message: '512 tokens take 2 pages of the cache; 1 of 4 are left',
    })
    cache.create(256)
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
    expect(cache.capacity()).toMatchObject({ sequencesUsed: 0, tokensReserved: 0 })
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

  it('stops at what the sequence reserved', () => {
    const { cache } = newCache()
    expect(refusal(() => cache.grow(cache.create(10), 11))).toEqual({
      code: 'context_exceeded',
      message: 'a sequence that reserved 10 tokens cannot hold 11',
    })
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
})
