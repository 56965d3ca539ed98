import type { Tensor } from '../../device/tensor.ts'
import { pageTokens } from '../batch.ts'
import { CacheRows, compactKeyRows, plainRows, type RowKind } from '../testing/cache-rows.ts'
import type { Bench, OpCase, Output } from '../testing/case.ts'
import { type Estimate, joined, type Matrix } from '../testing/estimate.ts'
import { generateValues } from '../testing/generate.ts'
import { attend } from '../testing/oracle/attend.ts'
import { frequenciesOf, turn } from '../testing/oracle/transforms.ts'
import {
  endOf,
  entriesVisible,
  nameOf,
  Ragged,
  type RaggedRow,
  type Segment,
} from '../testing/ragged.ts'
import { attention, type CompressedKeys } from './attention.ts'

// Bound: scores as dot products over the head, exp makes their errors relative ones of the weights,
// two sums and a division follow (`attend`), then the rotation. The window is moved bitwise.

interface Parameters {
  readonly segments: readonly Segment[]
  readonly heads: number
  readonly head: number
  readonly rotated: number
  readonly window: number
  /** Rows of the ring beyond the window − 1 that must be there. */
  readonly spare?: number
  readonly compressed?: {
    readonly ratio: number
    /** How many entries each row attends to at most; absent: all that are visible. */
    readonly topK?: number
  }
  /** Added to every sink: large ones take nearly all of the softmax. */
  readonly sink?: number
  /** Of queries: 4 makes scores far apart, so that few keys take all. */
  readonly sharpness?: number
  /** Window and entries in compact rows. */
  readonly compact?: boolean
  readonly size?: OpCase['size']
}

function attentionCase(parameters: Parameters): OpCase {
  const { segments, heads, head, rotated, window, compressed } = parameters
  const { spare = 3, sink = 0, sharpness = 1, compact = false, size = 'toy' } = parameters
  const ring = window - 1 + spare
  const kind =
    compressed === undefined
      ? ''
      : ` ratio=${compressed.ratio} ${compressed.topK === undefined ? 'all' : `top=${compressed.topK}`}`
  return {
    op: 'attention',
    name:
      `rows=[${nameOf(segments)}] heads=${heads} head=${head} rotated=${rotated} ` +
      `window=${window} ring=${ring}${kind} sink=${sink} sharpness=${sharpness}` +
      (compact ? ' compact' : ''),
    size,
    compactRows: compact,
    prepare(bench) {
      const { random, numerics } = bench
      const batch = new Ragged(bench, segments)
      const rows = batch.rows.length
      const kind = compact ? compactKeyRows(head, rotated) : plainRows(bench.formats.keys, head)
      const keys = new WindowKeys(bench, batch, { window, ring, kind, head })
      const entries = placeEntries(bench, batch, { head, kind, pick: compressed })
      const drawn = generateValues(random, rows * heads * head, 'normal')
      const queryValues = drawn.map((value) => value * sharpness)
      const queries = bench.activation('queries', [rows, heads, head], queryValues)
      const sinkValues = generateValues(random, heads, 'normal').map((value) => value + sink)
      const sinks = bench.f32('sink', [heads], sinkValues)
      const angles = frequenciesOf(rotated / 2, 10_000)
      const output = bench.outputActivation('output', [rows, heads, head])
      const scale = head ** -0.5
      const args = {
        queries: queries.tensor,
        keys: keys.batchTensor,
        window: keys.ring.tensor,
        windowSize: window,
        compressed: entries.tensors,
        sink: sinks.tensor,
        frequencies: bench.f32('frequencies', [rotated / 2], angles).tensor,
        rows: batch.rowsTensor,
        pages: batch.pagesTensor,
        scale,
        output: output.tensor,
      }
      return {
        run: () => attention(bench.device, args),
        check() {
          const expected = batch.rows.flatMap((row, index) => {
            const seen = matrixOf([...keys.visible(row), ...entries.visible(index)], head)
            return Array.from({ length: heads }, (_, h): Estimate => {
              const at = (index * heads + h) * head
              const query = queries.values.subarray(at, at + head)
              const sinkLogit = sinks.values[h] ?? 0
              const mixed = attend(query, seen, { scale, sink: sinkLogit }, numerics)
              return turn(mixed, angles, -row.position, numerics)
            })
          })
          bench.expectReals(output, joined(expected))
          keys.checkRing()
        },
      }
    },
  }
}

