import { strict as assert } from 'node:assert'
import type { Device } from '../device/device.ts'
import type { DType, Tensor } from '../device/tensor.ts'
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
import { type LayerShape, type ModelShape, poolSpan } from './shape.ts'

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
  /** Over all sequences, in reserved tokens; counted in whole pages. */
  readonly tokensMax: number
  /** Positions a sequence may be taken back by; head-room of every ring. */
  readonly rollbackMax: number
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
  /** Positions the draft block has seen. */
  draftLength = 0
  released = false

  constructor(slot: number, maxTokens: number) {
    this.slot = slot
    this.maxTokens = maxTokens
  }
}

const firstSlots = 4
const firstPages = 8

/**
 * State of all sequences on the device. What a sequence needs whatever its length (window, raw
 * compressor rows) lies in its slot of a ring addressed by absolute position, so that taking back a
 * few tokens moves nothing; compressed entries lie in pages of 256 tokens, one page number serving
 * every layer.
 */
export class Cache {
  readonly layers: readonly LayerCache[]
  /** The draft block's, where it is loaded. */
  readonly draft: LayerCache | null
  readonly limits: CacheLimits
  readonly #device: Device
  readonly #slots: Pool
  readonly #pages: Pool
  readonly #pageTable: PooledTensor
  readonly #pagesPerSequence: number
  readonly #contextMax: number
  readonly #rows: CacheRows
  #reservedPages = 0

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
    this.#pageTable = this.#slots.add({
      label: 'page table',
      dtype: 'i32',
      item: [this.#pagesPerSequence],
    })
    this.layers = shape.layers.map((layer) => this.#layerCache(shape, layer))
    this.draft = options.draft && shape.mtp !== null ? this.#layerCache(shape, shape.mtp) : null
  }

  /** i32 `[slots, pages a sequence]`. */
  get pageTable(): Tensor {
    return this.#pageTable.tensor
  }

  capacity(): CacheCapacity {
    const { slots, pages } = this.bytes()
    return {
      pageTokens,
      sequencesUsed: this.#slots.used,
      sequencesMax: this.limits.sequencesMax,
      tokensReserved: this.#reservedPages * pageTokens,
      tokensMax: this.#pages.max * pageTokens,
      bytesAllocated: slots + pages,
    }
  }

  /** Bytes of what is there by sequence, the page table among them, and of what is there by page. */
  bytes(): { readonly slots: number; readonly pages: number } {
    return { slots: this.#slots.allocatedBytes, pages: this.#pages.allocatedBytes }
  }

  /** Takes a slot and reserves pages for `maxTokens`; pages are taken as the sequence grows. */
  create(maxTokens: number): CachedSequence {
    assert(Number.isSafeInteger(maxTokens) && maxTokens > 0, 'maxTokens is a positive count')
    if (maxTokens > this.#contextMax) {
      throw new ModelError(
        'context_exceeded',
        `${maxTokens} tokens exceed the model's context of ${this.#contextMax}`,
      )
    }
    if (this.#slots.used === this.#slots.max) {
      throw new ModelError('cache_full', `all ${this.#slots.max} sequences are in use`)
    }
    const pages = pagesFor(maxTokens)
    const left = this.#pages.max - this.#reservedPages
    if (pages > left) {
      throw new ModelError(
        'cache_full',
        `${maxTokens} tokens take ${pages} pages of the cache; ${left} of ${this.#pages.max} are left`,
      )
    }
    const sequence = new CachedSequence(this.#slots.take(), maxTokens)
    this.#reservedPages += pages
    return sequence
  }

  /** Maps pages for the sequence's first `length` tokens. */
  grow(sequence: CachedSequence, length: number): void {
    if (length > sequence.maxTokens) {
      throw new ModelError(
        'context_exceeded',
        `a sequence that reserved ${sequence.maxTokens} tokens cannot hold ${length}`,
      )
    }
    while (sequence.pages.length < pagesFor(length)) {
      const page = this.#pages.take()
      this.#writePage(sequence, sequence.pages.length, page)
      sequence.pages.push(page)
    }
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
    sequence.length = length
    sequence.draftLength = Math.min(sequence.draftLength, length)
  }

  release(sequence: CachedSequence): void {
    assert(!sequence.released, 'a sequence is released once')
    sequence.released = true
    for (const page of sequence.pages) this.#pages.give(page)
    this.#slots.give(sequence.slot)
    this.#reservedPages -= pagesFor(sequence.maxTokens)
  }

  close(): void {
    this.#slots.close()
    this.#pages.close()
  }

  #writePage(sequence: CachedSequence, index: number, page: number): void {
    const at = (sequence.slot * this.#pagesPerSequence + index) * Int32Array.BYTES_PER_ELEMENT
    this.#device.write(this.pageTable.buffer, at, new Uint8Array(Int32Array.of(page).buffer))
  }

  #layerCache(shape: ModelShape, layer: LayerShape): LayerCache {
    const { windowSize, headDim, indexHeadDim } = shape
    const key = this.#rowKind(keyLayout(headDim, shape.ropeDim))
    const indexKey = this.#rowKind({ kind: 'index', width: indexHeadDim })
    return {
      window: this.#slots.add({
        label: `${layer.name} window`,
        dtype: key.dtype,
        item: [windowSize + this.limits.rollbackMax, key.extent],
      }),
      compressor: layer.kind === 'swa' ? null : this.#compressorCache(layer, 'compressor', key),
      index: layer.kind === 'csa' ? this.#compressorCache(layer, 'index', indexKey) : null,
    }
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
    return {
      values: this.#slots.add({ label: `${label} values`, dtype: 'f32', item: ring }),
      scores: this.#slots.add({ label: `${label} scores`, dtype: 'f32', item: ring }),
      entries: this.#pages.add({
        label: `${label} entries`,
        dtype: row.dtype,
        item: [pageTokens / layer.ratio, row.extent],
      }),
    }
  }
}

/** What a cached row is: `width` values, kept as `extent` elements of `dtype`. */
interface RowKind {
  readonly width: number
  readonly dtype: DType
  readonly extent: number
}

function pagesFor(tokens: number): number {
  return Math.ceil(tokens / pageTokens)
}
