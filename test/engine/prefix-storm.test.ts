import { strict as assert } from 'node:assert'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { Device } from '../../gpu-backend/src/device/device.ts'
import { Random } from '../../gpu-backend/src/kernels/testing/random.ts'
import {
  type CachedPrefix,
  type Model,
  ModelError,
  type Sequence,
} from '../../gpu-backend/src/model/model.ts'
import { cpuDevice, referenceDevice } from '../support/model-devices.ts'
import { loadToyModel } from '../support/toy-model.ts'

// Sequences and prefixes come and go at random in a cache that is too small for them, beside a
// second set of books about who holds which page; every row of logits is compared with the text's
// own, computed alone.

const pageTokens = 256
const textTokens = 2 * pageTokens + 60
const limits = { sequencesMax: 4, tokensMax: 9 * pageTokens, rollbackMax: 5, prefixesMax: 4 }
const quick = cpuDevice({ numerics: 'exact', threads: 2 })
const on = quick.missing ? referenceDevice : quick
const stepsPerSeed = quick.missing ? 60 : 200

/** Four texts: two share a page, two of those another one. */
const texts: readonly Int32Array[] = [0, 1, 2, 3].map((text) =>
  Int32Array.from({ length: textTokens + 1 }, (_, i) => {
    const shared = (i < pageTokens && text < 3) || (i < 2 * pageTokens && text < 2)
    return (7 * i ** 2 + 5 * i + 3 + (shared ? 0 : 31 * (text + 1) * (i % 13))) % 512
  }),
)

/** A page by who first filled it. */
type Page = symbol

interface Living {
  readonly sequence: Sequence
  readonly text: number
  readonly pages: Page[]
  /** Tokens a prefix shares with it. */
  shared: number
}

interface Kept {
  readonly prefix: CachedPrefix
  /** A text it is the beginning of. */
  readonly text: number
  readonly pages: readonly Page[]
}

class Storm {
  readonly counts = { step: 0, full: 0, rollback: 0, restore: 0, keep: 0, bytes: 0 }
  readonly #model: Model
  readonly #expected: readonly (readonly Float32Array[])[]
  readonly #random: Random
  readonly #living: Living[] = []
  readonly #kept: Kept[] = []

  constructor(model: Model, expected: readonly (readonly Float32Array[])[], seed: number) {
    this.#model = model
    this.#expected = expected
    this.#random = new Random(seed, 'prefix storm')
  }

