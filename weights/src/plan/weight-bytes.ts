import type { ModelConfig } from '../layout/config.ts'
import { tensorBytes, tensorInventory, type TensorSpec } from '../layout/inventory.ts'

/** What a tensor is for, as far as memory is concerned. */
export type WeightKind =
  | 'routed experts'
  | 'shared experts'
  | 'attention'
  | 'compressors and indexers'
  | 'gates and hash tables'
  | 'norms and stream mixes'
  | 'embedding'
  | 'head'
  | 'draft block'

/** Everything a GPU holds whether it holds experts or not is replicated; experts are split. */
export type WeightBytes = Readonly<Record<WeightKind, number>>

/** Bytes on the device by kind. The draft block's experts count as its own. */
export function weightBytes(config: ModelConfig): WeightBytes {
  const bytes: Record<WeightKind, number> = {
    'routed experts': 0,
    'shared experts': 0,
    attention: 0,
    'compressors and indexers': 0,
    'gates and hash tables': 0,
    'norms and stream mixes': 0,
    embedding: 0,
    head: 0,
    'draft block': 0,
  }
  for (const spec of tensorInventory(config)) bytes[kindOf(spec.name)] += deviceBytes(spec)
  return bytes
}

/** Bytes of one routed expert: three matrices with their scales, the same in every layer. */
export function expertBytes(config: ModelConfig, weights: WeightBytes): number {
  return weights['routed experts'] / (config.layerCount * config.expertCount)
}

/** As stored, but for ids, which are below 2^31 and kept as i32. */
function deviceBytes(spec: TensorSpec): number {
  return spec.dtype === 'I64' ? tensorBytes(spec) / 2 : tensorBytes(spec)
}

const kindsByPattern: readonly (readonly [RegExp, WeightKind])[] = [
  [/^mtp\./, 'draft block'],
  [/\.ffn\.experts\./, 'routed experts'],
  [/\.ffn\.shared_experts\./, 'shared experts'],
  [/\.ffn\.gate\./, 'gates and hash tables'],
  [/\.attn\.(compressor|indexer)\./, 'compressors and indexers'],
  [/\.attn\./, 'attention'],
  [/^embed\./, 'embedding'],
  [/^head\./, 'head'],
]

function kindOf(name: string): WeightKind {
  const found = kindsByPattern.find(([pattern]) => pattern.test(name))
  return found?.[1] ?? 'norms and stream mixes'
}
