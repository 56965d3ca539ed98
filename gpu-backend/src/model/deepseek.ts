import { strict as assert } from 'node:assert'
import type { DeviceGroup } from '../device/group.ts'
import type { CachedSequence, KeptPrefix } from './cache.ts'
import type { ExpertCacheCounts } from './expert-cache.ts'
import type { ForwardTap } from './forward.ts'
import type {
  CacheCapacity,
  CachedPrefix,
  CreateSequenceOptions,
  DraftSegment,
  Model,
  Quantisation,
  Segment,
  Sequence,
} from './model.ts'
import { type ModelPart, type PreparedStep, rowsWanted } from './part.ts'
import { runTogether } from './pass.ts'
import type { ModelShape } from './shape.ts'

/** Larger steps are prefill: long enough to be launched op by op, and rarely two of one size. */
export const recordedRowsMax = 64

/** A sequence or prefix, and which device it lives on. */
interface Placed<T> {
  readonly device: number
  readonly cached: T
}

/** Of a call's segments those of one device, in their order. */
type Share<S> = readonly (S & { readonly sequence: CachedSequence })[]

/**
 * DeepSeek-V4 over one device, or over several that share the experts while each has sequences of its
 * own. Knows which sequence is where; the parts keep the books, and the forward pass does the work.
 */
export class DeepSeekModel implements Model {
  readonly shape: ModelShape
  readonly quantisation: Quantisation
  readonly drafts: boolean
  readonly #parts: readonly ModelPart[]
  readonly #first: ModelPart
  readonly #group: DeviceGroup | null
  readonly #sequences = new Map<Sequence, Placed<CachedSequence>>()
  readonly #prefixes = new Map<CachedPrefix, Placed<KeptPrefix>>()

  /** `group`: of the parts' devices, in their order, where there are several. */
  constructor(parts: readonly ModelPart[], group: DeviceGroup | null = null) {
    const [first] = parts
    assert(first !== undefined, 'a model has at least one part')
    assert(parts.length === (group?.devices.length ?? 1), 'each device of a group has a part')
    this.shape = first.machine.shape
    this.quantisation = first.machine.quantise ? 'on' : 'off'
    this.drafts = first.drafts
    this.#parts = parts
    this.#first = first
    this.#group = group
  }

  get device(): string {
    return this.#first.machine.device.name
  }

  get deviceCount(): number {
    return this.#parts.length
  }

  /** What bringing experts came to; null where all of them are on the device. */
  get expertCounts(): ExpertCacheCounts | null {
    return this.#first.machine.experts?.counts ?? null
  }

  get rollbackMax(): number {
    return this.#first.machine.cache.limits.rollbackMax
  }

  createSequence({ maxTokens, from, on }: CreateSequenceOptions): Sequence {
    const prefix = from === undefined ? null : this.#kept(from)
    const device = prefix?.device ?? on ?? this.#roomiest()
    assert(
      on === undefined || on === device,
      'a sequence is where the prefix is that it starts with',
    )
    const cached = this.#part(device).machine.cache.create(maxTokens, prefix?.cached)
    this.#sequences.set(cached, { device, cached })
    return cached
  }

  keepPrefix(sequence: Sequence): CachedPrefix | null {
    const { device, cached } = this.#placed(sequence)
    return this.#remember(device, this.#part(device).machine.cache.keep(cached))
  }

  dropPrefix(prefix: CachedPrefix): void {
    const { device, cached } = this.#kept(prefix)
    this.#part(device).machine.cache.drop(cached)
    this.#prefixes.delete(prefix)
  }

  prefixBytes(prefix: CachedPrefix): number {
    const { device, cached } = this.#kept(prefix)
    return this.#part(device).machine.cache.sizeOf(cached)
  }

  readPrefix(prefix: CachedPrefix): Uint8Array {
    const { device, cached } = this.#kept(prefix)
    return this.#part(device).machine.cache.read(cached)
  }

  writePrefix(bytes: Uint8Array, on: number = this.#roomiest()): CachedPrefix | null {
    return this.#remember(on, this.#part(on).machine.cache.write(bytes))
  }

