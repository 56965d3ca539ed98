import { mkdtemp, readdir, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { openDirectoryStore } from '#weights/store/directory.ts'
import { MemoryStore } from '#weights/store/memory.ts'
import { openS3Store } from '#weights/store/s3.ts'
import { openStore } from '#weights/store/open.ts'
import type { ByteRange, ByteSource, Store } from '#weights/store/store.ts'
import { startObjectStore, type RunningObjectStore } from '../../infra/local/object-store.ts'

const credentials = { accessKeyId: 'test-key', secretAccessKey: 'test-secret' }
let directory: string
let server: RunningObjectStore

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'sluice-stores-'))
  server = await startObjectStore({
    ...credentials,
    bucket: 'models',
    stateDir: join(directory, 'r2'),
  })
})
afterAll(async () => {
  await server.close()
  await rm(directory, { recursive: true })
})

function s3(url: string, secret: string = credentials.secretAccessKey): Store {
  return openStore(url, {
    AWS_ENDPOINT_URL_S3: server.endpoint,
    AWS_ACCESS_KEY_ID: credentials.accessKeyId,
    AWS_SECRET_ACCESS_KEY: secret,
  })
}

let places = 0
const kinds: readonly (readonly [name: string, open: () => Store])[] = [
  ['memory', () => new MemoryStore()],
  ['a directory', () => openDirectoryStore(join(directory, `store-${places++}`))],
  [
    'S3',
    () =>
      openS3Store({
        bucket: 'models',
        prefix: `place-${places++}/sub`,
        endpoint: server.endpoint,
        region: 'auto',
        forcePathStyle: true,
        credentials,
        partBytes: 5 * 2 ** 20,
      }),
  ],
]

/** Bytes that differ at every position a test looks at. */
const pattern = (length: number): Uint8Array =>
  Uint8Array.from({ length }, (_, index) => (index * 31 + (index >> 8) * 7) & 255)

describe.each(kinds)('%s', (_, open) => {
  it('gives back any range of what was put', async () => {
    const store = open()
    const bytes = pattern(1000)
    await store.put('a/b.bin', bytes)
    expect(await store.head('a/b.bin')).toEqual({ key: 'a/b.bin', sizeBytes: 1000 })
    for (const [offset, length] of [
      [0, 1000],
      [0, 1],
      [999, 1],
      [300, 77],
    ] as const) {
      const read = await store.getRange('a/b.bin', { offset, length })
      expect(read).toEqual(bytes.slice(offset, offset + length))
    }
  })

  it('replaces an object as a whole, also by a shorter one', async () => {
    const store = open()
    await store.put('x', pattern(500))
    await store.put('x', Uint8Array.of(1, 2))
    expect((await store.head('x')).sizeBytes).toBe(2)
    expect(await store.getRange('x', { offset: 0, length: 2 })).toEqual(Uint8Array.of(1, 2))
  })

  it('keeps an empty object', async () => {
    const store = open()
    await store.put('empty', new Uint8Array(0))
    expect(await store.head('empty')).toEqual({ key: 'empty', sizeBytes: 0 })
  })

  it('takes a large object from a source in parts, each asked for by its range', async () => {
    const store = open()
    const bytes = new Uint8Array(17 * 2 ** 20)
    for (let index = 0; index < bytes.length; index += 4093) bytes[index] = index % 251
    const source: ByteSource = {
      sizeBytes: bytes.length,
      read: async ({ offset, length }: ByteRange) => bytes.subarray(offset, offset + length),
    }
    await store.put('large', source)
    expect((await store.head('large')).sizeBytes).toBe(bytes.length)
    const range = { offset: 15 * 2 ** 20 - 5000, length: 10_000 }
    const read = await store.getRange('large', range)
    expect(Buffer.compare(read, bytes.subarray(range.offset, range.offset + 10_000))).toBe(0)
  })

  it('leaves the old object when a source fails', async () => {
    const store = open()
    await store.put('kept', Uint8Array.of(7))
    const failing: ByteSource = { sizeBytes: 10, read: () => Promise.reject(new Error('no disk')) }
    await expect(store.put('kept', failing)).rejects.toThrow('no disk')
    expect(await store.getRange('kept', { offset: 0, length: 1 })).toEqual(Uint8Array.of(7))
  })

  it('lists what begins with a prefix, in order', async () => {
    const store = open()
    for (const key of ['m/2', 'm/1', 'n/1', 'm-1']) await store.put(key, pattern(key.length))
    expect(await store.list('m/')).toEqual([
      { key: 'm/1', sizeBytes: 3 },
      { key: 'm/2', sizeBytes: 3 },
    ])
    expect((await store.list('')).map(({ key }) => key)).toEqual(['m-1', 'm/1', 'm/2', 'n/1'])
    expect(await store.list('z')).toEqual([])
  })

  it('says which object is not there', async () => {
    const store = open()
    const error = { name: 'StoreError', code: 'not_found', key: 'nothing' }
    await expect(store.head('nothing')).rejects.toMatchObject(error)
    await expect(store.getRange('nothing', { offset: 0, length: 1 })).rejects.toMatchObject(error)
  })

  it.each([
    [0, 11],
    [10, 1],
    [11, 1],
    [9, 2],
    [0, 0],
    [-1, 2],
  ])('refuses the range %i+%i of ten bytes', async (offset, length) => {
    const store = open()
    await store.put('ten', pattern(10))
    await expect(store.getRange('ten', { offset, length })).rejects.toMatchObject({
      code: 'range_not_satisfiable',
      key: 'ten',
    })
  })

  it('stops when it is told to', async () => {
    const store = open()
    await store.put('a', pattern(10))
    const options = { signal: AbortSignal.abort() }
    const error = { code: 'aborted' }
    await expect(store.head('a', options)).rejects.toMatchObject(error)
    await expect(store.getRange('a', { offset: 0, length: 1 }, options)).rejects.toMatchObject(
      error,
    )
    await expect(store.put('b', pattern(1), options)).rejects.toMatchObject(error)
    expect((await store.list('')).map(({ key }) => key)).toEqual(['a'])
  })

  it.each(['../outside', 'a/../../b', '/etc/passwd', '', 'a\\b', 'a%2e%2e/b'])(
    'refuses the key %j',
    async (key) => {
      const store = open()
      const error = { code: 'rejected' }
      await expect(store.put(key, pattern(1))).rejects.toMatchObject(error)
      await expect(store.head(key)).rejects.toMatchObject(error)
      await expect(store.getRange(key, { offset: 0, length: 1 })).rejects.toMatchObject(error)
    },
  )
})

