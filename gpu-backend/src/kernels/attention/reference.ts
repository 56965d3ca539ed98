import { type BatchRow, batchRow, EntryPages, visibleEntries } from '../batch.ts'
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
  readonly #window: Float32Array
  readonly #entries: EntryPages | null
  readonly #selected: Int32Array | null
  readonly #head: number
  readonly #ring: number

  constructor(memory: ReferenceMemory, args: AttentionArgs) {
    const { compressed } = args
    this.#args = args
    this.#own = memory.f32(args.keys)
    this.#window = memory.f32(args.window)
    this.#entries =
      compressed === null ? null : new EntryPages(memory, compressed.entries, args.pages)
    this.#selected = compressed?.selected ? memory.i32(compressed.selected) : null
    this.#head = args.keys.shape[1] ?? 0
    this.#ring = args.window.shape[1] ?? 0
  }

  gather(row: number, at: BatchRow): Float32Array {
    const first = Math.max(0, at.position - this.#args.windowSize + 1)
    const entries = this.#entryNumbers(row, at)
    const windowCount = at.position - first + 1
    const keys = new Float32Array((windowCount + entries.length) * this.#head)
    const put = (place: number, source: Float32Array, from: number): void => {
      keys.set(source.subarray(from, from + this.#head), place * this.#head)
    }
    for (let position = first; position <= at.position; position++) {
      const own = position >= at.start
      const from = own
        ? (row - (at.position - position)) * this.#head
        : this.#ringOffset(at.slot, position)
      put(position - first, own ? this.#own : this.#window, from)
    }
    for (const [place, entry] of entries.entries()) {
      if (this.#entries === null) break
      put(windowCount + place, this.#entries.values, this.#entries.offset(at.slot, entry))
    }
    return keys
  }

  /** Stores a row's key. Of those that share a place the last stays: rows come in ascending order. */
  keep(row: number, at: BatchRow): void {
    const key = this.#own.subarray(row * this.#head, (row + 1) * this.#head)
    this.#window.set(key, this.#ringOffset(at.slot, at.position))
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

  #ringOffset(slot: number, position: number): number {
    return (slot * this.#ring + (position % this.#ring)) * this.#head
  }
}
