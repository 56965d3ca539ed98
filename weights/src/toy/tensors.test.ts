import { createHash } from 'node:crypto'
import { describe, expect, it } from 'vitest'
import { parseModelConfig } from '../layout/config.ts'
import { tensorInventory, type TensorSpec } from '../layout/inventory.ts'
import { checkTensorValues } from '../layout/values.ts'
import { toyConfig } from './config.ts'
import { toyTensor } from './tensors.ts'

const config = parseModelConfig(toyConfig)
const specs = new Map(tensorInventory(config).map((spec) => [spec.name, spec]))

function tensor(name: string): { spec: TensorSpec; view: DataView; bytes: Uint8Array } {
  const spec = specs.get(name)
  if (spec === undefined) throw new Error(`no ${name}`)
  const bytes = toyTensor(spec)
  return { spec, bytes, view: new DataView(bytes.buffer) }
}

/** Bits to value, from the format's definition: 1-4-3, bias 7, subnormal step 2^-9. */
function e4m3(code: number): number {
  const sign = code & 128 ? -1 : 1
  const exponent = (code >> 3) & 15
  const mantissa = code & 7
  if (exponent === 0) return sign * mantissa * 2 ** -9
  return sign * (1 + mantissa / 8) * 2 ** (exponent - 7)
}

const e2m1 = [0, 0.5, 1, 1.5, 2, 3, 4, 6, -0, -0.5, -1, -1.5, -2, -3, -4, -6]

describe('the toy tensors', () => {
  it('begin as published: embed.weight', () => {
    const { view } = tensor('embed.weight')
    const bf16 = (index: number): number => {
      const bits = new DataView(new ArrayBuffer(4))
      bits.setUint32(0, view.getUint16(index * 2, true) << 16)
      return bits.getFloat32(0)
    }
    expect([0, 1, 2, 3].map(bf16)).toEqual([0.03515625, 0.890625, 0.66015625, 0.5234375])
  })

  it('begin as published: layers.0.attn.wq_a, dequantised', () => {
    const { bytes } = tensor('layers.0.attn.wq_a.weight')
    const scale = 2 ** ((tensor('layers.0.attn.wq_a.scale').bytes[0] ?? 0) - 127)
    expect([...bytes.subarray(0, 4)].map((code) => e4m3(code) * scale)).toEqual([
      -5.4931640625e-4, -2.288818359375e-5, 9.765625e-4, 8.544921875e-4,
    ])
  })

  it('begin as published: layers.2.ffn.experts.3.w2, dequantised', () => {
    const { bytes } = tensor('layers.2.ffn.experts.3.w2.weight')
    const scale = 2 ** ((tensor('layers.2.ffn.experts.3.w2.scale').bytes[0] ?? 0) - 127)
    const values = [...bytes.subarray(0, 2)].flatMap((pair) => [
      (e2m1[pair & 15] ?? NaN) * scale,
      (e2m1[pair >> 4] ?? NaN) * scale,
    ])
    expect(values).toEqual([0.0234375, -0.0078125, -0.005859375, 0.001953125])
  })

  it('begin as published: layers.1.attn.compressor.ape', () => {
    const { view } = tensor('layers.1.attn.compressor.ape')
    expect(view.getFloat32(0, true).toFixed(8)).toBe('-0.11695808')
    expect(view.getFloat32(4, true).toFixed(8)).toBe('0.48388052')
  })

  it('begin as published: rows of tid2eid', () => {
    const { view } = tensor('layers.0.ffn.gate.tid2eid')
    const row = (index: number): number[] =>
      [0, 8].map((column) => Number(view.getBigInt64(index * 16 + column, true)))
    expect([row(0), row(1), row(2)]).toEqual([
      [1, 5],
      [5, 2],
      [4, 6],
    ])
  })

  it('hold no impossible value, and never change', () => {
    const digest = createHash('sha256')
    for (const spec of specs.values()) {
      const bytes = toyTensor(spec)
      expect(checkTensorValues(spec, bytes, config)).toBe(null)
      digest.update(spec.name).update(bytes)
    }
    // The same digest came out of a separate implementation in wide integers.
    expect(digest.digest('hex')).toBe(
      '5d587ed335e23c12b893e6227e0cb80fce879fa32a38d3f3c24a1f4a18b09fe4',
    )
  })
})
