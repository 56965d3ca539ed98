import { fromBf16, toBf16 } from './bf16.ts'
import { e2m1Values, roundE2m1 } from './e2m1.ts'
import { e4m3Values, roundE4m3 } from './e4m3.ts'
import { e8m0Values } from './e8m0.ts'
import { fp32Exponent } from './fp32-bits.ts'
import { fp4Scale, fp8Scale, indexBlock, keyBlock, largestOf } from './simulate.ts'

// How the cache keeps rows that were rounded as the weights expect it: as the codes and scales that
// the rounding went through, so that reading gives back the same values bit for bit. Only the rotated
// part of a key, which no rounding has touched, becomes bf16 here.
//
//   key        plain e4m3 | rotated bf16 | plain ÷ 64 e8m0 | zeros up to a multiple of 8 bytes
//   index key  width ÷ 2 bytes of e2m1, low nibble first | width ÷ 32 e8m0

export type CompactLayout =
  | { readonly kind: 'key'; readonly plain: number; readonly rotated: number }
  | { readonly kind: 'index'; readonly width: number }

export function keyLayout(head: number, rotated: number): CompactLayout {
  return { kind: 'key', plain: head - rotated, rotated }
}

/** Values of a row. */
export function rowWidth(layout: CompactLayout): number {
  return layout.kind === 'key' ? layout.plain + layout.rotated : layout.width
}

/** Bytes of a row: 584 for a key of 448 + 64, 68 for an index key of 128. */
export function compactRowBytes(layout: CompactLayout): number {
  if (layout.kind === 'index') return layout.width / 2 + layout.width / indexBlock
  const { plain, rotated } = layout
  return Math.ceil((plain + 2 * rotated + plain / keyBlock) / 8) * 8
}

/** Writes `values` down as the row's bytes. */
export function encodeRow(layout: CompactLayout, values: Float32Array, row: Uint8Array): void {
  row.fill(0)
  if (layout.kind === 'index') encodeIndexKey(values, row)
  else encodeKey(layout, values, row)
}

/** The values that `row` stands for. */
export function decodeRow(layout: CompactLayout, row: Uint8Array, values: Float32Array): void {
  if (layout.kind === 'index') decodeIndexKey(row, values)
  else decodeKey(layout, row, values)
}

interface KeyParts {
  readonly plain: number
  readonly rotated: number
}

function encodeKey({ plain, rotated }: KeyParts, values: Float32Array, row: Uint8Array): void {
  const scales = plain + 2 * rotated
  for (let from = 0; from < plain; from += keyBlock) {
    const scale = fp8Scale(largestOf(values, from, from + keyBlock))
    row[scales + from / keyBlock] = scaleByte(scale)
    for (let i = from; i < from + keyBlock; i++) row[i] = e4m3Code((values[i] ?? 0) / scale)
  }
  for (let i = 0; i < rotated; i++) {
    const code = toBf16(values[plain + i] ?? 0)
    row[plain + 2 * i] = code & 255
    row[plain + 2 * i + 1] = code >> 8
  }
}

function decodeKey({ plain, rotated }: KeyParts, row: Uint8Array, values: Float32Array): void {
  const scales = plain + 2 * rotated
  for (let from = 0; from < plain; from += keyBlock) {
    const scale = e8m0Values[row[scales + from / keyBlock] ?? 0] ?? 0
    for (let i = from; i < from + keyBlock; i++) values[i] = (e4m3Values[row[i] ?? 0] ?? 0) * scale
  }
  for (let i = 0; i < rotated; i++) {
    const at = plain + 2 * i
    values[plain + i] = fromBf16((row[at] ?? 0) | ((row[at + 1] ?? 0) << 8))
  }
}

function encodeIndexKey(values: Float32Array, row: Uint8Array): void {
  const scales = values.length / 2
  for (let from = 0; from < values.length; from += indexBlock) {
    const scale = fp4Scale(largestOf(values, from, from + indexBlock))
    row[scales + from / indexBlock] = scaleByte(scale)
    for (let i = from; i < from + indexBlock; i++) {
      const code = e2m1Code((values[i] ?? 0) / scale)
      row[i >> 1] = (row[i >> 1] ?? 0) | (code << (4 * (i & 1)))
    }
  }
}

function decodeIndexKey(row: Uint8Array, values: Float32Array): void {
  const scales = values.length / 2
  for (let i = 0; i < values.length; i++) {
    const code = ((row[i >> 1] ?? 0) >> (4 * (i & 1))) & 15
    const scale = e8m0Values[row[scales + Math.floor(i / indexBlock)] ?? 0] ?? 0
    values[i] = (e2m1Values[code] ?? 0) * scale
  }
}

/** A scale that is no power of two of a byte's range comes from values that are no numbers. */
function scaleByte(scale: number): number {
  const byte = fp32Exponent(scale) + 127
  return Number.isFinite(scale) && byte < 255 ? byte : 255
}

function e4m3Code(value: number): number {
  const rounded = roundE4m3(value)
  if (Number.isNaN(rounded)) return 0x7f
  const magnitude = Math.abs(rounded)
  const sign = rounded < 0 || Object.is(rounded, -0) ? 0x80 : 0
  if (magnitude < 2 ** -6) return sign | (magnitude * 2 ** 9)
  const exponent = fp32Exponent(magnitude)
  return sign | ((exponent + 7) << 3) | (magnitude * 2 ** (3 - exponent) - 8)
}

function e2m1Code(value: number): number {
  const rounded = roundE2m1(value)
  const sign = rounded < 0 || Object.is(rounded, -0) ? 8 : 0
  return sign | e2m1Values.indexOf(Math.abs(rounded))
}
