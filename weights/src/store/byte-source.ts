import type { ByteRange, ByteSource, Store, StoreCallOptions } from './store.ts'

/** Bytes in memory as a source; a source as itself. */
export function byteSource(content: Uint8Array | ByteSource): ByteSource {
  if (!(content instanceof Uint8Array)) return content
  return {
    sizeBytes: content.length,
    read: async ({ offset, length }: ByteRange) => content.subarray(offset, offset + length),
  }
}

/** An object of a store, to be copied into another without being in memory at once. */
export function objectSource(
  store: Store,
  { key, sizeBytes }: { readonly key: string; readonly sizeBytes: number },
  options?: StoreCallOptions,
): ByteSource {
  return { sizeBytes, read: (range) => store.getRange(key, range, options) }
}

/** Consecutive ranges of at most `partBytes` that cover `sizeBytes`. */
export function splitRange(sizeBytes: number, partBytes: number): readonly ByteRange[] {
  return Array.from({ length: Math.ceil(sizeBytes / partBytes) }, (_, part) => {
    const offset = part * partBytes
    return { offset, length: Math.min(partBytes, sizeBytes - offset) }
  })
}
