import { createReadStream, createWriteStream } from 'node:fs'
import { cp, mkdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { fileURLToPath } from 'node:url'
import { createGzip } from 'node:zlib'

/** Packages the proof imports, and the one that koffi's binary for this platform lies in. */
const packages = [
  'koffi',
  `@koromix/koffi-${process.platform}-${process.arch}`,
  'node-api-headers',
  'zod',
]

const root = fileURLToPath(new URL('../..', import.meta.url))
export const kitDir: string = join(root, '.sluice/proof-kit')

/**
 * What a bare machine lacks beside the tree: Node itself and the packages, some 50 MB. `run.sh` finds
 * them there.
 */
export async function packKit(): Promise<void> {
  await rm(kitDir, { recursive: true, force: true })
  await mkdir(join(kitDir, 'node_modules'), { recursive: true })
  for (const name of packages) {
    await cp(join(root, 'node_modules', name), join(kitDir, 'node_modules', name), {
      recursive: true,
    })
  }
  const packed = createWriteStream(join(kitDir, 'node.gz'))
  await pipeline(createReadStream(process.execPath), createGzip({ level: 9 }), packed)
}
