import { rowCount, type Tensor } from '../../device/tensor.ts'
import { type BatchRow, batchRow, EntryPages, visibleEntries } from '../batch.ts'
import { type CachedRows, cachedRows } from '../cached-rows.ts'
import {
  type CompactLayout,
  compactRowBytes,
  decodeRow,
  encodeRow,
  keyLayout,
  rowWidth,
} from '../numerics/compact-rows.ts'
import { dot } from '../numerics/matmul.ts'
import { rotate } from '../numerics/rotate.ts'
import type { ReferenceKernel, ReferenceMemory } from '../reference-memory.ts'
import type { AttentionArgs } from './attention.ts'

export const attentionReference: ReferenceKernel<AttentionArgs> = (memory, args) => {
  const [rows = 0, heads = 0, head = 0] = args.queries.shape
  const fields = memory.i32(args.rows)
  const queries = memory.f32(args.queries)
  const sink = memory.f32(args.sink)
  const frequencies = memory.f32(args.frequencies)
  const output = memory.f32(args.output)
  const gathered = new KeyGatherer(memory, args)
  for (let row = 0; row < rows; row++) {
    const at = batchRow(fields, row)
    const keys = gathered.gather(row, at)
    for (let h = 0; h < heads; h++) {
      const offset = (row * heads + h) * head
      const out = output.subarray(offset, offset + head)
      attendOneHead(queries, offset, keys, { scale: args.scale, sink: sink[h] ?? 0 }, out)
      rotate(out, head - 2 * frequencies.length, frequencies, -at.position)
    }
  }
  // Only now: until here the window held keys that some row of this step still had to read.
  for (let row = 0; row < rows; row++) gathered.keep(row, batchRow(fields, row))
}

interface Logit {
  readonly scale: number
  readonly sink: number
}

/** `keys` holds the row's keys one after the other, each as long as `out`. */
function attendOneHead(
  queries: Float32Array,
  at: number,
  keys: Float32Array,
  { scale, sink }: Logit,
  out: Float32Array,
): void {
  const head = out.length
  const count = keys.length / head
  const scores = new Float64Array(count)
  let largest = -Infinity
  for (let j = 0; j < count; j++) {
    const score = dot(queries, at, keys, j * head, head) * scale
    scores[j] = score
    largest = Math.max(largest, score)
  }
  const sums = new Float64Array(head)
  let total = Math.exp(sink - largest)
  for (let j = 0; j < count; j++) {
    const weight = Math.exp((scores[j] ?? 0) - largest)
    total += weight
    for (let d = 0; d < head; d++) sums[d] = (sums[d] ?? 0) + weight * (keys[j * head + d] ?? 0)
  }
  for (let d = 0; d < head; d++) out[d] = (sums[d] ?? 0) / total
}

/** Brings the keys of one row together: window in ascending position, then entries in ascending order. */
class KeyGatherer {
  readonly #args: AttentionArgs
  readonly #own: Float32Array
  readonly #window: CachedRows
  readonly #entries: { readonly pages: EntryPages; readonly rows: CachedRows } | null
  readonly #selected: Int32Array | null
  readonly #head: number
  readonly #ring: number

  constructor(memory: ReferenceMemory, args: AttentionArgs) {
    const { compressed } = args
    this.#args = args
    this.#head = args.keys.shape[1] ?? 0
    this.#ring = args.window.shape[1] ?? 0
    const layout = keyLayout(this.#head, 2 * rowCount(args.frequencies))
    this.#own = asKept(memory.f32(args.keys), args.window, layout)
    this.#window = cachedRows(memory, args.window, layout)
    this.#entries =
      compressed === null
        ? null
        : {
            pages: new EntryPages(memory, compressed.entries, args.pages),
            rows: cachedRows(memory, compressed.entries, layout),
          }
    this.#selected = compressed?.selected ? memory.i32(compressed.selected) : null
  }

  gather(row: number, at: BatchRow): Float32Array {
    const first = Math.max(0, at.position - this.#args.windowSize + 1)
    const numbers = this.#entryNumbers(row, at)
    const windowCount = at.position - first + 1
    const keys = new Float32Array((windowCount + numbers.length) * this.#head)
    const place = (index: number): Float32Array =>
      keys.subarray(index * this.#head, (index + 1) * this.#head)
    for (let position = first; position <= at.position; position++) {
      const into = place(position - first)
      if (position >= at.start) into.set(this.#ownKey(row - (at.position - position)))
      else this.#window.read(this.#ringRow(at.slot, position), into)
    }
    for (const [index, entry] of numbers.entries()) {
      if (this.#entries === null) break
      const { pages, rows } = this.#entries
      rows.read(pages.row(at.slot, entry), place(windowCount + index))
    }
    return keys
  }

  /** Stores a row's key. Of those that share a place the last stays: rows come in ascending order. */
  keep(row: number, at: BatchRow): void {
    this.#window.write(this.#ringRow(at.slot, at.position), this.#ownKey(row))
  }

  #ownKey(row: number): Float32Array {
    return this.#own.subarray(row * this.#head, (row + 1) * this.#head)
  }

  #entryNumbers(row: number, at: BatchRow): readonly number[] {
    const { compressed } = this.#args
    if (compressed === null) return []
    if (compressed.selected === null || this.#selected === null) {
      const visible = visibleEntries(at.position, compressed.ratio)
      return Array.from({ length: visible }, (_, entry) => entry)
    }
    const width = compressed.selected.shape[1] ?? 0
    const picks = this.#selected.subarray(row * width, (row + 1) * width)
    return [...picks].filter((entry) => entry >= 0)
  }

  #ringRow(slot: number, position: number): number {
    return slot * this.#ring + (position % this.#ring)
  }
}

/**
 * The step's keys as a later step will find them in the window: else a row's result would depend on
 * where its sequence was cut into steps.
 */
function asKept(keys: Float32Array, window: Tensor, layout: CompactLayout): Float32Array {
  if (window.dtype !== 'u8') return keys
  const width = rowWidth(layout)
  const row = new Uint8Array(compactRowBytes(layout))
  const kept = new Float32Array(keys.length)
  for (let at = 0; at < keys.length; at += width) {
    encodeRow(layout, keys.subarray(at, at + width), row)
    decodeRow(layout, row, kept.subarray(at, at + width))
  }
  return kept
}
