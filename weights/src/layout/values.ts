import type { ModelConfig } from './config.ts'
import type { TensorSpec } from './inventory.ts'

/**
 * Looks for values no sound checkpoint has: NaN codes, infinities, experts that do not exist.
 * Gives what is wrong, to follow the tensor's name in a sentence, or null. `bytes` is the tensor as
 * stored, little-endian.
 */
export function checkTensorValues(
  spec: TensorSpec,
  bytes: Uint8Array,
  config: Pick<ModelConfig, 'expertCount' | 'expertsPerToken'>,
): string | null {
  switch (spec.dtype) {
    case 'F8_E8M0':
      return bytes.includes(0xff) ? 'has the scale byte 255, which means NaN' : null
    case 'F8_E4M3':
      return bytes.includes(0x7f) || bytes.includes(0xff) ? 'has an e4m3 NaN code' : null
    case 'BF16':
      return hasNonFinite16(bytes) ? 'has a value that is not finite' : null
    case 'F32':
      return hasNonFinite32(bytes) ? 'has a value that is not finite' : null
    case 'I64':
      return checkExpertIds(bytes, config)
    case 'I8':
      // Every packed FP4 code is a number.
      return null
    default:
      return spec.dtype satisfies never
  }
}

/** An exponent of all ones, in 16 bits (bf16) or 32. Indexed loops: iterators cost ten times as much. */
function hasNonFinite16(bytes: Uint8Array): boolean {
  const words = new Uint16Array(aligned(bytes, 2), 0, bytes.length / 2)
  for (let index = 0; index < words.length; index++) {
    if (((words[index] ?? 0) & 0x7f80) === 0x7f80) return true
  }
  return false
}

function hasNonFinite32(bytes: Uint8Array): boolean {
  const words = new Uint32Array(aligned(bytes, 4), 0, bytes.length / 4)
  for (let index = 0; index < words.length; index++) {
    if (((words[index] ?? 0) & 0x7f80_0000) === 0x7f80_0000) return true
  }
  return false
}

/** Rows of `expertsPerToken` different expert ids, each an I64 below `expertCount`. */
function checkExpertIds(
  bytes: Uint8Array,
  { expertCount, expertsPerToken }: Pick<ModelConfig, 'expertCount' | 'expertsPerToken'>,
): string | null {
  const halves = new Uint32Array(aligned(bytes, 8), 0, bytes.length / 4)
  const rowHalves = expertsPerToken * 2
  for (let row = 0; row * rowHalves < halves.length; row++) {
    const ids = new Set<number>()
    for (let half = row * rowHalves; half < (row + 1) * rowHalves; half += 2) {
      const [low = 0, high = 0] = [halves[half], halves[half + 1]]
      if (high !== 0 || low >= expertCount) {
        return `routes token ${row} to an expert beyond the ${expertCount} there are`
      }
      ids.add(low)
    }
    if (ids.size !== expertsPerToken) return `routes token ${row} to one expert twice`
  }
  return null
}

/** The bytes in a buffer that starts at a multiple of `alignment`: their own if it does, else a copy. */
function aligned(bytes: Uint8Array, alignment: number): ArrayBuffer {
  const { buffer, byteOffset, byteLength } = bytes
  if (byteOffset === 0 && buffer instanceof ArrayBuffer && byteLength % alignment === 0)
    return buffer
  return bytes.slice().buffer as ArrayBuffer
}
