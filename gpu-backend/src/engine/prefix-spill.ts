import { strict as assert } from 'node:assert'
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type CachedPrefix, type Model, ModelError } from '../model/model.ts'

/** Where prefixes go that have to leave the model's cache, by name. */
export interface PrefixStore {
  has(key: string): boolean
  /** Whether one of so many bytes would be taken. */
  takes(bytes: number): boolean
  save(key: string, bytes: Uint8Array): void
  /** Takes a prefix out again; null where it is not there, or cannot be read any more. */
  take(key: string): Uint8Array | null
}

/** The part of a model that prefixes leave and come back to. */
type SpillingModel = Pick<Model, 'prefixBytes' | 'readPrefix' | 'writePrefix'>

/** Cold prefixes of a model's cache in a store beside it. */
export class PrefixSpill {
  readonly #model: SpillingModel
  readonly #store: PrefixStore

  constructor(model: SpillingModel, store: PrefixStore) {
    this.#model = model
    this.#store = store
  }

  save(key: string, prefix: CachedPrefix): void {
    if (!this.#store.takes(this.#model.prefixBytes(prefix))) return
    this.#store.save(key, this.#model.readPrefix(prefix))
  }

  /** How many pages the longest beginning has that is here, of `more` than those and at most `most`. */
  longest(names: readonly string[], more: number, most: number): number | null {
    for (let pages = Math.min(names.length, most); pages > more; pages--) {
      if (this.#store.has(names[pages - 1] ?? '')) return pages
    }
    return null
  }

  /** Brings a prefix back into the cache of a device with room for it; null where it was damaged. */
  restore(key: string, device: number): CachedPrefix | null {
    const bytes = this.#store.take(key)
    if (bytes === null) return null
    try {
      const prefix = this.#model.writePrefix(bytes, device)
      assert(prefix !== null, 'there is room for what is brought back')
      return prefix
    } catch (error) {
      if (error instanceof ModelError && error.code === 'prefix_unusable') return null
      throw error
    }
  }
}

/**
 * The most a prefix may take. Reading and writing hold up every stream of the engine's thread: at a
 * gigabyte a second, for a sixteenth of one.
 */
const prefixBytesMax = 64 * 2 ** 20
const suffix = '.prefix'

/**
 * A folder of prefixes, the longest unused first to go. It is a cache of one engine's life: what an
 * earlier one left is removed, since nothing says that its weights were the same, and nothing but
 * what was saved is trusted to be there. Bytes are checked by whoever reads them.
 */
export class SpillFolder implements PrefixStore {
  readonly #folder: string
  readonly #bytesMax: number
  /** Bytes by name, in order of use. */
  readonly #entries = new Map<string, number>()
  #bytes = 0

  constructor(folder: string, bytesMax: number) {
    this.#folder = folder
    this.#bytesMax = bytesMax
    // Only this process's user may read what tenants' prompts have become.
    mkdirSync(folder, { recursive: true, mode: 0o700 })
    for (const name of readdirSync(folder)) if (name.endsWith(suffix)) rmSync(join(folder, name))
  }

  get bytes(): number {
    return this.#bytes
  }

  has(key: string): boolean {
    return this.#entries.has(key)
  }

  takes(bytes: number): boolean {
    return bytes <= Math.min(prefixBytesMax, this.#bytesMax)
  }

  save(key: string, bytes: Uint8Array): void {
    if (!this.takes(bytes.length)) return
    if (this.#entries.has(key)) this.#remove(key)
    for (const coldest of this.#entries.keys()) {
      if (this.#bytes + bytes.length <= this.#bytesMax) break
      this.#remove(coldest)
    }
    try {
      writeFileSync(this.#path(key), bytes, { mode: 0o600 })
    } catch {
      // A full or broken disk costs a recomputation, and no request.
      rmSync(this.#path(key), { force: true })
      return
    }
    this.#entries.set(key, bytes.length)
    this.#bytes += bytes.length
  }

  take(key: string): Uint8Array | null {
    if (!this.#entries.has(key)) return null
    try {
      return readFileSync(this.#path(key))
    } catch {
      return null
    } finally {
      this.#remove(key)
    }
  }

  #remove(key: string): void {
    this.#bytes -= this.#entries.get(key) ?? 0
    this.#entries.delete(key)
    rmSync(this.#path(key), { force: true })
  }

  #path(key: string): string {
    return join(this.#folder, `${Buffer.from(key, 'latin1').toString('hex')}${suffix}`)
  }
}
