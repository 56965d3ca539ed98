import type { Tensor } from '../../device/tensor.ts'
import { pageTokens, rowFieldCount } from '../batch.ts'
import type { Bench } from './case.ts'

/** Positions `start … start + count − 1` of the sequence in `slot`; older ones lie in the cache. */
export interface Segment {
  readonly slot: number
  readonly start: number
  readonly count: number
}

/** One row of a batch, and which segment it belongs to. */
export interface RaggedRow {
  readonly segment: Segment
  readonly position: number
}

/**
 * A batch of segments, and where their sequences' pages lie: in shuffled order among pages that
 * belong to nobody. Slots without a segment have no pages.
 */
export class Ragged {
  readonly segments: readonly Segment[]
  readonly rows: readonly RaggedRow[]
  readonly slotCount: number
  readonly pageCount: number
  readonly rowsTensor: Tensor
  readonly pagesTensor: Tensor
  readonly #table: Int32Array
  readonly #tableWidth: number

  constructor(bench: Bench, segments: readonly Segment[]) {
    this.segments = segments
    this.rows = segments.flatMap((segment) =>
      Array.from({ length: segment.count }, (_, i) => ({ segment, position: segment.start + i })),
    )
    this.slotCount = Math.max(0, ...segments.map(({ slot }) => slot)) + 2
    const pagesOf = (segment: Segment): number => Math.ceil(endOf(segment) / pageTokens)
    this.#tableWidth = Math.max(1, ...segments.map(pagesOf)) + 1
    const needed = segments.reduce((sum, segment) => sum + pagesOf(segment), 0)
    this.pageCount = needed + 2
    const free = bench.random.permutation(this.pageCount)
    this.#table = new Int32Array(this.slotCount * this.#tableWidth).fill(-1)
    for (const segment of segments) {
      for (let page = 0; page < pagesOf(segment); page++) {
        this.#table[segment.slot * this.#tableWidth + page] = free.pop() ?? -1
      }
    }
    const fields = this.rows.flatMap(({ segment, position }) => {
      return [position, segment.slot, segment.start, endOf(segment)]
    })
    this.rowsTensor = bench.i32('rows', [this.rows.length, rowFieldCount], fields)
    this.pagesTensor = bench.i32('pages', [this.slotCount, this.#tableWidth], this.#table)
  }

  /** Where in `[pages, 256 ÷ ratio]` entry `index` of a slot's sequence lies. */
  entryPlace(slot: number, index: number, ratio: number): number {
    const perPage = pageTokens / ratio
    const page = this.#table[slot * this.#tableWidth + Math.floor(index / perPage)] ?? -1
    if (page < 0) throw new RangeError(`slot ${slot} has no page for entry ${index}`)
    return page * perPage + (index % perPage)
  }
}

/** The position behind a segment's last. */
export function endOf({ start, count }: Segment): number {
  return start + count
}

/** Blocks of `ratio` tokens whose last token is not ahead of `position`. */
export function entriesVisible(position: number, ratio: number): number {
  return Math.trunc((position + 1) / ratio)
}

/** Short form for names: `0:5+3` is three rows of slot 0 from position 5 on. */
export function nameOf(segments: readonly Segment[]): string {
  return segments.map(({ slot, start, count }) => `${slot}:${start}+${count}`).join(' ')
}
