import { pageTokens } from '../batch.ts'
import { CacheRows, compactIndexRows, compactKeyRows, plainRows } from '../testing/cache-rows.ts'
import type { Bench, OpCase, Output } from '../testing/case.ts'
import { type Estimate, exactly } from '../testing/estimate.ts'
import { generateValues } from '../testing/generate.ts'
import { fp4Index, fp8Keys } from '../testing/oracle/formats.ts'
import { softmaxMix } from '../testing/oracle/softmax.ts'
import { frequenciesOf, hadamard, normalise, turn } from '../testing/oracle/transforms.ts'
import { endOf, entriesVisible, nameOf, Ragged, type Segment } from '../testing/ragged.ts'
import { compress } from './compress.ts'

// Bound: each channel is a softmax over span·ratio rows (`softmaxMix`), then norm, rotation and for
// the index the Hadamard transform. Rounded entries may take a neighbouring value where a boundary
// lies within that. Rings and entries that no row completes keep their bits.

interface Parameters {
  readonly segments: readonly Segment[]
  readonly ratio: number
  readonly span: number
  readonly width: number
  readonly rotated: number
  readonly use: 'keys' | 'index'
  readonly quantise?: boolean
  /** Rows of a ring beyond those one entry needs. */
  readonly spare?: number
  /** Entries in compact rows. */
  readonly compact?: boolean
  readonly size?: OpCase['size']
}

const eps = 1e-6

function compressCase(parameters: Parameters): OpCase {
  const { segments, ratio, span, width, rotated, use } = parameters
  const { quantise = false, spare = 3, compact = false, size = 'toy' } = parameters
  const shape = { ratio, span, width, ring: span * ratio + spare }
  return {
    op: 'compress',
    name:
      `${use} rows=[${nameOf(segments)}] ratio=${ratio} span=${span} width=${width} ` +
      `rotated=${rotated} ring=${shape.ring}${quantise ? ' quantise' : ''}${compact ? ' compact' : ''}`,
    size,
    compactRows: compact,
    prepare(bench) {
      const { numerics, random } = bench
      const raw = new RawRows(bench, new Ragged(bench, segments), shape)
      const weight = generateValues(random, width, 'normal').map((value) => 1 + 0.2 * value)
      const norm = bench.input('norm', 'bf16', [width], weight)
      const angles = frequenciesOf(rotated / 2, 160_000)
      const cache = placeEntries(bench, raw.batch, parameters)
      const entries = cache.asChanging(bench, 'entries')
      const args = {
        ...raw.tensors,
        norm: norm.tensor,
        frequencies: bench.f32('frequencies', [rotated / 2], angles).tensor,
        entries: entries.tensor,
        ratio,
        span,
        use,
        quantise,
        eps,
      }
      const finish = (pooled: Estimate, position: number): Estimate => {
        const normed = normalise(pooled, norm.values, eps, numerics)
        const turned = turn(normed, angles, position, numerics)
        return use === 'index' ? hadamard(turned, numerics) : turned
      }
      const format = quantise ? (use === 'index' ? fp4Index : fp8Keys) : null
      const plain = use === 'index' ? width : width - rotated
      return {
        run: () => compress(bench.device, args),
        check() {
          const written = new Set<number>()
          for (const { segment, position } of raw.batch.rows) {
            if ((position + 1) % ratio !== 0) continue
            const entry = (position + 1) / ratio - 1
            const place = raw.batch.entryPlace(segment.slot, entry, ratio)
            const expected = finish(raw.pooled(segment, position), entry * ratio)
            const got = cache.read(bench, entries, place)
            const at = place * cache.kind.extent
            bench.expectRow(entries, got, expected, { at, plain, format, compact })
            written.add(place)
          }
          bench.expectElsewhere(entries, written, cache.kind.extent)
          raw.checkRings()
        },
      }
    },
  }
}

/** Entries that earlier steps completed hold values, all others rubbish. */
function placeEntries(bench: Bench, batch: Ragged, parameters: Parameters): CacheRows {
  const { ratio, width, rotated, use, compact = false } = parameters
  const plain = plainRows(use === 'keys' ? bench.formats.keys : bench.formats.indexKeys, width)
  const small = use === 'keys' ? compactKeyRows(width, rotated) : compactIndexRows(width)
  const rows = new CacheRows(compact ? small : plain, [batch.pageCount, pageTokens / ratio])
  for (const { slot, start } of batch.segments) {
    for (let entry = 0; entry < entriesVisible(start - 1, ratio); entry++) {
      const drawn = generateValues(bench.random, width, 'normal')
      rows.put(batch.entryPlace(slot, entry, ratio), drawn)
    }
  }
  return rows
}

