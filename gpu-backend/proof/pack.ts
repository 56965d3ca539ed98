import { execFile } from 'node:child_process'
import { createReadStream, createWriteStream } from 'node:fs'
import { copyFile, cp, mkdir, readdir, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { createGzip } from 'node:zlib'

/** Packages the proof imports, and the one that koffi's binary for this platform lies in. */
const packages = [
  'koffi',
  `@koromix/koffi-${process.platform}-${process.arch}`,
  'node-api-headers',
  'zod',
]
/** What of a package nothing runs. */
const idle = /\/(doc|vendor)$|\.(md|map|d\.c?ts)$/

const root = fileURLToPath(new URL('../..', import.meta.url))
export const kitDir: string = join(root, '.sluice/proof-kit')

export interface PackOptions {
  readonly into?: string
  /** Of gzip. */
  readonly level?: number
}

/** What a bare machine lacks beside the tree: Node itself and the packages. `run.sh` finds them there. */
export async function packKit({ into = kitDir, level = 9 }: PackOptions = {}): Promise<{
  readonly bytes: number
}> {
  await rm(into, { recursive: true, force: true })
  const modules = join(into, 'node_modules')
  await mkdir(modules, { recursive: true })
  for (const name of packages) {
    await cp(join(root, 'node_modules', name), join(modules, name), {
      recursive: true,
      filter: (path) => !idle.test(path),
    })
  }
  const node = join(into, 'node')
  await copyFile(process.execPath, node)
  // Symbols are a seventh of it; where there is no strip they travel along.
  await promisify(execFile)('strip', [node]).catch(() => undefined)
  const packed = createWriteStream(`${node}.gz`)
  await pipeline(createReadStream(node), createGzip({ level }), packed)
  await rm(node)
  return { bytes: await bytesBelow(into) }
}

async function bytesBelow(directory: string): Promise<number> {
  const entries = await readdir(directory, { recursive: true, withFileTypes: true })
  const files = entries.filter((entry) => entry.isFile())
  const sizes = await Promise.all(files.map((file) => stat(join(file.parentPath, file.name))))
  return sizes.reduce((total, { size }) => total + size, 0)
}
