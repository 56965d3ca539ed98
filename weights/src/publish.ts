import { hash } from 'node:crypto'
import { CheckpointError } from './checkpoint-error.ts'
import { digestObject, digestRelease, type DigestOptions, type ReleaseDigests } from './digest.ts'
import type { ModelConfig } from './layout/config.ts'
import {
  checkpointHash,
  manifestBytesMax,
  manifestFileName,
  parseManifest,
  serializeManifest,
  type Manifest,
  type ManifestFile,
  type PromptConstants,
  type Release,
} from './manifest.ts'
import { parsePromptConstants } from './prompt-constants.ts'
import {
  configFileName,
  encoderFileName,
  tokenizerFileName,
  type ReleasedCheckpoint,
} from './released.ts'
import { byteSource, objectSource } from './store/byte-source.ts'
import { defaultRetryPolicy, withRetry, type RetryPolicy } from './store/retry.ts'
import type { ByteSource, Store, StoreCallOptions } from './store/store.ts'
import { findObject, readWhole } from './store/whole.ts'

const encoderBytesMax = 4 * 2 ** 20

export interface PublishOptions extends StoreCallOptions {
  readonly modelId: string
  /** For calls to the target; the release brings its own. */
  readonly retry?: RetryPolicy
  readonly onProgress?: (progress: PublishProgress) => void
}

export interface PublishProgress {
  /** Reading the source for its digests, then writing what the target lacks and reading it back. */
  readonly stage: 'digest' | 'upload'
  readonly doneBytes: number
  readonly totalBytes: number
}

export interface PublishReport {
  readonly manifest: Manifest
  readonly uploadedFiles: readonly string[]
  /** Already at the target with the right digest. */
  readonly keptFiles: readonly string[]
}

/** Names of the models whose shapes are known; undefined for any other. */
export function knownModelId(config: ModelConfig): string | undefined {
  const shape = `${config.layerCount}x${config.hiddenSize}x${config.expertCount}`
  const ids = new Map([
    ['43x4096x256', 'deepseek-v4-flash'],
    ['61x7168x384', 'deepseek-v4-pro'],
    ['5x256x8', 'deepseek-v4-toy'],
  ])
  return ids.get(shape)
}

/**
 * Puts a release where backends load it from: takes digests, copies the files the target lacks,
 * reads each back, and puts the manifest last, so that a checkpoint half published is not one.
 * Source and target may be the same place. Run again after a failure, it goes on from what is
 * there.
 */
export async function publish(
  released: ReleasedCheckpoint,
  rawTarget: Store,
  options: PublishOptions,
): Promise<PublishReport> {
  const { modelId, onProgress, retry = defaultRetryPolicy, ...call } = options
  const target = withRetry(rawTarget, retry)
  const everything = [...released.files, ...released.shards]
  const totalBytes = everything.reduce((sum, file) => sum + file.sizeBytes, 0)
  const digests = await digestRelease(released, {
    ...call,
    onBytes: counting((doneBytes) => onProgress?.({ stage: 'digest', doneBytes, totalBytes })),
  })
  const manifest = await buildManifest(released, digests, { modelId, ...call })
  const report = await upload(released, target, manifest, {
    ...call,
    onBytes: counting((doneBytes) => onProgress?.({ stage: 'upload', doneBytes, totalBytes })),
  })
  const bytes = serializeManifest(manifest)
  const file = {
    name: manifestFileName,
    sizeBytes: bytes.length,
    sha256: hash('sha256', bytes, 'hex'),
  }
  await putChecked(target, file, byteSource(bytes), call)
  return { manifest, ...report }
}

async function buildManifest(
  released: ReleasedCheckpoint,
  digests: ReleaseDigests,
  { modelId, ...call }: { readonly modelId: string } & StoreCallOptions,
): Promise<Manifest> {
  const content = {
    formatVersion: 1,
    modelId,
    ...(await readPromptTexts(released, digests, call)),
    configFile: configFileName,
    tokenizerFile: tokenizerFileName,
    ...digests,
  } as const
  const manifest = { ...content, checkpointHash: checkpointHash(content) }
  // What cannot be read back is not written: a model id that is not one shows here.
  return parseManifest(serializeManifest(manifest))
}

