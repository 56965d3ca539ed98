import { fp32Bits, fp32Value } from './fp32-bits.ts'

/** The value of a bfloat16 code: the upper half of an fp32. Exact. */
export function fromBf16(code: number): number {
  return fp32Value(code << 16)
}

/** The nearest bfloat16 code, ties to even; NaN stays NaN. */
export function toBf16(value: number): number {
  const bits = fp32Bits(value)
  // Rounding a NaN up could carry it into infinity, so it is cut and kept quiet instead.
  if (Number.isNaN(value)) return (bits >>> 16) | 0x40
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff
}
