import { strict as assert } from 'node:assert'
import { isDeepStrictEqual } from 'node:util'
import { beforeAll, describe, expect, it } from 'vitest'
import { ReferenceDevice } from '../../gpu-backend/src/device/reference.ts'
import { sliceRows, stackItem } from '../../gpu-backend/src/device/tensor.ts'
import type { OpTable } from '../../gpu-backend/src/kernels/registry.ts'
import { CachedSequence } from '../../gpu-backend/src/model/cache.ts'
import type { CachedPrefix, Model, Sequence } from '../../gpu-backend/src/model/model.ts'
import { mainDevices } from '../support/model-devices.ts'
import { feed, loadToyModel } from '../support/toy-model.ts'

const pageTokens = 256

/** A text for each seed; two seeds have no stretch in common. */
function textOf(length: number, seed: number): Int32Array {
  return Int32Array.from({ length }, (_, i) => (7 * i ** 2 + (3 + seed) * i + 5 + 11 * seed) % 512)
}

/** `text`, but with other tokens from `position` on. */
function changedFrom(text: Int32Array, position: number, seed: number): Int32Array {
  const changed = text.slice()
  changed.set(textOf(text.length - position, seed), position)
  return changed
}

/** What a stretch of a text gave: logits of every token, and the draft logits behind each step. */
interface Run {
  readonly logits: readonly Float32Array[]
  readonly drafts: readonly Float32Array[]
}

/** Feeds a sequence its text up to `cuts`, drafting behind every step: the text has a token more. */
function run(model: Model, sequence: Sequence, text: Int32Array, cuts: readonly number[]): Run {
  const logits: Float32Array[] = []
  const drafts: Float32Array[] = []
  for (const end of cuts) {
    const start = sequence.length
    const tokens = text.subarray(start, end)
    logits.push(...model.forward([{ sequence, tokens, logits: 'all' }]))
    const next = text.subarray(start + 1, end + 1)
    drafts.push(...model.draft([{ sequence, tokens: next, after: 'forward', logits: 'last' }]))
  }
  return { logits, drafts }
}

function keep(model: Model, sequence: Sequence): CachedPrefix {
  const prefix = model.keepPrefix(sequence)
  assert(prefix !== null, 'a place for a prefix is left')
  return prefix
}

const end = pageTokens + 44
const steps = [pageTokens + 1, pageTokens + 6, pageTokens + 30, end]
/** Rings of 23 rows: what a snapshot takes from them lies round their end. */
const limits = { sequencesMax: 4, tokensMax: 2048, rollbackMax: 7, prefixesMax: 4 }