/** The texts in the release's encoder file, if it has one. */
export async function readPromptTexts(
  released: ReleasedCheckpoint,
  digests: ReleaseDigests,
  call: StoreCallOptions,
): Promise<{ readonly release: Release; readonly promptConstants: PromptConstants }> {
  const file = digests.files.find(({ name }) => name === encoderFileName)
  if (file === undefined) return { release: 'preview', promptConstants: {} }
  const bytes = await readWhole(released.store, encoderFileName, encoderBytesMax, call)
  if (hash('sha256', bytes, 'hex') !== file.sha256) throw digestError(released.store, file)
  return parsePromptConstants(new TextDecoder('utf-8').decode(bytes))
}

async function upload(
  released: ReleasedCheckpoint,
  target: Store,
  manifest: Manifest,
  options: DigestOptions,
): Promise<Pick<PublishReport, 'uploadedFiles' | 'keptFiles'>> {
  const earlier = await earlierDigests(target, options)
  const inPlace = released.location === target.location
  const uploadedFiles: string[] = []
  const keptFiles: string[] = []
  for (const file of manifest.files) {
    if (inPlace || (await isThere(target, file, { ...options, earlier }))) {
      keptFiles.push(file.name)
    } else {
      const source = objectSource(released.store, { ...file, key: file.name }, options)
      await putChecked(target, file, source, options)
      uploadedFiles.push(file.name)
    }
    options.onBytes?.(file.sizeBytes)
  }
  return { uploadedFiles, keptFiles }
}

/** What the manifest at the target, if there is a sound one, says of its files. */
async function earlierDigests(
  target: Store,
  call: StoreCallOptions,
): Promise<ReadonlyMap<string, string>> {
  if ((await findObject(target, manifestFileName, call)) === null) return new Map()
  const bytes = await readWhole(target, manifestFileName, manifestBytesMax, call)
  try {
    return new Map(parseManifest(bytes).files.map(({ name, sha256 }) => [name, sha256]))
  } catch (error) {
    // A broken manifest is about to be replaced; it only saves no work.
    if (error instanceof CheckpointError) return new Map()
    throw error
  }
}

/**
 * Whether the target has the file already: an earlier manifest says so, or, where a publication
 * broke off before its manifest, the object itself does when read.
 */
async function isThere(
  target: Store,
  file: ManifestFile,
  { earlier, ...options }: DigestOptions & { readonly earlier: ReadonlyMap<string, string> },
): Promise<boolean> {
  const found = await findObject(target, file.name, options)
  if (found?.sizeBytes !== file.sizeBytes) return false
  if (earlier.get(file.name) === file.sha256) return true
  return (await digestObject(target, found, { ...options, onBytes: () => {} })) === file.sha256
}

/** Writes a file and reads it back: what counts is what was written, not what was sent. */
async function putChecked(
  target: Store,
  file: ManifestFile,
  source: ByteSource,
  call: StoreCallOptions,
): Promise<void> {
  for (let attempt = 0; attempt < 2; attempt++) {
    await target.put(file.name, source, call)
    const written = { key: file.name, sizeBytes: file.sizeBytes }
    if ((await digestObject(target, written, { ...call, onBytes: () => {} })) === file.sha256)
      return
  }
  throw digestError(target, file)
}

function digestError(store: Store, file: ManifestFile): CheckpointError {
  return new CheckpointError(
    'file_digest',
    file.name,
    `${file.name} of ${store.location} changed while it was being published; publish again`,
  )
}

/** Turns amounts into a running total. */
function counting(report: (doneBytes: number) => void): (bytes: number) => void {
  let done = 0
  return (bytes) => report((done += bytes))
}
