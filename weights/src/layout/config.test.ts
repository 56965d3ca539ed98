import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { CheckpointError } from '../checkpoint-error.ts'
import { toyConfig } from '../toy/config.ts'
import { parseModelConfig, withExpertDtype } from './config.ts'

const vector = (name: string): unknown =>
  JSON.parse(readFileSync(new URL(`../../../test/vectors/config/${name}`, import.meta.url), 'utf8'))

/** Code and subject of what `act` throws. */
function refusal(act: () => unknown): readonly [string, string] {
  try {
    act()
  } catch (error) {
    if (error instanceof CheckpointError) return [error.code, error.subject]
    throw error
  }
  throw new Error('nothing was refused')
}

const without = (key: string): unknown =>
  Object.fromEntries(Object.entries(toyConfig).filter(([name]) => name !== key))

describe('config.json', () => {
  it('of the toy becomes these values', () => {
    expect(parseModelConfig(toyConfig)).toEqual({
      architecture: 'DeepseekV4ForCausalLM',
      modelType: 'deepseek_v4',
      vocabSize: 512,
      hiddenSize: 256,
      layerCount: 5,
      headCount: 4,
      kvHeadCount: 1,
      headDim: 128,
      ropeDim: 64,
      queryRank: 128,
      outputRank: 128,
      outputGroups: 2,
      slidingWindow: 16,
      compressRatios: [0, 4, 16, 4, 128, 0],
      mtpCompressRatio: 0,
      ropeTheta: 10_000,
      compressRopeTheta: 160_000,
      ropeScaling: {
        factor: 16,
        originalMaxPositionEmbeddings: 64,
        betaFast: 32,
        betaSlow: 1,
      },
      maxPositionEmbeddings: 4096,
      indexHeadCount: 4,
      indexHeadDim: 128,
      indexTopK: 8,
      expertCount: 8,
      sharedExpertCount: 1,
      expertsPerToken: 2,
      expertWidth: 128,
      hashLayerCount: 2,
      scoringFunction: 'sqrtsoftplus',
      topKMethod: 'noaux_tc',
      normalizeTopK: true,
      routedScalingFactor: 1.5,
      swigluLimit: 10,
      hiddenActivation: 'silu',
      hcMult: 4,
      hcSinkhornIterations: 20,
      hcEps: 1e-6,
      rmsNormEps: 1e-6,
      mtpLayerCount: 1,
      draftModule: 'mtp',
      quantization: {
        method: 'fp8',
        format: 'e4m3',
        activationScheme: 'dynamic',
        weightBlockSize: [128, 128],
        scaleFormat: 'ue8m0',
      },
      expertDtype: 'fp4',
      tieWordEmbeddings: false,
      attentionBias: false,
      attentionDropout: 0,
      initializerRange: null,
      bosTokenId: 0,
      eosTokenId: 1,
      torchDtype: 'bfloat16',
      transformersVersion: null,
      useCache: true,
    })
  })

  it('of V4-Flash has 21 overlapping, 20 plain and 2 window layers', () => {
    const config = parseModelConfig(vector('v4-flash.json'))
    const ratios = config.compressRatios.slice(0, config.layerCount)
    expect(config.layerCount).toBe(43)
    expect([4, 128, 0].map((m) => ratios.filter((ratio) => ratio === m).length)).toEqual([
      21, 20, 2,
    ])
    expect([config.indexTopK, config.expertCount, config.routedScalingFactor]).toEqual([
      512, 256, 1.5,
    ])
  })

  it('of V4-Pro has 30 overlapping, 31 plain and no window layers', () => {
    const config = parseModelConfig(vector('v4-pro.json'))
    const ratios = config.compressRatios.slice(0, config.layerCount)
    expect(config.layerCount).toBe(61)
    expect([4, 128, 0].map((m) => ratios.filter((ratio) => ratio === m).length)).toEqual([
      30, 31, 0,
    ])
    expect([config.queryRank, config.outputGroups, config.expertWidth]).toEqual([1536, 16, 3072])
  })

  it('may have keys nobody knows', () => {
    expect(parseModelConfig({ ...toyConfig, novelty: { a: 1 } })).toEqual(
      parseModelConfig(toyConfig),
    )
  })

  it('may say rope_type for type, or both alike', () => {
    const { type: _, ...rest } = toyConfig.rope_scaling
    for (const rope of [
      { ...rest, rope_type: 'yarn' },
      { ...toyConfig.rope_scaling, rope_type: 'yarn' },
    ]) {
      expect(parseModelConfig({ ...toyConfig, rope_scaling: rope })).toEqual(
        parseModelConfig(toyConfig),
      )
    }
  })

  it('may have more ratios than layers, and then the surplus belongs to draft layers', () => {
    const config = parseModelConfig({ ...toyConfig, compress_ratios: [0, 4, 16, 4, 128, 0, 0, 0] })
    expect([config.mtpCompressRatio, config.compressRatios.length]).toEqual([0, 8])
  })

  it('may have exactly one ratio a layer', () => {
    const config = parseModelConfig({ ...toyConfig, compress_ratios: [0, 4, 16, 4, 128] })
    expect(config.mtpCompressRatio).toBe(0)
  })

  it('without expert_dtype leaves the format to the tensors', () => {
    const config = parseModelConfig(without('expert_dtype'))
    expect(config.expertDtype).toBe(null)
    expect(withExpertDtype(config, 'I8').expertDtype).toBe('fp4')
    expect(withExpertDtype(config, 'F8_E4M3').expertDtype).toBe('fp8')
    expect(refusal(() => withExpertDtype(config, 'BF16'))).toEqual([
      'config_unsupported',
      'expert_dtype',
    ])
  })

  it('with a DSpark module has no MTP blocks, whatever num_nextn_predict_layers says', () => {
    const config = parseModelConfig({ ...toyConfig, dspark_block_size: 5 })
    expect([config.draftModule, config.mtpLayerCount]).toEqual(['dspark', 0])
  })

  it('cannot be changed after it was checked', () => {
    const config = parseModelConfig(toyConfig)
    expect(Object.isFrozen(config) && Object.isFrozen(config.compressRatios)).toBe(true)
  })
})

