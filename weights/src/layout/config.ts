import { z } from 'zod'
import { CheckpointError } from '../checkpoint-error.ts'

export type ExpertDtype = 'fp4' | 'fp8'

/** How the checkpoint drafts tokens: the released MTP block, the later DSpark module, or not at all. */
export type DraftModule = 'mtp' | 'dspark' | 'none'

export interface RopeScaling {
  readonly factor: number
  readonly originalMaxPositionEmbeddings: number
  readonly betaFast: number
  readonly betaSlow: number
}

export interface QuantizationConfig {
  readonly method: 'fp8'
  readonly format: 'e4m3'
  readonly activationScheme: 'dynamic'
  /** Rows and columns that share one e8m0 scale in an FP8 linear. */
  readonly weightBlockSize: readonly [128, 128]
  readonly scaleFormat: 'ue8m0'
}

/** DeepSeek's `config.json`, checked once and renamed. Dimensions are element counts. */
export interface ModelConfig {
  readonly architecture: 'DeepseekV4ForCausalLM'
  readonly modelType: 'deepseek_v4'
  readonly vocabSize: number
  readonly hiddenSize: number
  /** Decoder layers; the draft module is not among them. */
  readonly layerCount: number
  readonly headCount: number
  readonly kvHeadCount: 1
  readonly headDim: number
  /** The last `ropeDim` elements of a head are rotated. */
  readonly ropeDim: number
  readonly queryRank: number
  /** Per output group. */
  readonly outputRank: number
  readonly outputGroups: number
  readonly slidingWindow: number
  /** Entry l is layer l's ratio: 0 window only, 4 overlapping with indexer, any other plain. */
  readonly compressRatios: readonly number[]
  readonly mtpCompressRatio: number
  readonly ropeTheta: number
  readonly compressRopeTheta: number
  /** For layers with a ratio other than 0 only. */
  readonly ropeScaling: RopeScaling
  readonly maxPositionEmbeddings: number
  readonly indexHeadCount: number
  readonly indexHeadDim: number
  readonly indexTopK: number
  readonly expertCount: number
  readonly sharedExpertCount: 1
  readonly expertsPerToken: number
  readonly expertWidth: number
  /** Layers 0 … hashLayerCount − 1 route by token id. */
  readonly hashLayerCount: number
  readonly scoringFunction: 'sqrtsoftplus'
  readonly topKMethod: 'noaux_tc'
  readonly normalizeTopK: true
  readonly routedScalingFactor: number
  readonly swigluLimit: number
  readonly hiddenActivation: 'silu'
  readonly hcMult: number
  readonly hcSinkhornIterations: number
  readonly hcEps: number
  readonly rmsNormEps: number
  /** Blocks `mtp.0` …; 0 when another draft module took their place. */
  readonly mtpLayerCount: number
  readonly draftModule: DraftModule
  readonly quantization: QuantizationConfig
  /** null: the file does not say, and the experts' tensor dtype decides (`withExpertDtype`). */
  readonly expertDtype: ExpertDtype | null
  readonly tieWordEmbeddings: false
  readonly attentionBias: false
  readonly attentionDropout: number
  readonly initializerRange: number | null
  readonly bosTokenId: number
  readonly eosTokenId: number
  readonly torchDtype: 'bfloat16'
  readonly transformersVersion: string | null
  readonly useCache: boolean
}

const count = z
  .int()
  .positive()
  .max(2 ** 31)
const countOrZero = z
  .int()
  .nonnegative()
  .max(2 ** 31)
const positive = z.number().positive()

const ropeScalingSchema = z.looseObject({
  // Exporters moved from `type` to `rope_type`; some files carry both.
  type: z.string().optional(),
  rope_type: z.string().optional(),
  factor: z.number().min(1),
  original_max_position_embeddings: count,
  beta_fast: positive,
  beta_slow: positive,
})

const quantizationSchema = z.looseObject({
  quant_method: z.string(),
  fmt: z.string(),
  activation_scheme: z.string(),
  weight_block_size: z.array(count).length(2),
  scale_fmt: z.string(),
})

