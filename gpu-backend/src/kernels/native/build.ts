import { createHash } from 'node:crypto'
import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdir, readdir, readFile, rename, rm, stat } from 'node:fs/promises'
import { availableParallelism } from 'node:os'
import { dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'

/** Memory and thread checkers a test run can ask for; each is an addon of its own. */
type Sanitizer = 'address' | 'undefined' | 'thread'

export interface BuildOptions {
  /** Every `.cc` below it becomes part of the addon. */
  readonly sourceDir?: string
  /** Where objects and addons are kept by the hash of what they were made from. */
  readonly cacheDir?: string
  readonly compiler?: string
  readonly sanitizer?: Sanitizer
  /** Receives one line before and one after a build; none when nothing had to be built. */
  readonly onProgress?: (line: string) => void
}

/** The addon's file, or why there is none; then the reference device serves. */
export type NativeBuild = { readonly path: string } | { readonly reason: string }

const root = fileURLToPath(new URL('../../../..', import.meta.url))
const run = promisify(execFile)

/** No contraction: sums are written in the order they are meant, and only intrinsics fuse. */
const compileFlags =
  '-std=c++20 -O3 -fPIC -fvisibility=hidden -pthread -ffp-contract=off -fno-math-errno'.split(' ')
const linkFlags = ['-shared', '-static-libstdc++', '-static-libgcc', '-pthread']
const keptDays = 14

/**
 * Makes sure that the addon of the present sources exists. Objects are cached one by one, so that a
 * change to one kernel compiles one file; whatever is finished is renamed into place, so builders
 * running at the same time at worst do the same work twice.
 */
export async function ensureNativeAddon(options: BuildOptions = {}): Promise<NativeBuild> {
  const sourceDir = options.sourceDir ?? join(root, 'gpu-backend/src/kernels')
  const cacheDir = options.cacheDir ?? join(root, '.sluice/native')
  const compiler = options.compiler ?? process.env['CXX'] ?? 'g++'
  const version = await compilerVersion(compiler)
  if (version === null) {
    return { reason: `there is no C++ compiler ${compiler}; install g++ 11 or newer` }
  }
  const toolchain = { compiler, version, flags: flagsOf(options.sanitizer) }
  const plan = await planBuild(sourceDir, cacheDir, toolchain)
  if (existsSync(plan.addon)) return { path: plan.addon }
  const progress = options.onProgress ?? (() => undefined)
  const started = performance.now()
  progress(`native kernels: compiling ${plan.objects.length} files with ${compiler} ${version}`)
  await mkdir(cacheDir, { recursive: true })
  const failure = await buildAddon(plan, toolchain)
  if (failure !== null) return { reason: failure }
  await dropOldFiles(cacheDir)
  const seconds = ((performance.now() - started) / 1000).toFixed(1)
  progress(`native kernels: built in ${seconds} s`)
  return { path: plan.addon }
}

interface Toolchain {
  readonly compiler: string
  readonly version: string
  readonly flags: readonly string[]
}

interface ObjectFile {
  readonly source: string
  readonly path: string
}

interface BuildPlan {
  readonly objects: readonly ObjectFile[]
  readonly addon: string
}

function flagsOf(sanitizer: Sanitizer | undefined): readonly string[] {
  const headers = join(dirname(fileURLToPath(import.meta.resolve('node-api-headers'))), 'include')
  const flags = [...compileFlags, `-I${headers}`]
  if (sanitizer === undefined) return flags
  return [...flags, `-fsanitize=${sanitizer}`, '-fno-sanitize-recover=all', '-g']
}

async function compilerVersion(compiler: string): Promise<string | null> {
  try {
    const { stdout } = await run(compiler, ['-dumpfullversion', '-dumpversion'])
    return stdout.trim()
  } catch {
    // Not there, or not a compiler: either way there is nothing to build with.
    return null
  }
}

/** Names every object and the addon by the hash of all that goes into them. */
async function planBuild(
  sourceDir: string,
  cacheDir: string,
  { version, flags }: Toolchain,
): Promise<BuildPlan> {
  const names = (await readdir(sourceDir, { recursive: true })).sort()
  const common = createHash('sha256').update(JSON.stringify([version, flags, process.arch]))
  for (const name of names.filter((file) => file.endsWith('.h'))) {
    common.update(name).update(await readFile(join(sourceDir, name)))
  }
  const shared = common.digest()
  const objects: ObjectFile[] = []
  const all = createHash('sha256').update(JSON.stringify(linkFlags))
  for (const name of names.filter((file) => file.endsWith('.cc'))) {
    const source = join(sourceDir, name)
    const hash = createHash('sha256')
      .update(shared)
      .update(name)
      .update(await readFile(source))
    const digest = hash.digest('hex').slice(0, 24)
    all.update(digest)
    objects.push({ source, path: join(cacheDir, `${digest}.o`) })
  }
  return { objects, addon: join(cacheDir, `${all.digest('hex').slice(0, 24)}.node`) }
}

/** Compiles what is missing, as many files at once as there are cores, then links. */
async function buildAddon(plan: BuildPlan, toolchain: Toolchain): Promise<string | null> {
  const missing = plan.objects.filter((object) => !existsSync(object.path))
  let failure: string | null = null
  const worker = async (): Promise<void> => {
    for (let next = missing.pop(); next !== undefined && failure === null; next = missing.pop()) {
      const { source, path } = next
      const what = relative(root, source)
      const refused = await produce(toolchain, ['-c', source], toolchain.flags, path, what)
      if (refused !== null) failure = refused
    }
  }
  await Promise.all(Array.from({ length: availableParallelism() }, worker))
  if (failure !== null) return failure
  const objects = plan.objects.map((object) => object.path)
  const flags = toolchain.flags.filter((flag) => flag.startsWith('-fsanitize'))
  return produce(toolchain, objects, [...linkFlags, ...flags], plan.addon, 'the addon')
}

/** Runs the compiler into a file of its own and renames the result into place. */
async function produce(
  { compiler }: Toolchain,
  inputs: readonly string[],
  flags: readonly string[],
  path: string,
  what: string,
): Promise<string | null> {
  const unfinished = `${path}.${process.pid}.${Math.random().toString(36).slice(2)}`
  try {
    await run(compiler, [...flags, ...inputs, '-o', unfinished], { maxBuffer: 64 * 2 ** 20 })
    await rename(unfinished, path)
    return null
  } catch (error) {
    await rm(unfinished, { force: true })
    return `${compiler} could not build ${what}: ${firstError(error)}`
  }
}

function firstError(error: unknown): string {
  const text = error instanceof Error && 'stderr' in error ? String(error.stderr) : String(error)
  const lines = text.split('\n').filter((line) => line.trim() !== '')
  return lines.find((line) => line.includes('error')) ?? lines[0] ?? 'no message'
}

/** Objects of sources long gone; one that is needed after all is compiled again. */
async function dropOldFiles(cacheDir: string): Promise<void> {
  const oldest = Date.now() - keptDays * 24 * 3600 * 1000
  for (const name of await readdir(cacheDir)) {
    const path = join(cacheDir, name)
    const { mtimeMs } = await stat(path).catch(() => ({ mtimeMs: Infinity }))
    if (mtimeMs < oldest) await rm(path, { force: true })
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const build = await ensureNativeAddon({ onProgress: (line) => console.log(line) })
  console.log('path' in build ? build.path : `no native kernels: ${build.reason}`)
  process.exitCode = 'path' in build ? 0 : 1
}
