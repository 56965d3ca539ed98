import { describe, expect, it } from 'vitest'
import { ReferenceDevice } from '../../device/reference.ts'
import { TestTensors } from '../testing/test-tensors.ts'
import { expertSum } from './expert-sum.ts'

const on = new TestTensors(new ReferenceDevice())

describe('expert-sum', () => {
  it('takes each pick from the device that has the expert, and keeps what the shared one left', () => {
    const output = on.f32([1, 2], [0.5, 0.25])
    expertSum(on.device, {
      // Expert 3 is on the second device, expert 0 on the first.
      experts: on.i32([1, 2], [3, 0]),
      results: [
        on.f32([2, 2, 2], [0, 0, 0, 0, 7, 7, 10, 20]),
        on.f32([2, 2, 2], [0, 0, 0, 0, 1, 2, 7, 7]),
      ],
      expertsEach: 2,
      firstRow: 1,
      output,
    })
    expect(on.read(output)).toEqual([11.5, 22.25])
  })

  it('refuses rows that are not among those of all devices', () => {
    const args = {
      experts: on.i32([1, 1], [0]),
      results: [on.f32([1, 1, 1], [0])],
      expertsEach: 1,
      output: on.f32([1, 1], [0]),
    }
    expect(() => expertSum(on.device, { ...args, firstRow: 1 })).toThrow('rows 1…2 are among 1')
  })
})
