import { hash } from 'node:crypto'
import { CheckpointError } from './checkpoint-error.ts'
import { eachLimited } from './each-limited.ts'
import { parseModelConfig, type ModelConfig } from './layout/config.ts'
import { checkDirectory } from './layout/directory.ts'
import { requireTensor, type TensorSource } from './load.ts'
import {
  manifestBytesMax,
  manifestFileName,
  parseManifest,
  type Manifest,
  type ManifestFile,
  type ManifestTensor,
} from './manifest.ts'
import { defaultRetryPolicy, withRetry, type RetryPolicy } from './store/retry.ts'
import type { Store } from './store/store.ts'
import { findObject, readWhole, requireObject } from './store/whole.ts'
import { parseJson } from './strict-json.ts'

export { loadTensors, type LoadOptions } from './load.ts'
export type { Manifest, ManifestTensor } from './manifest.ts'

/** Largest file `readFile` brings into memory whole; tokenizers have eight megabytes. */
const readFileBytesMax = 128 * 2 ** 20

/** A published checkpoint whose directory, config and file sizes have been checked. */
export interface Checkpoint extends TensorSource<ManifestTensor> {
  readonly manifest: Manifest
  /** A file of the manifest, whole, after its SHA-256 was compared. Not for shards. */
  readFile(name: string, options?: { readonly signal?: AbortSignal }): Promise<Uint8Array>
  /** The tensor's entry; throws `CheckpointError` if there is none. */
  tensor(name: string): ManifestTensor
}

export interface OpenOptions {
  readonly signal?: AbortSignal
  readonly retry?: RetryPolicy
}

/**
 * Opens what `publish` put at a store: reads the manifest, checks that every file is there in its
 * full length and that the tensors are exactly those the config calls for. Tensor bytes are checked
 * as they are loaded. All later reads go through the same retries.
 */
export async function openCheckpoint(
  rawStore: Store,
  options: OpenOptions = {},
): Promise<Checkpoint> {
  const { retry = defaultRetryPolicy, ...call } = options
  const store = withRetry(rawStore, retry)
  const manifest = parseManifest(await readManifest(store, call))
  const sizes = { items: manifest.files, limit: 8, signal: call.signal }
  await eachLimited(sizes, (file, signal) => checkFileSize(store, file, signal))
  const readFile: Checkpoint['readFile'] = (name, readOptions) =>
    readVerified(store, manifest, name, readOptions ?? {})
  const config = await readConfig(manifest, readFile, call)
  const source = { location: store.location, store, config, tensors: manifest.tensors }
  return { ...source, manifest, readFile, tensor: (name) => requireTensor(source, name) }
}

async function readManifest(
  store: Store,
  call: { readonly signal?: AbortSignal },
): Promise<Uint8Array> {
  if ((await findObject(store, manifestFileName, call)) === null) {
    throw new CheckpointError(
      'file_missing',
      manifestFileName,
      `${store.location} has no ${manifestFileName}: check the location, or publish the ` +
        'checkpoint there (npm run weights -- publish)',
    )
  }
  return readWhole(store, manifestFileName, manifestBytesMax, call)
}

async function readConfig(
  manifest: Manifest,
  readFile: Checkpoint['readFile'],
  call: { readonly signal?: AbortSignal },
): Promise<ModelConfig> {
  const name = manifest.configFile
  const config = parseModelConfig(parseJson(await readFile(name, call), name))
  return checkDirectory(config, manifest.tensors)
}

/** A truncated or replaced shard shows before the first of its bytes is read. */
async function checkFileSize(store: Store, file: ManifestFile, signal: AbortSignal): Promise<void> {
  const { sizeBytes } = await requireObject(store, file.name, { signal })
  if (sizeBytes === file.sizeBytes) return
  throw new CheckpointError(
    'file_size',
    file.name,
    `${file.name} of ${store.location} has ${sizeBytes} bytes; the manifest says ` +
      `${file.sizeBytes}. Publish it again`,
  )
}

async function readVerified(
  store: Store,
  manifest: Manifest,
  name: string,
  call: { readonly signal?: AbortSignal },
): Promise<Uint8Array> {
  const file = manifest.files.find((candidate) => candidate.name === name)
  if (file === undefined) {
    const why = `the manifest of ${store.location} has no file ${name}`
    throw new CheckpointError('file_missing', name, why)
  }
  const bytes = await readWhole(store, name, Math.min(file.sizeBytes, readFileBytesMax), call)
  if (bytes.length === file.sizeBytes && hash('sha256', bytes, 'hex') === file.sha256) return bytes
  throw new CheckpointError(
    'file_digest',
    name,
    `${name} of ${store.location} does not have the bytes its manifest promises; publish it again`,
  )
}