const configSchema = z.looseObject({
  architectures: z.array(z.string()).min(1),
  model_type: z.string(),
  vocab_size: count,
  hidden_size: count,
  num_hidden_layers: count.max(1024),
  num_attention_heads: count,
  num_key_value_heads: count,
  head_dim: count,
  qk_rope_head_dim: count,
  q_lora_rank: count,
  o_lora_rank: count,
  o_groups: count,
  sliding_window: count,
  compress_ratios: z.array(countOrZero).max(2048),
  compress_rope_theta: positive,
  rope_theta: positive,
  rope_scaling: ropeScalingSchema,
  max_position_embeddings: count,
  index_n_heads: count,
  index_head_dim: count,
  index_topk: count,
  n_routed_experts: count.max(65_536),
  n_shared_experts: count,
  num_experts_per_tok: count,
  moe_intermediate_size: count,
  num_hash_layers: countOrZero,
  scoring_func: z.string(),
  topk_method: z.string(),
  norm_topk_prob: z.boolean(),
  routed_scaling_factor: positive,
  swiglu_limit: positive,
  hidden_act: z.string(),
  hc_mult: count,
  hc_sinkhorn_iters: count,
  hc_eps: positive,
  rms_norm_eps: positive,
  num_nextn_predict_layers: countOrZero.max(64),
  quantization_config: quantizationSchema,
  expert_dtype: z.enum(['fp4', 'fp8']).nullish(),
  tie_word_embeddings: z.boolean(),
  attention_bias: z.boolean().default(false),
  attention_dropout: z.number().nonnegative().default(0),
  initializer_range: positive.nullish(),
  bos_token_id: countOrZero,
  eos_token_id: countOrZero,
  torch_dtype: z.string(),
  transformers_version: z.string().nullish(),
  use_cache: z.boolean().default(true),
  dspark_block_size: count.nullish(),
})

type RawConfig = z.infer<typeof configSchema>

/**
 * Checks DeepSeek's `config.json` and gives back its values under our names. Keys it does not know
 * are passed over. Throws `CheckpointError` with the offending key as `subject`.
 */
export function parseModelConfig(json: unknown): ModelConfig {
  // The model type comes first: a file of another architecture should be called that, and not
  // be blamed for the first key in which the two happen to differ.
  const type = z.looseObject({ model_type: z.string() }).safeParse(json)
  if (type.success && type.data.model_type !== 'deepseek_v4') {
    throw unsupported('model_type', type.data.model_type, 'deepseek_v4')
  }
  const parsed = configSchema.safeParse(json)
  if (!parsed.success) {
    const issue = parsed.error.issues[0]
    const key = issue === undefined ? '' : issue.path.join('.')
    throw invalid(key, issue?.message ?? 'is not valid')
  }
  const raw = parsed.data
  checkFixedValues(raw)
  checkAttention(raw)
  checkSchedule(raw)
  checkExperts(raw)
  return Object.freeze(toModelConfig(raw))
}

/** The config with the experts' number format settled, from the dtype of any `experts.*.weight`. */
export function withExpertDtype(config: ModelConfig, expertWeightDtype: string): ModelConfig {
  if (config.expertDtype !== null) return config
  if (expertWeightDtype === 'I8') return Object.freeze({ ...config, expertDtype: 'fp4' })
  if (expertWeightDtype === 'F8_E4M3') return Object.freeze({ ...config, expertDtype: 'fp8' })
  throw new CheckpointError(
    'config_unsupported',
    'expert_dtype',
    `config.json has no expert_dtype and the experts are ${expertWeightDtype}; ` +
      'only I8 (packed FP4) and F8_E4M3 experts are known',
  )
}

