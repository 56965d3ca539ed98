import { strict as assert } from 'node:assert'
import { describe, expect, it } from 'vitest'
import type { DraftSegment, Sequence } from '../model/model.ts'
import { drawWhileRight, type FollowedStep, GuessRecord, Speculation } from './speculation.ts'

const vocabSize = 8

/** A row whose likeliest token is `token`. */
function rowOf(token: number): Float32Array {
  return Float32Array.from({ length: vocabSize }, (_, id) => (id === token ? 1 : 0))
}

/** Guesses the next number, and remembers what it was shown. */
class CountingHead {
  readonly drafts = true
  readonly rollbackMax = 3
  readonly lengths: number[] = []
  readonly calls: { readonly after: string; readonly tokens: readonly number[] }[][] = []

  rollback(_sequence: Sequence, length: number): void {
    this.lengths.push(length)
  }

  draft(segments: readonly DraftSegment[]): readonly Float32Array[] {
    this.calls.push(segments.map(({ after, tokens }) => ({ after, tokens: [...tokens] })))
    return segments.flatMap(({ tokens, logits }) =>
      logits === 'none' ? [] : [rowOf(((tokens.at(-1) ?? 0) + 1) % vocabSize)],
    )
  }
}

function stepOf(
  speculation: Speculation,
  next: readonly number[],
  wanted: number,
): FollowedStep & { readonly sequence: Sequence } {
  const guesses = speculation.open()
  guesses.place(undefined)
  return {
    sequence: { length: next.length, maxTokens: 99 },
    guesses,
    next: Int32Array.from(next),
    wanted,
  }
}

describe('drawing while guesses are right', () => {
  /** Draws `tokens` in order; a 1 ends the text. */
  function drawing(tokens: readonly number[], guesses: readonly number[]) {
    const rows = Array.from({ length: guesses.length + 1 }, (_, row) => rowOf(row))
    const seen: number[] = []
    const { right, ended } = drawWhileRight(rows, guesses, (row) => {
      const token = tokens[seen.length]
      assert(token !== undefined, 'no row is drawn from that is not wanted')
      seen.push(row.indexOf(1))
      return { token, ended: token === 1 ? 'stop' : null }
    })
    expect(ended).toBe(tokens.at(-1) === 1 ? 'stop' : null)
    return { right, rows: seen }
  }

  it('draws from each row once, up to the first surprise', () => {
    expect(drawing([5], [])).toEqual({ right: 0, rows: [0] })
    expect(drawing([5], [4, 6])).toEqual({ right: 0, rows: [0] })
    expect(drawing([4, 5], [4, 6])).toEqual({ right: 1, rows: [0, 1] })
    expect(drawing([4, 6, 7], [4, 6])).toEqual({ right: 2, rows: [0, 1, 2] })
  })

  it('goes no further than a draw that ends the text, guessed or not', () => {
    expect(drawing([1], [1, 6])).toEqual({ right: 0, rows: [0] })
    expect(drawing([4, 1], [4, 1])).toEqual({ right: 1, rows: [0, 1] })
  })
})

describe('a record of guesses', () => {
  it('starts hopeful and gives up after some twenty misses', () => {
    const record = new GuessRecord(1)
    let misses = 0
    for (; record.depth > 0; misses++) record.note(1, 0)
    expect(misses).toBe(22)
    record.note(0, 0)
    expect(record.depth).toBe(0)
  })

  it('goes on with guesses that are right every other time', () => {
    const record = new GuessRecord(1)
    for (let step = 0; step < 1000; step++) record.note(1, step % 2)
    expect(record.depth).toBe(1)
  })

  it('judges each depth by itself, and none behind a wrong guess', () => {
    const record = new GuessRecord(3)
    // The second is never right, so the third is never judged.
    for (let step = 0; step < 21; step++) record.note(3, 1)
    expect(record.depth).toBe(3)
    record.note(3, 1)
    expect(record.depth).toBe(1)
    for (let step = 0; step < 1000; step++) record.note(1, 1)
    expect(record.depth).toBe(1)
  })
})

describe('Speculation', () => {
  it('guesses from its own guesses as far as is wanted, all sequences at once', () => {
    const head = new CountingHead()
    const speculation = new Speculation(head, 3)
    const [long, short, none] = [
      stepOf(speculation, [3, 4], 9),
      stepOf(speculation, [6], 1),
      stepOf(speculation, [2, 2, 2], 0),
    ]
    speculation.follow([long, short, none])
    expect([long, short, none].map(({ guesses }) => guesses.tokens)).toEqual([[5, 6, 7], [7], []])
    expect(head.calls).toEqual([
      [
        { after: 'forward', tokens: [3, 4] },
        { after: 'forward', tokens: [6] },
        { after: 'forward', tokens: [2, 2, 2] },
      ],
      [{ after: 'draft', tokens: [5] }],
      [{ after: 'draft', tokens: [6] }],
    ])
  })

  it('leaves a sequence alone that began behind a prefix without a draft window', () => {
    const head = new CountingHead()
    const speculation = new Speculation(head, 1)
    const step = stepOf(speculation, [3], 1)
    step.guesses.place({ length: 256, drafted: false })
    speculation.follow([step])
    expect([head.calls, step.guesses.tokens]).toEqual([[], []])
    step.guesses.place({ length: 256, drafted: true })
    speculation.follow([step])
    expect(step.guesses.tokens).toEqual([4])
  })

  it('leaves a sequence alone for good when its guesses were wrong too often', () => {
    const head = new CountingHead()
    const speculation = new Speculation(head, 1)
    const step = stepOf(speculation, [3], 1)
    for (let miss = 0; miss < 30; miss++) step.guesses.note(1, 0)
    speculation.follow([step])
    step.guesses.place(undefined)
    speculation.follow([step])
    expect(head.calls).toEqual([])
  })

  it('forgets guesses once they have been tried, or the sequence has lost its place', () => {
    const speculation = new Speculation(new CountingHead(), 1)
    const step = stepOf(speculation, [3], 1)
    speculation.follow([step])
    step.guesses.note(1, 1)
    expect(step.guesses.tokens).toEqual([])
    speculation.follow([step])
    step.guesses.place(undefined)
    expect(step.guesses.tokens).toEqual([])
  })

  it('takes wrong guesses back, and leaves right ones alone', () => {
    const head = new CountingHead()
    const speculation = new Speculation(head, 3)
    const { sequence } = stepOf(speculation, [1, 2, 3, 4, 5], 0)
    speculation.takeBack(sequence, 2)
    speculation.takeBack(sequence, 0)
    expect(head.lengths).toEqual([3])
  })

  it('refuses to guess more than can be taken back', () => {
    expect(() => new Speculation(new CountingHead(), 4)).toThrow('4 guesses are 1…3')
  })
})
