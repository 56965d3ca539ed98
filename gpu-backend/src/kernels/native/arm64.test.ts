import { execFile } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { describe, expect, it, type TestContext } from 'vitest'
import { ensureNativeProgram } from './build.ts'
import { nativeForTests } from './testing/native-addon.ts'
import { recordToyCases } from './testing/record-cases.ts'

// The portable path on a processor of another kind: cross-compiled, and run in an emulator.

const compiler = 'aarch64-linux-gnu-g++'
const emulator = 'qemu-aarch64'
const libraries = '/usr/aarch64-linux-gnu'

const run = promisify(execFile)
const native = await nativeForTests()
const addon = 'addon' in native ? native.addon : null

/** Why the test cannot be run here; null when it can. */
async function whatIsMissing(): Promise<string | null> {
  for (const tool of [compiler, emulator]) {
    const there = await run(tool, ['--version']).then(
      () => true,
      () => false,
    )
    if (!there) return `there is no ${tool}`
  }
  return null
}

function skip(context: TestContext, reason: string): never {
  console.warn(`skipped: the portable ops on arm64, ${reason}`)
  return context.skip(reason)
}

describe('the portable ops on arm64', () => {
  it('give the bytes they give on this processor', async (context) => {
    if (addon === null) return skip(context, 'there is no addon to record from')
    const missing = await whatIsMissing()
    if (missing !== null) return skip(context, missing)
    const built = await ensureNativeProgram('native/testing/replay.cc', {
      compiler,
      onProgress: (line) => console.log(`arm64: ${line}`),
    })
    if ('reason' in built) throw new Error(built.reason)
    const { recording } = recordToyCases(addon, [
      { threads: 3, numerics: 'exact', isa: 'portable' },
      { threads: 3, numerics: 'fast', isa: 'portable' },
    ])
    const directory = await mkdtemp(join(tmpdir(), 'sluice-arm64-'))
    try {
      const path = join(directory, 'recording')
      await recording.save(path)
      const { stdout } = await run(emulator, ['-L', libraries, built.path, path])
      expect(stdout).toMatch(/^[1-9]\d* ops, [1-9]\d* bytes compared\n$/)
    } finally {
      await rm(directory, { recursive: true, force: true })
    }
  }, 900_000)
})
