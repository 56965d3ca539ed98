import { rowCount } from '../../device/tensor.ts'
import { type BatchRow, batchRow, EntryPages } from '../batch.ts'
import { cachedRows } from '../cached-rows.ts'
import { walshHadamard } from '../numerics/fwht.ts'
import { rmsNorm } from '../numerics/rms-norm.ts'
import { rotate } from '../numerics/rotate.ts'
import { keyBlock, simulateFp4, simulateFp8 } from '../numerics/simulate.ts'
import type { ReferenceKernel, ReferenceMemory } from '../reference-memory.ts'
import { type CompressArgs, entryLayout } from './compress.ts'

export const compressReference: ReferenceKernel<CompressArgs> = (memory, args) => {
  const fields = memory.i32(args.rows)
  const source = new RawRows(memory, args)
  const pages = new EntryPages(memory, args.entries, args.pages)
  const entries = cachedRows(memory, args.entries, entryLayout(args))
  for (let row = 0; row < rowCount(args.rows); row++) {
    const at = batchRow(fields, row)
    if ((at.position + 1) % args.ratio !== 0) continue
    const entry = pool(memory, args, source, row, at)
    finish(memory, args, entry, at.position + 1 - args.ratio)
    const index = (at.position + 1) / args.ratio - 1
    entries.write(pages.row(at.slot, index), entry)
  }
  // Only now: until here the rings held rows that some block of this step still had to read.
  for (let row = 0; row < rowCount(args.rows); row++) source.keep(row, batchRow(fields, row))
}

/** Softmax-weighted sum over the rows of one block, channel by channel. */
function pool(
  memory: ReferenceMemory,
  args: CompressArgs,
  source: RawRows,
  row: number,
  at: BatchRow,
): Float32Array {
  const ape = memory.f32(args.ape)
  const width = rowCount(args.norm)
  const channels = args.span * width
  const pooled = args.span * args.ratio
  const largest = new Float64Array(width).fill(-Infinity)
  const weights = new Float64Array(width)
  const sums = new Float64Array(width)
  const visit = (use: (score: number, value: number, channel: number) => void): void => {
    for (let i = 0; i < pooled; i++) {
      const position = at.position - pooled + 1 + i
      // The first block has none before it: those rows weigh nothing.
      if (position < 0) continue
      const half = i < args.ratio ? 0 : width
      const raw = source.locate(row, at, position)
      const bias = (position % args.ratio) * channels + half
      for (let c = 0; c < width; c++) {
        const score = (raw.scores[raw.at + half + c] ?? 0) + (ape[bias + c] ?? 0)
        use(score, raw.values[raw.at + half + c] ?? 0, c)
      }
    }
  }
  visit((score, _, c) => {
    largest[c] = Math.max(largest[c] ?? 0, score)
  })
  visit((score, value, c) => {
    const weight = Math.exp(score - (largest[c] ?? 0))
    weights[c] = (weights[c] ?? 0) + weight
    sums[c] = (sums[c] ?? 0) + weight * value
  })
  return Float32Array.from(sums, (sum, c) => sum / (weights[c] ?? 0))
}

function finish(
  memory: ReferenceMemory,
  args: CompressArgs,
  entry: Float32Array,
  position: number,
): void {
  const frequencies = memory.f32(args.frequencies)
  const whole = { at: 0, length: entry.length }
  const plain = entry.length - 2 * frequencies.length
  rmsNorm(entry, whole, memory.values(args.norm), args.eps)
  rotate(entry, plain, frequencies, position)
  if (args.use === 'index') {
    walshHadamard(entry, whole)
    if (args.quantise) simulateFp4(entry, whole)
  } else if (args.quantise) {
    simulateFp8(entry, { at: 0, length: plain }, keyBlock)
  }
}

interface RawRow {
  readonly values: Float32Array
  readonly scores: Float32Array
  readonly at: number
}

/** A sequence's raw rows by absolute position: this step's from the batch, older ones from the ring. */
class RawRows {
  readonly #batch: Omit<RawRow, 'at'>
  readonly #ring: Omit<RawRow, 'at'>
  readonly #ringRows: number
  readonly #channels: number

  constructor(memory: ReferenceMemory, args: CompressArgs) {
    this.#batch = { values: memory.f32(args.values), scores: memory.f32(args.scores) }
    this.#ring = { values: memory.f32(args.valueRing), scores: memory.f32(args.scoreRing) }
    this.#ringRows = args.valueRing.shape[1] ?? 0
    this.#channels = args.valueRing.shape[2] ?? 0
  }

  locate(row: number, at: BatchRow, position: number): RawRow {
    if (position >= at.start) {
      return { ...this.#batch, at: (row - (at.position - position)) * this.#channels }
    }
    return { ...this.#ring, at: this.#ringOffset(at.slot, position) }
  }

  /** Stores a row. Of those that share a place the last stays: rows come in ascending order. */
  keep(row: number, at: BatchRow): void {
    const from = row * this.#channels
    const to = this.#ringOffset(at.slot, at.position)
    for (const name of ['values', 'scores'] as const) {
      this.#ring[name].set(this.#batch[name].subarray(from, from + this.#channels), to)
    }
  }

  #ringOffset(slot: number, position: number): number {
    return (slot * this.#ringRows + (position % this.#ringRows)) * this.#channels
  }
}