  forward(segments: readonly Segment[], tap?: ForwardTap): readonly Float32Array[] {
    if (segments.length === 0) return []
    assertOnceEach(segments)
    assert(tap === undefined || this.#group === null, 'values of several devices are not looked at')
    const shares = this.#share(segments)
    // All of them, or none.
    for (const [part, own] of shares) part.check(own)
    const steps = shares.map(([part, own]) => part.begin(own, tap ?? null))
    return this.#inOrder(segments, this.#run(steps, tap === undefined))
  }

  draft(segments: readonly DraftSegment[]): readonly Float32Array[] {
    assert(this.drafts, 'the model was loaded with its draft block')
    if (segments.length === 0) return []
    assertOnceEach(segments)
    const after = segments[0]?.after ?? 'forward'
    assert(
      segments.every((segment) => segment.after === after),
      'the segments of one draft all follow a forward, or all follow a draft',
    )
    const drafts = this.#share(segments).map(([part, own]) => {
      return { part, draft: part.checkDraft(own, after) }
    })
    if (after === 'forward') {
      if (drafts.some(({ draft }) => draft.fresh.length > 0)) {
        this.#together(drafts.map(({ part, draft }) => part.draftBoundaries(draft)))
      }
      for (const { part, draft } of drafts) part.keepBoundaries(draft)
    }
    const steps = drafts.map(({ part, draft }) => part.beginDraft(draft))
    return this.#inOrder(segments, this.#run(steps, true))
  }

  rollback(sequence: Sequence, length: number): void {
    const { device, cached } = this.#placed(sequence)
    this.#part(device).machine.cache.rollback(cached, length)
  }

  release(sequence: Sequence): void {
    const { device, cached } = this.#placed(sequence)
    this.#part(device).machine.cache.release(cached)
    this.#sequences.delete(sequence)
  }

  capacity(device?: number): CacheCapacity {
    if (device !== undefined) return this.#part(device).machine.cache.capacity()
    return this.#parts.map(({ machine }) => machine.cache.capacity()).reduce(added)
  }

  close(): void {
    // What one device frees another may still be about to read.
    this.#group?.meet()
    for (const part of this.#parts) part.close()
    this.#sequences.clear()
    this.#prefixes.clear()
  }

  /** Runs a step on all devices, and gives each one's rows of logits. */
  #run(steps: readonly PreparedStep[], recordable: boolean): readonly (readonly Float32Array[])[] {
    const run = () => this.#together(steps.map((step) => step.run()))
    const outputs = recordable ? this.#recorded(steps, run) : run()
    return steps.map((step, i) => {
      const output = outputs[i]
      assert(output !== undefined, 'every device has run its step')
      return step.finish(output)
    })
  }

  #together<T>(passes: Parameters<typeof runTogether<T>>[0]): readonly T[] {
    return runTogether(passes, () => this.#group?.meet())
  }

  /**
   * Runs a step, as a whole where the devices have recorded one of its kind. Two steps of one key run
   * the same ops on the same tensors: all else about them lies in what the tensors hold.
   */
  #recorded<T>(steps: readonly PreparedStep[], run: () => T): T {
    const { device, experts } = this.#first.machine
    // Experts that are not there have to be brought in the middle of a step.
    if (experts !== undefined || steps.some(({ rows }) => rows > recordedRowsMax)) return run()
    const recorder = this.#group ?? device
    if (recorder.replay === undefined) return run()
    return recorder.replay(steps.map(({ key }) => key).join(' | '), run)
  }

  /** Every device's segments; devices that have none take part for their experts. */
  #share<S extends Segment | DraftSegment>(
    segments: readonly S[],
  ): readonly (readonly [ModelPart, Share<S>])[] {
    const placed = segments.map((segment) => ({ segment, ...this.#placed(segment.sequence) }))
    return this.#parts.map((part, index) => {
      const own = placed.filter(({ device }) => device === index)
      return [part, own.map(({ segment, cached }) => ({ ...segment, sequence: cached }))]
    })
  }

  /** Rows by device as rows in the order of the segments. */
  #inOrder(
    segments: readonly (Segment | DraftSegment)[],
    rows: readonly (readonly Float32Array[])[],
  ): readonly Float32Array[] {
    const taken = rows.map(() => 0)
    return segments.flatMap((segment) => {
      const { device } = this.#placed(segment.sequence)
      const from = taken[device] ?? 0
      taken[device] = from + rowsWanted(segment)
      return rows[device]?.slice(from, taken[device]) ?? []
    })
  }

  /** The device with most free pages that has a place for another sequence. */
  #roomiest(): number {
    const rooms = this.#parts.map(({ machine }, device) => {
      const { pagesFree, sequencesUsed, sequencesMax } = machine.cache.capacity()
      return { device, pages: sequencesUsed < sequencesMax ? pagesFree : -1 }
    })
    return rooms.reduce((most, room) => (room.pages > most.pages ? room : most)).device
  }

  #part(device: number): ModelPart {
    const part = this.#parts[device]
    assert(part !== undefined, `device ${device} is one of the model's ${this.#parts.length}`)
    return part
  }

  #placed(sequence: Sequence): Placed<CachedSequence> {
    const placed = this.#sequences.get(sequence)
    assert(placed !== undefined, 'the sequence belongs to this model and was not released')
    return placed
  }

  #remember(device: number, prefix: KeptPrefix | null): CachedPrefix | null {
    if (prefix !== null) this.#prefixes.set(prefix, { device, cached: prefix })
    return prefix
  }

  #kept(prefix: CachedPrefix): Placed<KeptPrefix> {
    const kept = this.#prefixes.get(prefix)
    assert(kept !== undefined, 'the prefix belongs to this model and was not dropped')
    return kept
  }
}

function assertOnceEach(segments: readonly { readonly sequence: Sequence }[]): void {
  const sequences = new Set(segments.map(({ sequence }) => sequence))
  assert.equal(sequences.size, segments.length, 'a sequence has one segment a step')
}

function added(a: CacheCapacity, b: CacheCapacity): CacheCapacity {
  return {
    pageTokens: a.pageTokens,
    pagesFree: a.pagesFree + b.pagesFree,
    pagesMax: a.pagesMax + b.pagesMax,
    sequencesUsed: a.sequencesUsed + b.sequencesUsed,
    sequencesMax: a.sequencesMax + b.sequencesMax,
    prefixesFree: a.prefixesFree + b.prefixesFree,
    prefixesMax: a.prefixesMax + b.prefixesMax,
    bytesAllocated: a.bytesAllocated + b.bytesAllocated,
  }
}
