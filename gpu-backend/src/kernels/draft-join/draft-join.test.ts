import { describe, expect, it } from 'vitest'
import { ReferenceDevice } from '../../device/reference.ts'
import { TestTensors } from '../testing/test-tensors.ts'
import { draftJoin } from './draft-join.ts'

const on = new TestTensors(new ReferenceDevice())

describe('draft-join', () => {
  it("adds a row's embedding to each of its streams", () => {
    const streams = on.f32([2, 2, 2], [1, 2, 3, 4, 5, 6, 7, 8])
    draftJoin(on.device, { embedding: on.f32([2, 2], [10, 20, 30, 40]), streams })
    expect(on.read(streams)).toEqual([11, 22, 13, 24, 35, 46, 37, 48])
  })
})
