import { beforeAll, describe, expect, it } from 'vitest'
import type { Model, Sequence } from '../../gpu-backend/src/model/model.ts'
import { feed, goldenTokens, loadToyModel } from '../support/toy-model.ts'

const total = 60

describe('drafts', () => {
  let model: Model
  const tokens = goldenTokens(0, total + 1)

  beforeAll(async () => {
    model = (await loadToyModel({ mtp: true })).model
  })

  function create(): Sequence {
    return model.createSequence({ maxTokens: total + 1 })
  }

  /** Steps ending at `cuts`, each followed by a draft over all its rows. */
  function draftAlong(sequence: Sequence, cuts: readonly number[]): Float32Array[] {
    let start = 0
    return cuts.flatMap((end) => {
      model.forward([{ sequence, tokens: tokens.subarray(start, end), logits: 'none' }])
      const next = tokens.subarray(start + 1, end + 1)
      start = end
      return [...model.draft([{ sequence, tokens: next, after: 'forward', logits: 'last' }])]
    })
  }

  it('do not depend on how the sequence was cut into steps', () => {
    const singles = draftAlong(
      create(),
      Array.from({ length: total }, (_, i) => i + 1),
    )
    const cuts = [1, 2, 17, 40, total]
    expect(draftAlong(create(), cuts)).toEqual(cuts.map((end) => singles[end - 1]))
  })

  it('do not depend on the sequences beside them, and leave the main logits alone', async () => {
    const [a, b] = [create(), create()]
    const segment = (sequence: Sequence, start: number, end: number) => ({
      sequence,
      tokens: tokens.subarray(start, end),
      logits: 'last' as const,
    })
    model.forward([segment(a, 0, 20), segment(b, 0, 33)])
    const drafts = model.draft([
      { sequence: b, tokens: tokens.subarray(1, 34), after: 'forward', logits: 'last' },
      { sequence: a, tokens: tokens.subarray(1, 21), after: 'forward', logits: 'last' },
    ])
    expect(drafts).toEqual([...draftAlong(create(), [33]), ...draftAlong(create(), [20])])
    model.forward([segment(a, 20, 30)])
    model.draft([
      { sequence: a, tokens: tokens.subarray(21, 31), after: 'forward', logits: 'last' },
    ])
    const plain = (await loadToyModel()).model
    const without = plain.createSequence({ maxTokens: total })
    expect(model.forward([segment(a, 30, 50)])).toEqual([
      feed(plain, without, tokens.subarray(0, 50)).at(-1),
    ])
  })

  it('continue from their own streams, one position on', () => {
    const sequence = create()
    model.forward([{ sequence, tokens: tokens.subarray(0, 20), logits: 'none' }])
    model.draft([{ sequence, tokens: tokens.subarray(1, 21), after: 'forward', logits: 'last' }])
    const second = model.draft([
      { sequence, tokens: tokens.subarray(21, 22), after: 'draft', logits: 'last' },
    ])
    const third = model.draft([
      { sequence, tokens: tokens.subarray(22, 23), after: 'draft', logits: 'last' },
    ])
    expect(second).not.toEqual(third)
    // Guesses leave nothing behind: the next real step drafts as if they had never been made.
    model.forward([{ sequence, tokens: tokens.subarray(20, 25), logits: 'none' }])
    const after = model.draft([
      { sequence, tokens: tokens.subarray(21, 26), after: 'forward', logits: 'last' },
    ])
    expect(after).toEqual(draftAlong(create(), [20, 25]).slice(1))
  })

  it('take the accepted rows of a verified guess, and the rest is forgotten', () => {
    const expected = draftAlong(create(), [20, 22]).slice(1)
    const sequence = create()
    draftAlong(sequence, [20])
    const guess = Int32Array.of(...tokens.subarray(20, 22), 7, 7)
    model.forward([{ sequence, tokens: guess, logits: 'all' }])
    model.rollback(sequence, 22)
    const next = tokens.subarray(21, 23)
    expect(model.draft([{ sequence, tokens: next, after: 'forward', logits: 'last' }])).toEqual(
      expected,
    )
  })

  it('are refused where their streams or their window are missing', () => {
    const [sequence, other] = [create(), create()]
    const draft = (of: Sequence, count: number, after: 'forward' | 'draft') => () =>
      model.draft([{ sequence: of, tokens: tokens.subarray(0, count), after, logits: 'last' }])
    model.forward([{ sequence, tokens: tokens.subarray(0, 5), logits: 'none' }])
    expect(draft(sequence, 1, 'draft')).toThrow('a draft after draft follows a draft')
    expect(draft(other, 1, 'forward')).toThrow('took part in the latest forward')
    expect(draft(sequence, 6, 'forward')).toThrow('has 1…5 tokens here, not 6')
    model.forward([{ sequence, tokens: tokens.subarray(5, 6), logits: 'none' }])
    expect(draft(sequence, 1, 'forward')).toThrow('positions 0…4 were never given to the draft')
  })
})

describe('a model without its draft block', () => {
  it('says so', async () => {
    const { model } = await loadToyModel()
    expect(model.drafts).toBe(false)
    const sequence = model.createSequence({ maxTokens: 4 })
    model.forward([{ sequence, tokens: Int32Array.of(1), logits: 'none' }])
    const segment = {
      sequence,
      tokens: Int32Array.of(1),
      after: 'forward',
      logits: 'last',
    } as const
    expect(() => model.draft([segment])).toThrow('loaded with its draft block')
  })
})
