import { describe, expect, it } from 'vitest'
import { completionCosts, hasEnd } from './completion-costs.ts'
import { GrammarBuilder } from './grammar.ts'
import { Vocabulary } from './vocabulary.ts'

const vocabulary = new Vocabulary(
  ['t', 'r', 'u', 'e', 'tr', 'rue', '"'].map((text, id) => ({
    id,
    bytes: new TextEncoder().encode(text),
  })),
  { size: 7, endToken: 0 },
)

describe('completionCosts', () => {
  it('counts bytes without a vocabulary, and with one the fewest tokens of a stretch', () => {
    const builder = new GrammarBuilder()
    const start = builder.state()
    builder.end(builder.literal(start, 'true'))
    const grammar = builder.finish(start, () => '')
    expect([...completionCosts(grammar, null)]).toEqual([4, 3, 2, 1, 0])
    expect([...completionCosts(grammar, vocabulary)]).toEqual([2, 1, 2, 1, 0])
  })

  it('takes the cheaper way, through calls and what follows them', () => {
    const builder = new GrammarBuilder()
    const [start, part, after, end] = [0, 1, 2, 3].map(() => builder.state())
    if (start === undefined || part === undefined || after === undefined || end === undefined)
      return
    builder.call(start, part, after)
    builder.end(builder.literal(part, 'true'))
    builder.skip(part, builder.literal(part, 'e'))
    builder.end(builder.literal(part, 'e'))
    builder.skip(builder.literal(after, 'u'), end)
    builder.end(end)
    const grammar = builder.finish(start, () => '')
    expect(completionCosts(grammar, null)[start]).toBe(2)
  })

  it('knows what never ends', () => {
    const builder = new GrammarBuilder()
    const [start, end] = [builder.state(), builder.state()]
    builder.end(end)
    builder.call(builder.literal(start, 't'), start, end)
    const grammar = builder.finish(start, () => '')
    expect(hasEnd(grammar, start)).toBe(false)
    expect(hasEnd(grammar, end)).toBe(true)
  })
})
