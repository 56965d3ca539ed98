import { describe, expect, it } from 'vitest'
import { ReferenceDevice } from '../../device/reference.ts'
import { TestTensors } from '../testing/test-tensors.ts'
import { hcHead } from './hc-head.ts'

const on = new TestTensors(new ReferenceDevice())

describe('hc-head', () => {
  it('contracts the rows asked for, in the order asked for', () => {
    const streams = on.f32([3, 1, 2], [1, 1, 3, 4, 0, 2])
    const output = on.empty('f32', [2, 2])
    hcHead(on.device, {
      streams,
      pending: null,
      picks: on.i32([2], [2, 1]),
      fn: on.filled([1, 2], 0),
      scale: on.f32([1], [1]),
      base: on.f32([1], [0]),
      norm: on.bf16([2], [1, 10]),
      hcEps: 0,
      normEps: 0,
      output,
    })
    const rms = Math.sqrt(12.5)
    const expected = [0, 10 * Math.SQRT2, 3 / rms, 40 / rms]
    for (const [i, value] of on.read(output).entries())
      expect(value).toBeCloseTo(expected[i] ?? 0, 5)
  })

  it('weighs streams by a plain sigmoid plus eps', () => {
    const output = on.empty('f32', [1, 2])
    hcHead(on.device, {
      streams: on.f32([1, 2, 2], [4, 0, 0, 4]),
      pending: null,
      picks: on.i32([1], [0]),
      fn: on.filled([2, 4], 0),
      scale: on.f32([1], [1]),
      base: on.f32([2], [-1000, 0]),
      norm: on.bf16([2], [1, 1]),
      hcEps: 0.25,
      normEps: 0,
      output,
    })
    // w = [0.25, 0.75], h = [1, 3].
    const [first = 0, second = 0] = on.read(output)
    expect(first).toBeCloseTo(1 / Math.sqrt(5), 6)
    expect(second).toBeCloseTo(3 / Math.sqrt(5), 6)
  })

  it('applies the pending update to all rows, also to those nobody asked for', () => {
    const streams = on.f32([2, 1, 1], [1, 2])
    const pending = {
      output: on.f32([2, 1], [10, 20]),
      post: on.f32([2, 1], [1, 1]),
      mix: on.f32([2, 1, 1], [2, 3]),
    }
    hcHead(on.device, {
      streams,
      pending,
      picks: on.empty('i32', [0]),
      fn: on.filled([1, 1], 0),
      scale: on.f32([1], [1]),
      base: on.f32([1], [0]),
      norm: on.bf16([1], [1]),
      hcEps: 0,
      normEps: 0,
      output: on.empty('f32', [0, 1]),
    })
    expect(on.read(streams)).toEqual([12, 26])
  })
})