interface RawShape {
  readonly ratio: number
  readonly span: number
  readonly width: number
  readonly ring: number
}

/** Every sequence's raw rows by position, whether they come with the batch or lie in a ring. */
class RawRows {
  readonly batch: Ragged
  readonly #bench: Bench
  readonly #shape: RawShape
  readonly #channels: number
  readonly #ape: Float64Array
  /** By slot, then position. */
  readonly #rows: ReadonlyMap<number, ReadonlyMap<number, RawRow>>
  readonly #rings: Readonly<Record<'values' | 'scores', Output>>
  readonly tensors

  constructor(bench: Bench, batch: Ragged, shape: RawShape) {
    this.batch = batch
    this.#bench = bench
    this.#shape = shape
    this.#channels = shape.span * shape.width
    this.#rows = new Map(batch.segments.map((segment) => [segment.slot, this.#history(segment)]))
    const { ratio } = shape
    const ape = bench.f32(
      'ape',
      [ratio, this.#channels],
      generateValues(bench.random, ratio * this.#channels, 'normal'),
    )
    this.#ape = ape.values
    this.#rings = { values: this.#placeRing('values'), scores: this.#placeRing('scores') }
    this.tensors = {
      values: this.#placeBatch('values'),
      scores: this.#placeBatch('scores'),
      ape: ape.tensor,
      rows: batch.rowsTensor,
      pages: batch.pagesTensor,
      valueRing: this.#rings.values.tensor,
      scoreRing: this.#rings.scores.tensor,
    }
  }

  /** What the block that ends at `position` is pooled to. */
  pooled({ slot }: Segment, position: number): Estimate {
    const { ratio, span, width } = this.#shape
    const result = exactly(new Float64Array(width))
    const list = Array.from({ length: span * ratio }, (_, i) => position - span * ratio + 1 + i)
    for (let channel = 0; channel < width; channel++) {
      const terms = list.flatMap((from, i) => {
        const row = this.#rows.get(slot)?.get(from)
        if (from < 0 || row === undefined) return []
        const at = (span === 2 && i >= ratio ? width : 0) + channel
        const ape = this.#ape[(from % ratio) * this.#channels + at] ?? 0
        const score = row.scores[at] ?? 0
        const size = Math.abs(score) + Math.abs(ape)
        return [{ score: score + ape, size, value: row.values[at] ?? 0 }]
      })
      const mixed = softmaxMix(terms, this.#bench.numerics)
      result.value[channel] = mixed.value
      result.certain[channel] = mixed.certain
    }
    return result
  }

  /** Each segment's last rows lie at their positions modulo ring; everything else is as it was. */
  checkRings(): void {
    for (const name of ['values', 'scores'] as const) {
      const ring = this.#rings[name]
      const expected = this.#ringBefore(name)
      for (const { slot, start, count } of this.batch.segments) {
        const first = Math.max(start, start + count - this.#shape.ring)
        for (let position = first; position < start + count; position++) {
          const row = this.#rows.get(slot)?.get(position)
          if (row !== undefined) expected.set(row[name], this.#ringPlace(slot, position))
        }
      }
      this.#bench.expectValues(ring, expected)
    }
  }

  /** Rows from the oldest that any block of the step may need; older ones are gone. */
  #history(segment: Segment): ReadonlyMap<number, RawRow> {
    const { ratio, span } = this.#shape
    const firstBlock = Math.ceil((segment.start + 1) / ratio) * ratio
    const rows = new Map<number, RawRow>()
    for (let at = Math.max(0, firstBlock - span * ratio); at < endOf(segment); at++) {
      const draw = (): Float64Array =>
        generateValues(this.#bench.random, this.#channels, 'normal').map(Math.fround)
      rows.set(at, { values: draw(), scores: draw().map((score) => Math.fround(2 * score)) })
    }
    return rows
  }

  #placeBatch(name: 'values' | 'scores') {
    const list = this.batch.rows.flatMap(({ segment, position }) => [
      ...(this.#rows.get(segment.slot)?.get(position)?.[name] ?? []),
    ])
    return this.#bench.f32(name, [this.batch.rows.length, this.#channels], list).tensor
  }

  #placeRing(name: 'values' | 'scores'): Output {
    const { ring } = this.#shape
    const shape = [this.batch.slotCount, ring, this.#channels]
    const label = name === 'values' ? 'valueRing' : 'scoreRing'
    return this.#bench.changing(label, 'f32', shape, this.#ringBefore(name))
  }

  #ringBefore(name: 'values' | 'scores'): Float64Array {
    const { ring } = this.#shape
    const values = new Float64Array(this.batch.slotCount * ring * this.#channels).fill(Number.NaN)
    for (const { slot, start } of this.batch.segments) {
      for (const [position, row] of this.#rows.get(slot) ?? []) {
        if (position < start) values.set(row[name], this.#ringPlace(slot, position))
      }
    }
    return values
  }

  #ringPlace(slot: number, position: number): number {
    const { ring } = this.#shape
    return (slot * ring + (position % ring)) * this.#channels
  }
}

interface RawRow {
  readonly values: Float64Array
  readonly scores: Float64Array
}

/** A prompt's beginning, a chunk that starts inside a block, a token that completes one, one that does not. */
const ragged = (ratio: number): readonly Segment[] => [
  { slot: 2, start: 0, count: 2 * ratio + 1 },
  { slot: 0, start: 3 * ratio - 1, count: 1 },
  { slot: 4, start: 5 * ratio + 1, count: ratio + 1 },
  { slot: 1, start: 2 * ratio, count: 1 },
]

const csa = { ratio: 4, span: 2, width: 128, rotated: 64 } as const
const hca = { ratio: 16, span: 1, width: 128, rotated: 64 } as const

export const compressCases: readonly OpCase[] = [
  compressCase({ ...csa, segments: [], use: 'keys' }),
  compressCase({ ...csa, segments: [{ slot: 0, start: 0, count: 1 }], use: 'keys' }),
  compressCase({ ...csa, segments: [{ slot: 0, start: 0, count: 4 }], use: 'keys', spare: 0 }),
  ...(['keys', 'index'] as const).flatMap((use) =>
    [false, true].flatMap((quantise) => [
      compressCase({ ...csa, segments: ragged(4), use, quantise }),
      compressCase({ ...hca, segments: ragged(16), use, quantise }),
    ]),
  ),
  ...(['keys', 'index'] as const).flatMap((use) => [
    compressCase({ ...csa, segments: ragged(4), use, quantise: true, compact: true }),
    compressCase({ ...hca, segments: ragged(16), use, quantise: true, compact: true }),
  ]),
  // A chunk longer than its ring, and a page's last entry beside the next page's first.
  compressCase({ ...csa, segments: [{ slot: 1, start: 250, count: 21 }], use: 'keys', spare: 1 }),
  compressCase({ ...csa, segments: [{ slot: 1, start: 1021, count: 19 }], use: 'index', spare: 0 }),
  compressCase({ ...hca, segments: [{ slot: 0, start: 1, count: 47 }], use: 'keys', spare: 0 }),
  compressCase({
    segments: ragged(8),
    ratio: 8,
    span: 1,
    width: 72,
    rotated: 8,
    use: 'keys',
    quantise: true,
  }),
  compressCase({
    segments: [{ slot: 0, start: 65_532, count: 4 }],
    ratio: 4,
    span: 2,
    width: 64,
    rotated: 32,
    use: 'index',
    quantise: true,
  }),
  compressCase({
    segments: [{ slot: 0, start: 2043, count: 1 }],
    ratio: 4,
    span: 2,
    width: 512,
    rotated: 64,
    use: 'keys',
    quantise: true,
    spare: 8,
    size: 'real',
  }),
  compressCase({
    segments: [{ slot: 0, start: 2043, count: 5 }],
    ratio: 4,
    span: 2,
    width: 128,
    rotated: 64,
    use: 'index',
    quantise: true,
    size: 'real',
  }),
  compressCase({
    segments: [
      { slot: 1, start: 127, count: 1 },
      { slot: 0, start: 300, count: 90 },
    ],
    ratio: 128,
    span: 1,
    width: 512,
    rotated: 64,
    use: 'keys',
    quantise: true,
    size: 'real',
  }),
]
