import { beforeAll, describe, expect, it } from 'vitest'
import type { Model, Segment, Sequence } from '../../gpu-backend/src/model/model.ts'
import { cpuDevice, mainDevices } from '../support/model-devices.ts'
import { feed, goldenTokens, loadToyModel } from '../support/toy-model.ts'

/**
 * Tokens a text has. 136 see a block of 128 end; with rounding, which changes no state but the values
 * in it, 70 see the indexer choose and blocks of 16 end.
 */
const lengths = { off: 136, on: 70 }

/** Another text of the same length for each seed. */
function textOf(total: number, seed: number): Int32Array {
  return goldenTokens(0, total).map((token, i) => (token * (seed + 1) + seed * i) % 512)
}

for (const on of mainDevices) {
  describe.skipIf(on.missing)(`on ${on.label}`, () => {
    describe.each(['off', 'on'] as const)('with quantisation %s', (quantisation) => {
      const total = lengths[quantisation]
      const text = (seed: number): Int32Array => textOf(total, seed)
      let model: Model
      /** Logits of three texts, each fed alone and in one step. */
      let alone: readonly (readonly Float32Array[])[]

      const create = (): Sequence => model.createSequence({ maxTokens: total })

      beforeAll(async () => {
        model = (await loadToyModel({ quantisation }, on.open())).model
        alone = [0, 1, 2].map((seed) => {
          const sequence = create()
          const rows = feed(model, sequence, text(seed))
          model.release(sequence)
          return rows
        })
      })

      it("a sequence's logits do not depend on the sequences beside it", () => {
        const sequences = [0, 1, 2].map(create)
        const fed = [0, 0, 0]
        const found: Float32Array[][] = [[], [], []]
        // Chunks and single tokens, in steps of one, two or three sequences, in changing order.
        for (let step = 0; fed.some((count) => count < total); step++) {
          const members = [0, 1, 2].filter((i) => (fed[i] ?? 0) < total && (step + i) % 4 !== 3)
          if (step % 2 === 1) members.reverse()
          const segments = members.map((i): Segment => {
            const start = fed[i] ?? 0
            const length = Math.min(
              (step + i) % 3 === 0 ? 1 : 1 + ((step * 7 + i * 5) % 23),
              total - start,
            )
            fed[i] = start + length
            const tokens = text(i).subarray(start, start + length)
            const sequence = sequences[i] ?? create()
            return { sequence, tokens, logits: 'all' }
          })
          const rows = [...model.forward(segments)]
          for (const [place, i] of members.entries()) {
            found[i]?.push(...rows.splice(0, segments[place]?.tokens.length ?? 0))
          }
        }
        expect(found).toEqual(alone)
        for (const sequence of sequences) model.release(sequence)
      })

      it('gives rows for the tokens they were asked for, in segment order', () => {
        const [first, second, third] = [create(), create(), create()]
        const rows = model.forward([
          { sequence: first, tokens: text(0).subarray(0, 5), logits: 'last' },
          { sequence: second, tokens: text(1).subarray(0, 6), logits: 'none' },
          { sequence: third, tokens: text(2).subarray(0, 2), logits: 'all' },
        ])
        expect(rows).toEqual([alone[0]?.[4], alone[2]?.[0], alone[2]?.[1]])
        expect([first, second, third].map((sequence) => sequence.length)).toEqual([5, 6, 2])
        for (const sequence of [first, second, third]) model.release(sequence)
      })

      it.each([2, 8])('taking back %i tokens leaves no trace', (rejected) => {
        const tokens = text(0)
        const wrong = text(1)
        const sequence = create()
        const found: Float32Array[] = []
        // Positions around which blocks of 4, 16 and 128 end and the window of 16 turns over.
        for (let start = 0; start < total;) {
          const accepted = Math.min(1 + (start % 7), total - start)
          const guess = Int32Array.of(
            ...tokens.subarray(start, start + accepted),
            ...wrong.subarray(0, Math.min(rejected, total - start - accepted)),
          )
          const rows = model.forward([{ sequence, tokens: guess, logits: 'all' }])
          found.push(...rows.slice(0, accepted))
          start += accepted
          model.rollback(sequence, start)
          expect(sequence.length).toBe(start)
        }
        expect(found).toEqual(alone[0])
        model.release(sequence)
      })

      it('a slot and pages that another sequence used are as good as new', () => {
        const before = create()
        feed(model, before, text(2))
        model.release(before)
        const sequence = create()
        const rows = feed(model, sequence, text(1), [1, 20, 21, 64, total])
        expect(rows).toEqual(alone[1])
        model.release(sequence)
      })
    })

    describe('a growing cache', () => {
      it('moves without changing what is in it', async () => {
        const { model, device } = await loadToyModel({}, on.open())
        const tokens = goldenTokens(0, 290)
        const long = model.createSequence({ maxTokens: 290 })
        const expected = feed(model, long, tokens)
        model.release(long)
        const { bytesAllocated } = model.capacity()

        const fresh = await loadToyModel({}, on.open())
        const sequence = fresh.model.createSequence({ maxTokens: 290 })
        const found = feed(fresh.model, sequence, tokens, [270])
        // More slots and pages than a pool begins with: both are reallocated under the sequence.
        const others = Array.from({ length: 7 }, () => fresh.model.createSequence({ maxTokens: 9 }))
        for (const other of others) feed(fresh.model, other, tokens.subarray(0, 9))
        found.push(...feed(fresh.model, sequence, tokens.subarray(270)))
        expect(found).toEqual(expected)
        expect(fresh.model.capacity().bytesAllocated).toBeGreaterThan(bytesAllocated)

        fresh.model.close()
        expect(fresh.device.memory()).toMatchObject({ allocatedBytes: 0, buffers: 0 })
        model.close()
        expect(device.memory().buffers).toBe(0)
      })
    })
  })
}

