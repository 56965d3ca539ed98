import { createHash } from 'node:crypto'
import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdir, readdir, readFile, rename, rm, stat } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { availableParallelism } from 'node:os'
import { basename, dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { holding } from './build-lock.ts'

/** Memory and thread checkers a test run can ask for; each is a build of its own. */
export type Sanitizer = 'address' | 'undefined' | 'address,undefined' | 'thread'

export interface BuildOptions {
  /** Every `.cc` below it becomes part of the addon, except those in folders named `testing` or `cuda`. */
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
const { resolve } = createRequire(import.meta.url)

/** No contraction: sums are written in the order they are meant, and only intrinsics fuse. */
const compileFlags =
  '-std=c++20 -O3 -fPIC -fvisibility=hidden -pthread -ffp-contract=off -fno-math-errno'.split(' ')
const programFlags = ['-static-libstdc++', '-static-libgcc', '-pthread']
const sharedFlags = ['-shared', ...programFlags]
/** A program that finds its own kernels by name. */
const simtProgramFlags = [...programFlags, '-rdynamic', '-ldl']
const keptDays = 14

/**
 * Makes sure that the addon of the present sources exists. Objects are cached one by one, so that a
 * change to one kernel compiles one file; whatever is finished is renamed into place, so that
 * builders cannot corrupt each other, and of several at the same time one builds and the others wait.
 */
export function ensureNativeAddon(options: BuildOptions = {}): Promise<NativeBuild> {
  return ensureBuilt(
    { what: 'the addon', isPart: inAddon, link: sharedFlags, ext: 'node' },
    options,
  )
}

/** A program of the ops without Node: `main`, a source below `sourceDir`, takes the addon's place. */
export function ensureNativeProgram(main: string, options: BuildOptions): Promise<NativeBuild> {
  const isPart = (name: string): boolean =>
    name === main || (inAddon(name) && basename(name) !== 'addon.cc')
  return ensureBuilt({ what: main, isPart, link: programFlags, ext: 'program' }, options)
}

/** The CUDA kernels built for the host (`cuda/simt`) as a library, each under `sluice_simt_<kernel>`. */
export function ensureSimtLibrary(options: BuildOptions = {}): Promise<NativeBuild> {
  return ensureBuilt(
    { what: 'the simulated kernels', isPart: inSimt, link: sharedFlags, ext: 'so' },
    options,
  )
}

/**
 * The same kernels as a program that runs launches from its input (`cuda/simt/run.cc`), and with them
 * those that have mistakes planted.
 */
export function ensureSimtProgram(options: BuildOptions = {}): Promise<NativeBuild> {
  const more = ['cuda/simt/run.cc', 'cuda/testing/faults.cu', 'cuda/testing/product-faults.cu']
  const isPart = (name: string): boolean => inSimt(name) || more.includes(name)
  return ensureBuilt(
    { what: 'the program of simulated kernels', isPart, link: simtProgramFlags, ext: 'program' },
    options,
  )
}

function inAddon(name: string): boolean {
  const folders = name.split('/')
  return name.endsWith('.cc') && !folders.includes('testing') && !folders.includes('cuda')
}

function inSimt(name: string): boolean {
  if (name === 'cuda/simt/simt.cc' || name === 'cuda/simt/async.cc') return true
  return name.endsWith('.cu') && !name.split('/').includes('testing')
}

/** What is linked, and from which of the sources. */
interface Target {
  readonly what: string
  readonly isPart: (name: string) => boolean
  readonly link: readonly string[]
  readonly ext: string
}

async function ensureBuilt(target: Target, options: BuildOptions): Promise<NativeBuild> {
  const sourceDir = options.sourceDir ?? join(root, 'gpu-backend/src/kernels')
  const cacheDir = options.cacheDir ?? join(root, '.sluice/native')
  const compiler = options.compiler ?? process.env['CXX'] ?? 'g++'
  const known = await identify(compiler)
  if (known === null) {
    return { reason: `there is no C++ compiler ${compiler}; install g++ 11 or newer` }
  }
  const toolchain = { compiler, ...known, flags: flagsOf(options.sanitizer) }
  const plan = await planBuild(sourceDir, cacheDir, toolchain, target)
  if (existsSync(plan.result)) return { path: plan.result }
  await mkdir(cacheDir, { recursive: true })
  return holding(`${plan.result}.lock`, async () => {
    if (existsSync(plan.result)) return { path: plan.result }
    const progress = options.onProgress ?? (() => undefined)
    const started = performance.now()
    progress(
      `native kernels: compiling ${plan.objects.length} files with ${compiler} ${known.version}`,
    )
    const failure = await build(plan, toolchain, target)
    if (failure !== null) return { reason: failure }
    await dropOldFiles(cacheDir)
    const seconds = ((performance.now() - started) / 1000).toFixed(1)
    progress(`native kernels: built in ${seconds} s`)
    return { path: plan.result }
  })
}

interface CompilerIdentity {
  readonly version: string
  /** What it compiles for: a cross compiler's objects are kept apart from this machine's. */
  readonly machine: string
}

interface Toolchain extends CompilerIdentity {
  readonly compiler: string
  readonly flags: readonly string[]
}

interface ObjectFile {
  readonly source: string
  readonly path: string
}

interface BuildPlan {
  readonly objects: readonly ObjectFile[]
  readonly result: string
}

function flagsOf(sanitizer: Sanitizer | undefined): readonly string[] {
  const headers = join(dirname(resolve('node-api-headers')), 'include')
  const flags = [...compileFlags, `-I${headers}`]
  if (sanitizer === undefined) return flags
  // The last -O counts: half the time to compile, and line numbers that still mean something.
  return [...flags, `-fsanitize=${sanitizer}`, '-fno-sanitize-recover=all', '-O1', '-g1']
}

async function identify(compiler: string): Promise<CompilerIdentity | null> {
  try {
    const version = await run(compiler, ['-dumpfullversion', '-dumpversion'])
    const machine = await run(compiler, ['-dumpmachine'])
    return { version: version.stdout.trim(), machine: machine.stdout.trim() }
  } catch {
    // Not there, or not a compiler: either way there is nothing to build with.
    return null
  }
}

/** Names every object and the result by the hash of all that goes into them. */
async function planBuild(
  sourceDir: string,
  cacheDir: string,
  { version, machine, flags }: Toolchain,
  { isPart, link, ext }: Target,
): Promise<BuildPlan> {
  const names = (await readdir(sourceDir, { recursive: true })).sort()
  const sources = new Sources(sourceDir)
  const objects: ObjectFile[] = []
  const all = createHash('sha256').update(JSON.stringify(link))
  for (const name of names.filter(isPart)) {
    const hash = createHash('sha256').update(JSON.stringify([version, machine, flags]))
    for (const file of [...(await sources.closure(name))].sort()) {
      hash.update(file).update(await sources.read(file))
    }
    const digest = hash.digest('hex').slice(0, 24)
    all.update(digest)
    objects.push({ source: join(sourceDir, name), path: join(cacheDir, `${digest}.o`) })
  }
  return { objects, result: join(cacheDir, `${all.digest('hex').slice(0, 24)}.${ext}`) }
}

const includeLine = /^#include "([^"]+)"/gm

/** Sources by their path below a folder, each read once. */
export class Sources {
  readonly #directory: string
  readonly #texts = new Map<string, Promise<string>>()

  constructor(directory: string) {
    this.#directory = directory
  }

  read(name: string): Promise<string> {
    const known = this.#texts.get(name)
    if (known !== undefined) return known
    // A file that is not there is the compiler's to report, with the line that wants it.
    const text = readFile(join(this.#directory, name), 'utf8').catch(() => '')
    this.#texts.set(name, text)
    return text
  }

  /** The source and every header it includes by a path of its own, directly or not. */
  async closure(name: string, into: Set<string> = new Set()): Promise<ReadonlySet<string>> {
    if (into.has(name)) return into
    into.add(name)
    for (const [, header] of (await this.read(name)).matchAll(includeLine)) {
      if (header !== undefined) await this.closure(join(dirname(name), header), into)
    }
    return into
  }
}

/** Compiles what is missing, as many files at once as there are cores, then links. */
async function build(
  plan: BuildPlan,
  toolchain: Toolchain,
  { link, what: result }: Target,
): Promise<string | null> {
  const missing = plan.objects.filter((object) => !existsSync(object.path))
  let failure: string | null = null
  const worker = async (): Promise<void> => {
    for (let next = missing.pop(); next !== undefined && failure === null; next = missing.pop()) {
      const { source, path } = next
      const what = relative(root, source)
      // Device code is C++ to a host compiler, with the header that stands in for CUDA.
      const input = source.endsWith('.cu') ? ['-x', 'c++', '-c', source] : ['-c', source]
      const refused = await produce(toolchain, input, toolchain.flags, path, what)
      if (refused !== null) failure = refused
    }
  }
  await Promise.all(Array.from({ length: availableParallelism() }, worker))
  if (failure !== null) return failure
  const objects = plan.objects.map((object) => object.path)
  const flags = toolchain.flags.filter((flag) => flag.startsWith('-fsanitize'))
  return produce(toolchain, objects, [...link, ...flags], plan.result, result)
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
  const built = await ensureNativeAddon({ onProgress: (line) => console.log(line) })
  console.log('path' in built ? built.path : `no native kernels: ${built.reason}`)
  process.exitCode = 'path' in built ? 0 : 1
}
