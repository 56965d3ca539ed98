import { describe, expect, it } from 'vitest'
import { Random } from '../testing/random.ts'
import {
  type CompactLayout,
  compactRowBytes,
  decodeRow,
  encodeRow,
  keyLayout,
  rowWidth,
} from './compact-rows.ts'
import { keyBlock, simulateFp4, simulateFp8 } from './simulate.ts'

const key = keyLayout(512, 64)
const index: CompactLayout = { kind: 'index', width: 128 }

function throughRow(layout: CompactLayout, values: Float32Array): Float32Array {
  const row = new Uint8Array(compactRowBytes(layout)).fill(0xa5)
  encodeRow(layout, values, row)
  const decoded = new Float32Array(rowWidth(layout)).fill(Number.NaN)
  decodeRow(layout, row, decoded)
  return decoded
}

function words(values: Float32Array): number[] {
  return [...new Uint32Array(values.buffer, values.byteOffset, values.length)]
}

/** Values of very different sizes, zeros of both signs among them. */
function draw(random: Random, count: number): Float32Array {
  const magnitude = 2 ** (random.below(60) - 30)
  return Float32Array.from({ length: count }, () => {
    const kind = random.below(16)
    if (kind === 0) return random.below(2) === 0 ? 0 : -0
    return random.normal() * magnitude * 2 ** -random.below(14)
  })
}

describe('compact rows', () => {
  it('have the sizes of the released models', () => {
    expect(compactRowBytes(key)).toBe(584)
    expect(compactRowBytes(index)).toBe(68)
    // 64 + 2·64 + 1 = 193, up to a multiple of eight.
    expect(compactRowBytes(keyLayout(128, 64))).toBe(200)
  })

  it('give back every bit of a key that was rounded to FP8', () => {
    const random = new Random(1, 'keys')
    for (let row = 0; row < 500; row++) {
      const values = draw(random, 512)
      simulateFp8(values, { at: 0, length: 448 }, keyBlock)
      const halves = new Uint16Array(values.buffer)
      for (let i = 2 * 448; i < halves.length; i += 2) halves[i] = 0
      expect(words(throughRow(key, values))).toEqual(words(values))
    }
  })

  it('give back every bit of an index key that was rounded to FP4', () => {
    const random = new Random(2, 'index keys')
    for (let row = 0; row < 500; row++) {
      const values = draw(random, 128)
      simulateFp4(values, { at: 0, length: 128 })
      expect(words(throughRow(index, values))).toEqual(words(values))
    }
  })

  it('round the rotated part to bf16, ties to even', () => {
    const values = new Float32Array(512)
    values.set([1 + 2 ** -8, 1 + 3 * 2 ** -8, -1 - 2 ** -8 - 2 ** -20], 448)
    const kept = throughRow(key, values)
    expect([...kept.subarray(448, 451)]).toEqual([1, 1 + 2 ** -6, -1 - 2 ** -7])
  })

  it('lay an index key out as codes, low nibble first, and exponents behind them', () => {
    const values = new Float32Array(128)
    values.set([4, 2, 1, 1, -0, 0.5, -4, 6])
    values.set([0.75], 32)
    const row = new Uint8Array(68)
    encodeRow(index, values, row)
    expect([...row.subarray(0, 4)]).toEqual([0x46, 0x22, 0x18, 0x7e])
    // 6 = 6·2^0; 0.75 = 6·2^-3; an empty block has the smallest scale there is.
    expect([...row.subarray(64)]).toEqual([127, 124, 1, 1])
  })

  it('lay a key out as codes, rotated values and exponents, and end in a zero', () => {
    const values = new Float32Array(512)
    values.set([448, -1, 2 ** -9])
    values.set([1, -2], 448)
    const row = new Uint8Array(584).fill(0xff)
    encodeRow(key, values, row)
    expect([...row.subarray(0, 3)]).toEqual([0x7e, 0xb8, 0x01])
    expect([...row.subarray(448, 452)]).toEqual([0x80, 0x3f, 0x00, 0xc0])
    expect([...row.subarray(576)]).toEqual([127, 105, 105, 105, 105, 105, 105, 0])
  })

  it('keep what is no number one', () => {
    const values = new Float32Array(512)
    values[70] = Number.NaN
    values[500] = Number.NaN
    const kept = throughRow(key, values)
    expect([kept[70], kept[500], kept[0]]).toEqual([Number.NaN, Number.NaN, 0])
    const indexKey = new Float32Array(128)
    indexKey[5] = Number.NaN
    const keptIndex = throughRow(index, indexKey)
    expect([keptIndex[5], keptIndex[40]]).toEqual([Number.NaN, 0])
  })
})
