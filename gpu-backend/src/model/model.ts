import type { Device } from '../device/device.ts'
import { Cache, type CacheLimits, type CacheRows } from './cache.ts'
import { DeepSeekModel } from './deepseek.ts'
import { ExpertCache } from './expert-cache.ts'
import { ModelError } from './error.ts'
import type { ForwardTap } from './forward.ts'
import { Scratch } from './scratch.ts'
import { type ModelShape, modelShape } from './shape.ts'
import type { WeightSource } from './weight-placer.ts'
import { loadWeights } from './weights.ts'

export { ModelError }

/** `off`: activations and caches stay at full precision. `on`: rounded as the weights were trained. */
export type Quantisation = 'off' | 'on'

/** One sequence's state on the device. Ends with `Model.release`. */
export interface Sequence {
  /** Tokens in the cache; the next token fed gets this as its position. */
  readonly length: number
  /** Ceiling of `length`. */
  readonly maxTokens: number
}

/** The first tokens of a sequence, kept for others to start behind. Ends with `Model.dropPrefix`. */
export interface CachedPrefix {
  /** Tokens; a multiple of `pageTokens`. */
  readonly length: number
  /** Whether sequences that start behind it can be drafted for. */
  readonly drafted: boolean
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
  /** `none`: the draft block sees the tokens, and nothing is guessed. */
  readonly logits: 'none' | 'last'
}

/** What the cache holds and may hold. */
export interface CacheCapacity {
  /** Tokens of a page. */
  readonly pageTokens: number
  /** Pages no sequence and no prefix holds. One that several share counts once. */
  readonly pagesFree: number
  readonly pagesMax: number
  readonly sequencesUsed: number
  readonly sequencesMax: number
  readonly prefixesFree: number
  readonly prefixesMax: number
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
  /**
   * Takes a slot of the cache, and reserves nothing else. `from`: the sequence starts with that
   * prefix's tokens, as if they had been fed to it. Throws `ModelError` `cache_full` when no slot is
   * left, `context_exceeded` when `maxTokens` is more than the model's context.
   */
  createSequence(options: { readonly maxTokens: number; readonly from?: CachedPrefix }): Sequence
  /**
   * Keeps a sequence's tokens: its length is a positive multiple of `pageTokens`. The sequence goes on
   * as before, but is no longer taken back behind that length. Null when no place is left.
   */
  keepPrefix(sequence: Sequence): CachedPrefix | null
  /** Sequences that started behind it keep what they share with it. */
  dropPrefix(prefix: CachedPrefix): void
  /** Bytes a prefix takes, its pages among them. */
  prefixBytes(prefix: CachedPrefix): number
  /** A prefix as bytes with a checksum, good for a model of the same checkpoint loaded the same way. */
  readPrefix(prefix: CachedPrefix): Uint8Array
  /**
   * Makes such bytes a prefix again. Null when no place or too few pages are left; throws `ModelError`
   * `prefix_unusable` where they are damaged, or of a cache laid out in another way. That the weights
   * are the same is the caller's to know.
   */
  writePrefix(bytes: Uint8Array): CachedPrefix | null
  /**
   * Runs one step over prefill chunks and decode tokens together. Gives one row of `vocabSize`
   * logits for each row asked for, in segment order. A row does not depend on its neighbours.
   * `tap` sees values on their way, for tests and diagnosis. Takes pages for the tokens as they
   * need them: throws `ModelError` `cache_full` when there are too few, or `context_exceeded` when a
   * sequence would outgrow its `maxTokens`, before it has changed anything.
   */
  forward(segments: readonly Segment[], tap?: ForwardTap): readonly Float32Array[]
  /**
   * Draft logits after the last token of each segment that wants them: the guess for the token behind
   * that one.
   */
  draft(segments: readonly DraftSegment[]): readonly Float32Array[]
  /**
   * Forgets the tokens from `length` on, at most `rollbackMax` of them, and gives back the pages that
   * only they were in.
   */
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
  /**
   * Allocate all that the cache's limits allow, and fail now where it does not fit; else it grows as it
   * is used. Absent: on a GPU, whose memory is bounded and whose recorded steps name addresses.
   */
  readonly cacheUpfront?: boolean
  /**
   * Keep no more routed experts than this on the device, of all layers together, and the others in
   * host memory: for models that do not fit. Absent: all of them.
   */
  readonly expertSlots?: number
  readonly signal?: AbortSignal
  /** Bytes of weights on the device, of those to bring. */
  readonly onProgress?: (doneBytes: number, totalBytes: number) => void
}

/** A handful of chats. Pools grow as sequences do, so an unused ceiling costs nothing. */
const defaultLimits: CacheLimits = {
  sequencesMax: 16,
  tokensMax: 65_536,
  rollbackMax: 8,
  prefixesMax: 64,
}

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
  const { signal, onProgress, mtp = false, expertSlots } = options
  if (expertSlots !== undefined && expertSlots < shape.expertsPerToken) {
    throw new ModelError(
      'expert_slots_too_few',
      `${expertSlots} expert slots are fewer than the ${shape.expertsPerToken} experts of a token`,
    )
  }
  const experts = expertSlots === undefined ? null : new ExpertCache(device, shape, expertSlots)
  const { weights, buffers } = await loadWeights(checkpoint, device, shape, {
    mtp,
    experts,
    ...(signal === undefined ? {} : { signal }),
    ...(onProgress === undefined ? {} : { onProgress }),
  }).catch((error: unknown) => {
    experts?.close()
    throw error
  })
  const limits = { ...defaultLimits, ...options.cache }
  const quantise = options.quantisation === 'on'
  const rows = options.cacheRows ?? (quantise && device.formats.compactRows ? 'compact' : 'plain')
  const cache = new Cache(device, shape, { limits, draft: weights.draft !== null, rows })
  try {
    if (options.cacheUpfront ?? device.name === 'cuda') cache.reserve()
  } catch (error) {
    cache.close()
    for (const buffer of buffers) device.free(buffer)
    experts?.close()
    throw error
  }
  return new DeepSeekModel(
    {
      device,
      shape,
      weights,
      cache,
      scratch: new Scratch(device),
      quantise,
      ...(experts === null ? {} : { experts }),
    },
    buffers,
  )
}