/** Values that select a variant of the architecture: exactly one of each is implemented. */
function checkFixedValues(raw: RawConfig): void {
  const architecture = raw.architectures[0] ?? ''
  const rope = raw.rope_scaling
  const quantization = raw.quantization_config
  if (rope.type !== undefined && rope.rope_type !== undefined && rope.type !== rope.rope_type) {
    throw invalid('rope_scaling.rope_type', `is ${rope.rope_type}, but type is ${rope.type}`)
  }
  const fixed: readonly (readonly [key: string, found: unknown, implemented: unknown])[] = [
    ['architectures', architecture, 'DeepseekV4ForCausalLM'],
    ['num_key_value_heads', raw.num_key_value_heads, 1],
    ['n_shared_experts', raw.n_shared_experts, 1],
    ['rope_scaling.type', rope.type ?? rope.rope_type ?? 'absent', 'yarn'],
    ['scoring_func', raw.scoring_func, 'sqrtsoftplus'],
    ['topk_method', raw.topk_method, 'noaux_tc'],
    ['norm_topk_prob', raw.norm_topk_prob, true],
    ['hidden_act', raw.hidden_act, 'silu'],
    ['tie_word_embeddings', raw.tie_word_embeddings, false],
    ['attention_bias', raw.attention_bias, false],
    ['torch_dtype', raw.torch_dtype, 'bfloat16'],
    ['quantization_config.quant_method', quantization.quant_method, 'fp8'],
    ['quantization_config.fmt', quantization.fmt, 'e4m3'],
    ['quantization_config.activation_scheme', quantization.activation_scheme, 'dynamic'],
    ['quantization_config.weight_block_size', quantization.weight_block_size.join('x'), '128x128'],
    ['quantization_config.scale_fmt', quantization.scale_fmt, 'ue8m0'],
  ]
  for (const [key, found, implemented] of fixed) {
    if (found !== implemented) throw unsupported(key, found, implemented)
  }
}

function checkAttention(raw: RawConfig): void {
  if (raw.qk_rope_head_dim % 2 !== 0) {
    throw invalid('qk_rope_head_dim', `${raw.qk_rope_head_dim} is odd; rotation works on pairs`)
  }
  const plainDim = raw.head_dim - raw.qk_rope_head_dim
  if (plainDim <= 0 || plainDim % 64 !== 0) {
    throw invalid(
      'qk_rope_head_dim',
      `leaves ${plainDim} of head_dim ${raw.head_dim} unrotated; that part must be a positive ` +
        'multiple of 64, the block the key-value cache is quantised in',
    )
  }
  if (raw.num_attention_heads % raw.o_groups !== 0) {
    throw invalid(
      'o_groups',
      `${raw.o_groups} does not divide num_attention_heads ${raw.num_attention_heads}`,
    )
  }
  const indexDim = raw.index_head_dim
  if (indexDim < 32 || !Number.isInteger(Math.log2(indexDim))) {
    throw invalid('index_head_dim', `${indexDim} is not a power of two of at least 32`)
  }
  if (indexDim < raw.qk_rope_head_dim) {
    throw invalid(
      'index_head_dim',
      `${indexDim} is smaller than qk_rope_head_dim ${raw.qk_rope_head_dim}`,
    )
  }
  for (const key of ['bos_token_id', 'eos_token_id'] as const) {
    if (raw[key] >= raw.vocab_size) {
      throw invalid(key, `${raw[key]} is outside the vocabulary of ${raw.vocab_size}`)
    }
  }
}

function checkSchedule(raw: RawConfig): void {
  const layers = raw.num_hidden_layers
  const ratios = raw.compress_ratios
  if (ratios.length < layers) {
    throw invalid('compress_ratios', `has ${ratios.length} entries for ${layers} layers`)
  }
  if (raw.num_hash_layers > layers) {
    throw invalid(
      'num_hash_layers',
      `${raw.num_hash_layers} exceeds the ${layers} layers there are`,
    )
  }
  // What follows the decoder's entries belongs to draft layers, which have a window and nothing else.
  const draftRatio = ratios.slice(layers).findIndex((ratio) => ratio !== 0)
  if (draftRatio !== -1) {
    throw new CheckpointError(
      'config_unsupported',
      'compress_ratios',
      `config.json: compress_ratios[${layers + draftRatio}] gives a draft layer a ratio other than 0`,
    )
  }
  if (raw.rope_scaling.original_max_position_embeddings > raw.max_position_embeddings) {
    throw invalid(
      'rope_scaling.original_max_position_embeddings',
      `exceeds max_position_embeddings ${raw.max_position_embeddings}`,
    )
  }
}

