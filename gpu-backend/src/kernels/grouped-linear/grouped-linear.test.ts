import { describe, expect, it } from 'vitest'
import { ReferenceDevice } from '../../device/reference.ts'
import { TestTensors } from '../testing/test-tensors.ts'
import { groupedLinear } from './grouped-linear.ts'

const on = new TestTensors(new ReferenceDevice())

describe('grouped-linear', () => {
  it('lets each group of the input meet its own rows of the weight', () => {
    const output = on.empty('f32', [2, 4])
    groupedLinear(on.device, {
      input: on.f32([2, 4], [1, 2, 3, 4, 5, 6, 7, 8]),
      weight: { weight: on.f32([4, 2], [1, 0, 0, 1, 1, 1, 10, 0]), scale: null },
      groups: 2,
      output,
    })
    expect(on.read(output)).toEqual([1, 2, 7, 30, 5, 6, 15, 70])
  })

  it('finds the FP8 scales of a group by its rows in the whole weight', () => {
    const output = on.empty('f32', [1, 256])
    groupedLinear(on.device, {
      input: on.f32([1, 2], [1, 1]),
      weight: {
        weight: on.bytes('f8e4m3', [256, 1], new Uint8Array(256).fill(0x38)),
        scale: on.bytes('e8m0', [2, 1], [127, 129]),
      },
      groups: 2,
      output,
    })
    const values = on.read(output)
    expect([values[0], values[127], values[128], values[255]]).toEqual([1, 1, 4, 4])
  })
})
