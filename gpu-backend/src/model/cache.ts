import { strict as assert } from 'node:assert'
import type { Device } from '../device/device.ts'
import { type DType, type Tensor, tensorBytes } from '../device/tensor.ts'
import { pageTokens } from '../kernels/batch.ts'
import {
  type CompactLayout,
  compactRowBytes,
  keyLayout,
  rowWidth,
} from '../kernels/numerics/compact-rows.ts'
import { ModelError } from './error.ts'
import type { CacheCapacity } from './model.ts'
import { Pool, type PooledTensor } from './pool.ts'
import { decodePrefix, encodePrefix } from './prefix-bytes.ts'
import { type LayerShape, type ModelShape, poolSpan } from './shape.ts'
import { Snapshots } from './snapshots.ts'

/** A compressor's memory: raw rows of blocks that are not complete, and the entries of those that are. */
export interface CompressorCache {
  readonly values: PooledTensor
  readonly scores: PooledTensor
  readonly entries: PooledTensor
}

export interface LayerCache {
  readonly window: PooledTensor
  readonly compressor: CompressorCache | null
  readonly index: CompressorCache | null
}

export interface CacheLimits {
  readonly sequencesMax: number
  /** Over all sequences and prefixes; counted in whole pages. */
  readonly tokensMax: number
  /** Positions a sequence may be taken back by; head-room of every ring. */
  readonly rollbackMax: number
  /** Prefixes that may be kept at a time. */
  readonly prefixesMax: number
}

/**
 * `plain`: keys as the device's own numbers. `compact`: in the codes and scales they are rounded to,
 * 584 bytes for a key of 512 and 68 for an index key of 128; needs quantisation.
 */
export type CacheRows = 'plain' | 'compact'

/** One sequence's place in the cache. Only `Cache` and the model change it. */
export class CachedSequence {
  readonly maxTokens: number
  readonly slot: number
  readonly pages: number[] = []
  /** Tokens in the cache. */
  length = 0
  /** The longest it has been: rings hold rows behind this, whatever `length` is now. */
  furthest = 0
  /** Tokens that share their pages with a prefix: it is never taken back behind them. */
  sharedLength = 0
  /** Positions whose rows the draft block has seen, those guessed from its own guesses not counted. */
  draftLength = 0
  /** The draft block's last row of the prefix it started behind is still to be run. */
  boundaryPending = false
  released = false

  constructor(slot: number, maxTokens: number) {
    this.slot = slot
    this.maxTokens = maxTokens
  }
}

/** The whole pages of some tokens and a snapshot of the rings behind them. Only `Cache` changes it. */
export class KeptPrefix {
  /** Tokens; a multiple of `pageTokens`. */
  readonly length: number
  /** Whether the draft block's state is there too. */
  readonly drafted: boolean
  readonly place: number
  readonly pages: readonly number[]
  dropped = false

  constructor(parts: Pick<KeptPrefix, 'length' | 'drafted' | 'place' | 'pages'>) {
    this.length = parts.length
    this.drafted = parts.drafted
    this.place = parts.place
    this.pages = parts.pages
  }
}

/** A sequence, and how many tokens it is to have room for. */
export interface Growth {
  readonly sequence: CachedSequence
  readonly length: number
}

const firstSlots = 4
const firstPages = 8

/**
 * State of all sequences on the device. What a sequence needs whatever its length (window, raw
 * compressor rows) lies in its slot of a ring addressed by absolute position, so that taking back a
 * few tokens moves nothing; compressed entries lie in pages of 256 tokens, one page number serving
 * every layer. A page that is full never changes, so that sequences and prefixes share it.
 */
export class Cache {
  readonly layers: readonly LayerCache[]
  /** The draft block's, where it is loaded. */
  readonly draft: LayerCache | null
  /**
   * `[slots, 1, streams · hidden]`, with the draft block: streams of the latest row that ended a
   * page. The draft block's row there depends on the token behind the page, which a prefix does not
   * have; it is run again with that token when a sequence goes on from the prefix.
   */
  readonly boundaryStreams: PooledTensor | null
  readonly limits: CacheLimits
  readonly #device: Device
  readonly #slots: Pool
  readonly #pages: Pool
  readonly #pageTable: PooledTensor
  readonly #pagesPerSequence: number
  readonly #contextMax: number
  readonly #rows: CacheRows
  readonly #snapshots: Snapshots

