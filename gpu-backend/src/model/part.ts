import { strict as assert } from 'node:assert'
import {
  type DeviceBuffer,
  reshape,
  rowCount,
  sliceRows,
  stackItem,
  type Tensor,
} from '../device/tensor.ts'
import { pageTokens } from '../kernels/batch.ts'
import { copy } from '../kernels/copy/copy.ts'
import type { CachedSequence } from './cache.ts'
import { type HashRoute, hashRoutes, prefetchExperts } from './cached-experts.ts'
import {
  type ForwardTap,
  type LayersOutput,
  type Machine,
  runDraft,
  runHead,
  runLayers,
} from './forward.ts'
import type { DraftSegment, Segment } from './model.ts'
import type { Pass } from './pass.ts'
import { layOut, readF32Rows, type StepSegment, writeBatch, writeI32 } from './step.ts'

/** A segment whose sequence is one of the part's. */
export type OwnSegment = Omit<Segment, 'sequence'> & { readonly sequence: CachedSequence }
export type OwnDraftSegment = Omit<DraftSegment, 'sequence'> & { readonly sequence: CachedSequence }

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

/** A step whose tensors are written. */
export interface PreparedStep {
  /** Two steps of one key run the same ops on the same tensors. */
  readonly key: string
  readonly rows: number
  run(): Pass<HeadOutput>
  /** Notes that it has run; rows of logits in the order of the segments. */
  finish(output: HeadOutput): readonly Float32Array[]
}

/** A draft that was checked, and what it continues from. */
export interface CheckedDraft {
  readonly after: DraftSegment['after']
  readonly segments: readonly OwnDraftSegment[]
  readonly step: readonly StepSegment[]
  readonly base: DraftBase
  /** Segments of sequences fresh from a prefix. */
  readonly fresh: readonly StepSegment[]
}

/** What of a model is on one device: its weights, and the sequences that live there. */
export class ModelPart {
  readonly machine: Machine
  readonly #buffers: readonly DeviceBuffer[]
  /** Known to the host only where experts have to be brought. */
  readonly #hashRoutes: readonly HashRoute[]
  #afterForward: DraftBase | null = null
  #afterDraft: DraftBase | null = null

  constructor(machine: Machine, buffers: readonly DeviceBuffer[]) {
    this.machine = machine
    this.#buffers = buffers
    const { device, weights, experts } = machine
    this.#hashRoutes = experts === undefined ? [] : hashRoutes(device, weights)
  }

  get drafts(): boolean {
    return this.machine.weights.draft !== null
  }

  /** Throws unless there is room for the segments; changes nothing. */
  check(segments: readonly OwnSegment[]): void {
    const { cache } = this.machine
    for (const { sequence, tokens } of segments) {
      assert(tokens.length > 0, 'a segment has at least one token')
      this.#assertTokens(tokens)
      assert(
        sequence.furthest - sequence.length <= cache.limits.rollbackMax,
        'a sequence whose step failed half-way cannot go on; release it',
      )
    }
    cache.checkRoom(
      segments.map(({ sequence, tokens }) => {
        return { sequence, length: sequence.length + tokens.length }
      }),
    )
  }

