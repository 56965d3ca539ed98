import { describe, expect, it } from 'vitest'
import { ReferenceDevice } from '../../device/reference.ts'
import { TestTensors } from '../testing/test-tensors.ts'
import { embed } from './embed.ts'

const on = new TestTensors(new ReferenceDevice())

describe('embed', () => {
  it("gives every stream of a row its token's embedding", () => {
    const tokens = on.i32([2], [2, 0])
    const table = on.bf16([3, 2], [1, 2, 3, 4, 5, 6])
    const streams = on.empty('f32', [2, 3, 2])
    embed(on.device, { tokens, table, streams })
    expect(on.read(streams)).toEqual([5, 6, 5, 6, 5, 6, 1, 2, 1, 2, 1, 2])
  })
})
