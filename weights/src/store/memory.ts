import { byteSource } from './byte-source.ts'
import { isSafeKey } from './key.ts'
import {
  StoreError,
  type ByteRange,
  type ByteSource,
  type ObjectInfo,
  type Store,
  type StoreCallOptions,
} from './store.ts'

/**
 * What a call can be made to do. `bit_flip` answers (or stores) one wrong bit; `lost_reply` does
 * the work and then fails; the others fail as the real stores do.
 */
export type Fault = 'unavailable' | 'access_denied' | 'short_read' | 'bit_flip' | 'lost_reply'

let storesMade = 0

/** A store in memory that fails to order. Passes the same suite as the real ones. */
export class MemoryStore implements Store {
  readonly location: string
  readonly objects = new Map<string, Uint8Array>()
  /** Calls so far; the next one has this number plus one. */
  callCount = 0
  readonly #faults = new Map<number, Fault>()

  constructor() {
    this.location = `memory://${++storesMade}`
  }

  /** Makes call number `call` (1 is the first ever) go wrong. */
  failCall(call: number, fault: Fault): void {
    this.#faults.set(call, fault)
  }

  async head(key: string, options?: StoreCallOptions): Promise<ObjectInfo> {
    this.#beginObject(key, options)
    return { key, sizeBytes: this.#require(key).length }
  }

  async getRange(key: string, range: ByteRange, options?: StoreCallOptions): Promise<Uint8Array> {
    const fault = this.#beginObject(key, options)
    const bytes = this.#require(key)
    const end = range.offset + range.length
    if (range.length <= 0 || range.offset < 0 || end > bytes.length) {
      throw new StoreError('range_not_satisfiable', key, `${key} has ${bytes.length} bytes`)
    }
    if (fault === 'short_read') throw new StoreError('short_read', key, `${key} broke off`)
    const read = bytes.slice(range.offset, end)
    return fault === 'bit_flip' ? flipBit(read) : read
  }

  async put(
    key: string,
    content: Uint8Array | ByteSource,
    options?: StoreCallOptions,
  ): Promise<void> {
    const fault = this.#beginObject(key, options)
    const source = byteSource(content)
    const bytes = source.sizeBytes === 0 ? new Uint8Array(0) : await readAll(source)
    this.objects.set(key, fault === 'bit_flip' ? flipBit(bytes) : bytes)
    if (fault === 'lost_reply') throw new StoreError('unavailable', key, 'the reply was lost')
  }

  async list(prefix: string, options?: StoreCallOptions): Promise<readonly ObjectInfo[]> {
    this.#begin(prefix, options)
    return [...this.objects]
      .filter(([key]) => key.startsWith(prefix))
      .map(([key, bytes]) => ({ key, sizeBytes: bytes.length }))
      .sort((a, b) => (a.key < b.key ? -1 : 1))
  }

  #beginObject(key: string, options?: StoreCallOptions): Fault | undefined {
    if (isSafeKey(key)) return this.#begin(key, options)
    throw new StoreError('rejected', key, `${JSON.stringify(key)} is not a usable key`)
  }

  #begin(key: string, options?: StoreCallOptions): Fault | undefined {
    if (options?.signal?.aborted === true) throw new StoreError('aborted', key, 'aborted')
    const fault = this.#faults.get(++this.callCount)
    if (fault === 'unavailable' || fault === 'access_denied') {
      throw new StoreError(fault, key, `call ${this.callCount} was ordered to fail`)
    }
    return fault
  }

  #require(key: string): Uint8Array {
    const bytes = this.objects.get(key)
    if (bytes !== undefined) return bytes
    throw new StoreError('not_found', key, `${this.location} has no ${key}`)
  }
}

async function readAll(source: ByteSource): Promise<Uint8Array> {
  return (await source.read({ offset: 0, length: source.sizeBytes })).slice()
}

/** Flips a bit in the middle. */
function flipBit(bytes: Uint8Array): Uint8Array {
  const middle = bytes.length >> 1
  bytes[middle] = (bytes[middle] ?? 0) ^ 1
  return bytes
}
