import { createHash, hash } from 'node:crypto'
import { beforeAll, describe, expect, it } from 'vitest'
import { loadTensors, openCheckpoint } from '#weights/checkpoint.ts'
import { CheckpointError } from '#weights/checkpoint-error.ts'
import { manifestFileName } from '#weights/manifest.ts'
import { publish, type PublishReport } from '#weights/publish.ts'
import { openReleased } from '#weights/released.ts'
import { MemoryStore, type Fault } from '#weights/store/memory.ts'
import { defaultRetryPolicy, singleAttempt } from '#weights/store/retry.ts'
import { StoreError } from '#weights/store/store.ts'
import { releaseFiles } from '#weights/toy/files.ts'
import { smallConfig } from '../support/small-config.ts'

let released: ReadonlyMap<string, Uint8Array>
let published: ReadonlyMap<string, Uint8Array>

beforeAll(async () => {
  released = new Map(releaseFiles(smallConfig))
  const target = new MemoryStore()
  await publishTo(target)
  published = new Map(target.objects)
})

function storeOf(files: ReadonlyMap<string, Uint8Array>): MemoryStore {
  const store = new MemoryStore()
  for (const [name, bytes] of files) store.objects.set(name, bytes)
  return store
}

/** Compared instead of the bytes, of which there are too many for a test's patience. */
function digests(files: ReadonlyMap<string, Uint8Array>): readonly string[] {
  return [...files].map(([name, bytes]) => `${name} ${hash('sha256', bytes)}`).sort()
}

async function publishTo(target: MemoryStore, source = storeOf(released)): Promise<PublishReport> {
  const from = await openReleased(source, { retry: singleAttempt })
  return publish(from, target, { modelId: 'deepseek-v4-toy', retry: singleAttempt })
}

/** Digest over every tensor in the order of their names. */
async function loadDigest(store: MemoryStore, retry = singleAttempt): Promise<string> {
  const checkpoint = await openCheckpoint(store, { retry })
  const found = new Map<string, string>()
  await loadTensors(checkpoint, {
    rangeBytes: 2 ** 15,
    concurrency: 1,
    onTensor: ({ name }, bytes) => void found.set(name, hash('sha256', bytes)),
  })
  const whole = createHash('sha256')
  for (const name of [...found.keys()].sort()) whole.update(`${name} ${found.get(name)}\n`)
  return whole.digest('hex')
}

function expectTyped(error: unknown): void {
  if (error instanceof CheckpointError || error instanceof StoreError) return
  throw error
}

const faults: readonly Fault[] = ['unavailable', 'access_denied', 'short_read', 'bit_flip']

describe('with the n-th store call failing, for every n', () => {
  it.each(faults)('a load gives the right weights or a named error: %s', async (fault) => {
    const right = await loadDigest(storeOf(published))
    let failures = 0
    let n = 1
    for (; ; n++) {
      const store = storeOf(published)
      store.failCall(n, fault)
      try {
        expect(await loadDigest(store)).toBe(right)
      } catch (error) {
        expectTyped(error)
        failures++
      }
      if (store.callCount < n) break
    }
    // Manifest (3 calls), 11 sizes, config (2), reads of 32 KiB.
    expect(n).toBeGreaterThan(30)
    // Heads take no harm from a short read or a flipped bit; everything else must have failed.
    expect(failures).toBeGreaterThan(fault === 'short_read' || fault === 'bit_flip' ? 15 : 30)
  })

  it('a load with retries gives the right weights whenever the fault may pass', async () => {
    const right = await loadDigest(storeOf(published))
    const waits: number[] = []
    const retry = {
      ...defaultRetryPolicy,
      sleep: async (delayMs: number) => void waits.push(delayMs),
    }
    for (let n = 1; ; n++) {
      const store = storeOf(published)
      store.failCall(n, 'unavailable')
      store.failCall(n + 1, 'short_read')
      expect(await loadDigest(store, retry)).toBe(right)
      if (store.callCount < n) break
    }
    expect(waits.length).toBeGreaterThan(30)
  })

  const targetFaults: readonly Fault[] = [...faults, 'lost_reply']
  it.each(targetFaults)(
    'a publication comes to the same bytes when run again: target %s',
    async (fault) => {
      let failures = 0
      let n = 1
      for (; ; n++) {
        const target = new MemoryStore()
        target.failCall(n, fault)
        try {
          await publishTo(target)
        } catch (error) {
          expectTyped(error)
          failures++
          // The only put that may have come with a failure is the last one, its reply lost.
          const complete = target.objects.size === published.size
          expect(target.objects.has(manifestFileName)).toBe(complete)
        }
        if (target.callCount < n) break
        await publishTo(target)
        expect(digests(target.objects)).toEqual(digests(published))
      }
      expect(n).toBeGreaterThan(30)
      // A flipped bit is read back, found and put again: nobody need know.
      if (fault === 'bit_flip') expect(failures).toBe(0)
      else expect(failures).toBeGreaterThan(10)
    },
  )

  it.each(faults)('a publication never gives other weights for it: source %s', async (fault) => {
    let failures = 0
    let n = 1
    for (; ; n++) {
      const source = storeOf(released)
      source.failCall(n, fault)
      const target = new MemoryStore()
      try {
        await publishTo(target, source)
        expect(digests(target.objects)).toEqual(digests(published))
      } catch (error) {
        expectTyped(error)
        failures++
        expect(target.objects.has(manifestFileName)).toBe(false)
      }
      if (source.callCount < n) break
    }
    expect(n).toBeGreaterThan(30)
    expect(failures).toBeGreaterThan(10)
  })
})

describe('publishing again', () => {
  it('sends nothing that is there', async () => {
    const target = storeOf(published)
    const report = await publishTo(target)
    expect([report.uploadedFiles, report.keptFiles.length]).toEqual([[], 11])
    expect(digests(target.objects)).toEqual(digests(published))
  })

  it('goes on from the files a broken-off publication left', async () => {
    const target = storeOf(published)
    target.objects.delete(manifestFileName)
    target.objects.delete('tokenizer.json')
    expect((await publishTo(target)).uploadedFiles).toEqual(['tokenizer.json'])
    expect(digests(target.objects)).toEqual(digests(published))
  })

  it('replaces a file of the right length and the wrong bytes', async () => {
    const target = storeOf(published)
    target.objects.delete(manifestFileName)
    const damaged = (published.get('config.json') ?? new Uint8Array(0)).slice()
    damaged[5] = (damaged[5] ?? 0) ^ 1
    target.objects.set('config.json', damaged)
    expect((await publishTo(target)).uploadedFiles).toEqual(['config.json'])
  })

  it('replaces a manifest that is not one', async () => {
    const target = storeOf(published)
    target.objects.set(manifestFileName, new TextEncoder().encode('{}'))
    expect((await publishTo(target)).uploadedFiles).toEqual([])
    expect(digests(target.objects)).toEqual(digests(published))
  })

  it('in place adds the manifest and touches nothing else', async () => {
    const store = storeOf(released)
    const report = await publishTo(store, store)
    expect(report.uploadedFiles).toEqual([])
    expect(digests(store.objects)).toEqual(digests(published))
  })
})
