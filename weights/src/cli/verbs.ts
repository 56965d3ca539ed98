import { openCheckpoint, type Checkpoint } from '../checkpoint.ts'
import { CheckpointError } from '../checkpoint-error.ts'
import type { ModelConfig } from '../layout/config.ts'
import { manifestFileName, promptConstantNames, type TensorLocation } from '../manifest.ts'
import { knownModelId, publish } from '../publish.ts'
import { openReleased, type ReleasedCheckpoint } from '../released.ts'
import { openStore } from '../store/open.ts'
import { StoreError, type Store } from '../store/store.ts'
import { toyModelId, writeToy } from '../toy/files.ts'
import { verifyCheckpoint } from '../verify.ts'
import { formatBytes, formatCount, type Output, type Terminal } from './output.ts'

/** A verb's surroundings. */
export interface Run {
  readonly terminal: Terminal
  readonly output: Output
}

/** A request that makes no sense, as opposed to one that failed. */
export class UsageError extends Error {}

export async function runToy({ terminal, output }: Run, out: string): Promise<boolean> {
  const store = storeAt(out, terminal)
  output.line(`Write the toy checkpoint ${toyModelId}, as if released, to ${store.location}`)
  await writeToy(store, callOptions(terminal))
  const released = await openReleased(store, callOptions(terminal))
  const bytes = sizeOf([...released.files, ...released.shards])
  const fileCount = released.files.length + released.shards.length
  const tensorCount = released.tensors.size
  output.result({ location: store.location, fileCount, tensorCount, bytes }, [
    `Wrote ${fileCount} files, ${formatCount(tensorCount)} tensors, ${formatBytes(bytes)}.`,
    `Next: npm run weights -- publish --from ${out} --to ${out}`,
  ])
  return true
}

export interface PublishArguments {
  readonly from: string
  readonly to: string
  readonly modelId?: string
}

export async function runPublish({ terminal, output }: Run, args: PublishArguments) {
  const call = callOptions(terminal)
  const target = storeAt(args.to, terminal)
  const released = await openReleased(storeAt(args.from, terminal), call)
  const modelId = args.modelId ?? knownModelId(released.config)
  if (modelId === undefined) {
    throw new UsageError('the shape of this model has no name; give one with --model-id')
  }
  for (const text of publishPlan(released, target.location, modelId)) output.line(text)
  const bar = output.progress()
  try {
    const { manifest, uploadedFiles, keptFiles } = await publish(released, target, {
      ...call,
      modelId,
      onProgress: ({ stage, doneBytes, totalBytes }) => bar.update(stage, doneBytes, totalBytes),
    })
    bar.stop()
    const { checkpointHash, release, promptConstants } = manifest
    const found = promptConstantNames.filter((name) => promptConstants[name] !== undefined)
    const location = target.location
    output.result(
      {
        location,
        modelId,
        release,
        checkpointHash,
        promptConstants: found,
        uploadedFiles,
        keptFiles,
      },
      [
        `Published ${modelId} (${release}), ${uploadedFiles.length} files sent, ` +
          `${keptFiles.length} already there.`,
        `Prompt texts: ${found.join(', ') || 'none (plain chat only)'}`,
        `Checkpoint ${checkpointHash}`,
      ],
    )
    return true
  } finally {
    bar.stop()
  }
}

function publishPlan(released: ReleasedCheckpoint, to: string, modelId: string): string[] {
  const files = [...released.files, ...released.shards]
  const size = `${files.length} files, ${formatBytes(sizeOf(files))}`
  const copy = released.location === to ? 'leave them where they are' : `send what ${to} lacks`
  return [
    `Publish ${modelId} from ${released.location}: ${describeConfig(released.config)}`,
    `  1. read ${size}, take the digests of ${formatCount(released.tensors.size)} tensors`,
    `  2. ${copy}, reading back what is written`,
    `  3. put ${manifestFileName} last`,
  ]
}

