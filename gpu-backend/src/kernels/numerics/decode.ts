import { fromBf16 } from './bf16.ts'
import { e2m1Values } from './e2m1.ts'
import { e4m3Values } from './e4m3.ts'
import { e8m0Values } from './e8m0.ts'

/** Side of the square tile of an FP8 weight, and run of an FP4 row, that share one scale. */
export const fp8Tile = 128
export const fp4Run = 32

/** Bytes of one matrix `[rows, width]`; `scales` is empty where the format has none. */
export interface EncodedMatrix {
  readonly dtype: 'bf16' | 'f8e4m3' | 'fp4'
  readonly codes: Uint8Array
  readonly scales: Uint8Array
  readonly width: number
}

/** Where rows `first … first + count − 1` go: `into[at …]`. */
export interface RowTarget {
  readonly into: Float32Array
  readonly at: number
}

/** Widens rows to fp32. Exact for every format: no product here needs more than 24 bits. */
export function decodeRows(
  matrix: EncodedMatrix,
  first: number,
  count: number,
  target: RowTarget,
): void {
  for (let row = 0; row < count; row++) {
    const at = target.at + row * matrix.width
    decodeRow(matrix, first + row, { into: target.into, at })
  }
}

function decodeRow(matrix: EncodedMatrix, row: number, target: RowTarget): void {
  switch (matrix.dtype) {
    case 'bf16':
      return decodeBf16Row(matrix, row, target)
    case 'f8e4m3':
      return decodeFp8Row(matrix, row, target)
    case 'fp4':
      return decodeFp4Row(matrix, row, target)
  }
}

function decodeBf16Row({ codes, width }: EncodedMatrix, row: number, target: RowTarget): void {
  for (let i = 0; i < width; i++) {
    const byte = 2 * (row * width + i)
    target.into[target.at + i] = fromBf16((codes[byte] ?? 0) | ((codes[byte + 1] ?? 0) << 8))
  }
}

function decodeFp8Row(matrix: EncodedMatrix, row: number, { into, at }: RowTarget): void {
  const { codes, scales, width } = matrix
  const scaleRow = Math.floor(row / fp8Tile) * Math.ceil(width / fp8Tile)
  for (let i = 0; i < width; i++) {
    const scale = e8m0Values[scales[scaleRow + Math.floor(i / fp8Tile)] ?? 255] ?? Number.NaN
    into[at + i] = (e4m3Values[codes[row * width + i] ?? 0] ?? 0) * scale
  }
}

function decodeFp4Row(matrix: EncodedMatrix, row: number, { into, at }: RowTarget): void {
  const { codes, scales, width } = matrix
  const scaleRow = (row * width) / fp4Run
  for (let i = 0; i < width; i += 2) {
    const scale = e8m0Values[scales[scaleRow + Math.floor(i / fp4Run)] ?? 255] ?? Number.NaN
    const byte = codes[(row * width + i) / 2] ?? 0
    into[at + i] = (e2m1Values[byte & 15] ?? 0) * scale
    into[at + i + 1] = (e2m1Values[byte >> 4] ?? 0) * scale
  }
}
