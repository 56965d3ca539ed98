import { strict as assert } from 'node:assert'
import type { Device } from '../device/device.ts'
import type { DeviceGroup } from '../device/group.ts'
import type { DeviceBuffer } from '../device/tensor.ts'
import { Cache, type CacheLimits, type CacheRows } from './cache.ts'
import { DeepSeekModel } from './deepseek.ts'
import { ExpertCache } from './expert-cache.ts'
import { ModelError } from './error.ts'
import type { ForwardTap, Machine } from './forward.ts'
import { ModelPart } from './part.ts'
import { Scratch } from './scratch.ts'
import { type ModelShape, modelShape } from './shape.ts'
import { ExpertExchange, ownedExperts } from './split-experts.ts'
import type { WeightSource } from './weight-placer.ts'
import { loadWeights, type ModelWeights, type WeightTarget } from './weights.ts'

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

export interface CreateSequenceOptions {
  readonly maxTokens: number
  /** It starts with this prefix's tokens, as if they had been fed to it, and on its device. */
  readonly from?: CachedPrefix
  /** Which of the model's devices it is to be on; absent: where there is most room. */
  readonly on?: number
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
  /** How many devices share it. */
  readonly deviceCount: number
  readonly quantisation: Quantisation
  /** Whether `draft` is there: asked for at load, and the checkpoint has the block. */
  readonly drafts: boolean
  /** How far `rollback` reaches behind the furthest position a sequence has seen. */
  readonly rollbackMax: number
  /**
   * Takes a slot of the cache, and reserves nothing else. Throws `ModelError` `cache_full` when no slot
   * is left, `context_exceeded` when `maxTokens` is more than the model's context.
   */
  createSequence(options: CreateSequenceOptions): Sequence
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
   * are the same is the caller's to know. `on`: which device it is for; absent: where there is most room.
   */
  writePrefix(bytes: Uint8Array, on?: number): CachedPrefix | null
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
  /** Of one of its devices, or of all together. A sequence has pages of its own device alone. */
  capacity(device?: number): CacheCapacity
  /** Frees every device buffer of the model; its sequences go with it. */
  close(): void
}

export interface LoadModelOptions {
  readonly quantisation: Quantisation
  /** Load the draft block too, where the checkpoint has one. */
  readonly mtp?: boolean
  /** Of each device. */
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
 * Brings a checkpoint onto a device, or onto a group of devices that share its experts. The first
 * tensor that does not fit the model is refused by name (`ModelError` `weights_mismatch`, or the
 * loader's `CheckpointError`); whatever goes wrong, nothing stays allocated. Devices outlive the model
 * and are the caller's to close.
 */
export async function loadModel(
  checkpoint: WeightSource,
  on: Device | DeviceGroup,
  options: LoadModelOptions,
): Promise<Model> {
  const shape = modelShape(checkpoint.config)
  const group = 'devices' in on && on.devices.length > 1 ? on : null
  const devices = 'devices' in on ? on.devices : [on]
  assertExpertSlots(shape, options.expertSlots, devices.length)
  const machines = await loadMachines(checkpoint, devices, shape, options)
  if (group === null) return new DeepSeekModel(machines.map(partOf))
  const exchange = new ExpertExchange(group, shape.expertCount)
  const parts = machines.map(({ machine, buffers }, index) => {
    return new ModelPart({ ...machine, split: { exchange, index } }, buffers)
  })
  return new DeepSeekModel(parts, group)
}

interface LoadedMachine {
  readonly machine: Machine
  readonly buffers: readonly DeviceBuffer[]
}

function partOf({ machine, buffers }: LoadedMachine): ModelPart {
  return new ModelPart(machine, buffers)
}

function assertExpertSlots(shape: ModelShape, slots: number | undefined, devices: number): void {
  if (slots === undefined) return
  if (slots < shape.expertsPerToken) {
    throw new ModelError(
      'expert_slots_too_few',
      `${slots} expert slots are fewer than the ${shape.expertsPerToken} experts of a token`,
    )
  }
  assert(devices === 1, 'a model on several devices has all its experts on them')
}

/** Weights and caches on each device, or on none. */
async function loadMachines(
  checkpoint: WeightSource,
  devices: readonly Device[],
  shape: ModelShape,
  options: LoadModelOptions,
): Promise<readonly LoadedMachine[]> {
  const { signal, onProgress, mtp = false, expertSlots } = options
  const targets = devices.map((device, index): WeightTarget => {
    if (expertSlots !== undefined) {
      return { device, cache: new ExpertCache(device, shape, expertSlots) }
    }
    if (devices.length === 1) return { device }
    return { device, owned: ownedExperts(shape.expertCount, devices.length, index) }
  })
  const giveBack: (() => void)[] = targets.map(
    ({ cache }) =>
      () =>
        cache?.close(),
  )
  try {
    const loaded = await loadWeights(checkpoint, targets, shape, {
      mtp,
      ...(signal === undefined ? {} : { signal }),
      ...(onProgress === undefined ? {} : { onProgress }),
    })
    for (const [i, { device }] of targets.entries()) {
      giveBack.push(() => loaded[i]?.buffers.forEach((buffer) => device.free(buffer)))
    }
    return targets.map(({ device, cache: experts }, i): LoadedMachine => {
      const own = loaded[i]
      assert(own !== undefined, 'every device has its weights')
      const { weights, buffers } = own
      const quantise = options.quantisation === 'on'
      const cache = openCache(device, shape, weights, options)
      giveBack.push(() => cache.close())
      if (options.cacheUpfront ?? device.name === 'cuda') cache.reserve()
      else if (devices.length > 1) cache.start()
      const scratch = new Scratch(device)
      const machine = { device, shape, weights, cache, scratch, quantise }
      return { machine: experts === undefined ? machine : { ...machine, experts }, buffers }
    })
  } catch (error) {
    for (const give of giveBack.toReversed()) give()
    throw error
  }
}

function openCache(
  device: Device,
  shape: ModelShape,
  weights: ModelWeights,
  options: LoadModelOptions,
): Cache {
  const compact = options.quantisation === 'on' && device.formats.compactRows
  return new Cache(device, shape, {
    limits: { ...defaultLimits, ...options.cache },
    draft: weights.draft !== null,
    rows: options.cacheRows ?? (compact ? 'compact' : 'plain'),
  })
}
