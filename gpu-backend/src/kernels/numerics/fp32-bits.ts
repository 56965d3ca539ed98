const floats = new Float32Array(1)
const words = new Uint32Array(floats.buffer)

/** The 32 bits of `value` as fp32. */
export function fp32Bits(value: number): number {
  floats[0] = value
  return words[0] ?? 0
}

/** The fp32 value with these bits. */
export function fp32Value(bits: number): number {
  words[0] = bits
  return floats[0] ?? 0
}

/** ⌊log2 |value|⌋ of a normal fp32 value. */
export function fp32Exponent(value: number): number {
  return ((fp32Bits(value) >>> 23) & 255) - 127
}
