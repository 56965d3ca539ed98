import { describe, expect, it } from 'vitest'
import { ReferenceDevice } from '../../device/reference.ts'
import { TestTensors } from '../testing/test-tensors.ts'
import { hcPost } from './hc-post.ts'

const on = new TestTensors(new ReferenceDevice())

describe('hc-post', () => {
  it('mixes streams by the transposed matrix and adds the output by its post weights', () => {
    const streams = on.f32([1, 2, 1], [1, 10])
    const output = on.f32([1, 1], [100])
    const post = on.f32([1, 2], [0.5, 2])
    const mix = on.f32([1, 2, 2], [1, 2, 3, 4])
    hcPost(on.device, { streams, update: { output, post, mix } })
    // 0.5·100 + 1·1 + 3·10 and 2·100 + 2·1 + 4·10; the plain matrix would give 71 and 243.
    expect(on.read(streams)).toEqual([81, 242])
  })

  it('treats rows and channels apart', () => {
    const streams = on.f32([2, 2, 2], [1, 2, 3, 4, 5, 6, 7, 8])
    const output = on.f32([2, 2], [10, 20, 30, 40])
    const post = on.f32([2, 2], [1, 0, 0, 1])
    const mix = on.f32([2, 2, 2], [0, 1, 1, 0, 1, 0, 0, 1])
    hcPost(on.device, { streams, update: { output, post, mix } })
    expect(on.read(streams)).toEqual([13, 24, 1, 2, 5, 6, 37, 48])
  })
})
