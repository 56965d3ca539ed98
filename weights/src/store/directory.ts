import { randomUUID } from 'node:crypto'
import { mkdir, open, readdir, rename, rm, stat, type FileHandle } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { byteSource, splitRange } from './byte-source.ts'
import { isSafeKey } from './key.ts'
import {
  StoreError,
  type ByteRange,
  type ByteSource,
  type ObjectInfo,
  type Store,
  type StoreCallOptions,
} from './store.ts'

const temporaryPrefix = '.sluice-writing-'
const writeBytes = 16 * 2 ** 20

/** A directory as a store. Keys are checked, so none of them leads out of it. */
export function openDirectoryStore(path: string): Store {
  const root = resolve(path)
  return {
    location: root,
    head: (key, options) => attempt(key, options, () => head(root, key)),
    getRange: (key, range, options) => attempt(key, options, () => getRange(root, key, range)),
    put: (key, content, options) =>
      attempt(key, options, () => put(root, key, byteSource(content), options)),
    list: (prefix, options) => attempt(prefix, options, () => list(root, prefix)),
  }
}

async function head(root: string, key: string): Promise<ObjectInfo> {
  const found = await stat(pathOf(root, key))
  if (!found.isFile()) throw new StoreError('not_found', key, `${key} is not a file`)
  return { key, sizeBytes: found.size }
}

async function getRange(root: string, key: string, range: ByteRange): Promise<Uint8Array> {
  const file = await open(pathOf(root, key), 'r')
  try {
    const { size } = await file.stat()
    if (range.length <= 0 || range.offset < 0 || range.offset + range.length > size) {
      const why = `${key} has ${size} bytes; asked for ${range.length} from ${range.offset}`
      throw new StoreError('range_not_satisfiable', key, why)
    }
    const bytes = new Uint8Array(range.length)
    for (let done = 0; done < bytes.length;) {
      const { bytesRead } = await file.read(bytes, done, bytes.length - done, range.offset + done)
      if (bytesRead === 0) throw new StoreError('short_read', key, `${key} ended while being read`)
      done += bytesRead
    }
    return bytes
  } finally {
    await file.close()
  }
}

/** Writes beside the target and renames: a crash leaves the old file, or none, but never a half. */
async function put(
  root: string,
  key: string,
  source: ByteSource,
  options: StoreCallOptions | undefined,
): Promise<void> {
  const target = pathOf(root, key)
  const directory = dirname(target)
  await mkdir(directory, { recursive: true })
  const temporary = join(directory, `${temporaryPrefix}${randomUUID()}`)
  try {
    const file = await open(temporary, 'wx')
    try {
      await writeSource(file, source, key, options)
      await file.sync()
    } finally {
      await file.close()
    }
    await rename(temporary, target)
  } catch (error) {
    await rm(temporary, { force: true })
    throw error
  }
  await syncDirectory(directory)
}

async function writeSource(
  file: FileHandle,
  source: ByteSource,
  key: string,
  options: StoreCallOptions | undefined,
): Promise<void> {
  for (const range of splitRange(source.sizeBytes, writeBytes)) {
    if (options?.signal?.aborted === true) throw aborted(key)
    await file.writeFile(await source.read(range))
  }
}

/** The rename is on disk only once the directory is. */
async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, 'r')
  try {
    await directory.sync()
  } finally {
    await directory.close()
  }
}

async function list(root: string, prefix: string): Promise<readonly ObjectInfo[]> {
  const entries = await readdir(root, { recursive: true, withFileTypes: true }).catch(noneIfAbsent)
  const keys = entries
    .filter((entry) => !entry.isDirectory() && !entry.name.startsWith(temporaryPrefix))
    .map((entry) => join(entry.parentPath, entry.name).slice(root.length + 1))
    .filter((key) => key.startsWith(prefix) && isSafeKey(key))
    .sort()
  return Promise.all(keys.map((key) => head(root, key)))
}

/** A directory that is not there yet is an empty store, as an unused prefix of a bucket is. */
function noneIfAbsent(error: unknown): never[] {
  if (errorCode(error) === 'ENOENT') return []
  throw error
}

function pathOf(root: string, key: string): string {
  if (isSafeKey(key)) return join(root, key)
  throw new StoreError('rejected', key, `${JSON.stringify(key)} is not a usable key`)
}

async function attempt<T>(
  key: string,
  options: StoreCallOptions | undefined,
  call: () => Promise<T>,
): Promise<T> {
  if (options?.signal?.aborted === true) throw aborted(key)
  try {
    return await call()
  } catch (error) {
    throw toStoreError(key, error)
  }
}

function aborted(key: string): StoreError {
  return new StoreError('aborted', key, `stopped before ${key} was done`)
}

function toStoreError(key: string, error: unknown): unknown {
  const code = errorCode(error)
  if (error instanceof StoreError || code === null) return error
  const options = { cause: error }
  switch (code) {
    case 'ENOENT':
    case 'ENOTDIR':
    case 'EISDIR':
      return new StoreError('not_found', key, `${key} is not there`, options)
    case 'EACCES':
    case 'EPERM':
    case 'EROFS':
      return new StoreError('access_denied', key, `may not use ${key} (${code})`, options)
    case 'ENOSPC':
    case 'EDQUOT':
      // Trying again within seconds will not make room.
      return new StoreError('rejected', key, `no space left for ${key}`, options)
    default:
      return new StoreError('unavailable', key, `${key}: ${code}`, options)
  }
}

/** The system's error code (`ENOENT`), or null for errors that are not the system's. */
function errorCode(error: unknown): string | null {
  if (!(error instanceof Error) || !('code' in error)) return null
  return typeof error.code === 'string' && /^E[A-Z0-9]+$/.test(error.code) ? error.code : null
}
