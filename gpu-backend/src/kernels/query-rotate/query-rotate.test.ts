import { describe, expect, it } from 'vitest'
import { ReferenceDevice } from '../../device/reference.ts'
import { TestTensors } from '../testing/test-tensors.ts'
import { queryRotate } from './query-rotate.ts'

const on = new TestTensors(new ReferenceDevice())

describe('query-rotate', () => {
  it('norms each head by itself and turns its last pair by the position of its row', () => {
    const queries = on.f32([2, 2, 4], [2, 2, 2, -2, 0, 0, 6, 8, 1, 1, 1, 1, 4, 0, 0, 0])
    queryRotate(on.device, {
      queries,
      frequencies: on.f32([1], [Math.PI / 2]),
      rows: on.rows([
        { slot: 3, start: 1, length: 1 },
        { slot: 0, start: 2, length: 1 },
      ]),
      eps: 0,
    })
    const expected = [1, 1, 1, 1, 0, 0, -1.6, 1.2, 1, 1, -1, -1, 2, 0, 0, 0]
    for (const [i, value] of on.read(queries).entries())
      expect(value).toBeCloseTo(expected[i] ?? 0, 6)
  })
})