for (const on of mainDevices) {
  describe.skipIf(on.missing)(`on ${on.label}`, () => {
    describe.each([
      ['off', 'plain'],
      // Rounded values as plain rows: seen on the quick devices.
      ...(on.label === 'reference' ? [] : [['on', 'plain'] as const]),
      ['on', 'compact'],
    ] as const)('with quantisation %s and %s rows', (quantisation, cacheRows) => {
      let model: Model
      const text = textOf(end + 1, 0)
      const otherEnd = changedFrom(text, pageTokens, 9)
      /** The texts' ends, computed from their beginnings. */
      let recomputed: Run
      let otherRecomputed: Run

      const load = async (): Promise<Model> => {
        const options = { quantisation, cacheRows, mtp: true, cache: limits }
        return (await loadToyModel(options, on.open())).model
      }

      function fromScratch(of: Int32Array): Run {
        const sequence = model.createSequence({ maxTokens: end })
        run(model, sequence, of, [100, pageTokens])
        const behind = run(model, sequence, of, steps)
        model.release(sequence)
        return behind
      }

      function goOn(on: Model, from: CachedPrefix, following: Int32Array): Run {
        const sequence = on.createSequence({ maxTokens: end, from })
        expect(sequence.length).toBe(pageTokens)
        const behind = run(on, sequence, following, steps)
        on.release(sequence)
        return behind
      }

      /** A prefix of the text's first page, its sequence gone and all slots used by other texts. */
      function keptPage(): CachedPrefix {
        const donor = model.createSequence({ maxTokens: end })
        run(model, donor, text, [pageTokens])
        const prefix = keep(model, donor)
        model.release(donor)
        useSlots(model)
        return prefix
      }

      beforeAll(async () => {
        model = await load()
        recomputed = fromScratch(text)
        otherRecomputed = fromScratch(otherEnd)
      })

      it('a restored prefix goes on as a recomputed one, whatever follows it', () => {
        const prefix = keptPage()
        expect(prefix).toMatchObject({ length: pageTokens, drafted: true })
        expect(goOn(model, prefix, text)).toEqual(recomputed)
        expect(goOn(model, prefix, otherEnd)).toEqual(otherRecomputed)
        model.dropPrefix(prefix)
      })

      it('is the same after a journey through bytes, in a model of its own', async () => {
        const prefix = keptPage()
        const bytes = model.readPrefix(prefix)
        model.dropPrefix(prefix)
        const elsewhere = await load()
        const written = elsewhere.writePrefix(bytes)
        assert(written !== null, 'an empty cache has room')
        expect(written).toMatchObject({ length: pageTokens, drafted: true })
        expect(elsewhere.readPrefix(written)).toEqual(bytes)
        expect(goOn(elsewhere, written, otherEnd)).toEqual(otherRecomputed)
        elsewhere.close()
      })

      it('serves several sequences of one step, and the one it was taken from', () => {
        const donor = model.createSequence({ maxTokens: end })
        run(model, donor, text, [pageTokens])
        const prefix = keep(model, donor)
        const others = [0, 1].map(() => model.createSequence({ maxTokens: end, from: prefix }))
        model.dropPrefix(prefix)
        const [first = donor, second = donor] = others
        const texts = [
          { sequence: donor, of: text, found: recomputed },
          { sequence: first, of: otherEnd, found: otherRecomputed },
          { sequence: second, of: text, found: recomputed },
        ]
        const rows = model.forward(
          texts.map(({ sequence, of }) => {
            return { sequence, tokens: of.subarray(pageTokens, end), logits: 'last' as const }
          }),
        )
        expect(rows).toEqual(texts.map(({ found }) => found.logits.at(-1)))
        const drafts = model.draft(
          texts.map(({ sequence, of }) => {
            const tokens = of.subarray(pageTokens + 1, end + 1)
            return { sequence, tokens, after: 'forward' as const, logits: 'last' as const }
          }),
        )
        expect(drafts).toEqual(texts.map(({ found }) => found.drafts.at(-1)))
        for (const { sequence } of texts) model.release(sequence)
        expect(model.capacity()).toMatchObject({ pagesFree: 8, prefixesFree: 4, sequencesUsed: 0 })
      })

      it('guesses that were taken back are not in a prefix', () => {
        const donor = model.createSequence({ maxTokens: end })
        run(model, donor, text, [pageTokens - 2])
        const guess = Int32Array.of(...text.subarray(pageTokens - 2, pageTokens), 3, 3, 3, 3, 3)
        model.forward([{ sequence: donor, tokens: guess, logits: 'none' }])
        model.rollback(donor, pageTokens)
        const next = text.subarray(pageTokens - 1, pageTokens + 1)
        model.draft([{ sequence: donor, tokens: next, after: 'forward', logits: 'last' }])
        for (const token of [5, 6]) {
          model.draft([
            { sequence: donor, tokens: Int32Array.of(token), after: 'draft', logits: 'last' },
          ])
        }
        const prefix = keep(model, donor)
        model.release(donor)
        useSlots(model)
        expect(goOn(model, prefix, otherEnd)).toEqual(otherRecomputed)
        model.dropPrefix(prefix)
      })
    })
  })
}

/** Has every slot hold rows of texts of its own. */
function useSlots(model: Model): void {
  const sequences = Array.from({ length: limits.sequencesMax }, (_, seed) => {
    const sequence = model.createSequence({ maxTokens: 30 })
    run(model, sequence, textOf(31, seed + 1), [25 + seed])
    return sequence
  })
  for (const sequence of sequences) model.release(sequence)
}

/** Counts copies, and leaves one of them out. Remembers where compressed entries went. */
class ForgetfulDevice extends ReferenceDevice {
  copies = 0
  forgotten = -1
  readonly compressed: OpTable['compress'][] = []