describe.skipIf(cpuDevice({}).missing)('the number of threads', () => {
  it.each(['exact', 'fast'] as const)('changes no bit, numerics %s', async (numerics) => {
    const logits = async (threads: number): Promise<Float32Array[]> => {
      const { model } = await loadToyModel({}, cpuDevice({ numerics, threads }).open())
      const sequence = model.createSequence({ maxTokens: 60 })
      return feed(model, sequence, textOf(60, 1), [40, 41, 60])
    }
    const alone = await logits(1)
    for (const threads of [2, 5]) expect(await logits(threads)).toEqual(alone)
  })
})

describe('refusals', () => {
  it('come before anything is changed', async () => {
    const { model } = await loadToyModel({ cache: { sequencesMax: 1, tokensMax: 512 } })
    const sequence = model.createSequence({ maxTokens: 4 })
    const segment = (tokens: Int32Array): Segment => ({ sequence, tokens, logits: 'last' })
    expect(() => model.forward([segment(Int32Array.of(512))])).toThrow('token 512 is in the vocab')
    expect(() => model.forward([segment(Int32Array.of(-1))])).toThrow('token -1 is in the vocab')
    expect(() => model.forward([segment(new Int32Array())])).toThrow('at least one token')
    const once = segment(Int32Array.of(1))
    expect(() => model.forward([once, once])).toThrow('a sequence has one segment a step')
    expect(() => model.forward([segment(goldenTokens(0, 5))])).toThrow(
      'a sequence of at most 4 tokens cannot hold 5',
    )
    expect(() => model.createSequence({ maxTokens: 1 })).toThrow('all 1 sequences are in use')
    expect(sequence.length).toBe(0)
    expect(model.forward([segment(goldenTokens(0, 4))])).toHaveLength(1)
    expect(() => model.rollback(sequence, 5)).toThrow('taken back to 0…4, not 5')
    model.release(sequence)
    expect(() => model.forward([once])).toThrow('belongs to this model and was not released')
    expect(model.forward([])).toEqual([])
  })
})
