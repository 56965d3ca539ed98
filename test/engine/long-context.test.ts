import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import {
  feed,
  fill,
  narrowConfig,
  type NarrowModel,
  openNarrowModel,
  ShortSightedDevice,
} from '../../gpu-backend/bench/narrow-model.ts'
import { CpuDevice } from '../../gpu-backend/src/device/cpu.ts'
import { nativeForTests } from '../../gpu-backend/src/kernels/native/testing/native-addon.ts'
import type { ForwardTap } from '../../gpu-backend/src/model/forward.ts'
import { cacheBytesPerToken, compactRowBytes } from '../../gpu-backend/src/model/cost-formulas.ts'

// Flash's schedule, picks and cached rows behind narrow weights, with more entries than the indexer
// may pick. `npm run bench -- context` does the same at a million tokens.

const native = await nativeForTests()
const contextTokens = 2 ** 15
const computedTokens = 2 ** 11

describe.skipIf(!('addon' in native))('a context of 32,768 tokens on the CPU device', () => {
  let device: ShortSightedDevice
  let narrow: NarrowModel

  beforeAll(() => {
    if (!('addon' in native)) throw new Error(native.reason)
    device = new ShortSightedDevice(new CpuDevice(native.addon, { threads: 2 }))
    narrow = openNarrowModel(device, contextTokens)
    fill(device, narrow, contextTokens - 8, computedTokens)
  })
  afterAll(() => device.close())

  /** Logits of the last eight tokens, fed in steps of `each`, and what the indexers picked. */
  function decode(each: number): { readonly logits: Float32Array; readonly picks: number[][] } {
    const { model, sequence } = narrow
    const picks: number[][] = []
    const tap: ForwardTap = {
      onSelection(_, selected) {
        const values = new Int32Array(selected.shape.reduce((count, extent) => count * extent, 1))
        device.read(selected.buffer, selected.byteOffset, new Uint8Array(values.buffer))
        picks.push([...values.subarray(-(selected.shape[1] ?? 0))])
      },
    }
    feed(narrow, 8 - each, 1)
    const tokens = Int32Array.from({ length: each }, (_, i) => 11 * i + 3)
    const [logits] = model.forward([{ sequence, tokens, logits: 'last' }], tap)
    return { logits: logits ?? new Float32Array(), picks }
  }

  it('takes the bytes a token that the formula says', () => {
    const config = narrowConfig()
    const perToken = cacheBytesPerToken(config, compactRowBytes(config))
    expect(narrow.cache.bytes().pages).toBe(contextTokens * perToken)
    expect(Math.round(perToken)).toBe(3514)
  })

  it('picks 512 different entries of 8,192 in each of 21 layers, and answers in numbers', () => {
    const { logits, picks } = decode(1)
    expect(picks).toHaveLength(21)
    for (const layer of picks) {
      expect(new Set(layer).size).toBe(512)
      expect(layer).toEqual(layer.toSorted((a, b) => a - b))
      expect(layer[0]).toBeGreaterThanOrEqual(0)
      expect(layer.at(-1)).toBeLessThan(contextTokens / 4)
    }
    expect(logits.every(Number.isFinite)).toBe(true)
    narrow.model.rollback(narrow.sequence, contextTokens - 8)
  })

  it('gives the same bits for eight tokens at once as one by one', () => {
    const atOnce = decode(8)
    narrow.model.rollback(narrow.sequence, contextTokens - 8)
    const { model, sequence } = narrow
    let last: Float32Array | undefined
    for (let i = 0; i < 8; i++) {
      const tokens = Int32Array.of(11 * i + 3)
      last = model.forward([{ sequence, tokens, logits: 'last' }])[0]
    }
    expect(last).toEqual(atOnce.logits)
  })
})
