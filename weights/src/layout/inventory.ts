import { strict as assert } from 'node:assert'
import type { ModelConfig } from './config.ts'

/** The safetensors dtypes a V4 checkpoint uses. I8 holds two FP4 codes a byte. */
export type TensorDtype = 'BF16' | 'F32' | 'F8_E4M3' | 'F8_E8M0' | 'I8' | 'I64'

export interface TensorSpec {
  readonly name: string
  readonly dtype: TensorDtype
  /** As stored, `[out, in]` for linears; packed FP4 counts bytes, not elements. */
  readonly shape: readonly number[]
}

/** Bytes of one stored element. */
export const dtypeBytes: Readonly<Record<TensorDtype, number>> = Object.freeze({
  BF16: 2,
  F32: 4,
  F8_E4M3: 1,
  F8_E8M0: 1,
  I8: 1,
  I64: 8,
})

/** Bytes a tensor takes on disk. */
export function tensorBytes(spec: Pick<TensorSpec, 'dtype' | 'shape'>): number {
  const bytes = spec.shape.reduce((product, extent) => product * extent, dtypeBytes[spec.dtype])
  assert(Number.isSafeInteger(bytes), 'a tensor has fewer than 2^53 bytes')
  return bytes
}

/** What a layer with this compression ratio is made of, besides its window. */
export type LayerKind = 'window' | 'overlapping' | 'plain'

/** Ratio 4 overlaps its blocks and has an indexer; any other ratio does neither. */
export function layerKind(compressRatio: number): LayerKind {
  if (compressRatio === 0) return 'window'
  return compressRatio === 4 ? 'overlapping' : 'plain'
}

/**
 * Every tensor of the checkpoint, in the order of the released shards: embedding, layers, head,
 * draft blocks. Tensors of a DSpark module are not listed. `config.expertDtype` must be settled.
 */
export function tensorInventory(config: ModelConfig): readonly TensorSpec[] {
  assert(config.expertDtype !== null, 'the expert dtype is settled before the inventory is asked')
  const specs: TensorSpec[] = [
    { name: 'embed.weight', dtype: 'BF16', shape: [config.vocabSize, config.hiddenSize] },
  ]
  for (let layer = 0; layer < config.layerCount; layer++) {
    specs.push(
      ...blockSpecs(config, {
        prefix: `layers.${layer}`,
        ratio: config.compressRatios[layer] ?? 0,
        hashRouted: layer < config.hashLayerCount,
      }),
    )
  }
  specs.push(
    { name: 'head.weight', dtype: 'BF16', shape: [config.vocabSize, config.hiddenSize] },
    { name: 'norm.weight', dtype: 'BF16', shape: [config.hiddenSize] },
    ...headContractionSpecs(config, ''),
  )
  for (let block = 0; block < config.mtpLayerCount; block++) {
    specs.push(...mtpSpecs(config, `mtp.${block}`))
  }
  return specs
}

interface Block {
  readonly prefix: string
  readonly ratio: number
  readonly hashRouted: boolean
}

function blockSpecs(config: ModelConfig, block: Block): TensorSpec[] {
  const { prefix } = block
  const norm = (name: string): TensorSpec => bf16(`${prefix}.${name}.weight`, [config.hiddenSize])
  return [
    norm('attn_norm'),
    norm('ffn_norm'),
    ...hyperConnectionSpecs(config, `${prefix}.hc_attn`),
    ...hyperConnectionSpecs(config, `${prefix}.hc_ffn`),
    ...attentionSpecs(config, `${prefix}.attn`),
    ...compressorSpecs(config, `${prefix}.attn.compressor`, block.ratio, config.headDim),
    ...indexerSpecs(config, `${prefix}.attn.indexer`, block.ratio),
    ...gateSpecs(config, `${prefix}.ffn.gate`, block.hashRouted),
    ...expertSpecs(config, `${prefix}.ffn`),
  ]
}

/** One mix per sub-layer: pre and post weights of every stream, and the stream-to-stream matrix. */
function hyperConnectionSpecs(config: ModelConfig, prefix: string): TensorSpec[] {
  const mixes = (2 + config.hcMult) * config.hcMult
  return [
    f32(`${prefix}_fn`, [mixes, config.hcMult * config.hiddenSize]),
    f32(`${prefix}_base`, [mixes]),
    f32(`${prefix}_scale`, [3]),
  ]
}

function headContractionSpecs(config: ModelConfig, prefix: string): TensorSpec[] {
  return [
    f32(`${prefix}hc_head_fn`, [config.hcMult, config.hcMult * config.hiddenSize]),
    f32(`${prefix}hc_head_base`, [config.hcMult]),
    f32(`${prefix}hc_head_scale`, [1]),
  ]
}

