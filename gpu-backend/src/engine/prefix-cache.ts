import { strict as assert } from 'node:assert'
import { hash } from 'node:crypto'

/**
 * A name for each whole page of a text: a hash over the salt and every token up to the page's end.
 * Equal names mean equal beginnings of one tenant's texts; another salt gives other names throughout.
 */
export class PageKeys {
  readonly #names: string[] = []
  /** The hash so far, and behind it the tokens of the page that is not full yet. */
  readonly #block: Uint8Array
  readonly #page: Int32Array
  #filled = 0

  constructor(salt: string, pageTokens: number) {
    this.#block = new Uint8Array(digestBytes + pageTokens * Int32Array.BYTES_PER_ELEMENT)
    this.#block.set(hash('sha256', salt, 'buffer'))
    this.#page = new Int32Array(this.#block.buffer, digestBytes)
  }

  /** By page. Grows as tokens come. */
  get names(): readonly string[] {
    return this.#names
  }

  push(tokens: ArrayLike<number>): void {
    for (let i = 0; i < tokens.length; i++) {
      this.#page[this.#filled] = tokens[i] ?? 0
      this.#filled += 1
      if (this.#filled === this.#page.length) this.#closePage()
    }
  }

  #closePage(): void {
    const digest = hash('sha256', this.#block, 'buffer')
    this.#block.set(digest)
    this.#filled = 0
    this.#names.push(digest.toString('latin1'))
  }
}

const digestBytes = 32

/** A kept beginning of some text: the pages it is in, and the name of the last. */
export interface PrefixEntry {
  readonly key: string
  readonly pages: readonly number[]
}

/** Pages whose names are remembered though nothing is kept there: four million tokens of prompts. */
const seenMax = 16_384

/**
 * Which beginnings of texts are in the model's cache, the longest unused first. Knows names and
 * numbers alone: the pages are the ledger's, the state behind them the model's.
 */
export class PrefixCache {
  readonly max: number
  /** In order of use: the first is the one that goes next. */
  readonly #entries = new Map<string, PrefixEntry>()
  readonly #seen = new Set<string>()

  constructor(max: number) {
    assert(Number.isSafeInteger(max) && max >= 0, `${max} prefixes are a count`)
    this.max = max
  }

  get full(): boolean {
    return this.#entries.size >= this.max
  }

  get entries(): Iterable<PrefixEntry> {
    return this.#entries.values()
  }

  has(key: string): boolean {
    return this.#entries.has(key)
  }

  /** The longest kept beginning of the text with these names, of at most `pagesMax` pages. */
  find(names: readonly string[], pagesMax: number): PrefixEntry | null {
    for (let page = Math.min(names.length, pagesMax); page > 0; page--) {
      const entry = this.#entries.get(names[page - 1] ?? '')
      if (entry !== undefined) return entry
    }
    return null
  }

  /** Notes that the first `pages` pages of a text were of use: every kept beginning of them was. */
  touch(names: readonly string[], pages: number): void {
    for (const name of names.slice(0, pages)) {
      const entry = this.#entries.get(name)
      if (entry === undefined) continue
      this.#entries.delete(name)
      this.#entries.set(name, entry)
    }
  }

  add(entry: PrefixEntry): void {
    assert(!this.full && !this.has(entry.key), 'there is a place, and nothing under this name')
    this.#entries.set(entry.key, entry)
  }

  remove(key: string): PrefixEntry {
    const entry = this.#entries.get(key)
    assert(entry !== undefined, 'a prefix that is dropped was kept')
    this.#entries.delete(key)
    return entry
  }

  /** The one unused for longest of those that `serve`. */
  coldest(serve: (entry: PrefixEntry) => boolean = () => true): PrefixEntry | null {
    for (const entry of this.#entries.values()) if (serve(entry)) return entry
    return null
  }

  /**
   * Remembers that a prompt with these pages came, and gives how many of them an earlier one had in
   * common with it: where texts part is where the next one will want to start.
   */
  meet(names: readonly string[]): number {
    const known = names.findIndex((name) => !this.#seen.has(name))
    for (const name of names.slice(0, seenMax)) {
      this.#seen.delete(name)
      this.#seen.add(name)
    }
    for (const name of this.#seen) {
      if (this.#seen.size <= seenMax) break
      this.#seen.delete(name)
    }
    return known === -1 ? names.length : known
  }
}