  constructor(
    device: Device,
    shape: ModelShape,
    options: { readonly limits: CacheLimits; readonly draft: boolean; readonly rows?: CacheRows },
  ) {
    const { limits } = options
    this.#device = device
    this.limits = limits
    this.#rows = options.rows ?? 'plain'
    this.#contextMax = shape.maxPositionEmbeddings
    this.#pagesPerSequence = pagesFor(shape.maxPositionEmbeddings)
    this.#slots = new Pool(device, { first: firstSlots, max: limits.sequencesMax })
    this.#pages = new Pool(device, {
      first: firstPages,
      max: Math.floor(limits.tokensMax / pageTokens),
    })
    this.#snapshots = new Snapshots(device, limits.prefixesMax)
    this.#pageTable = this.#slots.add({
      label: 'page table',
      dtype: 'i32',
      item: [this.#pagesPerSequence],
    })
    this.layers = shape.layers.map((layer) => this.#layerCache(shape, layer))
    this.draft = options.draft && shape.mtp !== null ? this.#layerCache(shape, shape.mtp) : null
    this.boundaryStreams = this.draft === null ? null : this.#boundaryStreams(shape)
  }

  /** What the bytes of a prefix are made of. */
  get #layout(): string {
    return JSON.stringify({ snapshot: this.#snapshots.kinds, page: this.#pages.kinds })
  }

  /** i32 `[slots, pages a sequence]`. */
  get pageTable(): Tensor {
    return this.#pageTable.tensor
  }

  capacity(): CacheCapacity {
    const { slots, pages, snapshots } = this.bytes()
    return {
      pageTokens,
      pagesFree: this.#pages.left,
      pagesMax: this.#pages.max,
      sequencesUsed: this.#slots.used,
      sequencesMax: this.#slots.max,
      prefixesFree: this.#snapshots.left,
      prefixesMax: this.#snapshots.max,
      bytesAllocated: slots + pages + snapshots,
    }
  }

  /** Allocates all that the limits allow, so that nothing is missing once it is needed. */
  reserve(): void {
    for (const pool of [this.#slots, this.#pages, this.#snapshots]) pool.reserve()
  }

  /** Has its tensors before there is a sequence: a device may help others before it has one. */
  start(): void {
    for (const pool of [this.#slots, this.#pages]) pool.start()
  }

  /** Bytes of what is there by sequence (the page table among them), by page, and by kept prefix. */
  bytes(): { readonly slots: number; readonly pages: number; readonly snapshots: number } {
    return {
      slots: this.#slots.allocatedBytes,
      pages: this.#pages.allocatedBytes,
      snapshots: this.#snapshots.allocatedBytes,
    }
  }

  /** Takes a slot; pages are taken as the sequence grows. `from`: starts behind that prefix. */
  create(maxTokens: number, from: KeptPrefix | null = null): CachedSequence {
    assert(Number.isSafeInteger(maxTokens) && maxTokens > 0, 'maxTokens is a positive count')
    assert((from?.length ?? 0) <= maxTokens, 'a sequence has room for the prefix it starts behind')
    if (maxTokens > this.#contextMax) {
      throw new ModelError(
        'context_exceeded',
        `${maxTokens} tokens exceed the model's context of ${this.#contextMax}`,
      )
    }
    if (this.#slots.left === 0) {
      throw new ModelError('cache_full', `all ${this.#slots.max} sequences are in use`)
    }
    const sequence = new CachedSequence(this.#slots.take(), maxTokens)
    if (from !== null) this.#startBehind(sequence, from)
    return sequence
  }

  /** Throws `ModelError` `context_exceeded` or `cache_full` unless `grow` has room for all of these. */
  checkRoom(growths: readonly Growth[]): void {
    let pages = 0
    for (const { sequence, length } of growths) {
      if (length > sequence.maxTokens) {
        throw new ModelError(
          'context_exceeded',
          `a sequence of at most ${sequence.maxTokens} tokens cannot hold ${length}`,
        )
      }
      pages += Math.max(0, pagesFor(length) - sequence.pages.length)
    }
    const { left, max } = this.#pages
    if (pages > left) {
      throw new ModelError(
        'cache_full',
        `the step takes ${pages} pages of the cache; ${left} of ${max} are left`,
      )
    }
  }

  /** Maps pages for the sequence's first `length` tokens. */
  grow(sequence: CachedSequence, length: number): void {
    this.checkRoom([{ sequence, length }])
    const first = sequence.pages.length
    while (sequence.pages.length < pagesFor(length)) sequence.pages.push(this.#pages.take())
    this.#writePages(sequence, first)
  }

  /** Entries past the new length stop being visible by rule, and rings still hold what is needed. */
  rollback(sequence: CachedSequence, length: number): void {
    const { rollbackMax } = this.limits
    assert(
      Number.isSafeInteger(length) && length >= 0 && length <= sequence.length,
      `a sequence of ${sequence.length} tokens is taken back to 0…${sequence.length}, not ${length}`,
    )
    assert(
      sequence.furthest - length <= rollbackMax,
      `position ${length} is more than ${rollbackMax} behind ${sequence.furthest}`,
    )
    assert(
      length >= sequence.sharedLength,
      `the first ${sequence.sharedLength} tokens are shared with a prefix and stay`,
    )
    sequence.length = length
    sequence.draftLength = Math.min(sequence.draftLength, length)
    for (const page of sequence.pages.splice(pagesFor(length))) this.#pages.give(page)
  }

  release(sequence: CachedSequence): void {
    assert(!sequence.released, 'a sequence is released once')
    sequence.released = true
    for (const page of sequence.pages) this.#pages.give(page)
    this.#slots.give(sequence.slot)
  }

  /** Keeps all tokens of a sequence, which fill whole pages. Null when no place is left. */
  keep(sequence: CachedSequence): KeptPrefix | null {
    const { length, slot, furthest, draftLength } = sequence
    assert(
      length > 0 && length % pageTokens === 0,
      `${length} tokens are no whole pages of ${pageTokens}; only those are kept`,
    )
    assert(
      furthest - length <= this.limits.rollbackMax,
      'a sequence whose step failed half-way cannot be kept; release it',
    )
    if (this.#snapshots.left === 0) return null
    const place = this.#snapshots.take()
    this.#snapshots.save(place, { slot, length })
    const pages = sequence.pages.slice(0, pagesFor(length))
    for (const page of pages) this.#pages.share(page)
    const fresh = sequence.boundaryPending && length === sequence.sharedLength
    const drafted = this.draft !== null && (fresh || draftLength === length)
    sequence.sharedLength = length
    return new KeptPrefix({ length, drafted, place, pages })
  }

  drop(prefix: KeptPrefix): void {
    assert(!prefix.dropped, 'a prefix is dropped once')
    prefix.dropped = true
    for (const page of prefix.pages) this.#pages.give(page)
    this.#snapshots.give(prefix.place)
  }

  /** Bytes that `read` would give, or nearly. */
  sizeOf({ pages }: KeptPrefix): number {
    return this.#snapshots.bytesEach + pages.length * this.#pages.itemBytes
  }

  /** All that is kept of a prefix, read off the device. */
  read(prefix: KeptPrefix): Uint8Array {
    const { length, drafted } = prefix
    const tensors = this.#tensorsOf(prefix)
    const contents = new Uint8Array(totalBytes(tensors))
    let at = 0
    for (const tensor of tensors) {
      const into = contents.subarray(at, at + tensorBytes(tensor))
      this.#device.read(tensor.buffer, tensor.byteOffset, into)
      at += into.length
    }
    return encodePrefix(this.#layout, { length, drafted, contents })
  }

  /** Makes bytes that `read` gave a prefix again. Null when no place or too few pages are left. */
  write(bytes: Uint8Array): KeptPrefix | null {
    const { length, drafted, contents } = decodePrefix(this.#layout, bytes)
    const count = length / pageTokens
    if (this.#snapshots.left === 0 || this.#pages.left < count) return null
    const place = this.#snapshots.take()
    const pages = Array.from({ length: count }, () => this.#pages.take())
    const prefix = new KeptPrefix({ length, drafted, place, pages })
    const tensors = this.#tensorsOf(prefix)
    assert.equal(contents.length, totalBytes(tensors), 'a checked prefix is complete')
    let at = 0
    for (const tensor of tensors) {
      const from = contents.subarray(at, at + tensorBytes(tensor))
      this.#device.write(tensor.buffer, tensor.byteOffset, from)
      at += from.length
    }
    return prefix
  }

  close(): void {
    this.#slots.close()
    this.#pages.close()
    this.#snapshots.close()
  }

  #tensorsOf({ place, pages }: KeptPrefix): readonly Tensor[] {
    return [
      ...this.#snapshots.tensorsOf(place),
      ...pages.flatMap((page) => this.#pages.tensorsOf(page)),
    ]
  }

  /** Shares the prefix's pages and copies its rings. */
  #startBehind(sequence: CachedSequence, { length, drafted, place, pages }: KeptPrefix): void {
    for (const page of pages) this.#pages.share(page)
    sequence.pages.push(...pages)
    this.#writePages(sequence, 0)
    this.#snapshots.restore(place, { slot: sequence.slot, length })
    sequence.length = length
    sequence.furthest = length
    sequence.sharedLength = length
    sequence.draftLength = drafted ? length - 1 : 0
    sequence.boundaryPending = drafted
  }

  /** Tells the device a sequence's pages from number `first` on. */
  #writePages(sequence: CachedSequence, first: number): void {
    const pages = Int32Array.from(sequence.pages.slice(first))
    if (pages.length === 0) return
    const at = sequence.slot * this.#pagesPerSequence + first
    const bytes = new Uint8Array(pages.buffer)
    this.#device.write(this.pageTable.buffer, at * Int32Array.BYTES_PER_ELEMENT, bytes)
  }

  #layerCache(shape: ModelShape, layer: LayerShape): LayerCache {
    const { windowSize, headDim, indexHeadDim } = shape
    const key = this.#rowKind(keyLayout(headDim, shape.ropeDim))
    const indexKey = this.#rowKind({ kind: 'index', width: indexHeadDim })
    const window = this.#slots.add({
      label: `${layer.name} window`,
      dtype: key.dtype,
      item: [windowSize + this.limits.rollbackMax, key.extent],
    })
    // A row sees those of the `windowSize` − 1 positions before it. One more is kept, for the row
    // of the draft block that is run again.
    this.#snapshots.keep(window, windowSize)
    return {
      window,
      compressor: layer.kind === 'swa' ? null : this.#compressorCache(layer, 'compressor', key),
      index: layer.kind === 'csa' ? this.#compressorCache(layer, 'index', indexKey) : null,
    }
  }

  #boundaryStreams(shape: ModelShape): PooledTensor {
    const streams = this.#slots.add({
      label: 'boundary streams',
      dtype: this.#device.formats.activations,
      item: [1, shape.streamCount * shape.hiddenSize],
    })
    this.#snapshots.keep(streams, 1)
    return streams
  }

  #rowKind(layout: CompactLayout): RowKind {
    const width = rowWidth(layout)
    if (this.#rows === 'compact') return { width, dtype: 'u8', extent: compactRowBytes(layout) }
    const { keys, indexKeys } = this.#device.formats
    return { width, dtype: layout.kind === 'key' ? keys : indexKeys, extent: width }
  }

  #compressorCache(layer: LayerShape, name: string, row: RowKind): CompressorCache {
    const span = poolSpan(layer.kind)
    const ring = [span * layer.ratio + this.limits.rollbackMax, span * row.width]
    const label = `${layer.name} ${name}`
    const values = this.#slots.add({ label: `${label} values`, dtype: 'f32', item: ring })
    const scores = this.#slots.add({ label: `${label} scores`, dtype: 'f32', item: ring })
    // A page ends with a block of every layer. Raw rows of the block before matter only where the
    // next one pools them again; elsewhere nothing is pending.
    const pooledAgain = (span - 1) * layer.ratio
    if (pooledAgain > 0)
      for (const rows of [values, scores]) this.#snapshots.keep(rows, pooledAgain)
    const entries = this.#pages.add({
      label: `${label} entries`,
      dtype: row.dtype,
      item: [pageTokens / layer.ratio, row.extent],
    })
    return { values, scores, entries }
  }
}

/** What a cached row is: `width` values, kept as `extent` elements of `dtype`. */
interface RowKind {
  readonly width: number
  readonly dtype: DType
  readonly extent: number
}

function totalBytes(tensors: readonly Tensor[]): number {
  return tensors.reduce((sum, tensor) => sum + tensorBytes(tensor), 0)
}

function pagesFor(tokens: number): number {
  return Math.ceil(tokens / pageTokens)
}
