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

// Tables are looked up once a row: test runners turn each use of an import into a call.

function decodeBf16Row({ codes, width }: EncodedMatrix, row: number, target: RowTarget): void {
  const widen = fromBf16
  for (let i = 0; i < width; i++) {
    const byte = 2 * (row * width + i)
    target.into[target.at + i] = widen((codes[byte] ?? 0) | ((codes[byte + 1] ?? 0) << 8))
  }
}

function decodeFp8Row(matrix: EncodedMatrix, row: number, { into, at }: RowTarget): void {
  const { codes, scales, width } = matrix
  const [values, powers] = [e4m3Values, e8m0Values]
  const scaleRow = Math.floor(row / fp8Tile) * Math.ceil(width / fp8Tile)
  for (let from = 0; from < width; from += fp8Tile) {
    const scale = powers[scales[scaleRow + from / fp8Tile] ?? 255] ?? Number.NaN
    const to = Math.min(from + fp8Tile, width)
    for (let i = from; i < to; i++)
      into[at + i] = (values[codes[row * width + i] ?? 0] ?? 0) * scale
  }
}

function decodeFp4Row(matrix: EncodedMatrix, row: number, { into, at }: RowTarget): void {
  const { codes, scales, width } = matrix
  const [values, powers] = [e2m1Values, e8m0Values]
  const scaleRow = (row * width) / fp4Run
  for (let from = 0; from < width; from += fp4Run) {
    const scale = powers[scales[scaleRow + from / fp4Run] ?? 255] ?? Number.NaN
    const to = Math.min(from + fp4Run, width)
    for (let i = from; i < to; i += 2) {
      const byte = codes[(row * width + i) / 2] ?? 0
      into[at + i] = (values[byte & 15] ?? 0) * scale
      into[at + i + 1] = (values[byte >> 4] ?? 0) * scale
    }
  }
}
