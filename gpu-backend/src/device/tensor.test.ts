import { describe, expect, it } from 'vitest'
import {
  byteLength,
  type DeviceBuffer,
  reshape,
  sliceRows,
  stackItem,
  type Tensor,
  tensorBytes,
} from './tensor.ts'

const tensor: Tensor = {
  buffer: 1 as DeviceBuffer,
  byteOffset: 16,
  dtype: 'fp4',
  shape: [3, 2, 64],
}

describe('tensors', () => {
  it('take half a byte an element when packed', () => {
    expect(tensorBytes(tensor)).toBe(192)
    expect(() => byteLength('fp4', [3])).toThrow('fp4 [3] ends inside a byte')
  })

  it('are cut by rows, sharing the buffer', () => {
    expect(sliceRows(tensor, 1, 2)).toEqual({ ...tensor, byteOffset: 80, shape: [2, 2, 64] })
    expect(stackItem(tensor, 2)).toEqual({ ...tensor, byteOffset: 144, shape: [2, 64] })
    expect(() => sliceRows(tensor, 2, 2)).toThrow('rows 2…4 lie inside fp4 [3, 2, 64]')
  })

  it('change their shape but not their size', () => {
    expect(reshape(tensor, [6, 64])).toEqual({ ...tensor, shape: [6, 64] })
    expect(() => reshape(tensor, [5, 64])).toThrow('[5, 64] holds as many elements as')
  })
})
