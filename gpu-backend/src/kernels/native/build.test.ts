import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { type BuildOptions, ensureNativeAddon, ensureNativeProgram } from './build.ts'

/**
 * A compiler that takes its time: writes its output in two halves, and adds a line to a log for each
 * file it is given. A source with the word "broken" in it does not compile.
 */
const fakeCompiler = `#!/usr/bin/env bash
case "$1" in
  -dumpfullversion) echo 99.1.2; exit 0;;
  -dumpmachine) basename "$0"; exit 0;;
esac
for last; do true; done
printf '%s\\n' "$*" >> "$(dirname "$0")/log"
for file in "$@"; do
  case "$file" in *.cc) grep -q broken "$file" && { echo "$file:1: error: broken" >&2; exit 1; };; esac
done
printf 'first half, ' > "$last"
sleep 0.05
printf 'second half' >> "$last"
`

let directory = ''
let options: BuildOptions = {}

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'sluice-build-'))
  const sourceDir = join(directory, 'src')
  await mkdir(join(sourceDir, 'op'), { recursive: true })
  await writeFile(join(sourceDir, 'addon.cc'), 'one')
  await writeFile(join(sourceDir, 'op/op.cc'), 'two')
  await writeFile(join(sourceDir, 'op.h'), 'three')
  const compiler = join(directory, 'compiler')
  await writeFile(compiler, fakeCompiler, { mode: 0o755 })
  options = { sourceDir, cacheDir: join(directory, 'cache'), compiler }
})

afterEach(() => rm(directory, { recursive: true }))

async function compilerRuns(): Promise<number> {
  return (await readFile(join(directory, 'log'), 'utf8')).trim().split('\n').length
}

async function build(more: BuildOptions = {}): Promise<string> {
  const built = await ensureNativeAddon({ ...options, ...more })
  if ('reason' in built) throw new Error(built.reason)
  return built.path
}

describe('the native build', () => {
  it('compiles every source, links once, and says so in two lines', async () => {
    const lines: string[] = []
    const path = await build({ onProgress: (line) => lines.push(line) })
    expect(await readFile(path, 'utf8')).toBe('first half, second half')
    expect(await compilerRuns()).toBe(3)
    expect(lines).toEqual([
      expect.stringMatching(/^native kernels: compiling 2 files with .*compiler 99\.1\.2$/),
      expect.stringMatching(/^native kernels: built in \d+\.\d s$/),
    ])
  })

  it('does nothing and says nothing when nothing changed', async () => {
    const path = await build()
    const lines: string[] = []
    expect(await build({ onProgress: (line) => lines.push(line) })).toBe(path)
    expect(await compilerRuns()).toBe(3)
    expect(lines).toEqual([])
  })

  it('compiles again what changed, and what includes a header that did', async () => {
    const source = join(options.sourceDir ?? '', 'op/op.cc')
    await writeFile(source, '#include "near.h"')
    await writeFile(join(options.sourceDir ?? '', 'op/near.h'), '// first\n#include "../op.h"\n')
    const first = await build()
    await writeFile(source, '#include "near.h"\ntwo, changed')
    const second = await build()
    expect(second).not.toBe(first)
    expect(await compilerRuns()).toBe(3 + 2)
    await writeFile(join(options.sourceDir ?? '', 'op.h'), 'three, changed')
    expect(await build()).not.toBe(second)
    expect(await compilerRuns()).toBe(3 + 2 + 2)
  })

  it('leaves sources of testing folders out, unless as the program that takes the addon’s place', async () => {
    await mkdir(join(options.sourceDir ?? '', 'op/testing'))
    await writeFile(join(options.sourceDir ?? '', 'op/testing/main.cc'), 'int main() {}')
    const path = await build()
    expect(await compilerRuns()).toBe(3)
    const program = await ensureNativeProgram('op/testing/main.cc', options)
    expect(program).toEqual({ path: expect.stringMatching(/\.program$/) })
    expect(program).not.toEqual({ path })
    const [compiled, linked] = (await readFile(join(directory, 'log'), 'utf8')).split('\n').slice(3)
    expect(compiled).toContain('op/testing/main.cc')
    expect(linked?.match(/\.o\b/g)).toHaveLength(2)
    expect(linked).not.toContain('-shared')
  })

  it('keeps sanitizer builds apart', async () => {
    const paths = [await build()]
    for (const sanitizer of ['address', 'undefined', 'thread'] as const) {
      paths.push(await build({ sanitizer }))
    }
    expect(new Set(paths).size).toBe(4)
  })

  it('keeps what compilers of one version make for two machines apart', async () => {
    const other = join(directory, 'cross-compiler')
    await writeFile(other, fakeCompiler, { mode: 0o755 })
    expect(await build({ compiler: other })).not.toBe(await build())
    expect(await compilerRuns()).toBe(2 * 3)
  })

  it('survives builders at the same time: one builds, each gets the whole file', async () => {
    const paths = await Promise.all(Array.from({ length: 4 }, () => build()))
    expect(new Set(paths).size).toBe(1)
    expect(await compilerRuns()).toBe(3)
    for (const path of paths) expect(await readFile(path, 'utf8')).toBe('first half, second half')
    const kept = await readdir(options.cacheDir ?? '')
    expect(kept.toSorted().map((name) => name.replace(/^[0-9a-f]+/, ''))).toEqual(
      expect.arrayContaining(['.node', '.o', '.o']),
    )
    expect(kept).toHaveLength(3)
  })

  it('answers a missing compiler with a reason that names it', async () => {
    expect(await ensureNativeAddon({ ...options, compiler: 'no-such-compiler' })).toEqual({
      reason: 'there is no C++ compiler no-such-compiler; install g++ 11 or newer',
    })
  })

  it('answers a source that does not compile with its error, and leaves nothing behind', async () => {
    await writeFile(join(options.sourceDir ?? '', 'op/op.cc'), 'broken')
    const built = await ensureNativeAddon(options)
    expect(built).toEqual({ reason: expect.stringMatching(/op\.cc:1: error: broken$/) })
    expect(
      (await readdir(options.cacheDir ?? '')).filter((name) => !/^[0-9a-f]+\.o$/.test(name)),
    ).toEqual([])
  })
})
