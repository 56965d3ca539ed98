import { CheckpointError } from '../checkpoint-error.ts'
import { StoreError, type ObjectInfo, type Store, type StoreCallOptions } from './store.ts'

/** The object's size, or null if it is not there. */
export async function findObject(
  store: Store,
  key: string,
  options?: StoreCallOptions,
): Promise<ObjectInfo | null> {
  try {
    return await store.head(key, options)
  } catch (error) {
    if (error instanceof StoreError && error.code === 'not_found') return null
    throw error
  }
}

/** The object's size; one that is not there is a checkpoint with a file missing. */
export async function requireObject(
  store: Store,
  key: string,
  options?: StoreCallOptions,
): Promise<ObjectInfo> {
  const found = await findObject(store, key, options)
  if (found !== null) return found
  throw new CheckpointError('file_missing', key, `${store.location} has no ${key}`)
}

/** A whole small object. One longer than `bytesMax` is refused before it is read. */
export async function readWhole(
  store: Store,
  key: string,
  bytesMax: number,
  options?: StoreCallOptions,
): Promise<Uint8Array> {
  const { sizeBytes } = await requireObject(store, key, options)
  if (sizeBytes > bytesMax) {
    const why = `${key} of ${store.location} has ${sizeBytes} bytes; the limit is ${bytesMax}`
    throw new CheckpointError('file_size', key, why)
  }
  if (sizeBytes === 0) return new Uint8Array(0)
  return store.getRange(key, { offset: 0, length: sizeBytes }, options)
}
