import type { Device } from '../device/device.ts'
import { Cache, type CacheLimits, type CacheRows } from './cache.ts'
import { DeepSeekModel } from './deepseek.ts'
import type { ForwardTap } from './forward.ts'
import { Scratch } from './scratch.ts'
import { type ModelShape, modelShape } from './shape.ts'
import type { WeightSource } from './weight-placer.ts'
import { loadWeights } from './weights.ts'

export { ModelError } from './error.ts'

/** `off`: activations and caches stay at full precision. `on`: rounded as the weights were trained. */
export type Quantisation = 'off' | 'on'

/** One sequence's state on the device. Ends with `Model.release`. */
export interface Sequence {
  /** Tokens in the cache; the next token fed gets this as its position. */
  readonly length: number
  /** Ceiling of `length`, reserved when the sequence was created. */
  readonly maxTokens: number
}

/** Consecutive tokens of one sequence, continuing at its `length`. At most one a sequence a step. */
export interface Segment {
  readonly sequence: Sequence
  readonly tokens: Int32Array
  readonly logits: 'none' | 'last' | 'all'
}

/**
 * Tokens for the draft head. Token k is the one *after* row k of the sequence's segment in the
 * latest step (`after: 'forward'`), or the one after the latest draft (`after: 'draft'`, one token).
 * Fewer tokens than rows use the first rows: the accepted ones.
 */
export interface DraftSegment {
  readonly sequence: Sequence
  readonly tokens: Int32Array
  readonly after: 'forward' | 'draft'
}

/** What the cache holds and may hold. Tokens are counted in whole pages of `pageTokens`. */
export interface CacheCapacity {
  readonly pageTokens: number
  readonly sequencesUsed: number
  readonly sequencesMax: number
  readonly tokensReserved: number
  readonly tokensMax: number
  /** Device bytes the cache takes now; grows in chunks as sequences do. */
  readonly bytesAllocated: number
}

/**
 * The whole model as the engine sees it: tokens in, rows of logits out. Every call is synchronous
 * and blocks its thread. Calls with impossible arguments (unknown sequence, token outside the
 * vocabulary) are bugs and assert; refusals are `ModelError`.
 */
export interface Model {
  readonly shape: ModelShape
  /** Name of the device it runs on. */
  readonly device: string
  readonly quantisation: Quantisation
  /** Whether `draft` is there: asked for at load, and the checkpoint has the block. */
  readonly drafts: boolean
  /** How far `rollback` reaches behind the furthest position a sequence has seen. */
  readonly rollbackMax: number
  /** Throws `ModelError` `cache_full` or `context_exceeded`; reserves room for `maxTokens`. */
  createSequence(options: { readonly maxTokens: number }): Sequence
  /**
   * Runs one step over prefill chunks and decode tokens together. Gives one row of `vocabSize`
   * logits for each row asked for, in segment order. A row does not depend on its neighbours.
   * `tap` sees values on their way, for tests and diagnosis.
   */
  forward(segments: readonly Segment[], tap?: ForwardTap): readonly Float32Array[]
  /** Draft logits after each segment's last token: the guess for the token behind that one. */
  draft(segments: readonly DraftSegment[]): readonly Float32Array[]
  /** Forgets the tokens from `length` on, at most `rollbackMax` of them. */
  rollback(sequence: Sequence, length: number): void
  release(sequence: Sequence): void
  capacity(): CacheCapacity
  /** Frees every device buffer of the model; its sequences go with it. */
  close(): void
}

export interface LoadModelOptions {
  readonly quantisation: Quantisation
  /** Load the draft block too, where the checkpoint has one. */
  readonly mtp?: boolean
  readonly cache?: Partial<CacheLimits>
  /** Absent: `compact` where values are rounded and the device has such rows, else `plain`. */
  readonly cacheRows?: CacheRows
  readonly signal?: AbortSignal
  /** Bytes of weights on the device, of those to bring. */
  readonly onProgress?: (doneBytes: number, totalBytes: number) => void
}

/** A handful of chats. Pools grow as sequences do, so an unused ceiling costs nothing. */
const defaultLimits: CacheLimits = { sequencesMax: 16, tokensMax: 65_536, rollbackMax: 8 }

/**
 * Brings a checkpoint onto a device. The first tensor that does not fit the model is refused by
 * name (`ModelError` `weights_mismatch`, or the loader's `CheckpointError`); whatever goes wrong,
 * nothing stays allocated. The device outlives the model and is the caller's to close.
 */
export async function loadModel(
  checkpoint: WeightSource,
  device: Device,
  options: LoadModelOptions,
): Promise<Model> {
  const shape = modelShape(checkpoint.config)
  const { signal, onProgress, mtp = false } = options
  const { weights, buffers } = await loadWeights(checkpoint, device, shape, {
    mtp,
    ...(signal === undefined ? {} : { signal }),
    ...(onProgress === undefined ? {} : { onProgress }),
  })
  const limits = { ...defaultLimits, ...options.cache }
  const quantise = options.quantisation === 'on'
  const rows = options.cacheRows ?? (quantise && device.formats.compactRows ? 'compact' : 'plain')
  return new DeepSeekModel(
    {
      device,
      shape,
      weights,
      cache: new Cache(device, shape, { limits, draft: weights.draft !== null, rows }),
      scratch: new Scratch(device),
      quantise,
    },
    buffers,
  )
}
