import { describe, expect, it } from 'vitest'
import { ReferenceDevice } from '../device/reference.ts'
import { Scratch } from './scratch.ts'

describe('Scratch', () => {
  it('keeps a name where it is while it fits, and moves it when it does not', () => {
    const device = new ReferenceDevice()
    const scratch = new Scratch(device)
    const first = scratch.take('queries', 'f32', [4, 2])
    expect(scratch.take('queries', 'f32', [1, 2])).toEqual({ ...first, shape: [1, 2] })
    expect(scratch.take('keys', 'f32', [4, 2]).buffer).not.toBe(first.buffer)
    const moved = scratch.take('queries', 'f32', [5, 2])
    expect(moved.buffer).not.toBe(first.buffer)
    expect(device.memory()).toMatchObject({ allocatedBytes: 40 + 32, buffers: 2 })
    scratch.close()
    expect(device.memory().buffers).toBe(0)
  })

  it('has a place for nothing', () => {
    const scratch = new Scratch(new ReferenceDevice())
    expect(scratch.take('picks', 'i32', [0]).shape).toEqual([0])
  })
})
