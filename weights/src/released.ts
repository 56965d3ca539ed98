import { z } from 'zod'
import { CheckpointError } from './checkpoint-error.ts'
import { eachLimited } from './each-limited.ts'
import { parseModelConfig } from './layout/config.ts'
import { checkDirectory } from './layout/directory.ts'
import type { TensorSource } from './load.ts'
import type { TensorLocation } from './manifest.ts'
import type { OpenOptions } from './checkpoint.ts'
import { headerLength, parseHeader, prefixBytes, type SafetensorsEntry } from './safetensors.ts'
import { isSafeKey } from './store/key.ts'
import { defaultRetryPolicy, withRetry } from './store/retry.ts'
import type { ObjectInfo, Store, StoreCallOptions } from './store/store.ts'
import { findObject, readWhole, requireObject } from './store/whole.ts'
import { objectEntries, parseJson } from './strict-json.ts'

export const configFileName = 'config.json'
export const tokenizerFileName = 'tokenizer.json'
export const indexFileName = 'model.safetensors.index.json'
export const encoderFileName = 'encoding/encoding_dsv4.py'

const configBytesMax = 2 ** 20
const indexBytesMax = 64 * 2 ** 20

/** Files that come along when they are there. */
const optionalFileNames = [
  'generation_config.json',
  'tokenizer_config.json',
  encoderFileName,
  'LICENSE',
] as const

/** A checkpoint as its makers released it: shards, index, config; no digests. */
export interface ReleasedCheckpoint extends TensorSource<TensorLocation> {
  /** Everything but the shards, with sizes: config, tokenizer, index, and what else was found. */
  readonly files: readonly ObjectInfo[]
  /** In the order of their names. */
  readonly shards: readonly ObjectInfo[]
}

/**
 * Opens a checkpoint in the released layout. Every shard's header is read and must agree with the
 * index, the file's length and the config; the values themselves have nothing to be checked
 * against until `publish` has taken their digests.
 */
export async function openReleased(
  rawStore: Store,
  options: OpenOptions = {},
): Promise<ReleasedCheckpoint> {
  const { retry = defaultRetryPolicy, ...call } = options
  const store = withRetry(rawStore, retry)
  const configBytes = await readWhole(store, configFileName, configBytesMax, call)
  const config = parseModelConfig(parseJson(configBytes, configFileName))
  const index = parseIndex(await readWhole(store, indexFileName, indexBytesMax, call))
  const shardNames = [...new Set(index.values())].sort()
  const read = new Map<string, { info: ObjectInfo; entries: readonly SafetensorsEntry[] }>()
  const run = { items: shardNames, limit: 8, signal: call.signal }
  await eachLimited(run, async (shard, signal) => {
    read.set(shard, await readShard(store, shard, { signal }))
  })
  const tensors = new Map<string, TensorLocation>()
  const shards: ObjectInfo[] = []
  for (const shard of shardNames) {
    const { info, entries } = read.get(shard) ?? { entries: [] }
    if (info !== undefined) shards.push(info)
    for (const entry of entries) tensors.set(entry.name, { ...placed(entry, shard, index) })
  }
  for (const [name, shard] of index) {
    if (!tensors.has(name)) throw indexInvalid(name, `puts ${name} into ${shard}, which lacks it`)
  }
  return {
    location: store.location,
    store,
    config: checkDirectory(config, tensors),
    tensors,
    files: await otherFiles(store, call),
    shards,
  }
}

async function otherFiles(store: Store, call: StoreCallOptions): Promise<readonly ObjectInfo[]> {
  const files: ObjectInfo[] = []
  for (const name of [configFileName, tokenizerFileName, indexFileName]) {
    files.push(await requireObject(store, name, call))
  }
  for (const name of optionalFileNames) {
    const found = await findObject(store, name, call)
    if (found !== null) files.push(found)
  }
  return files
}

const indexSchema = z.looseObject({ weight_map: z.unknown() })

/** Tensor name to shard name. */
function parseIndex(bytes: Uint8Array): ReadonlyMap<string, string> {
  const parsed = indexSchema.safeParse(parseJson(bytes, indexFileName))
  const entries = parsed.success ? objectEntries(parsed.data.weight_map) : null
  if (entries === null) throw indexInvalid(indexFileName, 'has no weight_map')
  const map = new Map<string, string>()
  for (const [name, shard] of entries) {
    if (typeof shard !== 'string' || !isSafeKey(shard)) {
      throw indexInvalid(name, `puts ${name} into a file that cannot be one`)
    }
    map.set(name, shard)
  }
  return map
}

/** The tensor where the header has it, if the index says the same. */
function placed(
  entry: SafetensorsEntry,
  shard: string,
  index: ReadonlyMap<string, string>,
): TensorLocation {
  const said = index.get(entry.name)
  if (said !== shard) {
    const where = said === undefined ? 'does not list it' : `puts it into ${said}`
    throw indexInvalid(
      entry.name,
      `disagrees with ${shard}, which holds ${entry.name}: it ${where}`,
    )
  }
  return { ...entry, file: shard }
}

async function readShard(
  store: Store,
  shard: string,
  call: StoreCallOptions,
): Promise<{ info: ObjectInfo; entries: readonly SafetensorsEntry[] }> {
  const info = await requireObject(store, shard, call)
  // A file shorter than the length field is headerLength's to refuse; there is nothing to read.
  const prefix =
    info.sizeBytes < prefixBytes
      ? new Uint8Array(0)
      : await store.getRange(shard, { offset: 0, length: prefixBytes }, call)
  const length = headerLength(prefix, info.sizeBytes, shard)
  const header = await store.getRange(shard, { offset: prefixBytes, length }, call)
  return { info, entries: parseHeader(header, info.sizeBytes, shard) }
}

function indexInvalid(subject: string, why: string): CheckpointError {
  return new CheckpointError('index_invalid', subject, `${indexFileName} ${why}`)
}
