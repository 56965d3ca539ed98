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
 * Where checkpoints live: S3-compatible storage, a directory, or memory. Keys are relative to the
 * place the store was opened at, with `/` between segments. A read returns exactly the bytes asked
 * for or throws `StoreError`; it never returns fewer.
 */
export interface Store {
  /** For messages: `s3://bucket/prefix`, a path. Never holds credentials. */
  readonly location: string
  head(key: string, options?: StoreCallOptions): Promise<ObjectInfo>
  getRange(key: string, range: ByteRange, options?: StoreCallOptions): Promise<Uint8Array>
  put(key: string, bytes: Uint8Array, options?: StoreCallOptions): Promise<void>
  list(prefix: string, options?: StoreCallOptions): Promise<readonly ObjectInfo[]>
}

export type StoreErrorCode =
  | 'not_found'
  | 'access_denied'
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