function checkExperts(raw: RawConfig): void {
  if (raw.num_experts_per_tok > raw.n_routed_experts) {
    throw invalid(
      'num_experts_per_tok',
      `${raw.num_experts_per_tok} exceeds n_routed_experts ${raw.n_routed_experts}`,
    )
  }
  // 32 elements share one FP4 scale, and two share a byte.
  for (const key of ['hidden_size', 'moe_intermediate_size'] as const) {
    if (raw[key] % 32 !== 0) throw invalid(key, `${raw[key]} is not a multiple of 32`)
  }
}

function toModelConfig(raw: RawConfig): ModelConfig {
  const layers = raw.num_hidden_layers
  // Releases with a DSpark module keep num_nextn_predict_layers at 1 although no MTP block is there.
  const dspark = typeof raw.dspark_block_size === 'number'
  const mtpLayerCount = dspark ? 0 : raw.num_nextn_predict_layers
  return {
    architecture: 'DeepseekV4ForCausalLM',
    modelType: 'deepseek_v4',
    vocabSize: raw.vocab_size,
    hiddenSize: raw.hidden_size,
    layerCount: layers,
    headCount: raw.num_attention_heads,
    kvHeadCount: 1,
    headDim: raw.head_dim,
    ropeDim: raw.qk_rope_head_dim,
    queryRank: raw.q_lora_rank,
    outputRank: raw.o_lora_rank,
    outputGroups: raw.o_groups,
    slidingWindow: raw.sliding_window,
    compressRatios: Object.freeze([...raw.compress_ratios]),
    mtpCompressRatio: raw.compress_ratios[layers] ?? 0,
    ropeTheta: raw.rope_theta,
    compressRopeTheta: raw.compress_rope_theta,
    ropeScaling: Object.freeze({
      factor: raw.rope_scaling.factor,
      originalMaxPositionEmbeddings: raw.rope_scaling.original_max_position_embeddings,
      betaFast: raw.rope_scaling.beta_fast,
      betaSlow: raw.rope_scaling.beta_slow,
    }),
    maxPositionEmbeddings: raw.max_position_embeddings,
    indexHeadCount: raw.index_n_heads,
    indexHeadDim: raw.index_head_dim,
    indexTopK: raw.index_topk,
    expertCount: raw.n_routed_experts,
    sharedExpertCount: 1,
    expertsPerToken: raw.num_experts_per_tok,
    expertWidth: raw.moe_intermediate_size,
    hashLayerCount: raw.num_hash_layers,
    scoringFunction: 'sqrtsoftplus',
    topKMethod: 'noaux_tc',
    normalizeTopK: true,
    routedScalingFactor: raw.routed_scaling_factor,
    swigluLimit: raw.swiglu_limit,
    hiddenActivation: 'silu',
    hcMult: raw.hc_mult,
    hcSinkhornIterations: raw.hc_sinkhorn_iters,
    hcEps: raw.hc_eps,
    rmsNormEps: raw.rms_norm_eps,
    mtpLayerCount,
    draftModule: dspark ? 'dspark' : mtpLayerCount > 0 ? 'mtp' : 'none',
    quantization: Object.freeze({
      method: 'fp8',
      format: 'e4m3',
      activationScheme: 'dynamic',
      weightBlockSize: [128, 128] as const,
      scaleFormat: 'ue8m0',
    }),
    expertDtype: raw.expert_dtype ?? null,
    tieWordEmbeddings: false,
    attentionBias: false,
    attentionDropout: raw.attention_dropout,
    initializerRange: raw.initializer_range ?? null,
    bosTokenId: raw.bos_token_id,
    eosTokenId: raw.eos_token_id,
    torchDtype: 'bfloat16',
    transformersVersion: raw.transformers_version ?? null,
    useCache: raw.use_cache,
  }
}

function invalid(key: string, why: string): CheckpointError {
  const where = key === '' ? 'config.json' : `config.json: ${key}`
  return new CheckpointError('config_invalid', key, `${where} ${why}`)
}

function unsupported(key: string, found: unknown, implemented: unknown): CheckpointError {
  return new CheckpointError(
    'config_unsupported',
    key,
    `config.json: ${key} is ${String(found)}; only ${String(implemented)} is implemented`,
  )
}
