import { strict as assert } from 'node:assert'
import { beforeAll, describe, expect, it } from 'vitest'
import type { CachedPrefix, Model, Sequence } from '../../gpu-backend/src/model/model.ts'
import { mainDevices } from '../support/model-devices.ts'
import { loadToyModel } from '../support/toy-model.ts'

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
    drafts.push(...model.draft([{ sequence, tokens: next, after: 'forward' }]))
  }
  return { logits, drafts }
}

function keep(model: Model, sequence: Sequence): CachedPrefix {
  const prefix = model.keepPrefix(sequence)
  assert(prefix !== null, 'a place for a prefix is left')
  return prefix
}

const end = pageTokens + 44
const steps = [pageTokens, pageTokens + 1, pageTokens + 6, pageTokens + 30, end]

for (const on of mainDevices) {
  describe.skipIf(on.missing)(`on ${on.label}`, () => {
    describe.each([
      ['off', 'plain'],
      ['on', 'plain'],
      ['on', 'compact'],
    ] as const)('with quantisation %s and %s rows', (quantisation, cacheRows) => {
      let model: Model
      const text = textOf(end + 1, 0)
      /** The text's end, computed from its beginning. */
      let recomputed: Run

      beforeAll(async () => {
        // Rings of 23 rows: what a snapshot takes from them lies round their end.
        const cache = { sequencesMax: 4, tokensMax: 2048, rollbackMax: 7, prefixesMax: 4 }
        const options = { quantisation, cacheRows, mtp: true, cache }
        model = (await loadToyModel(options, on.open())).model
        recomputed = fromScratch(text)
      })

      function fromScratch(of: Int32Array): Run {
        const sequence = model.createSequence({ maxTokens: end })
        run(model, sequence, of, [100, pageTokens])
        const behind = run(model, sequence, of, steps.slice(1))
        model.release(sequence)
        return behind
      }

      /** A prefix of the text's first page, its sequence gone and all slots used by other texts. */
      function keptPage(): CachedPrefix {
        const donor = model.createSequence({ maxTokens: end })
        run(model, donor, text, [pageTokens])
        const prefix = keep(model, donor)
        model.release(donor)
        const others = [1, 2, 3, 4].map((seed) => {
          const sequence = model.createSequence({ maxTokens: 60 })
          run(model, sequence, textOf(60, seed), [50 + seed])
          return sequence
        })
        for (const other of others) model.release(other)
        return prefix
      }

      it('a restored prefix goes on as a recomputed one, whatever follows it', () => {
        const prefix = keptPage()
        expect(prefix).toMatchObject({ length: pageTokens, drafted: true })
        const other = changedFrom(text, pageTokens, 9)
        const expected = fromScratch(other)
        for (const [following, found] of [
          [text, recomputed],
          [other, expected],
        ] as const) {
          const sequence = model.createSequence({ maxTokens: end, from: prefix })
          expect(sequence.length).toBe(pageTokens)
          expect(run(model, sequence, following, steps.slice(1))).toEqual(found)
          model.release(sequence)
        }
        model.dropPrefix(prefix)
      })
    })
  })
}
