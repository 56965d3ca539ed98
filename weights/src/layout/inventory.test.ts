import { describe, expect, it } from 'vitest'
import { readFileSync } from 'node:fs'
import { parseModelConfig } from './config.ts'
import { tensorBytes, tensorInventory } from './inventory.ts'
import { toyConfig } from '../toy/config.ts'

const vector = (name: string): unknown =>
  JSON.parse(readFileSync(new URL(`../../../test/vectors/config/${name}`, import.meta.url), 'utf8'))

const models = [
  { model: 'V4-Flash', json: vector('v4-flash.json'), tensors: 69_187, bytes: 159_609_485_896 },
  { model: 'V4-Pro', json: vector('v4-pro.json'), tensors: 145_116, bytes: 864_704_792_696 },
  { model: 'the toy', json: toyConfig, tensors: 508, bytes: 8_128_684 },
]

describe('the tensor inventory', () => {
  it.each(models)('of $model has $tensors tensors in $bytes bytes', ({ json, tensors, bytes }) => {
    const specs = tensorInventory(parseModelConfig(json))
    expect(specs.length).toBe(tensors)
    expect(new Set(specs.map((spec) => spec.name)).size).toBe(tensors)
    expect(specs.reduce((sum, spec) => sum + tensorBytes(spec), 0)).toBe(bytes)
  })

  it.each([
    ['layers.2.attn.wo_a.weight', 'F8_E4M3', [8192, 4096]],
    ['layers.2.attn.wo_a.scale', 'F8_E8M0', [64, 32]],
    ['layers.2.attn.compressor.ape', 'F32', [4, 1024]],
    ['layers.3.attn.compressor.ape', 'F32', [128, 512]],
    ['layers.2.attn.indexer.compressor.wkv.weight', 'BF16', [256, 4096]],
    ['layers.2.ffn.gate.tid2eid', 'I64', [129_280, 6]],
    ['layers.3.ffn.gate.bias', 'F32', [256]],
    ['layers.42.ffn.experts.255.w1.weight', 'I8', [2048, 2048]],
    ['layers.42.ffn.experts.255.w2.scale', 'F8_E8M0', [4096, 64]],
    ['layers.0.hc_attn_fn', 'F32', [24, 16_384]],
    ['mtp.0.e_proj.scale', 'F8_E8M0', [32, 32]],
    ['mtp.0.hc_head_fn', 'F32', [4, 16_384]],
  ])('of V4-Flash has %s as %s of %j', (name, dtype, shape) => {
    const specs = tensorInventory(parseModelConfig(vector('v4-flash.json')))
    expect(specs.find((spec) => spec.name === name)).toEqual({ name, dtype, shape })
  })

  it('gives each kind of layer its own tensors and no other', () => {
    const names = tensorInventory(parseModelConfig(toyConfig)).map((spec) => spec.name)
    const has = (name: string): boolean => names.includes(name)
    expect([0, 1, 2, 3, 4].map((l) => has(`layers.${l}.attn.compressor.ape`))).toEqual([
      false,
      true,
      true,
      true,
      true,
    ])
    expect([0, 1, 2, 3, 4].map((l) => has(`layers.${l}.attn.indexer.wq_b.weight`))).toEqual([
      false,
      true,
      false,
      true,
      false,
    ])
    expect([0, 1, 2, 3, 4].map((l) => has(`layers.${l}.ffn.gate.tid2eid`))).toEqual([
      true,
      true,
      false,
      false,
      false,
    ])
    expect(has('mtp.0.attn.compressor.ape')).toBe(false)
    expect(has('mtp.0.ffn.gate.bias')).toBe(true)
  })

  it('stores FP8 experts with 128×128 scales, as base models do', () => {
    const specs = tensorInventory(parseModelConfig({ ...toyConfig, expert_dtype: 'fp8' }))
    const find = (name: string) => specs.find((spec) => spec.name === name)
    expect(find('layers.0.ffn.experts.0.w1.weight')).toEqual({
      name: 'layers.0.ffn.experts.0.w1.weight',
      dtype: 'F8_E4M3',
      shape: [128, 256],
    })
    expect(find('layers.0.ffn.experts.0.w1.scale')?.shape).toEqual([1, 2])
  })

  it('leaves out the draft blocks of a release whose module is not MTP', () => {
    const config = parseModelConfig({ ...toyConfig, dspark_block_size: 5 })
    expect(tensorInventory(config).some((spec) => spec.name.startsWith('mtp.'))).toBe(false)
  })
})
