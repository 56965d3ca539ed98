import { createHash, hash } from 'node:crypto'
import { TensorAssembler } from './assembler.ts'
import { eachLimited } from './each-limited.ts'
import { refuseImpossibleValues } from './load.ts'
import { planReads } from './load-plan.ts'
import { byPlace, type ManifestFile, type ManifestTensor, type TensorLocation } from './manifest.ts'
import type { ReleasedCheckpoint } from './released.ts'
import { splitRange } from './store/byte-source.ts'
import type { ObjectInfo, Store, StoreCallOptions } from './store/store.ts'

const rangeBytes = 16 * 2 ** 20
const filesAtOnce = 4

export interface DigestOptions extends StoreCallOptions {
  /** Bytes read since the last call. */
  readonly onBytes?: (bytes: number) => void
}

/** What the bytes of a release are, taken by reading all of them once. */
export interface ReleaseDigests {
  readonly files: readonly ManifestFile[]
  readonly tensors: ReadonlyMap<string, ManifestTensor>
}

/**
 * SHA-256 of every file and every tensor. Impossible values are refused on the way. Takes memory for
 * the largest tensors of four shards.
 */
export async function digestRelease(
  released: ReleasedCheckpoint,
  options: DigestOptions = {},
): Promise<ReleaseDigests> {
  const files = new Map<string, ManifestFile>()
  const digests = new Map<string, string>()
  const items = [...released.files, ...released.shards]
  const run = { items, limit: filesAtOnce, signal: options.signal }
  await eachLimited(run, async (file, signal) => {
    const sha256 = released.shards.includes(file)
      ? await digestShard(released, file, { ...options, signal, digests })
      : await digestObject(released.store, file, { ...options, signal })
    files.set(file.key, { name: file.key, sizeBytes: file.sizeBytes, sha256 })
  })
  const tensors = [...released.tensors.values()]
    .sort(byPlace)
    .map((tensor) => [tensor.name, { ...tensor, sha256: digests.get(tensor.name) ?? '' }] as const)
  return {
    files: [...files.values()].sort((a, b) => (a.name < b.name ? -1 : 1)),
    tensors: new Map(tensors),
  }
}

/** SHA-256 of one object, read front to back. */
export async function digestObject(
  store: Store,
  file: ObjectInfo,
  options: DigestOptions = {},
): Promise<string> {
  const digest = createHash('sha256')
  for (const range of splitRange(file.sizeBytes, rangeBytes)) {
    digest.update(await store.getRange(file.key, range, options))
    options.onBytes?.(range.length)
  }
  return digest.digest('hex')
}

/**
 * The shard's digest; those of its tensors go into `digests`. The header has been checked to put
 * the tensors one after the other up to the end, so header and planned reads are the whole file.
 */
async function digestShard(
  released: ReleasedCheckpoint,
  shard: ObjectInfo,
  options: DigestOptions & { readonly digests: Map<string, string> },
): Promise<string> {
  const { digests, onBytes, ...call } = options
  const members = [...released.tensors.values()].filter((tensor) => tensor.file === shard.key)
  const ranges = planReads(members, rangeBytes)
  const dataStart = ranges[0]?.offset ?? shard.sizeBytes
  const whole = createHash('sha256')
  const read = async (offset: number, length: number): Promise<Uint8Array> => {
    const bytes = await released.store.getRange(shard.key, { offset, length }, call)
    whole.update(bytes)
    onBytes?.(length)
    return bytes
  }
  await read(0, dataStart)
  const assembler = new TensorAssembler<TensorLocation>()
  for (const range of ranges) {
    for (const { tensor, bytes } of assembler.take(range, await read(range.offset, range.length))) {
      refuseImpossibleValues(tensor, bytes, released)
      digests.set(tensor.name, hash('sha256', bytes, 'hex'))
    }
  }
  return whole.digest('hex')
}
