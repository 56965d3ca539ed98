import { describe, expect, it } from 'vitest'
import { ReferenceDevice } from '../../device/reference.ts'
import { sliceRows } from '../../device/tensor.ts'
import { TestTensors } from '../testing/test-tensors.ts'
import { gather } from './gather.ts'

const on = new TestTensors(new ReferenceDevice())

describe('gather', () => {
  it('puts several tensors behind one another, empty ones too', () => {
    const to = on.i32([4, 1], [0, 0, 0, 9])
    const parts = [
      { from: on.i32([2, 1], [1, 2]), to: sliceRows(to, 0, 2) },
      { from: sliceRows(to, 3, 0), to: sliceRows(to, 2, 0) },
      { from: on.i32([1, 1], [3]), to: sliceRows(to, 2, 1) },
    ]
    gather(on.device, { parts })
    expect(on.read(to)).toEqual([1, 2, 3, 9])
  })

  it('refuses parts that do not fit their places', () => {
    const parts = [{ from: on.i32([2], [1, 2]), to: on.i32([3], [0, 0, 0]) }]
    expect(() => gather(on.device, { parts })).toThrow('gather: to is i32 [3], not i32 [2]')
  })
})
