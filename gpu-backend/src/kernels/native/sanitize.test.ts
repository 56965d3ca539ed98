import { execFile } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it, type TestContext } from 'vitest'
import type { CpuOptions } from '../../device/cpu.ts'
import type { DeviceBuffer } from '../../device/tensor.ts'
import { opNames } from '../testing/all-cases.ts'
import { guardBytes } from '../testing/guarded-device.ts'
import { isas, type NativeAddon, numericsModes } from './addon.ts'
import { ensureNativeProgram, type NativeBuild, type Sanitizer } from './build.ts'
import { nativeForTests } from './testing/native-addon.ts'
import { recordToyCases } from './testing/record-cases.ts'
import { Recording } from './testing/recording.ts'
import { WordList } from './words.ts'

// The op suite's inputs, recorded as calls on the addon and made again by a program without Node,
// built with a sanitizer: node itself is too large and too noisy to run under one.

/** A build from nothing is some minutes of one core's time. */
const timeoutMs = 900_000
const native = await nativeForTests()
const addon = 'addon' in native ? native.addon : null

/** More threads than many machines have cores, so that they are interrupted inside chunks too. */
const threads = 3

const allVariants: readonly CpuOptions[] = [
  { threads, numerics: 'exact' },
  { threads, numerics: 'fast' },
  { threads, numerics: 'exact', isa: 'avx2' },
  { threads, numerics: 'fast', isa: 'avx2' },
  { threads, numerics: 'exact', isa: 'portable' },
]

/** How work is cut does not depend on the instruction set. */
const threadVariants = allVariants.slice(0, 2)

/**
 * A copy of `bytes` bytes from `from` to `to` in one buffer of `size`: with arguments that no wrapper
 * would let through, and that the addon cannot know to be wrong.
 */
function recordCopy(
  on: NativeAddon,
  { size, bytes, from, to }: { size: number; bytes: number; from: number; to: number },
): Recording {
  const recording = new Recording()
  recording.label('planted copy')
  const recorded = recording.over(on, { guardBytes })
  const device = recorded.create(threads, isas.best, numericsModes.exact)
  const buffer = recorded.alloc(device, size + 2 * guardBytes) as DeviceBuffer
  const words = new WordList(() => false)
  words.begin(on.ops().indexOf('copy'))
  const tensor = { buffer, dtype: 'f8e4m3', shape: [bytes] } as const
  words.tensor({ ...tensor, byteOffset: guardBytes + from })
  words.tensor({ ...tensor, byteOffset: guardBytes + to })
  words.end()
  recorded.run(device, words.words, words.count)
  recorded.destroy(device)
  return recording
}

describe.skipIf(addon === null)('native ops under a sanitizer', () => {
  let directory = ''

  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), 'sluice-sanitize-'))
  })

  afterAll(() => rm(directory, { recursive: true, force: true }))

  const programs = new Map<Sanitizer, Promise<NativeBuild>>()

  function programUnder(sanitizer: Sanitizer): Promise<NativeBuild> {
    const known = programs.get(sanitizer)
    if (known !== undefined) return known
    const onProgress = (line: string): void => console.log(`${sanitizer}: ${line}`)
    const building = ensureNativeProgram('native/testing/replay.cc', { sanitizer, onProgress })
    programs.set(sanitizer, building)
    return building
  }

  /** What the program said, and whether it was content. Skips where the sanitizer is not installed. */
  async function replay(
    context: TestContext,
    sanitizer: Sanitizer,
    recording: Recording,
  ): Promise<{ readonly content: boolean; readonly said: string }> {
    const built = await programUnder(sanitizer)
    if ('reason' in built) {
      const missing = /cannot find .*lib(asan|tsan|ubsan)|cannot find -l/.test(built.reason)
      if (!missing || process.env['REQUIRE_DEVICE'] === 'cpu') throw new Error(built.reason)
      console.warn(`skipped: ${built.reason}`)
      return context.skip(built.reason)
    }
    const path = join(directory, 'recording')
    await recording.save(path)
    return new Promise((resolve) => {
      // One report is enough, and looking up its symbols is slow.
      const env = { ...process.env, TSAN_OPTIONS: 'halt_on_error=1' }
      execFile(built.path, [path], { env, maxBuffer: 2 ** 26 }, (error, stdout, stderr) => {
        resolve({ content: error === null, said: stdout + stderr })
      })
    })
  }

  for (const [sanitizer, variants] of [
    ['address,undefined', allVariants],
    ['thread', threadVariants],
  ] as const) {
    it(
      `touch nothing they may not, and give the bytes they gave under Node: ${sanitizer}`,
      async (context) => {
        if (addon === null) return
        const { recording, count } = recordToyCases(addon, variants)
        expect(count).toBeGreaterThan(variants.length * opNames.length)
        const { content, said } = await replay(context, sanitizer, recording)
        console.log(`${sanitizer}: ${count} cases, ${said.trim().slice(0, 4000)}`)
        expect(said).toMatch(/^\d+ ops, \d+ bytes compared\n$/)
        expect(content).toBe(true)
      },
      timeoutMs,
    )
  }

  it(
    'are caught reading a byte behind a tensor',
    async (context) => {
      if (addon === null) return
      const inside = recordCopy(addon, { size: 200, bytes: 100, from: 100, to: 0 })
      expect(await replay(context, 'address,undefined', inside)).toMatchObject({ content: true })
      const outside = recordCopy(addon, { size: 200, bytes: 100, from: 101, to: 0 })
      const { content, said } = await replay(context, 'address,undefined', outside)
      expect(content).toBe(false)
      expect(said).toContain('AddressSanitizer: use-after-poison')
      expect(said).toContain('while replaying: planted copy')
    },
    timeoutMs,
  )

  it(
    'are caught writing what another thread reads',
    async (context) => {
      if (addon === null) return
      const [half, piece] = [2 ** 25, 2 ** 18]
      const apart = recordCopy(addon, { size: 2 * half, bytes: half, from: half, to: 0 })
      expect(await replay(context, 'thread', apart)).toMatchObject({ content: true })
      const overlapping = recordCopy(addon, { size: 2 * half, bytes: half, from: piece, to: 0 })
      // On a busy machine one thread may have done everything before another wakes.
      let result = { content: true, said: '' }
      for (let attempt = 0; attempt < 5 && result.content; attempt++) {
        result = await replay(context, 'thread', overlapping)
      }
      expect(result.said).toContain('ThreadSanitizer: data race')
      expect(result.content).toBe(false)
    },
    timeoutMs,
  )

  it(
    'are caught giving other bytes than they gave',
    async (context) => {
      if (addon === null) return
      const recording = new Recording()
      recording.label('a changed byte')
      const recorded = recording.over(
        { ...addon, read: (...[, , , into]) => void into.fill(7) },
        { guardBytes },
      )
      const device = recorded.create(1, isas.best, numericsModes.exact)
      const buffer = recorded.alloc(device, 1024)
      recorded.write(device, buffer, 300, Uint8Array.of(7, 7, 8))
      recorded.read(device, buffer, 300, new Uint8Array(3))
      expect(await replay(context, 'thread', recording)).toEqual({
        content: false,
        said: `a changed byte: byte 302 of buffer ${buffer} is 8, and was recorded as 7\n`,
      })
    },
    timeoutMs,
  )
})