describe('S3 in particular', () => {
  it('refuses a wrong secret', async () => {
    await expect(s3('s3://models', 'wrong').head('a')).rejects.toMatchObject({
      code: 'access_denied',
    })
  })

  it('says of a bucket that is not there what it says of an object', async () => {
    await expect(s3('s3://no-such-bucket').head('a')).rejects.toMatchObject({ code: 'not_found' })
  })

  it('is unavailable, and may be tried again, when nothing listens', async () => {
    const store = openStore('s3://models', {
      AWS_ENDPOINT_URL: 'http://127.0.0.1:9',
      AWS_ACCESS_KEY_ID: 'a',
      AWS_SECRET_ACCESS_KEY: 'b',
    })
    await expect(store.head('a')).rejects.toMatchObject({ code: 'unavailable', transient: true })
  })

  it('keeps prefixes apart', async () => {
    await s3('s3://models/one').put('same', Uint8Array.of(1))
    await s3('s3://models/one-more').put('same', Uint8Array.of(2))
    expect(await s3('s3://models/one').list('')).toEqual([{ key: 'same', sizeBytes: 1 }])
    expect(await s3('s3://models').list('one-more/')).toEqual([
      { key: 'one-more/same', sizeBytes: 1 },
    ])
  })
})

describe('a directory in particular', () => {
  it('leaves no half-written file behind when a source fails', async () => {
    const path = join(directory, 'clean')
    const store = openDirectoryStore(path)
    const failing: ByteSource = {
      sizeBytes: 40 * 2 ** 20,
      read: async ({ offset, length }) => {
        if (offset > 0) throw new Error('no disk')
        return new Uint8Array(length)
      },
    }
    await expect(store.put('x', failing)).rejects.toThrow('no disk')
    expect(await readdir(path)).toEqual([])
  })

  it('reads through a link, as download caches lay checkpoints out', async () => {
    const path = await mkdtemp(join(directory, 'linked-'))
    await writeFile(join(path, 'blob'), pattern(20))
    await symlink('blob', join(path, 'model.safetensors'))
    const store = openDirectoryStore(path)
    expect((await store.head('model.safetensors')).sizeBytes).toBe(20)
    expect((await store.list('model')).map(({ key }) => key)).toEqual(['model.safetensors'])
  })

  it('does not take a directory for an object', async () => {
    const store = openDirectoryStore(join(directory, 'nested'))
    await store.put('a/b', pattern(1))
    await expect(store.head('a')).rejects.toMatchObject({ code: 'not_found' })
    await expect(store.getRange('a', { offset: 0, length: 1 })).rejects.toMatchObject({
      code: 'not_found',
    })
  })
})