describe('config.json is refused by the name of its key', () => {
  const optional = new Set(['expert_dtype'])
  it.each(Object.keys(toyConfig).filter((key) => !optional.has(key)))(
    'when %s is missing',
    (key) => {
      expect(refusal(() => parseModelConfig(without(key)))).toEqual(['config_invalid', key])
    },
  )

  it.each([
    ['vocab_size', '512'],
    ['vocab_size', 0],
    ['hidden_size', 256.5],
    ['hidden_size', 2 ** 40],
    ['rms_norm_eps', 0],
    ['rope_theta', Number.NaN],
    ['norm_topk_prob', 1],
    ['num_hash_layers', -1],
    ['num_hash_layers', 6],
    ['compress_ratios', [0, 4, 16, 4]],
    ['o_groups', 3],
    ['qk_rope_head_dim', 63],
    ['qk_rope_head_dim', 128],
    ['qk_rope_head_dim', 96],
    ['index_head_dim', 96],
    ['index_head_dim', 16],
    ['index_head_dim', 32],
    ['num_experts_per_tok', 9],
    ['hidden_size', 250],
    ['moe_intermediate_size', 100],
    ['bos_token_id', 512],
    ['eos_token_id', 4096],
    ['expert_dtype', 'int4'],
  ])('when %s is %j', (key, value) => {
    expect(refusal(() => parseModelConfig({ ...toyConfig, [key]: value }))).toEqual([
      'config_invalid',
      key,
    ])
  })

  it.each([
    ['model_type', 'deepseek_v41', 'model_type'],
    ['architectures', ['LlamaForCausalLM'], 'architectures'],
    ['num_key_value_heads', 4, 'num_key_value_heads'],
    ['n_shared_experts', 2, 'n_shared_experts'],
    ['scoring_func', 'softmax', 'scoring_func'],
    ['topk_method', 'greedy', 'topk_method'],
    ['norm_topk_prob', false, 'norm_topk_prob'],
    ['hidden_act', 'gelu', 'hidden_act'],
    ['tie_word_embeddings', true, 'tie_word_embeddings'],
    ['attention_bias', true, 'attention_bias'],
    ['torch_dtype', 'float16', 'torch_dtype'],
    ['compress_ratios', [0, 4, 16, 4, 128, 4], 'compress_ratios'],
    ['rope_scaling', { ...toyConfig.rope_scaling, type: 'linear' }, 'rope_scaling.type'],
    [
      'quantization_config',
      { ...toyConfig.quantization_config, weight_block_size: [32, 32] },
      'quantization_config.weight_block_size',
    ],
    [
      'quantization_config',
      { ...toyConfig.quantization_config, scale_fmt: 'fp32' },
      'quantization_config.scale_fmt',
    ],
  ])('as unsupported when %s is %j', (key, value, subject) => {
    expect(refusal(() => parseModelConfig({ ...toyConfig, [key]: value }))).toEqual([
      'config_unsupported',
      subject,
    ])
  })

  it('when type and rope_type disagree', () => {
    const rope_scaling = { ...toyConfig.rope_scaling, rope_type: 'linear' }
    expect(refusal(() => parseModelConfig({ ...toyConfig, rope_scaling }))).toEqual([
      'config_invalid',
      'rope_scaling.rope_type',
    ])
  })

  it('when the trained context is longer than the whole', () => {
    const rope_scaling = { ...toyConfig.rope_scaling, original_max_position_embeddings: 8192 }
    expect(refusal(() => parseModelConfig({ ...toyConfig, rope_scaling }))).toEqual([
      'config_invalid',
      'rope_scaling.original_max_position_embeddings',
    ])
  })

  it.each([[null], [[]], ['{}'], [7]])('when it is %j', (json) => {
    expect(refusal(() => parseModelConfig(json))[0]).toBe('config_invalid')
  })
})
