import { describe, expect, it } from 'vitest'
import { ReferenceDevice } from '../../device/reference.ts'
import { TestTensors } from '../testing/test-tensors.ts'
import { copy } from './copy.ts'

const on = new TestTensors(new ReferenceDevice())

describe('copy', () => {
  it('moves bytes of any dtype as they are', () => {
    const from = on.i32([3], [1, -1, 2 ** 31 - 1])
    const to = on.empty('i32', [3])
    copy(on.device, { from, to })
    expect(on.read(to)).toEqual([1, -1, 2 ** 31 - 1])
  })
})
