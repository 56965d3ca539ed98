import { describe, expect, it } from 'vitest'
import { linear } from '../kernels/linear/linear.ts'
import { takeNumbers, TestTensors } from '../kernels/testing/test-tensors.ts'
import { DeviceError, type DeviceErrorCode } from './device.ts'
import { ReferenceDevice } from './reference.ts'
import type { DeviceBuffer } from './tensor.ts'

/** What a call was refused with. */
function refusal(call: () => unknown): { code: DeviceErrorCode; message: string } | null {
  try {
    call()
  } catch (error) {
    if (error instanceof DeviceError) return { code: error.code, message: error.message }
    throw error
  }
  return null
}

describe('buffers', () => {
  it('keep what is written', () => {
    const device = new ReferenceDevice()
    const buffer = device.alloc(8, 'eight')
    device.write(buffer, 2, Uint8Array.of(1, 2, 3))
    const into = new Uint8Array(5)
    device.read(buffer, 1, into)
    expect([...into]).toEqual([255, 1, 2, 3, 255])
  })

  it('begin as rubbish that shows in every type', () => {
    const device = new ReferenceDevice()
    const into = new Uint8Array(8)
    device.read(device.alloc(8, 'new'), 0, into)
    const view = new DataView(into.buffer)
    expect([view.getFloat32(0), view.getInt32(4)]).toEqual([Number.NaN, -1])
  })

  it('are refused by name once freed, and their numbers never return', () => {
    const device = new ReferenceDevice()
    const freed = device.alloc(4, 'short-lived')
    device.free(freed)
    expect(device.alloc(4, 'next')).not.toBe(freed)
    const expected = { code: 'unknown_buffer', message: `reference: buffer ${freed} was freed` }
    expect(refusal(() => device.read(freed, 0, new Uint8Array(1)))).toEqual(expected)
    expect(refusal(() => device.write(freed, 0, new Uint8Array(1)))).toEqual(expected)
    expect(refusal(() => device.free(freed))).toEqual(expected)
  })

  it('are refused when this device never gave them out', () => {
    expect(refusal(() => new ReferenceDevice().free(7 as DeviceBuffer))).toEqual({
      code: 'unknown_buffer',
      message: 'reference: buffer 7 was never allocated here',
    })
  })

  it('have ends', () => {
    const device = new ReferenceDevice()
    const buffer = device.alloc(8, 'keys')
    expect(refusal(() => device.write(buffer, 6, new Uint8Array(3)))).toEqual({
      code: 'out_of_range',
      message: 'reference: bytes 6…9 are outside keys of 8',
    })
    expect(refusal(() => device.read(buffer, -1, new Uint8Array(1)))?.code).toBe('out_of_range')
  })

  it.each([0, -1, 1.5, Number.NaN])('cannot have %d bytes', (bytes) => {
    expect(refusal(() => new ReferenceDevice().alloc(bytes, 'odd'))?.code).toBe('out_of_range')
  })

  it('are counted, with the highest total there was', () => {
    const device = new ReferenceDevice()
    const first = device.alloc(100, 'first')
    device.alloc(50, 'second')
    device.free(first)
    expect(device.memory()).toEqual({ allocatedBytes: 50, peakBytes: 150, buffers: 1 })
  })
})

describe('the device', () => {
  it('does nothing any more once closed', () => {
    const device = new ReferenceDevice()
    const buffer = device.alloc(4, 'rest')
    device.close()
    expect(device.memory()).toEqual({ allocatedBytes: 0, peakBytes: 4, buffers: 0 })
    expect(refusal(() => device.alloc(4, 'more'))?.code).toBe('device_closed')
    expect(refusal(() => device.free(buffer))?.code).toBe('device_closed')
    expect(refusal(() => device.synchronise())?.code).toBe('device_closed')
  })

  it('refuses an op it does not have, by name', () => {
    const device = new ReferenceDevice()
    const unknown = 'fly' as 'copy'
    const tensor = new TestTensors(device).filled([1], 0)
    expect(refusal(() => device.run(unknown, { from: tensor, to: tensor }))).toEqual({
      code: 'unsupported_op',
      message: 'reference: there is no op fly',
    })
  })

  it('refuses activations in a format it does not compute in', () => {
    const on = new TestTensors(new ReferenceDevice())
    const args = {
      input: on.bf16([1, 2], [1, 2]),
      quantise: false,
      parts: [
        { weight: { weight: on.filled([1, 2], 1), scale: null }, output: on.filled([1, 1], 0) },
      ],
    }
    expect(refusal(() => linear(on.device, args))).toEqual({
      code: 'unsupported_op',
      message: 'reference: bf16 [1, 2] cannot be read as f32',
    })
  })
})

describe('decoded weights', () => {
  const codes = Uint8Array.from(takeNumbers(1, 6 * 130), (x) => Math.floor((x + 1) * 60))
  const input = takeNumbers(2, 3 * 130)

  function run(device: ReferenceDevice, written?: Uint8Array): number[][] {
    const on = new TestTensors(device)
    const weight = on.bytes('f8e4m3', [6, 130], codes)
    const scale = on.bytes('e8m0', [1, 2], [120, 122])
    const output = on.empty('f32', [3, 6])
    const args = {
      input: on.f32([3, 130], input),
      quantise: false,
      parts: [{ weight: { weight, scale }, output }],
    }
    linear(device, args)
    const before = on.read(output)
    if (written !== undefined) device.write(weight.buffer, 0, written)
    linear(device, args)
    return [before, on.read(output)]
  }

  it('give the same bits whether they are kept or decoded each time', () => {
    expect(run(new ReferenceDevice({ decodedBytesMax: 0 }))).toEqual(run(new ReferenceDevice()))
  })

  it('are decoded anew once the weight was written', () => {
    const [before, after] = run(new ReferenceDevice(), new Uint8Array(codes.length))
    expect(before).not.toEqual(after)
    expect(new Set(after)).toEqual(new Set([0]))
  })
})
