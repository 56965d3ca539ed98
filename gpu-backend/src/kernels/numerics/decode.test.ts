import { describe, expect, it } from 'vitest'
import { decodeRows, type EncodedMatrix } from './decode.ts'

function decoded(matrix: EncodedMatrix, first: number, count: number): Float32Array {
  const into = new Float32Array(1 + count * matrix.width)
  decodeRows(matrix, first, count, { into, at: 1 })
  return into.subarray(1)
}

describe('decodeRows', () => {
  it('reads FP4 low nibble first, under one scale for 32 of a row', () => {
    const codes = new Uint8Array(2 * 32)
    codes.set([0x72, 0x0f], 32)
    codes[48] = 0x01
    const scales = Uint8Array.of(0, 0, 128, 126)
    const row = decoded({ dtype: 'fp4', codes, scales, width: 64 }, 1, 1)
    expect([...row.subarray(0, 4)]).toEqual([2, 12, -12, 0])
    expect(row[32]).toBe(0.25)
  })

  it('reads a packed byte as unsigned', () => {
    const codes = Uint8Array.from({ length: 16 }, () => 0xf9)
    const row = decoded({ dtype: 'fp4', codes, scales: Uint8Array.of(127), width: 32 }, 0, 1)
    expect([row[0], row[1]]).toEqual([-0.5, -6])
  })

  it('finds the scale of an FP8 element by its 128×128 tile, partial tiles included', () => {
    const width = 130
    const codes = new Uint8Array(129 * width).fill(0x38)
    const scales = Uint8Array.of(127, 128, 129, 130)
    const rows = decoded({ dtype: 'f8e4m3', codes, scales, width }, 127, 2)
    expect([rows[127], rows[128], rows[width], rows[width + 129]]).toEqual([1, 2, 4, 8])
  })

  it('reads bf16 little-endian', () => {
    const codes = Uint8Array.of(0x80, 0x3f, 0x00, 0xc0)
    const values = decoded({ dtype: 'bf16', codes, scales: new Uint8Array(), width: 1 }, 0, 2)
    expect([...values]).toEqual([1, -2])
  })
})
