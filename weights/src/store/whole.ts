import { CheckpointError } from '../checkpoint-error.ts'
import { StoreError, type ObjectInfo, type Store, type StoreCallOptions } from './store.ts'

/** The object's size; one that is not there is a checkpoint with a file missing. */
export async function requireObject(
  store: Store,
  key: string,
  options?: StoreCallOptions,
): Promise<ObjectInfo> {
  try {
    return await store.head(key, options)
  } catch (cause) {
    if (!(cause instanceof StoreError) || cause.code !== 'not_found') throw cause
    throw new CheckpointError('file_missing', key, `${store.location} has no ${key}`, { cause })
  }
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
