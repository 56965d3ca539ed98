import type { EngineModel } from '../../gpu-backend/src/engine/engine.ts'
import type { GuessingModel } from '../../gpu-backend/src/engine/speculation.ts'
import type {
  CacheCapacity,
  CachedPrefix,
  CreateSequenceOptions,
  DraftSegment,
  Model,
  Segment,
  Sequence,
} from '../../gpu-backend/src/model/model.ts'

/**
 * A model whose draft head knows what comes: it guesses along texts known beforehand, wrongly at
 * those positions that `isWrong` picks. The model's own head runs too, and is not listened to.
 */
export class GuidedModel implements EngineModel, GuessingModel {
  readonly drafts = true
  readonly #model: Model
  readonly #texts: readonly (readonly number[])[]
  readonly #isWrong: (position: number) => boolean
  readonly #tokens = new Map<Sequence | CachedPrefix, number[]>()
  /** Tokens up to the latest that was given to the head. */
  readonly #drafted = new Map<Sequence, number[]>()

  constructor(
    model: Model,
    texts: readonly (readonly number[])[],
    isWrong: (position: number) => boolean,
  ) {
    this.#model = model
    this.#texts = texts
    this.#isWrong = isWrong
  }

  get shape(): Model['shape'] {
    return this.#model.shape
  }

  get deviceCount(): number {
    return this.#model.deviceCount
  }

  get rollbackMax(): number {
    return this.#model.rollbackMax
  }

  createSequence(options: CreateSequenceOptions): Sequence {
    const sequence = this.#model.createSequence(options)
    this.#tokens.set(sequence, options.from === undefined ? [] : [...this.#tokensOf(options.from)])
    return sequence
  }

  keepPrefix(sequence: Sequence): CachedPrefix | null {
    const prefix = this.#model.keepPrefix(sequence)
    if (prefix !== null) this.#tokens.set(prefix, [...this.#tokensOf(sequence)])
    return prefix
  }

  dropPrefix(prefix: CachedPrefix): void {
    this.#model.dropPrefix(prefix)
  }

  forward(segments: readonly Segment[]): readonly Float32Array[] {
    const rows = this.#model.forward(segments)
    for (const { sequence, tokens } of segments) this.#tokensOf(sequence).push(...tokens)
    return rows
  }

  rollback(sequence: Sequence, length: number): void {
    this.#model.rollback(sequence, length)
    this.#tokensOf(sequence).length = length
  }

  draft(segments: readonly DraftSegment[]): readonly Float32Array[] {
    this.#model.draft(segments)
    return segments.flatMap(({ sequence, tokens, after, logits }) => {
      const known = after === 'forward' ? this.#tokensOf(sequence) : this.#drafted.get(sequence)
      const drafted = [...(known ?? []), ...tokens.slice(-1)]
      this.#drafted.set(sequence, drafted)
      return logits === 'last' ? [this.#rowBehind(drafted)] : []
    })
  }

  release(sequence: Sequence): void {
    this.#model.release(sequence)
  }

  capacity(device?: number): CacheCapacity {
    return this.#model.capacity(device)
  }

  #rowBehind(tokens: readonly number[]): Float32Array {
    const { vocabSize } = this.shape
    const text = this.#texts.find((each) => tokens.every((token, i) => token === each[i]))
    const next = text?.[tokens.length] ?? 0
    const guess = this.#isWrong(tokens.length) ? (next + 1) % vocabSize : next
    return Float32Array.from({ length: vocabSize }, (_, token) => (token === guess ? 1 : 0))
  }

  #tokensOf(of: Sequence | CachedPrefix): number[] {
    return this.#tokens.get(of) ?? []
  }
}