  run(steps: number): void {
    for (let step = 0; step < steps; step++) {
      const act = this.#random.below(10)
      if (act < 2) this.#create()
      else if (act === 2 && this.#living.length > 0) this.#release()
      else if (act === 3 && this.#kept.length > 1) this.#drop()
      else if (act === 4 && this.#kept.length > 0) this.#throughBytes()
      else this.#step()
      this.#audit()
    }
    while (this.#living.length > 0) this.#release()
    while (this.#kept.length > 0) this.#drop()
    this.#audit()
  }

  #create(): void {
    const { sequencesMax } = limits
    if (this.#living.length === sequencesMax) {
      expect(() => this.#model.createSequence({ maxTokens: 1 })).toThrow(ModelError)
      return
    }
    const text = this.#random.below(texts.length)
    const fits = this.#kept.filter(({ prefix, text: of }) => beginAlike(of, text, prefix.length))
    const from = fits.length === 0 ? undefined : this.#random.pick(fits)
    if (from !== undefined) this.counts.restore += 1
    const sequence = this.#model.createSequence({
      maxTokens: textTokens,
      ...(from === undefined ? {} : { from: from.prefix }),
    })
    expect(sequence.length).toBe(from?.prefix.length ?? 0)
    this.#living.push({ sequence, text, pages: [...(from?.pages ?? [])], shared: sequence.length })
  }

  /** Some sequences go on together, up to a page's end or some way; one of them may be taken back. */
  #step(): void {
    const members = this.#living.filter(
      ({ sequence }) => sequence.length < textTokens && this.#random.below(3) > 0,
    )
    if (members.length === 0) return
    const ends = members.map(({ sequence: { length } }) => {
      const boundary = (Math.floor(length / pageTokens) + 1) * pageTokens
      return Math.min(
        textTokens,
        this.#random.below(2) === 0 ? boundary : length + 1 + (length % 40),
      )
    })
    const wanted = members.map(({ pages }, i) => pagesFor(ends[i] ?? 0) - pages.length)
    const missing = wanted.reduce((total, count) => total + count, 0)
    const starts = members.map(({ sequence }) => sequence.length)
    const forward = (): readonly Float32Array[] =>
      this.#model.forward(
        members.map(({ sequence, text }, i) => {
          const tokens = texts[text]?.subarray(starts[i], ends[i]) ?? new Int32Array()
          return { sequence, tokens, logits: 'last' as const }
        }),
      )
    if (missing > this.#pagesFree()) {
      this.counts.full += 1
      expect(forward).toThrow(ModelError)
      expect(members.map(({ sequence }) => sequence.length)).toEqual(starts)
      return
    }
    const rows = forward()
    this.counts.step += 1
    for (const [i, member] of members.entries()) {
      const end = ends[i] ?? 0
      expect(rows[i]).toEqual(this.#expected[member.text]?.[end - 1])
      while (member.pages.length < pagesFor(end)) member.pages.push(Symbol('page'))
    }
    this.#draft(members, starts)
    for (const member of members) this.#keepOrTakeBack(member)
  }

  #draft(members: readonly Living[], starts: readonly number[]): void {
    this.#model.draft(
      members.map(({ sequence, text }, i) => {
        const tokens = texts[text]?.subarray((starts[i] ?? 0) + 1, sequence.length + 1)
        return {
          sequence,
          tokens: tokens ?? new Int32Array(),
          after: 'forward' as const,
          logits: 'none' as const,
        }
      }),
    )
  }

  #keepOrTakeBack(member: Living): void {
    const { sequence, text, pages } = member
    if (sequence.length % pageTokens === 0 && this.#random.below(2) === 0) {
      const prefix = this.#model.keepPrefix(sequence)
      expect(prefix === null).toBe(this.#kept.length === limits.prefixesMax)
      if (prefix === null) return
      this.counts.keep += 1
      expect(prefix).toMatchObject({ length: sequence.length, drafted: true })
      this.#kept.push({ prefix, text, pages: pages.slice(0, pagesFor(prefix.length)) })
      member.shared = prefix.length
    } else if (this.#random.below(3) === 0) {
      const back = Math.min(sequence.length - member.shared, 1 + this.#random.below(4))
      this.#model.rollback(sequence, sequence.length - back)
      pages.length = pagesFor(sequence.length)
      this.counts.rollback += 1
    }
  }

  #release(): void {
    const [gone] = this.#living.splice(this.#random.below(this.#living.length), 1)
    if (gone !== undefined) this.#model.release(gone.sequence)
  }

  #drop(): void {
    const [gone] = this.#kept.splice(this.#random.below(this.#kept.length), 1)
    if (gone !== undefined) this.#model.dropPrefix(gone.prefix)
  }

  /** A prefix leaves the cache and comes back, in pages of its own. */
  #throughBytes(): void {
    const [gone] = this.#kept.splice(this.#random.below(this.#kept.length), 1)
    assert(gone !== undefined)
    const bytes = this.#model.readPrefix(gone.prefix)
    this.#model.dropPrefix(gone.prefix)
    const free = this.#pagesFree()
    const prefix = this.#model.writePrefix(bytes)
    expect(prefix === null).toBe(pagesFor(gone.prefix.length) > free)
    if (prefix === null) return
    this.counts.bytes += 1
    const pages = gone.pages.map(() => Symbol('page'))
    this.#kept.push({ prefix, text: gone.text, pages })
  }

  #pagesFree(): number {
    const held = [...this.#living, ...this.#kept].flatMap(({ pages }) => pages)
    return limits.tokensMax / pageTokens - new Set(held).size
  }

  #audit(): void {
    expect(this.#model.capacity()).toMatchObject({
      pagesFree: this.#pagesFree(),
      sequencesUsed: this.#living.length,
      prefixesFree: limits.prefixesMax - this.#kept.length,
    })
  }
}

function beginAlike(one: number, other: number, length: number): boolean {
  const begins = (text: number): string => String(texts[text]?.subarray(0, length))
  return begins(one) === begins(other)
}

function pagesFor(tokens: number): number {
  return Math.ceil(tokens / pageTokens)
}

describe(`a small cache under a storm, on ${on.label}`, () => {
  let model: Model
  let device: Device
  let expected: readonly (readonly Float32Array[])[]

  beforeAll(async () => {
    const loaded = await loadToyModel({ quantisation: 'on', mtp: true, cache: limits }, on.open())
    model = loaded.model
    device = loaded.device
    expected = texts.map((text) => {
      const sequence = model.createSequence({ maxTokens: textTokens })
      const tokens = text.subarray(0, textTokens)
      const rows = model.forward([{ sequence, tokens, logits: 'all' }])
      model.release(sequence)
      return rows
    })
  })
  afterAll(() => device.close())

  it.each([1, 2, 3])('gives every text its own logits, and every page back: seed %i', (seed) => {
    const storm = new Storm(model, expected, seed)
    storm.run(stepsPerSeed)
    for (const [what, count] of Object.entries(storm.counts)) {
      expect(count, what).toBeGreaterThan(0)
    }
    expect(model.capacity()).toMatchObject({ pagesFree: 9, prefixesFree: 4, sequencesUsed: 0 })
  })
})
