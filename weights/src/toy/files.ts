import { parseModelConfig, type ModelConfig } from '../layout/config.ts'
import { tensorBytes, tensorInventory, type TensorSpec } from '../layout/inventory.ts'
import { writeSafetensors } from '../safetensors.ts'
import { configFileName, encoderFileName, indexFileName, tokenizerFileName } from '../released.ts'
import type { Store, StoreCallOptions } from '../store/store.ts'
import { toyConfig } from './config.ts'
import { toyEncoderSource } from './encoder.ts'
import { toyTensor } from './tensors.ts'
import { toyTokenizer, toyTokenizerConfig } from './tokenizer.ts'

/** The name the toy is served under. */
export const toyModelId = 'deepseek-v4-toy'

/**
 * Writes the toy checkpoint in the released layout: config, tokenizer, index and shards. Eight
 * megabytes, the same bytes every time.
 */
export async function writeToy(store: Store, options?: StoreCallOptions): Promise<void> {
  for (const [name, bytes] of toyFiles()) await store.put(name, bytes, options)
}

/** The toy's files, made as they are asked for. */
export function toyFiles(): Generator<readonly [name: string, bytes: Uint8Array]> {
  return releaseFiles(toyConfig)
}

/**
 * A release in the toy's manner for any small `config.json`; tests that publish a hundred times want
 * less than eight megabytes. Two of eight experts a token, and 274 ids or more.
 */
export function* releaseFiles(
  configJson: unknown,
): Generator<readonly [name: string, bytes: Uint8Array]> {
  const config = parseModelConfig(configJson)
  const specs = tensorInventory(config)
  const shards = Map.groupBy(specs, (spec) => shardNumber(spec.name, config.layerCount))
  const weightMap: Record<string, string> = {}
  for (const [number, members] of [...shards].sort(([a], [b]) => a - b)) {
    const name = shardName(number, shards.size)
    for (const spec of members) weightMap[spec.name] = name
    yield [name, shardBytes(members)]
  }
  const totalBytes = specs.reduce((sum, spec) => sum + tensorBytes(spec), 0)
  yield [indexFileName, json({ metadata: { total_size: totalBytes }, weight_map: weightMap })]
  yield [configFileName, json(configJson)]
  yield ['generation_config.json', json(generationConfig(config))]
  yield [tokenizerFileName, json(toyTokenizer(config.vocabSize))]
  yield ['tokenizer_config.json', json(toyTokenizerConfig(config.maxPositionEmbeddings))]
  yield [encoderFileName, new TextEncoder().encode(toyEncoderSource)]
}

function generationConfig(config: ModelConfig): unknown {
  return {
    bos_token_id: config.bosTokenId,
    eos_token_id: config.eosTokenId,
    do_sample: true,
    temperature: 1,
    top_p: 1,
  }
}

/** Counted from 1, as released: embedding, a shard a layer, head and norms, draft block. */
function shardNumber(name: string, layerCount: number): number {
  const layer = /^layers\.(\d+)\./.exec(name)?.[1]
  if (layer !== undefined) return Number(layer) + 2
  if (name === 'embed.weight') return 1
  return layerCount + (name.startsWith('mtp.') ? 3 : 2)
}

function shardName(number: number, shardCount: number): string {
  const digits = (value: number): string => String(value).padStart(5, '0')
  return `model-${digits(number)}-of-${digits(shardCount)}.safetensors`
}

function shardBytes(specs: readonly TensorSpec[]): Uint8Array {
  return writeSafetensors(specs.map((spec) => ({ ...spec, data: toyTensor(spec) })))
}

function json(value: unknown): Uint8Array {
  return new TextEncoder().encode(`${JSON.stringify(value, null, 2)}\n`)
}
