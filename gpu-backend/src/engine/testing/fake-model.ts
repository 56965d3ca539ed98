import { strict as assert } from 'node:assert'
import type { CacheCapacity, CachedPrefix, Segment, Sequence } from '../../model/model.ts'
import type { EngineModel } from '../engine.ts'
import { seededRandom } from '../random.ts'

/** A page, known by its identity. */
type Page = object

interface FakeState {
  length: number
  /** All the model remembers of the tokens it was fed, in their order. */
  hash: number
  readonly pages: Page[]
}

type FakeSequence = FakeState & { readonly maxTokens: number }
type FakePrefix = Readonly<FakeState> & { readonly drafted: boolean }

export interface FakeModelOptions {
  readonly vocabSize?: number
  readonly eosTokenId?: number
  readonly pageTokens?: number
  readonly pagesMax?: number
  readonly sequencesMax?: number
  readonly prefixesMax?: number
  /** The likeliest token by the length of the text before it; elsewhere the end token is the least. */
  readonly script?: ReadonlyMap<number, number>
}

/**
 * Keeps the promises of a model's cache, and asserts those made to it, with an arithmetic of nothing:
 * logits depend on the tokens fed to the sequence or kept in its prefix, on all and on no others.
 */
export class FakeModel implements EngineModel {
  readonly shape
  readonly sequences = new Set<Sequence>()
  readonly prefixes = new Set<CachedPrefix>()
  /** How many segments, and how many tokens, each step had. */
  readonly steps: { readonly segments: number; readonly tokens: number }[] = []
  readonly #options: Required<FakeModelOptions>

  constructor(options: FakeModelOptions = {}) {
    this.#options = {
      vocabSize: 16,
      eosTokenId: 1,
      pageTokens: 4,
      pagesMax: 64,
      sequencesMax: 64,
      prefixesMax: 8,
      script: new Map(),
      ...options,
    }
    const { vocabSize, eosTokenId } = this.#options
    this.shape = { vocabSize, eosTokenId, maxPositionEmbeddings: 1_000_000 }
  }

  readonly deviceCount = 1

  createSequence(options: { readonly maxTokens: number; readonly from?: CachedPrefix }): Sequence {
    const { maxTokens, from } = options
    assert(this.sequences.size < this.#options.sequencesMax, 'there is a slot')
    const kept = from === undefined ? { length: 0, hash: 7, pages: [] } : this.#prefix(from)
    const sequence = { ...kept, pages: [...kept.pages], maxTokens }
    this.sequences.add(sequence)
    return sequence
  }

  keepPrefix(sequence: Sequence): CachedPrefix | null {
    const { length, hash, pages } = this.#sequence(sequence)
    assert(length > 0 && length % this.#options.pageTokens === 0, 'whole pages are kept')
    if (this.prefixes.size >= this.#options.prefixesMax) return null
    const prefix = { length, hash, pages: [...pages], drafted: false }
    this.prefixes.add(prefix)
    return prefix
  }

  dropPrefix(prefix: CachedPrefix): void {
    assert(this.prefixes.delete(prefix), 'a prefix is dropped once')
  }

  forward(segments: readonly Segment[]): readonly Float32Array[] {
    this.steps.push({
      segments: segments.length,
      tokens: segments.reduce((total, { tokens }) => total + tokens.length, 0),
    })
    assert.equal(new Set(segments.map(({ sequence }) => sequence)).size, segments.length)
    const logits = segments.flatMap(({ sequence, tokens, logits: wanted }) => {
      assert(tokens.length > 0, 'a segment has tokens')
      const state = this.#sequence(sequence)
      const rows = Array.from(tokens, (token, i) => {
        this.#feed(state, token)
        return wanted === 'all' || i === tokens.length - 1 ? [this.#row(state)] : []
      })
      return wanted === 'none' ? [] : rows.flat()
    })
    assert(
      this.#pagesUsed() <= this.#options.pagesMax,
      'the scheduler saw to it that there are pages',
    )
    return logits
  }

  release(sequence: Sequence): void {
    assert(this.sequences.delete(sequence), 'a sequence is released once')
  }

  capacity(): CacheCapacity {
    const { pageTokens, pagesMax, sequencesMax, prefixesMax } = this.#options
    return {
      pageTokens,
      pagesFree: pagesMax - this.#pagesUsed(),
      pagesMax,
      sequencesUsed: this.sequences.size,
      sequencesMax,
      prefixesFree: prefixesMax - this.prefixes.size,
      prefixesMax,
      bytesAllocated: 0,
    }
  }

  #feed(sequence: FakeSequence, token: number): void {
    const { vocabSize, pageTokens } = this.#options
    assert(token >= 0 && token < vocabSize, 'a token is in the vocabulary')
    assert(sequence.length < sequence.maxTokens, 'a sequence stays within its ceiling')
    if (sequence.length === sequence.pages.length * pageTokens) sequence.pages.push({})
    sequence.length += 1
    sequence.hash = (Math.imul(sequence.hash, 31) + token) | 0
  }

  #row({ hash, length }: FakeSequence): Float32Array {
    const { vocabSize, eosTokenId, script } = this.#options
    const random = seededRandom(hash)
    const row = Float32Array.from({ length: vocabSize }, () => random() * 4)
    row[eosTokenId] = -1
    const scripted = script.get(length)
    if (scripted !== undefined) row[scripted] = 100
    return row
  }

  #pagesUsed(): number {
    const pages = [...this.sequences].flatMap((sequence) => this.#sequence(sequence).pages)
    for (const prefix of this.prefixes) pages.push(...this.#prefix(prefix).pages)
    return new Set(pages).size
  }

  #sequence(sequence: Sequence): FakeSequence {
    assert(this.sequences.has(sequence) && 'hash' in sequence, 'the sequence is in use')
    return sequence as FakeSequence
  }

  #prefix(prefix: CachedPrefix): FakePrefix {
    assert(this.prefixes.has(prefix) && 'hash' in prefix, 'the prefix is kept')
    return prefix as FakePrefix
  }
}