export async function runInspect({ terminal, output }: Run, url: string): Promise<boolean> {
  const store = storeAt(url, terminal)
  output.line(`Read the manifest and config of ${store.location}`)
  const published = await openPublished(url, terminal)
  if (published === null) {
    output.line(`No ${manifestFileName}: reading the headers of the shards instead`)
    const released = await openReleased(store, callOptions(terminal))
    const bytes = sizeOf([...released.files, ...released.shards])
    report(output, released, { published: false, bytes }, [
      'As released, not published: no digests to check it against.',
    ])
    return true
  }
  const { modelId, release, checkpointHash, promptConstants, files } = published.manifest
  const found = promptConstantNames.filter((name) => promptConstants[name] !== undefined)
  const bytes = files.reduce((sum, file) => sum + file.sizeBytes, 0)
  const facts = { published: true, modelId, release, checkpointHash, promptConstants: found, bytes }
  report(output, published, facts, [
    `Model id      ${modelId} (${release})`,
    `Checkpoint    ${checkpointHash}`,
    `Prompt texts  ${found.join(', ') || 'none (plain chat only)'}`,
  ])
  return true
}

/** The checkpoint, or null where there is no manifest. */
async function openPublished(url: string, terminal: Terminal): Promise<Checkpoint | null> {
  try {
    return await openCheckpoint(storeAt(url, terminal), callOptions(terminal))
  } catch (error) {
    const unpublished = error instanceof CheckpointError && error.code === 'file_missing'
    if (unpublished && error.subject === manifestFileName) return null
    throw error
  }
}

interface Inspected {
  readonly location: string
  readonly config: ModelConfig
  readonly tensors: ReadonlyMap<string, TensorLocation>
}

function report(output: Output, found: Inspected, facts: object, lines: readonly string[]): void {
  const tensors = [...found.tensors.values()]
  const byDtype = Map.groupBy(tensors, (tensor) => tensor.dtype)
  const dtypes = [...byDtype].map(([dtype, members]) => ({
    dtype,
    tensorCount: members.length,
    bytes: members.reduce((sum, tensor) => sum + tensor.bytes, 0),
  }))
  const tensorBytes = tensors.reduce((sum, tensor) => sum + tensor.bytes, 0)
  const { location, config } = found
  output.result({ location, ...facts, tensorCount: tensors.length, tensorBytes, dtypes, config }, [
    ...lines,
    `Model         ${describeConfig(config)}`,
    `Tensors       ${formatCount(tensors.length)} in ${formatBytes(tensorBytes)}`,
    ...dtypes.map(
      ({ dtype, tensorCount, bytes }) =>
        `  ${dtype.padEnd(8)}    ${formatCount(tensorCount).padStart(7)}  ${formatBytes(bytes)}`,
    ),
  ])
}

export async function runVerify({ terminal, output }: Run, url: string): Promise<boolean> {
  const checkpoint = await openCheckpoint(storeAt(url, terminal), callOptions(terminal))
  const { manifest, location } = checkpoint
  const totalBytes = manifest.files.reduce((sum, file) => sum + file.sizeBytes, 0)
  output.line(
    `Read all ${formatBytes(totalBytes)} of ${location} and compare ${manifest.files.length} files ` +
      `and ${formatCount(manifest.tensors.size)} tensors with the manifest`,
  )
  const bar = output.progress()
  let doneBytes = 0
  try {
    const { faults, ...counts } = await verifyCheckpoint(checkpoint, {
      ...callOptions(terminal),
      onBytes: (bytes) => bar.update('verify', (doneBytes += bytes), totalBytes),
    })
    bar.stop()
    const sound = faults.length === 0
    const { checkpointHash } = manifest
    output.result({ location, sound, checkpointHash, ...counts, faults }, [
      ...faults.map(({ kind, message }) => `${kind}: ${message}`),
      sound ? `Sound. Checkpoint ${checkpointHash}` : `${faults.length} faults: do not serve this.`,
    ])
    return sound
  } finally {
    bar.stop()
  }
}

/** A location nobody can open is the command line's fault, not the store's. */
function storeAt(url: string, terminal: Terminal): Store {
  try {
    return openStore(url, terminal.env)
  } catch (error) {
    if (error instanceof StoreError) throw new UsageError(error.message, { cause: error })
    throw error
  }
}

function describeConfig(config: ModelConfig): string {
  const experts = `${config.expertCount} experts (${config.expertDtype ?? 'undecided'})`
  const draft = config.draftModule === 'none' ? 'no draft module' : `${config.draftModule} drafts`
  return `${config.layerCount} layers of width ${config.hiddenSize}, ${experts}, ${draft}`
}

function sizeOf(files: readonly { readonly sizeBytes: number }[]): number {
  return files.reduce((sum, file) => sum + file.sizeBytes, 0)
}

function callOptions(terminal: Terminal): { readonly signal?: AbortSignal } {
  return terminal.signal === undefined ? {} : { signal: terminal.signal }
}
