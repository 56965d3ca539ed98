import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

export interface Scratch {
  readonly path: string
  remove(): Promise<void>
}

/** A folder of its own for one test file, removed by the caller. */
export async function makeScratch(name: string): Promise<Scratch> {
  const path = await mkdtemp(join(tmpdir(), `sluice-${name}-`))
  return { path, remove: () => rm(path, { recursive: true, force: true }) }
}
