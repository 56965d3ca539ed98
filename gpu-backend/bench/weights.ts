import type { Device } from '../src/device/device.ts'
import { byteLength, type DType, type LinearWeight, type Tensor } from '../src/device/tensor.ts'

export type Format = 'fp4' | 'f8e4m3' | 'bf16'

export function allocTensor(device: Device, dtype: DType, shape: readonly number[]): Tensor {
  const buffer = device.alloc(byteLength(dtype, shape), 'bench')
  return { buffer, byteOffset: 0, dtype, shape }
}

/**
 * Weights of one shape with codes of no pattern. All hold the same codes, shifted: where they lie is
 * what matters for speed, and drawing hundreds of megabytes takes longer than measuring.
 */
export function randomWeights(
  device: Device,
  format: Format,
  [rows, width]: readonly [number, number],
  count: number,
): readonly LinearWeight[] {
  const codes = randomCodes(format, byteLength(format, [rows, width]))
  return Array.from({ length: count }, (_, index) => {
    const weight = allocTensor(device, format, [rows, width])
    const cut = (index * 4096) % codes.length
    device.write(weight.buffer, 0, codes.subarray(cut))
    if (cut > 0) device.write(weight.buffer, codes.length - cut, codes.subarray(0, cut))
    return { weight, scale: format === 'bf16' ? null : scaleOf(device, format, rows, width) }
  })
}

function scaleOf(device: Device, format: Format, rows: number, width: number): Tensor {
  const shape =
    format === 'fp4' ? [rows, width / 32] : [Math.ceil(rows / 128), Math.ceil(width / 128)]
  const scale = allocTensor(device, 'e8m0', shape)
  const bytes = new Uint8Array(byteLength('e8m0', shape)).map((_, i) => 118 + (i % 5))
  device.write(scale.buffer, 0, bytes)
  return scale
}

function randomCodes(format: Format, bytes: number): Uint8Array {
  const words = new Uint32Array(bytes / 4)
  let state = 0x9e37_79b9
  for (let i = 0; i < words.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    words[i] = state ^ (state >>> 15)
  }
  const codes = new Uint8Array(words.buffer)
  // No NaN in FP8; bf16 with exponents of ordinary weights.
  if (format === 'f8e4m3') for (let i = 0; i < bytes; i++) codes[i] = (codes[i] ?? 0) & 0xbf
  if (format === 'bf16') {
    for (let i = 1; i < bytes; i += 2) codes[i] = ((codes[i] ?? 0) & 0x81) | 0x3c
  }
  return codes
}
