import type { Checkpoint } from './checkpoint.ts'
import { digestRelease, type DigestOptions } from './digest.ts'
import { promptConstantNames, type Manifest, type ManifestTensor } from './manifest.ts'
import { readPromptTexts } from './publish.ts'
import { openReleased } from './released.ts'
import { singleAttempt } from './store/retry.ts'

/** One thing that is not as the manifest says. */
export interface VerifyFault {
  readonly kind: 'file' | 'tensor' | 'prompt'
  readonly name: string
  readonly message: string
}

export interface VerifyReport {
  readonly fileCount: number
  readonly tensorCount: number
  readonly bytes: number
  readonly faults: readonly VerifyFault[]
}

/**
 * Derives everything the manifest says from the stored bytes, as `publish` did, and compares. Reads
 * the whole checkpoint once. Faults are listed, not thrown, unless the shards cannot be read at
 * all.
 */
export async function verifyCheckpoint(
  checkpoint: Checkpoint,
  options: DigestOptions = {},
): Promise<VerifyReport> {
  const { manifest, store } = checkpoint
  const released = await openReleased(store, { ...options, retry: singleAttempt })
  const digests = await digestRelease(released, options)
  const faults = [
    ...compareFiles(manifest, new Map(digests.files.map((file) => [file.name, file.sha256]))),
    ...compareTensors(manifest, digests.tensors),
    ...comparePrompts(manifest, await readPromptTexts(released, digests, options)),
  ]
  return {
    fileCount: manifest.files.length,
    tensorCount: manifest.tensors.size,
    bytes: manifest.files.reduce((sum, file) => sum + file.sizeBytes, 0),
    faults,
  }
}

function compareFiles(manifest: Manifest, found: ReadonlyMap<string, string>): VerifyFault[] {
  return manifest.files
    .filter((file) => found.get(file.name) !== file.sha256)
    .map(({ name }) => ({ kind: 'file', name, message: `${name} is not what was published` }))
}

function compareTensors(manifest: Manifest, found: Manifest['tensors']): VerifyFault[] {
  const names = new Set([...manifest.tensors.keys(), ...found.keys()])
  return [...names]
    .filter((name) => !isSameTensor(manifest.tensors.get(name), found.get(name)))
    .map((name) => ({ kind: 'tensor', name, message: `${name} is not what was published` }))
}

function isSameTensor(a: ManifestTensor | undefined, b: ManifestTensor | undefined): boolean {
  return (
    a !== undefined &&
    b !== undefined &&
    a.sha256 === b.sha256 &&
    a.file === b.file &&
    a.offset === b.offset &&
    a.bytes === b.bytes &&
    a.dtype === b.dtype &&
    a.shape.join() === b.shape.join()
  )
}

function comparePrompts(
  manifest: Manifest,
  found: Pick<Manifest, 'release' | 'promptConstants'>,
): VerifyFault[] {
  const faults: VerifyFault[] = promptConstantNames
    .filter((name) => manifest.promptConstants[name] !== found.promptConstants[name])
    .map((name) => ({ kind: 'prompt', name, message: `${name} differs from the encoder's text` }))
  if (manifest.release !== found.release) {
    const message = `the manifest says ${manifest.release}, the encoder ${found.release}`
    faults.push({ kind: 'prompt', name: 'release', message })
  }
  return faults
}
