import { strict as assert } from 'node:assert'
import {
  type DeviceBuffer,
  reshape,
  rowCount,
  sliceRows,
  stackItem,
  type Tensor,
} from '../device/tensor.ts'
import { type Batch, pageTokens } from '../kernels/batch.ts'
import { copy } from '../kernels/copy/copy.ts'
import type { CachedSequence, KeptPrefix } from './cache.ts'
import { type HashRoute, hashRoutes, prefetchExperts } from './cached-experts.ts'
import type { ExpertCacheCounts } from './expert-cache.ts'
import {
  type ForwardTap,
  type LayersOutput,
  type Machine,
  runDraft,
  runHead,
  runLayers,
} from './forward.ts'
import type {
  CacheCapacity,
  CachedPrefix,
  DraftSegment,
  Model,
  Quantisation,
  Segment,
  Sequence,
} from './model.ts'
import type { ModelShape } from './shape.ts'
import { layOut, readF32Rows, type StepSegment, writeBatch, writeI32 } from './step.ts'

/** Rows a draft can continue from: those of the latest step, or of the latest draft. */
interface DraftBase {
  readonly streams: Tensor
  readonly segments: ReadonlyMap<CachedSequence, StepSegment>
}

/** What a step leaves: streams, and the rows of logits that were asked for. */
interface HeadOutput {
  readonly output: LayersOutput
  readonly logits: Tensor | null
}

/** Larger steps are prefill: long enough to be launched op by op, and rarely two of one size. */
const recordedRowsMax = 64

/** DeepSeek-V4 over one device: keeps the sequences' books, and has the forward pass do the work. */
export class DeepSeekModel implements Model {
  readonly shape: ModelShape
  readonly quantisation: Quantisation
  readonly drafts: boolean
  readonly #machine: Machine
  readonly #buffers: readonly DeviceBuffer[]
  /** Known to the host only where experts have to be brought. */
  readonly #hashRoutes: readonly HashRoute[]
  readonly #sequences = new Map<Sequence, CachedSequence>()
  readonly #prefixes = new Map<CachedPrefix, KeptPrefix>()
  #afterForward: DraftBase | null = null
  #afterDraft: DraftBase | null = null

  constructor(machine: Machine, buffers: readonly DeviceBuffer[]) {
    this.shape = machine.shape
    this.quantisation = machine.quantise ? 'on' : 'off'
    this.drafts = machine.weights.draft !== null
    this.#machine = machine
    this.#buffers = buffers
    const { device, weights, experts } = machine
    this.#hashRoutes = experts === undefined ? [] : hashRoutes(device, weights)
  }

  get device(): string {
    return this.#machine.device.name
  }

  /** What bringing experts came to; null where all of them are on the device. */
  get expertCounts(): ExpertCacheCounts | null {
    return this.#machine.experts?.counts ?? null
  }

  get rollbackMax(): number {
    return this.#machine.cache.limits.rollbackMax
  }

  createSequence(options: { readonly maxTokens: number; readonly from?: CachedPrefix }): Sequence {
    const { maxTokens, from } = options
    const prefix = from === undefined ? null : this.#kept(from)
    const sequence = this.#machine.cache.create(maxTokens, prefix)
    this.#sequences.set(sequence, sequence)
    return sequence
  }

  keepPrefix(sequence: Sequence): CachedPrefix | null {
    return this.#remember(this.#machine.cache.keep(this.#cached(sequence)))
  }

  dropPrefix(prefix: CachedPrefix): void {
    this.#machine.cache.drop(this.#kept(prefix))
    this.#prefixes.delete(prefix)
  }

  prefixBytes(prefix: CachedPrefix): number {
    return this.#machine.cache.sizeOf(this.#kept(prefix))
  }

  readPrefix(prefix: CachedPrefix): Uint8Array {
    return this.#machine.cache.read(this.#kept(prefix))
  }

  writePrefix(bytes: Uint8Array): CachedPrefix | null {
    return this.#remember(this.#machine.cache.write(bytes))
  }