  /** Makes room for segments that were checked, and writes down what the step is about. */
  begin(segments: readonly OwnSegment[], tap: ForwardTap | null): PreparedStep {
    const { device, scratch, cache, weights, experts } = this.machine
    const step = layOut(segments.map((segment) => this.#grow(segment)))
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
    const machine = this.machine
    const rows = rowCount(batch.tokens)
    return {
      key: `forward of ${rows} rows, ${picks.length} picked`,
      rows,
      *run() {
        const output = yield* runLayers(machine, batch, tap)
        if (picked === null) return { output, logits: null }
        const logits = runHead(machine, output, picked, weights.contraction)
        return { output: { streams: output.streams, pending: null }, logits }
      },
      finish: ({ output, logits }) => {
        for (const { sequence, start, tokens } of step) sequence.length = start + tokens.length
        if (this.drafts) this.#afterForward = draftBase(output, step)
        return logits === null ? [] : readF32Rows(device, logits)
      },
    }
  }

  /** Checks a draft against the step or draft it follows. */
  checkDraft(segments: readonly OwnDraftSegment[], after: DraftSegment['after']): CheckedDraft {
    const base = after === 'forward' ? this.#afterForward : this.#afterDraft
    assert(base !== null, `a draft after ${after} follows a ${after}`)
    const step = layOut(segments.map((segment) => this.#beginDraft(segment, base)))
    const fresh =
      after === 'forward'
        ? step.filter(({ sequence, start }) => awaitsBoundary(sequence, start))
        : []
    return { after, segments, step, base, fresh }
  }

  /**
   * Sequences fresh from a prefix: runs the draft block's row of the prefix's last position, now that
   * the token behind it is known.
   */
  *draftBoundaries({ fresh, base }: CheckedDraft): Pass<void> {
    const { device, scratch, cache } = this.machine
    const rows = fresh.map(({ sequence, start }) => {
      const fed = sourceOf(sequence, base).tokens
      return { sequence, tokens: fed.subarray(0, 1), start: start - 1 }
    })
    const batch = writeBatch(device, scratch, layOut(rows), cache.pageTable, 'draft')
    const slots = Int32Array.from(fresh, ({ sequence }) => sequence.slot)
    const picks = writeI32(device, scratch.take('draft picks', 'i32', [slots.length]), slots)
    const kept = this.#boundaryStreams()
    const { streamCount, hiddenSize } = this.machine.shape
    const streams = reshape(kept, [rowCount(kept), streamCount, hiddenSize])
    yield* runDraft(this.machine, batch, { streams, picks })
    for (const { sequence } of fresh) sequence.boundaryPending = false
  }

  /** Keeps the streams of rows that end a page, the last of each segment: see `boundaryStreams`. */
  keepBoundaries({ step, base }: CheckedDraft): void {
    for (const { sequence, start, tokens } of step) {
      const end = start + tokens.length
      const boundary = end - (end % pageTokens)
      if (boundary <= start) continue
      const row = sourceOf(sequence, base).firstRow + boundary - 1 - start
      const to = stackItem(this.#boundaryStreams(), sequence.slot)
      copy(this.machine.device, { from: reshape(sliceRows(base.streams, row, 1), to.shape), to })
    }
  }

  /** Writes down what a draft is about. */
  beginDraft({ after, segments, step, base }: CheckedDraft): PreparedStep {
    const { device, scratch, cache, weights } = this.machine
    const batch = writeBatch(device, scratch, step, cache.pageTable, 'draft')
    const picks = writeI32(
      device,
      scratch.take('draft picks', 'i32', [rowCount(batch.tokens)]),
      sourceRows(step, base, after),
    )
    const last = pickedRows(step, segments)
    const picked = writeI32(device, scratch.take('picks', 'i32', [last.length]), last)
    const rows = rowCount(batch.tokens)
    const { draft } = weights
    assert(draft !== null, 'the model was loaded with its draft block')
    const machine = this.machine
    return {
      key: `draft after ${after} of ${rows} rows of ${rowCount(base.streams)}, ${last.length} picked`,
      rows,
      *run() {
        const drafted = yield* runDraft(machine, batch, { streams: base.streams, picks })
        return { output: drafted, logits: runHead(machine, drafted, picked, draft.contraction) }
      },
      finish: ({ output, logits }) => {
        if (after === 'forward') noteDrafted(step)
        this.#afterDraft = draftBase(output, step)
        return logits === null ? [] : readF32Rows(device, logits)
      },
    }
  }

  close(): void {
    const { device, cache, scratch, experts } = this.machine
    cache.close()
    scratch.close()
    experts?.close()
    for (const buffer of this.#buffers) device.free(buffer)
  }

  /** Room in the cache for a segment that was checked. */
  #grow({ sequence, tokens }: OwnSegment): Omit<StepSegment, 'firstRow'> {
    const start = sequence.length
    const length = start + tokens.length
    this.machine.cache.grow(sequence, length)
    sequence.furthest = Math.max(sequence.furthest, length)
    return { sequence, tokens, start }
  }

  #beginDraft(segment: OwnDraftSegment, base: DraftBase): Omit<StepSegment, 'firstRow'> {
    const { sequence, tokens, after } = segment
    const { rollbackMax } = this.machine.cache.limits
    const source = base.segments.get(sequence)
    assert(source !== undefined, `a drafted sequence took part in the latest ${after}`)
    this.#assertTokens(tokens)
    const most = after === 'forward' ? source.tokens.length : 1
    assert(
      tokens.length >= 1 && tokens.length <= most,
      `a draft after ${after} has 1…${most} tokens here, not ${tokens.length}`,
    )
    const start = after === 'forward' ? source.start : source.start + source.tokens.length
    assert(
      after === 'draft' || start <= sequence.draftLength || awaitsBoundary(sequence, start),
      `positions ${sequence.draftLength}…${start - 1} were never given to the draft block; ` +
        'draft after every step of a sequence, or not at all',
    )
    assert(
      start < sequence.length + Math.max(1, rollbackMax),
      `drafts reach at most ${rollbackMax} positions behind a sequence's length`,
    )
    return { sequence, tokens, start }
  }

  #boundaryStreams(): Tensor {
    const { boundaryStreams } = this.machine.cache
    assert(boundaryStreams !== null, 'a cache with the draft block keeps its boundaries')
    return boundaryStreams.tensor
  }

  #assertTokens(tokens: Int32Array): void {
    const { vocabSize } = this.machine.shape
    for (const token of tokens) {
      assert(token >= 0 && token < vocabSize, `token ${token} is in the vocabulary of ${vocabSize}`)
    }
  }
}

function draftBase({ streams }: LayersOutput, step: readonly StepSegment[]): DraftBase {
  // Callers may use their arrays again before they draft.
  const own = step.map((segment) => ({ ...segment, tokens: segment.tokens.slice() }))
  return { streams, segments: new Map(own.map((segment) => [segment.sequence, segment])) }
}

function noteDrafted(step: readonly StepSegment[]): void {
  for (const { sequence, start, tokens } of step) sequence.draftLength = start + tokens.length
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

/** How many of a segment's rows have logits. */
export function rowsWanted({ logits, tokens }: Pick<OwnSegment, 'logits' | 'tokens'>): number {
  if (logits === 'none') return 0
  return logits === 'all' ? tokens.length : 1
}

/** Rows whose logits were asked for, in segment order. */
function pickedRows(
  step: readonly StepSegment[],
  segments: readonly Pick<OwnSegment, 'logits' | 'tokens'>[],
): Int32Array {
  const rows: number[] = []
  for (const [index, { firstRow, tokens }] of step.entries()) {
    const segment = segments[index]
    const wanted = segment === undefined ? 0 : rowsWanted(segment)
    for (let i = tokens.length - wanted; i < tokens.length; i++) rows.push(firstRow + i)
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