function matrixOf(keys: readonly Float64Array[], width: number): Matrix {
  const values = new Float64Array(keys.length * width)
  for (const [j, key] of keys.entries()) values.set(key, j * width)
  return { values, rows: keys.length, width }
}

interface WindowShape {
  readonly window: number
  readonly ring: number
  readonly kind: RowKind
  readonly head: number
}

/** Every sequence's keys by position; older than any row of the step may see are rubbish. */
class WindowKeys {
  readonly ring: Output
  readonly batchTensor: Tensor
  readonly #bench: Bench
  readonly #batch: Ragged
  readonly #shape: WindowShape
  readonly #rows: CacheRows
  readonly #keys = new Map<number, Map<number, Float64Array>>()

  constructor(bench: Bench, batch: Ragged, shape: WindowShape) {
    const { window, ring, kind, head } = shape
    this.#bench = bench
    this.#batch = batch
    this.#shape = shape
    this.#rows = new CacheRows(kind, [batch.slotCount, ring])
    for (const { slot, start } of batch.segments) {
      const keys = new Map<number, Float64Array>()
      for (let position = Math.max(0, start - window + 1); position < start; position++) {
        const drawn = generateValues(bench.random, head, 'normal')
        keys.set(position, this.#rows.put(this.#place(slot, position), drawn))
      }
      this.#keys.set(slot, keys)
    }
    this.batchTensor = this.#placeOwn()
    this.ring = this.#rows.asChanging(bench, 'window')
  }

  /** Keys of the window of one row, oldest first. */
  visible({ segment, position }: RaggedRow): readonly Float64Array[] {
    const first = Math.max(0, position - this.#shape.window + 1)
    return Array.from({ length: position - first + 1 }, (_, i) => {
      const key = this.#keys.get(segment.slot)?.get(first + i)
      if (key === undefined) throw new RangeError(`no key at ${first + i}`)
      return key
    })
  }

  /** Each segment's last keys lie at their positions modulo ring; everything else is as it was. */
  checkRing(): void {
    const { ring, kind } = this.#shape
    const written = new Map<number, Float64Array>()
    for (const segment of this.#batch.segments) {
      const end = endOf(segment)
      for (let position = Math.max(segment.start, end - ring); position < end; position++) {
        const key = this.#keys.get(segment.slot)?.get(position) ?? new Float64Array()
        written.set(this.#place(segment.slot, position), kind.decode(kind.encode(key)))
      }
    }
    this.#rows.expect(this.#bench, this.ring, written)
  }

  /** The step's own keys: as they are given or, beside compact rows, what one keeps of them. */
  #placeOwn(): Tensor {
    const { head, kind } = this.#shape
    const { rows } = this.#batch
    const drawn = generateValues(this.#bench.random, rows.length * head, 'normal')
    const given = this.#bench.activation('keys', [rows.length, head], drawn)
    for (const [row, { segment, position }] of rows.entries()) {
      const key = given.values.subarray(row * head, (row + 1) * head)
      const seen = kind.dtype === 'u8' ? kind.decode(kind.encode(key)) : key
      this.#keys.get(segment.slot)?.set(position, seen)
    }
    return given.tensor
  }

  #place(slot: number, position: number): number {
    const { ring } = this.#shape
    return slot * ring + (position % ring)
  }
}

interface Entries {
  readonly tensors: CompressedKeys | null
  /** Entries of one row, in ascending order. */
  visible(row: number): readonly Float64Array[]
}

interface EntryParameters {
  readonly head: number
  readonly kind: RowKind
  readonly pick: Parameters['compressed']
}

/** Entries that some row attends to hold values, all others rubbish. */
function placeEntries(bench: Bench, batch: Ragged, parameters: EntryParameters): Entries {
  const { head, kind, pick } = parameters
  if (pick === undefined) return { tensors: null, visible: () => [] }
  const { ratio, topK } = pick
  const picks = batch.rows.map(({ position }) => {
    const visible = entriesVisible(position, ratio)
    if (topK === undefined) return Array.from({ length: visible }, (_, entry) => entry)
    const some = bench.random.permutation(visible).slice(0, topK)
    return some.toSorted((a, b) => a - b)
  })
  const places = batch.rows.map(({ segment }, row) =>
    (picks[row] ?? []).map((entry) => batch.entryPlace(segment.slot, entry, ratio)),
  )
  const rows = new CacheRows(kind, [batch.pageCount, pageTokens / ratio])
  const stored = new Map<number, Float64Array>()
  for (const at of new Set(places.flat())) {
    stored.set(at, rows.put(at, generateValues(bench.random, head, 'normal')))
  }
  const entries = rows.asInput(bench, 'entries')
  const visible = (row: number): readonly Float64Array[] =>
    (places[row] ?? []).map((at) => stored.get(at) ?? new Float64Array())
  if (topK === undefined) return { tensors: { entries, ratio, selected: null }, visible }
  const padded = picks.flatMap((own) => Array.from({ length: topK }, (_, i) => own[i] ?? -1))
  const selected = bench.i32('selected', [batch.rows.length, topK], padded)
  return { tensors: { entries, ratio, selected }, visible }
}

/** A prompt's start, a decode step behind a full ring, a chunk longer than the window, one row of a young sequence. */
const mixed: readonly Segment[] = [
  { slot: 2, start: 0, count: 6 },
  { slot: 0, start: 300, count: 1 },
  { slot: 3, start: 41, count: 23 },
  { slot: 1, start: 2, count: 1 },
]

const toy = { heads: 4, head: 128, rotated: 64, window: 16 } as const

export const attentionCases: readonly OpCase[] = [
  attentionCase({ ...toy, segments: [] }),
  attentionCase({ ...toy, segments: [{ slot: 0, start: 0, count: 1 }] }),
  attentionCase({ ...toy, segments: mixed }),
  attentionCase({ ...toy, segments: mixed, spare: 0 }),
  attentionCase({ ...toy, segments: mixed, compressed: { ratio: 4 } }),
  attentionCase({ ...toy, segments: mixed, compressed: { ratio: 16 }, spare: 40 }),
  attentionCase({ ...toy, segments: mixed, compressed: { ratio: 4, topK: 8 } }),
  attentionCase({ ...toy, segments: mixed, compressed: { ratio: 4, topK: 100 } }),
  attentionCase({ ...toy, segments: mixed, compressed: { ratio: 128 } }),
  attentionCase({ ...toy, segments: mixed, sink: 12 }),
  attentionCase({ ...toy, segments: mixed, sink: -30, compressed: { ratio: 16 } }),
  attentionCase({ ...toy, segments: mixed, sharpness: 8, compressed: { ratio: 4, topK: 8 } }),
  attentionCase({ ...toy, segments: mixed, compact: true }),
  attentionCase({ ...toy, segments: mixed, compact: true, compressed: { ratio: 16 } }),
  attentionCase({ ...toy, segments: mixed, compact: true, compressed: { ratio: 4, topK: 8 } }),
  attentionCase({
    segments: mixed,
    heads: 2,
    head: 256,
    rotated: 64,
    window: 16,
    spare: 0,
    compact: true,
  }),
  attentionCase({
    segments: mixed,
    heads: 1,
    head: 70,
    rotated: 6,
    window: 5,
    compressed: { ratio: 8 },
  }),
  attentionCase({ segments: mixed, heads: 3, head: 64, rotated: 64, window: 1, spare: 1 }),
  attentionCase({ ...toy, segments: [{ slot: 0, start: 1_048_575, count: 1 }] }),
  attentionCase({
    segments: [{ slot: 0, start: 2600, count: 1 }],
    heads: 64,
    head: 512,
    rotated: 64,
    window: 128,
    compressed: { ratio: 4, topK: 512 },
    size: 'real',
  }),
  attentionCase({
    segments: [{ slot: 0, start: 8200, count: 2 }],
    heads: 64,
    head: 512,
    rotated: 64,
    window: 128,
    compressed: { ratio: 128 },
    size: 'real',
  }),
  attentionCase({
    segments: [{ slot: 0, start: 2600, count: 1 }],
    heads: 8,
    head: 512,
    rotated: 64,
    window: 128,
    compressed: { ratio: 4, topK: 512 },
    compact: true,
    size: 'real',
  }),
  attentionCase({
    segments: [{ slot: 0, start: 4100, count: 1 }],
    heads: 128,
    head: 512,
    rotated: 64,
    window: 128,
    compressed: { ratio: 4, topK: 200 },
    size: 'real',
  }),
  attentionCase({
    segments: [{ slot: 0, start: 4100, count: 1 }],
    heads: 16,
    head: 512,
    rotated: 64,
    window: 128,
    compressed: { ratio: 4, topK: 1024 },
    size: 'real',
  }),
]
