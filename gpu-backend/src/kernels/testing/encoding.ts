import { byteLength, type DType } from '../../device/tensor.ts'
import { e2m1Codes, e4m3Codes, e8m0Codes, roundBf16 } from './oracle/formats.ts'

/** Bytes of `values` in a format that rounds them or keeps them; codes are written as bytes. */
export function encodeValues(dtype: DType, values: ArrayLike<number>): Uint8Array {
  switch (dtype) {
    case 'f32':
      return new Uint8Array(new Float32Array(values).buffer)
    case 'bf16':
      return encodeBf16(values)
    case 'i32':
      return new Uint8Array(new Int32Array(values).buffer)
    case 'i64':
      return new Uint8Array(BigInt64Array.from(Array.from(values), BigInt).buffer)
    case 'u8':
      return new Uint8Array(values)
    case 'f8e4m3':
    case 'e8m0':
    case 'fp4':
      throw new TypeError(`${dtype} is given as codes`)
  }
}

/** Values of `bytes`; 64-bit integers as doubles. */
export function decodeValues(dtype: DType, bytes: Uint8Array): Float64Array {
  // A copy, so that typed arrays find their alignment.
  const { buffer } = bytes.slice()
  switch (dtype) {
    case 'f32':
      return new Float64Array(new Float32Array(buffer))
    case 'bf16':
      return new Float64Array(widenBf16(new Uint16Array(buffer)))
    case 'i32':
      return new Float64Array(new Int32Array(buffer))
    case 'i64':
      return Float64Array.from(new BigInt64Array(buffer), Number)
    case 'f8e4m3':
      return decodeCodes(bytes, e4m3Codes)
    case 'e8m0':
      return decodeCodes(bytes, e8m0Codes)
    case 'fp4':
      return decodePairs(bytes)
    case 'u8':
      return new Float64Array(bytes)
  }
}

function decodeCodes(codes: Uint8Array, values: readonly number[]): Float64Array {
  const decoded = new Float64Array(codes.length)
  for (let i = 0; i < codes.length; i++) decoded[i] = values[codes[i] ?? 0] ?? Number.NaN
  return decoded
}

/** Two codes a byte, the low nibble first. */
function decodePairs(bytes: Uint8Array): Float64Array {
  const decoded = new Float64Array(2 * bytes.length)
  for (let i = 0; i < bytes.length; i++) {
    const byte = bytes[i] ?? 0
    decoded[2 * i] = e2m1Codes[byte & 15] ?? Number.NaN
    decoded[2 * i + 1] = e2m1Codes[byte >> 4] ?? Number.NaN
  }
  return decoded
}

/** Bytes of one element, and 1 for formats that pack two into a byte. */
export function elementBytes(dtype: DType): number {
  return Math.max(1, byteLength(dtype, [2]) / 2)
}

function encodeBf16(values: ArrayLike<number>): Uint8Array {
  const rounded = new Float32Array(values.length)
  for (let i = 0; i < values.length; i++) rounded[i] = roundBf16(values[i] ?? 0)
  // A value of bfloat16 is the upper half of its f32.
  const halves = new Uint16Array(rounded.buffer)
  const codes = new Uint16Array(values.length)
  for (let i = 0; i < codes.length; i++) codes[i] = halves[2 * i + 1] ?? 0
  return new Uint8Array(codes.buffer)
}

function widenBf16(codes: Uint16Array): Float32Array {
  const halves = new Uint16Array(2 * codes.length)
  for (let i = 0; i < codes.length; i++) halves[2 * i + 1] = codes[i] ?? 0
  return new Float32Array(halves.buffer)
}
