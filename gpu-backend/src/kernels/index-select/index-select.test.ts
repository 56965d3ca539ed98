import { describe, expect, it } from 'vitest'
import { ReferenceDevice } from '../../device/reference.ts'
import { TestTensors } from '../testing/test-tensors.ts'
import { indexSelect } from './index-select.ts'

const on = new TestTensors(new ReferenceDevice())
const ratio = 4

interface Case {
  readonly heads: readonly (readonly number[])[]
  readonly weights: readonly number[]
  readonly keys: readonly (readonly number[])[]
  readonly position: number
  readonly topK: number
  readonly slot?: number
}

/** One query over keys that lie on the second of two pages. */
function select({ heads, weights, keys, position, topK, slot = 0 }: Case): number[] {
  const width = heads[0]?.length ?? 0
  const page = new Float32Array((256 / ratio) * width)
  page.set(keys.flat())
  const selected = on.empty('i32', [1, topK])
  indexSelect(on.device, {
    queries: on.f32([1, heads.length, width], heads.flat()),
    weights: on.f32([1, heads.length], weights),
    scale: 0.5,
    entries: on.f32([2, 256 / ratio, width], [...new Float32Array(page.length).fill(1e6), ...page]),
    rows: on.rows([{ slot, start: position, length: 1 }]),
    pages: on.i32([2, 1], slot === 0 ? [1, 0] : [0, 1]),
    ratio,
    selected,
  })
  return on.read(selected)
}

describe('index-select', () => {
  const one = { heads: [[1]], weights: [1] }

  it('takes the largest scores and gives them in ascending order', () => {
    const keys = [[1], [5], [3], [4], [2]]
    expect(select({ ...one, keys, position: 19, topK: 3 })).toEqual([1, 2, 3])
  })

  it('sees a block once its last token is there, and never one ahead', () => {
    const keys = [[1], [5], [9], [99]]
    expect(select({ ...one, keys, position: 11, topK: 2 })).toEqual([1, 2])
    expect(select({ ...one, keys, position: 10, topK: 2 })).toEqual([0, 1])
  })

  it('selects everything visible while there is room, and marks the rest as empty', () => {
    const keys = [[-1], [5]]
    expect(select({ ...one, keys, position: 8, topK: 4 })).toEqual([0, 1, -1, -1])
    expect(select({ ...one, keys, position: 2, topK: 2 })).toEqual([-1, -1])
  })

  it('cuts each head at zero before the heads are summed', () => {
    // Summed first, entry 1 would lead with 3 − 2 = 1 against 0.5; cut first it leads with 3.
    const keys = [
      [0.5, 0],
      [3, -9],
      [1, 0],
    ]
    const heads = [
      [1, 0],
      [0, 1],
    ]
    expect(select({ heads, weights: [1, 1], keys, position: 11, topK: 1 })).toEqual([1])
  })

  it('lets a negative head weight push an entry down', () => {
    const keys = [
      [1, 0],
      [2, 9],
      [0.5, 0],
    ]
    const heads = [
      [1, 0],
      [0, 1],
    ]
    expect(select({ heads, weights: [1, -1], keys, position: 11, topK: 1 })).toEqual([0])
  })

  it('breaks ties towards the lower entry, minus zero and zero being equal', () => {
    // Scores 0, −0 (a negative weight times nothing), 1, 0.
    const keys = [[-1], [-1], [1], [-1]]
    expect(select({ ...one, keys, position: 15, topK: 3 })).toEqual([0, 1, 2])
    expect(select({ ...one, weights: [-1], keys, position: 15, topK: 3 })).toEqual([0, 1, 3])
  })

  it('finds entries through the page table of its slot', () => {
    const keys = [[1], [5], [3]]
    expect(select({ ...one, keys, position: 11, topK: 2, slot: 1 })).toEqual([1, 2])
  })
})
