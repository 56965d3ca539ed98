import { fp32Bits, fp32Exponent } from './fp32-bits.ts'

/**
 * Values of the 256 scale bytes: 2^(byte − 127), and NaN for 255. In double precision, since
 * 2^-127 is no normal fp32.
 */
export const e8m0Values: Float64Array = Float64Array.from({ length: 256 }, (_, byte) =>
  byte === 255 ? Number.NaN : 2 ** (byte - 127),
)

/** The smallest power of two that is not below a positive, normal fp32 value. */
export function pow2ceil(value: number): number {
  const exponent = fp32Exponent(value)
  return 2 ** ((fp32Bits(value) & 0x7fffff) === 0 ? exponent : exponent + 1)
}
