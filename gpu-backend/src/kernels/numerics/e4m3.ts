import { fp32Exponent } from './fp32-bits.ts'
import { roundEven } from './round.ts'

/** The largest finite e4m3 value. */
export const e4m3Max = 448

/** Values of the 256 e4m3 codes: sign, 4 exponent bits with bias 7, 3 mantissa bits, no infinity. */
export const e4m3Values: Float32Array = Float32Array.from({ length: 256 }, (_, code) => {
  const sign = code & 0x80 ? -1 : 1
  const exponent = (code >> 3) & 15
  const mantissa = code & 7
  if (exponent === 15 && mantissa === 7) return Number.NaN
  const magnitude = exponent === 0 ? mantissa * 2 ** -9 : (1 + mantissa / 8) * 2 ** (exponent - 7)
  return sign * magnitude
})

/** The e4m3 value nearest to `value`, ties to even, clamped to ±448. The sign of zero is kept. */
export function roundE4m3(value: number): number {
  const magnitude = Math.min(Math.abs(value), e4m3Max)
  // Below 2^-6 the grid is that of the subnormals; above, three bits below the leading one.
  const exponent = magnitude < 2 ** -6 ? -6 : fp32Exponent(magnitude)
  const step = 2 ** (exponent - 3)
  const rounded = roundEven(magnitude / step) * step
  return value < 0 || Object.is(value, -0) ? -rounded : rounded
}
