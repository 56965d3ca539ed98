import { strict as assert } from 'node:assert'
import { tensorBytes, type TensorSpec } from '../layout/inventory.ts'
import { SplitMix } from './splitmix.ts'

/** Names by their end, and the amplitude their values have. First match holds. */
const amplitudes: readonly (readonly [RegExp, number])[] = [
  [/ape$/, 0.5],
  [/attn_sink$/, 1],
  [/hc_(attn|ffn|head)_fn$/, 0.05],
  [/hc_(attn|ffn|head)_base$/, 1],
  [/gate\.bias$/, 0.2],
  [/^embed\.weight$/, 1],
  [/^head\.weight$/, 0.1],
  [/compressor\.(wkv|wgate)\.weight$/, 0.12],
  [/weights_proj\.weight$/, 0.2],
  [/gate\.weight$/, 0.2],
]

/** The toy's bytes for one tensor: a function of its name, dtype and shape alone. */
export function toyTensor(spec: TensorSpec): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(tensorBytes(spec))
  const numbers = new SplitMix(spec.name)
  switch (spec.dtype) {
    case 'F32':
      fillF32(bytes, numbers, valueRule(spec.name))
      break
    case 'BF16':
      fillBf16(bytes, numbers, valueRule(spec.name))
      break
    case 'F8_E4M3':
      fillBytes(bytes, numbers, e4m3Code)
      break
    case 'I8':
      fillBytes(bytes, numbers, ({ high }) => high >>> 24)
      break
    case 'F8_E8M0': {
      const base = isFp4Scale(spec.name) ? 119 : 114
      fillBytes(bytes, numbers, ({ high }) => base + (high >>> 30))
      break
    }
    case 'I64':
      fillExpertIds(bytes, numbers)
      break
    default:
      spec.dtype satisfies never
  }
  return bytes
}

/** From a uniform number in [−1, 1) to the tensor's value. */
function valueRule(name: string): (uniform: number) => number {
  if (name.endsWith('norm.weight')) return (uniform) => 1 + 0.2 * uniform
  if (/hc_(attn|ffn|head)_scale$/.test(name)) return (uniform) => 0.75 + 0.25 * uniform
  const amplitude = amplitudes.find(([pattern]) => pattern.test(name))?.[1]
  assert(amplitude !== undefined, `the toy has a rule for ${name}`)
  return (uniform) => amplitude * uniform
}

/** The toy's routed experts are FP4, every other quantised linear is FP8. */
function isFp4Scale(name: string): boolean {
  return /\.ffn\.experts\.\d+\.w[123]\.scale$/.test(name)
}

/** Codes 0x7F and 0xFF are NaN; their neighbours stand in for them. */
function e4m3Code({ high }: SplitMix): number {
  const code = high >>> 24
  return (code & 127) === 127 ? (code & 128) | 126 : code
}

function fillBytes(
  bytes: Uint8Array,
  numbers: SplitMix,
  toByte: (numbers: SplitMix) => number,
): void {
  for (let index = 0; index < bytes.length; index++) {
    numbers.next()
    bytes[index] = toByte(numbers)
  }
}

function fillF32(
  bytes: Uint8Array<ArrayBuffer>,
  numbers: SplitMix,
  rule: (uniform: number) => number,
): void {
  const view = new DataView(bytes.buffer)
  for (let offset = 0; offset < bytes.length; offset += 4) {
    numbers.next()
    view.setFloat32(offset, rule(numbers.uniform), true)
  }
}

function fillBf16(
  bytes: Uint8Array<ArrayBuffer>,
  numbers: SplitMix,
  rule: (uniform: number) => number,
): void {
  const view = new DataView(bytes.buffer)
  const scratch = new Float32Array(1)
  const bits = new Uint32Array(scratch.buffer)
  for (let offset = 0; offset < bytes.length; offset += 2) {
    numbers.next()
    scratch[0] = rule(numbers.uniform)
    const word = bits[0] ?? 0
    // Round to nearest, ties to even, on the sixteen bits cut off.
    view.setUint16(offset, (word + 0x7fff + ((word >>> 16) & 1)) >>> 16, true)
  }
}

/** Rows of two different ids out of eight: a, and a + 1 … a + 7 modulo 8. */
function fillExpertIds(bytes: Uint8Array<ArrayBuffer>, numbers: SplitMix): void {
  const view = new DataView(bytes.buffer)
  for (let offset = 0; offset < bytes.length; offset += 16) {
    numbers.next()
    const first = numbers.low & 7
    numbers.next()
    view.setUint32(offset, first, true)
    view.setUint32(offset + 8, (first + 1 + numbers.modulo7) & 7, true)
  }
}
