import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import type { KernelModule } from '../../device/cuda/images.ts'
import { Sources } from '../native/build.ts'

// The kernels compiled for GPUs, which travel with the tree: a fatbin for each `.cu`, and a list of what
// they were made from. Users need no toolkit; whoever changes a kernel runs `npm run kernels:cuda`.

/** What a kernel takes of a multiprocessor, as the assembler says. */
interface KernelResources {
  readonly registers: number
  readonly stackBytes: number
  /** Registers kept in memory for want of room: bytes written and read. */
  readonly spillBytes: number
  readonly sharedBytes: number
}

interface CompiledModule {
  /** SHA-256 of the `.cu` and the headers it includes. */
  readonly sources: string
  /** SHA-256 of the fatbin. */
  readonly fatbin: string
  /** By kernel, then by architecture. */
  readonly kernels: Readonly<Record<string, Readonly<Record<string, KernelResources>>>>
}

export interface FatbinList {
  readonly compiler: string
  /** By the name of the fatbin. */
  readonly modules: Readonly<Record<string, CompiledModule>>
}

/** Machine code is for one architecture alone; the PTX, for whatever else is new enough. */
export const architectures = [
  { exact: 90 },
  { exact: 100 },
  { exact: 120 },
  { atLeast: 80 },
] as const

/** Bytes of registers a kernel may keep in memory. */
export const spillBytesMax = 128

const run = promisify(execFile)
const kernelsDir = fileURLToPath(new URL('..', import.meta.url))
const fatbinDir = fileURLToPath(new URL('fatbin', import.meta.url))
const listPath = join(fatbinDir, 'list.json')

const targets = architectures.flatMap((built) =>
  'exact' in built
    ? ['-gencode', `arch=compute_${built.exact}a,code=sm_${built.exact}a`]
    : ['-gencode', `arch=compute_${built.atLeast},code=compute_${built.atLeast}`],
)
const flags = ['-std=c++20', '-fatbin', '-compress-mode=size', '-Xptxas', '-v', ...targets]

/** Device code, by its path among the kernels; a fatbin has the name of its file. */
export async function cudaSources(): Promise<readonly string[]> {
  const names = await readdir(kernelsDir, { recursive: true })
  return names.filter((name) => name.endsWith('.cu') && !name.includes('testing')).sort()
}

export function fatbinName(source: string): string {
  return basename(source, '.cu')
}

/** The hash a fatbin is known by. What stands in for CUDA on the host is no part of it. */
export async function sourceHash(source: string): Promise<string> {
  const sources = new Sources(kernelsDir)
  const hash = createHash('sha256').update(flags.join(' '))
  const files = [...(await sources.closure(source))].sort()
  for (const name of files) {
    if (name.includes('simt')) continue
    hash.update(name).update(await sources.read(name))
  }
  return hash.digest('hex')
}

export async function readFatbinList(): Promise<FatbinList> {
  return JSON.parse(await readFile(listPath, 'utf8')) as FatbinList
}

/** Every fatbin, or why they are of no use. */
export async function readFatbins(): Promise<
  readonly KernelModule[] | { readonly reason: string }
> {
  const list = await readFatbinList()
  const modules: KernelModule[] = []
  for (const source of await cudaSources()) {
    const name = fatbinName(source)
    if (list.modules[name]?.sources !== (await sourceHash(source))) {
      return { reason: `${source} changed since it was compiled: run npm run kernels:cuda` }
    }
    modules.push({ name, bytes: await readFatbin(name) })
  }
  return modules
}

export function readFatbin(name: string): Promise<Buffer> {
  return readFile(join(fatbinDir, `${name}.fatbin`))
}

/** The compiler's version, or null where there is none. */
export async function nvccVersion(): Promise<string | null> {
  try {
    const { stdout } = await run('nvcc', ['--version'])
    return /V([\d.]+)/.exec(stdout)?.[1] ?? null
  } catch {
    // Not there: what was compiled before is all there is.
    return null
  }
}

/** A source's fatbin, and what its kernels take. Throws with the compiler's first error. */
export async function compileFatbin(
  source: string,
): Promise<{ readonly bytes: Buffer; readonly kernels: CompiledModule['kernels'] }> {
  const directory = await mkdtemp(join(tmpdir(), 'sluice-fatbin-'))
  try {
    const output = join(directory, 'out.fatbin')
    const { stderr } = await run('nvcc', [...flags, source, '-o', output], { cwd: kernelsDir })
    return { bytes: await readFile(output), kernels: resourcesIn(stderr) }
  } finally {
    await rm(directory, { recursive: true })
  }
}

const entryLine = /Compiling entry function '(\w+)' for '(\w+)'/
const stackLine = /(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads/
const usedLine = /Used (\d+) registers(?:.*?(\d+) bytes smem)?/

/** What the assembler said of each kernel on each architecture. */
export function resourcesIn(output: string): CompiledModule['kernels'] {
  const kernels: Record<string, Record<string, KernelResources>> = {}
  let [kernel, architecture] = ['', '']
  let [stackBytes, spillBytes] = [0, 0]
  for (const line of output.split('\n')) {
    const entry = entryLine.exec(line)
    if (entry !== null) [kernel, architecture] = [entry[1] ?? '', entry[2] ?? '']
    const stack = stackLine.exec(line)
    if (stack !== null) {
      stackBytes = Number(stack[1])
      spillBytes = Number(stack[2]) + Number(stack[3])
    }
    const used = usedLine.exec(line)
    if (used === null) continue
    const [registers, sharedBytes] = [Number(used[1]), Number(used[2] ?? 0)]
    const of = (kernels[kernel] ??= {})
    of[architecture] = { registers, stackBytes, spillBytes, sharedBytes }
  }
  return kernels
}

/** Compiles what changed since the last time, and writes down what came of it. */
async function compileAll(): Promise<void> {
  const compiler = await nvccVersion()
  if (compiler === null) throw new Error('there is no nvcc here; install the CUDA toolkit 13')
  const before = await readFatbinList().catch((): FatbinList => ({ compiler, modules: {} }))
  const modules: Record<string, CompiledModule> = {}
  for (const source of await cudaSources()) {
    const name = fatbinName(source)
    const sources = await sourceHash(source)
    const known = before.modules[name]
    if (known?.sources === sources && before.compiler === compiler) {
      modules[name] = known
      continue
    }
    console.log(`${source}: compiling with nvcc ${compiler}`)
    const { bytes, kernels } = await compileFatbin(source)
    await writeFile(join(fatbinDir, `${name}.fatbin`), bytes)
    modules[name] = { sources, fatbin: hashOf(bytes), kernels }
    // Each as it is done: compiling all of them takes minutes.
    await writeList({ compiler, modules: { ...before.modules, ...modules } })
  }
  await writeList({ compiler, modules })
  for (const file of await readdir(fatbinDir)) {
    const known = file.endsWith('.json') || basename(file, '.fatbin') in modules
    if (!known) await rm(join(fatbinDir, file))
  }
}

export function hashOf(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex')
}

function writeList(list: FatbinList): Promise<void> {
  return writeFile(listPath, `${JSON.stringify(list, null, 2)}\n`)
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await compileAll()
