import { decodeValues, encodeValues } from '../encoding.ts'
import {
  type BlockFormat,
  e2m1Codes,
  e4m3Codes,
  e8m0Codes,
  fp4Index,
  fp8Keys,
  scaleFor,
} from './formats.ts'

// Compact cache rows from the description of their layout: the codes of a block format, bfloat16
// for what it leaves out, then the scales.

/** Codes of `values` under the scales their blocks choose, and those scales' bytes. */
function encodeBlocks(
  values: Float64Array,
  format: BlockFormat,
  table: readonly number[],
): { readonly codes: readonly number[]; readonly scales: readonly number[] } {
  const scales: number[] = []
  const codes: number[] = []
  for (let from = 0; from < values.length; from += format.block) {
    const block = [...values.subarray(from, from + format.block)]
    const scale = scaleFor(format, Math.max(...block.map(Math.abs)))
    scales.push(e8m0Codes.indexOf(scale))
    codes.push(...block.map((value) => codeOf(format.round(value / scale), table)))
  }
  return { codes, scales }
}

/** The upper half of a table are the negative values; a zero keeps its sign. */
function codeOf(value: number, table: readonly number[]): number {
  const negative = value < 0 || Object.is(value, -0)
  return table.indexOf(Math.abs(value)) + (negative ? table.length / 2 : 0)
}

/** `plain` e4m3 codes, `rotated` bfloat16, a scale for each 64 of `plain`, zeros up to 8 bytes. */
export interface KeyRow {
  readonly plain: number
  readonly rotated: number
}

export function keyRowBytes({ plain, rotated }: KeyRow): number {
  const filled = plain + 2 * rotated + plain / fp8Keys.block
  return filled + ((8 - (filled % 8)) % 8)
}

export function encodeKeyRow(values: Float64Array, row: KeyRow): Uint8Array {
  const { codes, scales } = encodeBlocks(values.subarray(0, row.plain), fp8Keys, e4m3Codes)
  const bytes = new Uint8Array(keyRowBytes(row))
  bytes.set(codes)
  bytes.set(encodeValues('bf16', values.subarray(row.plain)), row.plain)
  bytes.set(scales, row.plain + 2 * row.rotated)
  return bytes
}

export function decodeKeyRow(bytes: Uint8Array, { plain, rotated }: KeyRow): Float64Array {
  const scales = bytes.subarray(plain + 2 * rotated)
  const values = new Float64Array(plain + rotated)
  for (let i = 0; i < plain; i++) {
    const scale = e8m0Codes[scales[Math.trunc(i / fp8Keys.block)] ?? 255] ?? Number.NaN
    values[i] = (e4m3Codes[bytes[i] ?? 0] ?? Number.NaN) * scale
  }
  values.set(decodeValues('bf16', bytes.subarray(plain, plain + 2 * rotated)), plain)
  return values
}

/** `width ÷ 2` bytes of two e2m1 codes, the low nibble first, then a scale for each 32. */
export function indexRowBytes(width: number): number {
  return width / 2 + width / fp4Index.block
}

export function encodeIndexRow(values: Float64Array): Uint8Array {
  const { codes, scales } = encodeBlocks(values, fp4Index, e2m1Codes)
  const bytes = new Uint8Array(indexRowBytes(values.length))
  for (const [i, code] of codes.entries()) {
    bytes[i >> 1] = (bytes[i >> 1] ?? 0) + code * (i % 2 === 0 ? 1 : 16)
  }
  bytes.set(scales, values.length / 2)
  return bytes
}

export function decodeIndexRow(bytes: Uint8Array, width: number): Float64Array {
  const values = decodeValues('fp4', bytes.subarray(0, width / 2))
  return values.map((value, i) => {
    const scale = bytes[width / 2 + Math.trunc(i / fp4Index.block)] ?? 255
    return value * (e8m0Codes[scale] ?? Number.NaN)
  })
}
