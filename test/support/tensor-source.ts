import type { ModelConfig } from '#weights/layout/config.ts'
import { tensorBytes, type TensorSpec } from '#weights/layout/inventory.ts'
import type { TensorLocation } from '#weights/manifest.ts'
import { MemoryStore } from '#weights/store/memory.ts'
import type { WeightSource } from '../../gpu-backend/src/model/weight-placer.ts'

export interface SourceTensor extends TensorSpec {
  readonly content: Uint8Array
}

/** A checkpoint in memory, one file a tensor, with nothing checked: for tests that bend one. */
export async function memorySource(
  config: ModelConfig,
  tensors: Iterable<SourceTensor>,
): Promise<WeightSource & { readonly tensors: Map<string, TensorLocation> }> {
  const store = new MemoryStore()
  const directory = new Map<string, TensorLocation>()
  for (const { content, ...spec } of tensors) {
    await store.put(spec.name, content)
    const place = { file: spec.name, offset: 0, bytes: tensorBytes(spec) }
    directory.set(spec.name, { ...spec, ...place })
  }
  return { location: store.location, store, config, tensors: directory }
}