function attentionSpecs(config: ModelConfig, prefix: string): TensorSpec[] {
  const heads = config.headCount * config.headDim
  const grouped = config.outputGroups * config.outputRank
  return [
    f32(`${prefix}.attn_sink`, [config.headCount]),
    ...fp8(`${prefix}.wq_a`, config.queryRank, config.hiddenSize),
    bf16(`${prefix}.q_norm.weight`, [config.queryRank]),
    ...fp8(`${prefix}.wq_b`, heads, config.queryRank),
    ...fp8(`${prefix}.wkv`, config.headDim, config.hiddenSize),
    bf16(`${prefix}.kv_norm.weight`, [config.headDim]),
    ...fp8(`${prefix}.wo_a`, grouped, heads / config.outputGroups),
    ...fp8(`${prefix}.wo_b`, config.hiddenSize, grouped),
  ]
}

function compressorSpecs(
  config: ModelConfig,
  prefix: string,
  ratio: number,
  entryDim: number,
): TensorSpec[] {
  const kind = layerKind(ratio)
  if (kind === 'window') return []
  // Overlapping blocks keep one set of channels for a token's own block and one for the next.
  const channels = (kind === 'overlapping' ? 2 : 1) * entryDim
  return [
    f32(`${prefix}.ape`, [ratio, channels]),
    bf16(`${prefix}.wkv.weight`, [channels, config.hiddenSize]),
    bf16(`${prefix}.wgate.weight`, [channels, config.hiddenSize]),
    bf16(`${prefix}.norm.weight`, [entryDim]),
  ]
}

function indexerSpecs(config: ModelConfig, prefix: string, ratio: number): TensorSpec[] {
  if (layerKind(ratio) !== 'overlapping') return []
  return [
    ...fp8(`${prefix}.wq_b`, config.indexHeadCount * config.indexHeadDim, config.queryRank),
    bf16(`${prefix}.weights_proj.weight`, [config.indexHeadCount, config.hiddenSize]),
    ...compressorSpecs(config, `${prefix}.compressor`, ratio, config.indexHeadDim),
  ]
}

function gateSpecs(config: ModelConfig, prefix: string, hashRouted: boolean): TensorSpec[] {
  return [
    bf16(`${prefix}.weight`, [config.expertCount, config.hiddenSize]),
    hashRouted
      ? {
          name: `${prefix}.tid2eid`,
          dtype: 'I64',
          shape: [config.vocabSize, config.expertsPerToken],
        }
      : f32(`${prefix}.bias`, [config.expertCount]),
  ]
}

/** Routed experts, then the shared one. w1 is the gate, w3 the up and w2 the down projection. */
function expertSpecs(config: ModelConfig, prefix: string): TensorSpec[] {
  const { hiddenSize, expertWidth } = config
  const linear = config.expertDtype === 'fp4' ? fp4 : fp8
  const specs: TensorSpec[] = []
  for (let expert = 0; expert < config.expertCount; expert++) {
    const name = `${prefix}.experts.${expert}`
    specs.push(
      ...linear(`${name}.w1`, expertWidth, hiddenSize),
      ...linear(`${name}.w2`, hiddenSize, expertWidth),
      ...linear(`${name}.w3`, expertWidth, hiddenSize),
    )
  }
  const shared = `${prefix}.shared_experts`
  specs.push(
    ...fp8(`${shared}.w1`, expertWidth, hiddenSize),
    ...fp8(`${shared}.w2`, hiddenSize, expertWidth),
    ...fp8(`${shared}.w3`, expertWidth, hiddenSize),
  )
  return specs
}

function mtpSpecs(config: ModelConfig, prefix: string): TensorSpec[] {
  const { hiddenSize } = config
  return [
    ...fp8(`${prefix}.e_proj`, hiddenSize, hiddenSize),
    ...fp8(`${prefix}.h_proj`, hiddenSize, hiddenSize),
    bf16(`${prefix}.enorm.weight`, [hiddenSize]),
    bf16(`${prefix}.hnorm.weight`, [hiddenSize]),
    ...blockSpecs(config, { prefix, ratio: config.mtpCompressRatio, hashRouted: false }),
    bf16(`${prefix}.norm.weight`, [hiddenSize]),
    ...headContractionSpecs(config, `${prefix}.`),
  ]
}

function bf16(name: string, shape: readonly number[]): TensorSpec {
  return { name, dtype: 'BF16', shape }
}

function f32(name: string, shape: readonly number[]): TensorSpec {
  return { name, dtype: 'F32', shape }
}

/** e4m3 codes with one e8m0 scale per 128×128 tile; edge tiles may be partial. */
function fp8(prefix: string, rows: number, columns: number): TensorSpec[] {
  return [
    { name: `${prefix}.weight`, dtype: 'F8_E4M3', shape: [rows, columns] },
    {
      name: `${prefix}.scale`,
      dtype: 'F8_E8M0',
      shape: [Math.ceil(rows / 128), Math.ceil(columns / 128)],
    },
  ]
}

/** e2m1 codes, two a byte, with one e8m0 scale per 32 of a row. */
function fp4(prefix: string, rows: number, columns: number): TensorSpec[] {
  return [
    { name: `${prefix}.weight`, dtype: 'I8', shape: [rows, columns / 2] },
    { name: `${prefix}.scale`, dtype: 'F8_E8M0', shape: [rows, columns / 32] },
  ]
}
