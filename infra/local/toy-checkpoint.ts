import { join } from 'node:path'
import { manifestFileName } from '#weights/manifest.ts'
import { publish } from '#weights/publish.ts'
import { openReleased } from '#weights/released.ts'
import { openDirectoryStore } from '#weights/store/directory.ts'
import { openStore } from '#weights/store/open.ts'
import { findObject } from '#weights/store/whole.ts'
import { writeToy } from '#weights/toy/files.ts'

export interface ToyOptions {
  readonly stateDir: string
  /** Where it is published: `s3://bucket/prefix`. */
  readonly checkpointUrl: string
  readonly modelId: string
  /** The S3 endpoint, region and credentials, under the names AWS's tools read. */
  readonly env: Readonly<Record<string, string>>
  readonly onProgress: (line: string) => void
}

/**
 * Makes the toy checkpoint and publishes it, unless a start before this one has. The manifest is
 * put last, so its being there says that everything is.
 */
export async function ensureToyPublished(options: ToyOptions): Promise<void> {
  const target = openStore(options.checkpointUrl, options.env)
  if ((await findObject(target, manifestFileName)) !== null) return
  options.onProgress('making the toy checkpoint')
  const source = openDirectoryStore(join(options.stateDir, 'toy'))
  await writeToy(source)
  options.onProgress(`publishing it to ${options.checkpointUrl}`)
  await publish(await openReleased(source), target, { modelId: options.modelId })
}
