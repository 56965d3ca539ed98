import type { Tensor } from '../device/tensor.ts'
import type { ReferenceMemory } from './reference-memory.ts'

/**
 * A step's ragged batch. Rows of one segment are neighbours in ascending position, so the key of
 * position j ≥ start lies `position − j` rows above its query, and older ones lie in the cache.
 */
export interface Batch {
  /** i32 `[rows]`: token ids. */
  readonly tokens: Tensor
  /**
   * i32 `[rows, 4]`: a row's absolute position, its sequence's slot in the cache, and the positions
   * its segment starts at and ends before. A device that stores rows in no particular order keeps
   * those with position + ring ≥ end, which have their places to themselves.
   */
  readonly rows: Tensor
  /** i32 `[slots, pages a sequence]`: page number by logical page; −1 where none is mapped. */
  readonly pages: Tensor
}

/** Numbers a row of `Batch.rows` is made of. */
export const rowFieldCount = 4

/** Tokens whose compressed entries share a page: a page of a ratio-m layer holds 256 ÷ m entries. */
export const pageTokens = 256

export interface BatchRow {
  readonly position: number
  readonly slot: number
  readonly start: number
  readonly end: number
}

export function batchRow(rows: Int32Array, row: number): BatchRow {
  const at = row * rowFieldCount
  return {
    position: rows[at] ?? 0,
    slot: rows[at + 1] ?? 0,
    start: rows[at + 2] ?? 0,
    end: rows[at + 3] ?? 0,
  }
}

/** Entries complete for a query at `position`: block j is visible once its last token is not ahead. */
export function visibleEntries(position: number, ratio: number): number {
  return Math.floor((position + 1) / ratio)
}

/** Finds entries of one sequence: `[pages, entries a page, …]` through its page table. */
export class EntryPages {
  readonly #perPage: number
  readonly #pages: Int32Array
  readonly #tableWidth: number

  constructor(memory: ReferenceMemory, entries: Tensor, pages: Tensor) {
    this.#perPage = entries.shape[1] ?? 0
    this.#pages = memory.i32(pages)
    this.#tableWidth = pages.shape[1] ?? 0
  }

  /** Which row of the entries is entry `index` of the sequence in `slot`. */
  row(slot: number, index: number): number {
    const page = this.#pages[slot * this.#tableWidth + Math.floor(index / this.#perPage)] ?? -1
    if (page < 0) throw new RangeError(`slot ${slot} has no page for entry ${index}`)
    return page * this.#perPage + (index % this.#perPage)
  }
}