  forward(segments: readonly Segment[], tap?: ForwardTap): readonly Float32Array[] {
    if (segments.length === 0) return []
    const { device, scratch, cache, weights, experts } = this.#machine
    assertOnceEach(segments)
    const step = layOut(this.#begin(segments))
    if (experts !== undefined) {
      prefetchExperts(
        experts,
        this.#hashRoutes,
        segments.map(({ tokens }) => tokens),
      )
    }
    this.#afterDraft = null
    // Until the step has ended nothing may continue from streams it is overwriting.
    this.#afterForward = null
    const batch = writeBatch(device, scratch, step, cache.pageTable, 'step')
    const picks = pickedRows(step, segments)
    const picked =
      picks.length > 0 || this.drafts
        ? writeI32(device, scratch.take('picks', 'i32', [picks.length]), picks)
        : null
    const run = (): HeadOutput => {
      const output = runLayers(this.#machine, batch, tap ?? null)
      if (picked === null) return { output, logits: null }
      const logits = runHead(this.#machine, output, picked, weights.contraction)
      return { output: { streams: output.streams, pending: null }, logits }
    }
    const key = `forward of ${rowCount(batch.tokens)} rows, ${picks.length} picked`
    const { output, logits } = tap === undefined ? this.#recorded(key, batch, run) : run()
    for (const { sequence, start, tokens } of step) sequence.length = start + tokens.length
    if (this.drafts) this.#afterForward = draftBase(output, step)
    return logits === null ? [] : readF32Rows(device, logits)
  }

  draft(segments: readonly DraftSegment[]): readonly Float32Array[] {
    const { device, scratch, cache, weights } = this.#machine
    assert(weights.draft !== null, 'the model was loaded with its draft block')
    if (segments.length === 0) return []
    assertOnceEach(segments)
    const after = segments[0]?.after ?? 'forward'
    assert(
      segments.every((segment) => segment.after === after),
      'the segments of one draft all follow a forward, or all follow a draft',
    )
    const base = after === 'forward' ? this.#afterForward : this.#afterDraft
    assert(base !== null, `a draft after ${after} follows a ${after}`)
    const step = layOut(segments.map((segment) => this.#beginDraft(segment, base)))
    if (after === 'forward') {
      this.#draftBoundaries(step, base)
      this.#keepBoundaries(step, base)
    }
    const batch = writeBatch(device, scratch, step, cache.pageTable, 'draft')
    const picks = writeI32(
      device,
      scratch.take('draft picks', 'i32', [batch.tokens.shape[0] ?? 0]),
      sourceRows(step, base, after),
    )
    const last = pickedRows(step, segments)
    const picked = writeI32(device, scratch.take('picks', 'i32', [last.length]), last)
    const { contraction } = weights.draft
    const rows = `${rowCount(batch.tokens)} rows of ${rowCount(base.streams)}`
    const key = `draft after ${after} of ${rows}, ${last.length} picked`
    const { output, logits } = this.#recorded(key, batch, () => {
      const drafted = runDraft(this.#machine, batch, { streams: base.streams, picks })
      return { output: drafted, logits: runHead(this.#machine, drafted, picked, contraction) }
    })
    if (after === 'forward') {
      for (const { sequence, start, tokens } of step) sequence.draftLength = start + tokens.length
    }
    this.#afterDraft = draftBase(output, step)
    return readF32Rows(device, logits)
  }

  rollback(sequence: Sequence, length: number): void {
    this.#machine.cache.rollback(this.#cached(sequence), length)
  }

  release(sequence: Sequence): void {
    this.#machine.cache.release(this.#cached(sequence))
    this.#sequences.delete(sequence)
  }

  capacity(): CacheCapacity {
    return this.#machine.cache.capacity()
  }

  close(): void {
    const { device, cache, scratch, experts } = this.#machine
    cache.close()
    scratch.close()
    experts?.close()
    for (const buffer of this.#buffers) device.free(buffer)
    this.#sequences.clear()
    this.#prefixes.clear()
  }

  /**
   * Runs a step, as a whole where the device has recorded one of its kind. Two steps of one key run
   * the same ops on the same tensors: all else about them lies in what the tensors hold.
   */
  #recorded<T>(key: string, batch: Batch, run: () => T): T {
    const { device, experts } = this.#machine
    // Experts that are not there have to be brought in the middle of a step.
    if (experts !== undefined || rowCount(batch.tokens) > recordedRowsMax) return run()
    if (device.replay === undefined) return run()
    return device.replay(key, run)
  }

  /** Checks the segments, and then makes room for them: all of them, or none. */
  #begin(segments: readonly Segment[]): readonly Omit<StepSegment, 'firstRow'>[] {
    const { cache } = this.#machine
    const begun = segments.map(({ sequence, tokens }) => {
      const cached = this.#cached(sequence)
      assert(tokens.length > 0, 'a segment has at least one token')
      this.#assertTokens(tokens)
      const start = cached.length
      assert(
        cached.furthest - start <= this.rollbackMax,
        'a sequence whose step failed half-way cannot go on; release it',
      )
      return { sequence: cached, tokens, start, length: start + tokens.length }
    })
    cache.checkRoom(begun)
    for (const { sequence, length } of begun) {
      cache.grow(sequence, length)
      sequence.furthest = Math.max(sequence.furthest, length)
    }
    return begun
  }

  #beginDraft(segment: DraftSegment, base: DraftBase): Omit<StepSegment, 'firstRow'> {
    const cached = this.#cached(segment.sequence)
    const { tokens, after } = segment
    const source = base.segments.get(cached)
    assert(source !== undefined, `a drafted sequence took part in the latest ${after}`)
    this.#assertTokens(tokens)
    const most = after === 'forward' ? source.tokens.length : 1
    assert(
      tokens.length >= 1 && tokens.length <= most,
      `a draft after ${after} has 1…${most} tokens here, not ${tokens.length}`,
    )
    const start = after === 'forward' ? source.start : source.start + source.tokens.length
    assert(
      after === 'draft' || start <= cached.draftLength || awaitsBoundary(cached, start),
      `positions ${cached.draftLength}…${start - 1} were never given to the draft block; ` +
        'draft after every step of a sequence, or not at all',
    )
    assert(
      start < cached.length + Math.max(1, this.rollbackMax),
      `drafts reach at most ${this.rollbackMax} positions behind a sequence's length`,
    )
    return { sequence: cached, tokens, start }
  }

  /**
   * Sequences fresh from a prefix: runs the draft block's row of the prefix's last position, now that
   * the token behind it is known.
   */
  #draftBoundaries(step: readonly StepSegment[], base: DraftBase): void {
    const fresh = step.filter(({ sequence, start }) => awaitsBoundary(sequence, start))
    if (fresh.length === 0) return
    const { device, scratch, cache } = this.#machine
    const rows = fresh.map(({ sequence, start }) => {
      const fed = sourceOf(sequence, base).tokens
      return { sequence, tokens: fed.subarray(0, 1), start: start - 1 }
    })
    const batch = writeBatch(device, scratch, layOut(rows), cache.pageTable, 'draft')
    const slots = Int32Array.from(fresh, ({ sequence }) => sequence.slot)
    const picks = writeI32(device, scratch.take('draft picks', 'i32', [slots.length]), slots)
    const kept = this.#boundaryStreams()
    const { streamCount, hiddenSize } = this.shape
    const streams = reshape(kept, [rowCount(kept), streamCount, hiddenSize])
    runDraft(this.#machine, batch, { streams, picks })
    for (const { sequence } of fresh) sequence.boundaryPending = false
  }

  /** Keeps the streams of rows that end a page, the last of each segment: see `boundaryStreams`. */
  #keepBoundaries(step: readonly StepSegment[], base: DraftBase): void {
    for (const { sequence, start, tokens } of step) {
      const end = start + tokens.length
      const boundary = end - (end % pageTokens)
      if (boundary <= start) continue
      const row = sourceOf(sequence, base).firstRow + boundary - 1 - start
      const to = stackItem(this.#boundaryStreams(), sequence.slot)
      copy(this.#machine.device, { from: reshape(sliceRows(base.streams, row, 1), to.shape), to })
    }
  }

  #boundaryStreams(): Tensor {
    const { boundaryStreams } = this.#machine.cache
    assert(boundaryStreams !== null, 'a cache with the draft block keeps its boundaries')
    return boundaryStreams.tensor
  }

  #assertTokens(tokens: Int32Array): void {
    const { vocabSize } = this.shape
    for (const token of tokens) {
      assert(token >= 0 && token < vocabSize, `token ${token} is in the vocabulary of ${vocabSize}`)
    }
  }

  #cached(sequence: Sequence): CachedSequence {
    const cached = this.#sequences.get(sequence)
    assert(cached !== undefined, 'the sequence belongs to this model and was not released')
    return cached
  }

  #remember(prefix: KeptPrefix | null): CachedPrefix | null {
    if (prefix !== null) this.#prefixes.set(prefix, prefix)
    return prefix
  }

  #kept(prefix: CachedPrefix): KeptPrefix {
    const kept = this.#prefixes.get(prefix)
    assert(kept !== undefined, 'the prefix belongs to this model and was not dropped')
    return kept
  }
}

