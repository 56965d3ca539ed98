/** One object as a store reports it. `sizeBytes` is the whole object's length. */
export interface ObjectInfo {
  readonly key: string
  readonly sizeBytes: number
}

/** Half-open byte range `[offset, offset + length)` of one object. */
export interface ByteRange {
  readonly offset: number
  readonly length: number
}

export interface StoreCallOptions {
  readonly signal?: AbortSignal
}

/**
 * Bytes that need not be in memory at once: a shard of V4-Pro has thirteen gigabytes. A part may be
 * asked for again when sending it failed; it must then be the same.
 */
export interface ByteSource {
  readonly sizeBytes: number
  read(range: ByteRange): Promise<Uint8Array>
}

/**
 * Where checkpoints live: S3-compatible storage, a directory, or memory. Keys are relative to the
 * place the store was opened at, with `/` between segments. A read returns exactly the bytes asked
 * for or throws `StoreError`; it never returns fewer.
 */
export interface Store {
  /**
   * `s3://bucket/prefix`, a path: for messages, never with credentials. Two stores of one location
   * are one place.
   */
  readonly location: string
  head(key: string, options?: StoreCallOptions): Promise<ObjectInfo>
  getRange(key: string, range: ByteRange, options?: StoreCallOptions): Promise<Uint8Array>
  /** Replaces the object as a whole: readers see the old bytes or the new ones, never a part. */
  put(key: string, content: Uint8Array | ByteSource, options?: StoreCallOptions): Promise<void>
  list(prefix: string, options?: StoreCallOptions): Promise<readonly ObjectInfo[]>
}

export type StoreErrorCode =
  | 'not_found'
  | 'access_denied'
  /** The store understood the call and will never serve it: a malformed key, the wrong region. */
  | 'rejected'
  | 'range_not_satisfiable'
  | 'short_read'
  | 'unavailable'
  | 'aborted'

/** Every failure of a store. `transient` says whether the same call may be tried again. */
export class StoreError extends Error {
  readonly code: StoreErrorCode
  readonly key: string

  constructor(code: StoreErrorCode, key: string, message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = 'StoreError'
    this.code = code
    this.key = key
  }

  get transient(): boolean {
    return this.code === 'unavailable' || this.code === 'short_read'
  }
}
