import { describe, expect, it } from 'vitest'
import { Vocabulary, allow } from './vocabulary.ts'

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text)

const tokens = ['b', 'a', 'abc', 'ab', 'ca', 'b'].map((text, id) => ({ id, bytes: bytes(text) }))
const tree = new Vocabulary(tokens, { size: 6, endToken: 5 })

describe('Vocabulary', () => {
  it('lays nodes out so that descendants follow and `skip` leads past them', () => {
    const text = String.fromCharCode(...tree.byte)
    expect(text).toBe('abcbbca')
    expect([...tree.depth]).toEqual([1, 2, 3, 1, 1, 1, 2])
    expect([...tree.token]).toEqual([1, 3, 2, 0, 5, -1, 4])
    expect([...tree.skip]).toEqual([3, 3, 3, 4, 5, 7, 7])
    expect(tree.depthMax).toBe(3)
  })

  it('finds a node’s child by its byte', () => {
    expect(tree.child(-1, 0x63)).toBe(5)
    expect(tree.child(5, 0x61)).toBe(6)
    expect(tree.child(0, 0x63)).toBe(-1)
  })

  it('leaves out ids behind the last logit, and tokens of no bytes', () => {
    const more = [...tokens, { id: 6, bytes: bytes('z') }, { id: 3, bytes: bytes('') }]
    expect(new Vocabulary(more, { size: 6, endToken: 5 }).nodeCount).toBe(tree.nodeCount)
  })

  it('has a bit for every logit in its masks', () => {
    const mask = new Vocabulary([], { size: 65, endToken: 0 }).emptyMask()
    allow(mask, 64)
    allow(mask, 31)
    expect([...mask]).toEqual([0x8000_0000, 0, 1])
  })
})
