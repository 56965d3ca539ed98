import { CheckpointError } from '../checkpoint-error.ts'
import { withExpertDtype, type ModelConfig } from './config.ts'
import { tensorInventory, type TensorSpec } from './inventory.ts'

/** What a checkpoint says it holds. */
export type TensorDirectory = ReadonlyMap<string, TensorSpec & { readonly file: string }>

/**
 * Compares a checkpoint's tensors with what its config calls for: every name, dtype and shape.
 * Gives the config with the experts' format settled. Throws `CheckpointError` naming the tensor.
 */
export function checkDirectory(config: ModelConfig, tensors: TensorDirectory): ModelConfig {
  const expert = tensors.get('layers.0.ffn.experts.0.w1.weight')
  if (expert === undefined) throw missing('layers.0.ffn.experts.0.w1.weight')
  const settled = withExpertDtype(config, expert.dtype)
  const known = new Set<string>()
  for (const spec of tensorInventory(settled)) {
    known.add(spec.name)
    compare(spec, tensors.get(spec.name))
  }
  for (const [name, { file }] of tensors) {
    if (known.has(name) || isUnusedDraftTensor(name, settled)) continue
    throw new CheckpointError(
      'tensor_unexpected',
      name,
      `${file} holds ${name}, which config.json does not call for`,
    )
  }
  return settled
}

function compare(spec: TensorSpec, found: (TensorSpec & { readonly file: string }) | undefined) {
  const { name, dtype, shape } = spec
  if (found === undefined) throw missing(name)
  if (found.dtype !== dtype) {
    const why = `${name} in ${found.file} is ${found.dtype}; config.json calls for ${dtype}`
    throw new CheckpointError('tensor_dtype', name, why)
  }
  if (found.shape.join() !== shape.join()) {
    const why =
      `${name} in ${found.file} is [${found.shape.join(', ')}]; ` +
      `config.json calls for [${shape.join(', ')}]`
    throw new CheckpointError('tensor_shape', name, why)
  }
}

/**
 * Draft tensors the engine does not read: a module it does not run, and the copies of embedding
 * and head that some conversions put into MTP blocks.
 */
function isUnusedDraftTensor(name: string, config: ModelConfig): boolean {
  if (!/^mtp\.\d+\./.test(name)) return false
  return config.draftModule === 'dspark' || /^mtp\.\d+\.(emb.*|head\.weight)$/.test(name)
}

function missing(name: string): CheckpointError {
  return new CheckpointError('tensor_missing', name, `no shard holds ${name}`)
}