function assertOnceEach(segments: readonly { readonly sequence: Sequence }[]): void {
  const sequences = new Set(segments.map(({ sequence }) => sequence))
  assert.equal(sequences.size, segments.length, 'a sequence has one segment a step')
}

function draftBase({ streams }: LayersOutput, step: readonly StepSegment[]): DraftBase {
  // Callers may use their arrays again before they draft.
  const own = step.map((segment) => ({ ...segment, tokens: segment.tokens.slice() }))
  return { streams, segments: new Map(own.map((segment) => [segment.sequence, segment])) }
}

function sourceOf(sequence: CachedSequence, base: DraftBase): StepSegment {
  const source = base.segments.get(sequence)
  assert(source !== undefined, 'segments without a source were refused')
  return source
}

/** Whether a step from `start` is the first behind the prefix that the sequence was created from. */
function awaitsBoundary({ boundaryPending, sharedLength }: CachedSequence, start: number): boolean {
  return boundaryPending && start === sharedLength
}

/** Rows whose logits were asked for, in segment order. */
function pickedRows(
  step: readonly StepSegment[],
  segments: readonly Pick<Segment, 'logits'>[],
): Int32Array {
  const rows: number[] = []
  for (const [index, { firstRow, tokens }] of step.entries()) {
    const wanted = segments[index]?.logits ?? 'none'
    if (wanted === 'none') continue
    const from = wanted === 'all' ? 0 : tokens.length - 1
    for (let i = from; i < tokens.length; i++) rows.push(firstRow + i)
  }
  return Int32Array.from(rows)
}

/** For each draft row the row of the base it follows. */
function sourceRows(
  step: readonly StepSegment[],
  base: DraftBase,
  after: DraftSegment['after'],
): Int32Array {
  return Int32Array.from(
    step.flatMap(({ sequence, tokens }) => {
      const source = sourceOf(sequence, base)
      const first = source.firstRow + (after === 'forward' ? 0 : source.tokens.length - 1)
      return Array.from(tokens, (_, i) => first + i)
    }),
  )
}
