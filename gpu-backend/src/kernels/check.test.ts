import { describe, expect, it } from 'vitest'
import { ReferenceDevice } from '../device/reference.ts'
import { sliceRows } from '../device/tensor.ts'
import { copy } from './copy/copy.ts'
import { embed } from './embed/embed.ts'
import { hcPost } from './hc-post/hc-post.ts'
import { linear } from './linear/linear.ts'
import { TestTensors } from './testing/test-tensors.ts'

const on = new TestTensors(new ReferenceDevice())

describe('op wrappers', () => {
  it('name the op, the tensor and both shapes when a shape is wrong', () => {
    const input = on.filled([2, 3], 1)
    const weight = { weight: on.filled([4, 5], 1), scale: null }
    const output = on.empty('f32', [2, 4])
    expect(() =>
      linear(on.device, { input, quantise: false, parts: [{ weight, output }] }),
    ).toThrow('linear: weight 0 is f32 [4, 5], not f32 or bf16 or f8e4m3 or fp4 [4, 3]')
  })

  it('name the dtype that was expected', () => {
    const tokens = on.filled([1], 0)
    const table = on.bf16([1, 2], [1, 2])
    const streams = on.empty('f32', [1, 4, 2])
    expect(() => embed(on.device, { tokens, table, streams })).toThrow(
      'embed: tokens is f32 [1], not i32 [1]',
    )
  })

  it('refuse a quantised weight without scales, and scales where there are none', () => {
    const input = on.filled([1, 2], 1)
    const output = on.empty('f32', [1, 1])
    const codes = on.bytes('f8e4m3', [1, 2], [0, 0])
    const run = (weight: Parameters<typeof linear>[1]['parts'][number]['weight']) => () =>
      linear(on.device, { input, quantise: false, parts: [{ weight, output }] })
    expect(run({ weight: codes, scale: null })).toThrow('is f8e4m3 and needs its scales')
    const scale = on.bytes('e8m0', [1, 1], [127])
    expect(run({ weight: on.filled([1, 2], 1), scale })).toThrow('is f32 and has no scales')
  })

  it('refuse outputs that share bytes with inputs, but not their neighbours', () => {
    const whole = on.filled([4, 2], 1)
    const from = sliceRows(whole, 0, 2)
    expect(() => copy(on.device, { from, to: sliceRows(whole, 1, 2) })).toThrow('shares bytes')
    copy(on.device, { from, to: sliceRows(whole, 2, 2) })
  })

  it('refuse an update that reads what it writes', () => {
    const streams = on.filled([1, 1, 2], 1)
    const post = on.filled([1, 1], 1)
    const mix = on.filled([1, 1, 1], 1)
    const output = { ...streams, shape: [1, 2] }
    expect(() => hcPost(on.device, { streams, update: { output, post, mix } })).toThrow(
      'hc-post: f32 [1, 1, 2]',
    )
  })

  it('do nothing with nothing', () => {
    const tokens = on.empty('i32', [0])
    const table = on.bf16([1, 2], [1, 2])
    embed(on.device, { tokens, table, streams: on.empty('f32', [0, 4, 2]) })
  })
})
