import { describe, expect, it } from 'vitest'
import { planReads } from './load-plan.ts'
import type { TensorLocation } from './manifest.ts'

const tensor = (name: string, file: string, offset: number, bytes: number): TensorLocation => ({
  name,
  file,
  offset,
  bytes,
  dtype: 'I8',
  shape: [bytes],
})

const summary = (tensors: readonly TensorLocation[], rangeBytes: number): readonly string[] =>
  planReads(tensors, rangeBytes).map(
    ({ file, offset, length, parts }) =>
      `${file} ${offset}+${length}: ` +
      parts
        .map((p) => `${p.tensor.name}[${p.tensorOffset}+${p.length}]@${p.rangeOffset}`)
        .join(' '),
  )

describe('the read plan', () => {
  it('reads neighbours together, in the order of the file', () => {
    const tensors = [tensor('b', 'f', 14, 6), tensor('a', 'f', 10, 4), tensor('c', 'f', 20, 1)]
    expect(summary(tensors, 100)).toEqual(['f 10+11: a[0+4]@0 b[0+6]@4 c[0+1]@10'])
  })

  it('does not read what lies between tensors that are not neighbours', () => {
    expect(summary([tensor('a', 'f', 0, 4), tensor('b', 'f', 5, 4)], 100)).toEqual([
      'f 0+4: a[0+4]@0',
      'f 5+4: b[0+4]@0',
    ])
  })

  it('does not join files', () => {
    expect(summary([tensor('a', 'f', 0, 4), tensor('b', 'g', 4, 4)], 100)).toEqual([
      'f 0+4: a[0+4]@0',
      'g 4+4: b[0+4]@0',
    ])
  })

  it('splits what is larger than a range, and fills up the last one', () => {
    expect(summary([tensor('a', 'f', 0, 25), tensor('b', 'f', 25, 7)], 10)).toEqual([
      'f 0+10: a[0+10]@0',
      'f 10+10: a[10+10]@0',
      'f 20+10: a[20+5]@0 b[0+5]@5',
      'f 30+2: b[5+2]@0',
    ])
  })

  it('of nothing is nothing', () => {
    expect(planReads([], 10)).toEqual([])
  })

  it('covers every byte of every tensor once, within the limit, whatever the layout', () => {
    // A fixed sequence of sizes and gaps, from a linear congruence.
    let state = 7
    const draw = (limit: number): number => (state = (state * 48_271) % 2_147_483_647) % limit
    for (let round = 0; round < 200; round++) {
      const tensors: TensorLocation[] = []
      let offset = draw(50)
      for (let index = 0; index < 1 + draw(20); index++) {
        const bytes = 1 + draw(40)
        tensors.push(tensor(`t${index}`, `f${draw(2)}`, offset, bytes))
        offset += bytes + (draw(3) === 0 ? draw(5) : 0)
      }
      const rangeBytes = 1 + draw(30)
      const covered = new Map(tensors.map((t) => [t.name, new Uint8Array(t.bytes)]))
      for (const range of planReads(tensors, rangeBytes)) {
        expect(range.length).toBeLessThanOrEqual(rangeBytes)
        expect(range.parts.reduce((sum, part) => sum + part.length, 0)).toBe(range.length)
        for (const { tensor: t, tensorOffset, rangeOffset, length } of range.parts) {
          expect(range.offset + rangeOffset).toBe(t.offset + tensorOffset)
          expect(range.file).toBe(t.file)
          const seen = covered.get(t.name)?.subarray(tensorOffset, tensorOffset + length)
          for (const index of seen?.keys() ?? []) if (seen) seen[index] = (seen[index] ?? 0) + 1
        }
      }
      expect([...covered.values()].every((seen) => seen.every((times) => times === 1))).toBe(true)
    }
  })
})