  override run<Op extends keyof OpTable>(op: Op, args: OpTable[Op]): void {
    if (op === 'copy') this.copies += 1
    if ('use' in args) this.compressed.push(args)
    if (op !== 'copy' || this.copies - 1 !== this.forgotten) super.run(op, args)
  }
}

describe('a snapshot', () => {
  const text = textOf(end + 1, 0)

  it('misses nothing and keeps nothing idle: without any one copy something else comes out', async () => {
    const device = new ForgetfulDevice()
    const { model } = await loadToyModel({ mtp: true, cache: limits }, device)
    const [prefix, other] = [text, textOf(end + 1, 1)].map((of) => {
      const donor = model.createSequence({ maxTokens: end })
      run(model, donor, of, [pageTokens])
      const kept = keep(model, donor)
      model.release(donor)
      return kept
    })
    assert(prefix !== undefined && other !== undefined)

    /** What comes behind the prefix when copy `forgotten` of its restoration is left out. */
    const without = (forgotten: number): unknown => {
      // The slot holds another text's state at the same place.
      model.release(model.createSequence({ maxTokens: end, from: other }))
      Object.assign(device, { copies: 0, forgotten })
      const sequence = model.createSequence({ maxTokens: end, from: prefix })
      device.forgotten = -1
      device.compressed.length = 0
      const tokens = text.subarray(pageTokens, end)
      const logits = model.forward([{ sequence, tokens, logits: 'all' }])
      const next = text.subarray(pageTokens + 1, pageTokens + 2)
      const drafts = model.draft([{ sequence, tokens: next, after: 'forward', logits: 'last' }])
      assert(sequence instanceof CachedSequence)
      const page = sequence.pages[1] ?? 0
      // An index key that is wrong may still not change what is picked: entries are compared too.
      const entries = device.compressed.map(({ entries: kept, ratio }) =>
        device.f32(sliceRows(stackItem(kept, page), 0, Math.floor((end - pageTokens) / ratio))),
      )
      const found = { logits, drafts, entries: entries.map((values) => values.slice()) }
      model.release(sequence)
      return found
    }

    const complete = without(-1)
    const { copies } = device
    // Six windows, values and scores of two compressors in two layers, each in two runs; the streams.
    expect(copies).toBe(2 * (6 + 2 * 2 * 2) + 1)
    expect(without(-1)).toEqual(complete)
    const unnoticed = Array.from({ length: copies }, (_, copy) => copy).filter((copy) =>
      isDeepStrictEqual(without(copy), complete),
    )
    expect(unnoticed).toEqual([])
  })

  it('is not drafted for where its sequence was not', async () => {
    const { model } = await loadToyModel({ mtp: true, cache: limits })
    const donor = model.createSequence({ maxTokens: end })
    model.forward([{ sequence: donor, tokens: text.subarray(0, pageTokens), logits: 'none' }])
    const prefix = keep(model, donor)
    expect(prefix.drafted).toBe(false)
    const sequence = model.createSequence({ maxTokens: end, from: prefix })
    model.forward([{ sequence, tokens: Int32Array.of(7), logits: 'none' }])
    expect(() =>
      model.draft([{ sequence, tokens: Int32Array.of(7), after: 'forward', logits: 'last' }]),
    ).toThrow('positions 0…255 were never given to the draft block')
  })

  it('read as bytes is refused when damaged, and by a cache laid out in another way', async () => {
    const { model } = await loadToyModel({ quantisation: 'on', cache: limits })
    const donor = model.createSequence({ maxTokens: end })
    feed(model, donor, text.subarray(0, pageTokens))
    const bytes = model.readPrefix(keep(model, donor))
    const damaged = bytes.slice()
    damaged[bytes.length >> 1] = 1 + (damaged[bytes.length >> 1] ?? 0)
    expect(() => model.writePrefix(damaged)).toThrow('their checksum is wrong')
    const { model: plain } = await loadToyModel({ quantisation: 'on', cacheRows: 'plain' })
    expect(() => plain.writePrefix(bytes)).toThrow('a cache laid out in another way')
    for (let i = 0; i < 3; i++) expect(model.writePrefix(bytes)).not.toBeNull()
    expect(model.writePrefix(bytes)).toBeNull()
  })
})
