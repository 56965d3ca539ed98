import { describe, expect, it } from 'vitest'
import { linear } from '../kernels/linear/linear.ts'
import { nativeForTests } from '../kernels/native/testing/native-addon.ts'
import { takeNumbers, TestTensors } from '../kernels/testing/test-tensors.ts'
import { CpuDevice, type CpuOptions } from './cpu.ts'
import type { DeviceErrorCode } from './device.ts'
import { type DeviceBuffer, type LinearWeight, sliceRows } from './tensor.ts'

const native = await nativeForTests()
const addon = 'addon' in native ? native.addon : null

describe.skipIf(addon === null)('the CPU device', () => {
  const open = (options: CpuOptions = {}): CpuDevice => {
    if (addon === null) throw new Error('skipped')
    return new CpuDevice(addon, { threads: 2, ...options })
  }

  const refuses = (code: DeviceErrorCode, call: () => unknown): void => {
    expect(call).toThrow(expect.objectContaining({ name: 'DeviceError', code, device: 'cpu' }))
  }

  const identity = (on: TestTensors, width: number): LinearWeight => ({
    weight: on.f32(
      [width, width],
      Array.from({ length: width * width }, (_, i) => (i % (width + 1) === 0 ? 1 : 0)),
    ),
    scale: null,
  })

  it('keeps bytes as they were written, at any offset', () => {
    const device = open()
    const buffer = device.alloc(5000, 'bytes')
    device.write(buffer, 0, new Uint8Array(5000).fill(7))
    device.write(buffer, 4093, Uint8Array.of(1, 2, 3))
    const found = new Uint8Array(5)
    device.read(buffer, 4092, found)
    expect([...found]).toEqual([7, 1, 2, 3, 7])
    device.close()
  })

  it('counts what is allocated and the most there was', () => {
    const device = open()
    const first = device.alloc(3_000_000, 'large')
    const second = device.alloc(100, 'small')
    expect(device.memory()).toEqual({ allocatedBytes: 3_000_100, peakBytes: 3_000_100, buffers: 2 })
    device.free(first)
    device.free(second)
    expect(device.memory()).toEqual({ allocatedBytes: 0, peakBytes: 3_000_100, buffers: 0 })
    device.close()
  })

  it('refuses freed and foreign buffers, by every call', () => {
    const device = open()
    const freed = device.alloc(64, 'freed')
    device.free(freed)
    expect(device.alloc(64, 'next')).not.toBe(freed)
    for (const buffer of [freed, 999 as DeviceBuffer, -1 as DeviceBuffer]) {
      refuses('unknown_buffer', () => device.free(buffer))
      refuses('unknown_buffer', () => device.write(buffer, 0, new Uint8Array(1)))
      refuses('unknown_buffer', () => device.read(buffer, 0, new Uint8Array(1)))
    }
    device.close()
  })

  it('refuses bytes outside a buffer, and sizes that are none', () => {
    const device = open()
    const buffer = device.alloc(64, 'small')
    for (const [offset, bytes] of [
      [64, 1],
      [-1, 1],
      [0, 65],
      [2 ** 52, 1],
    ] as const) {
      refuses('out_of_range', () => device.write(buffer, offset, new Uint8Array(bytes)))
      refuses('out_of_range', () => device.read(buffer, offset, new Uint8Array(bytes)))
    }
    for (const bytes of [0, -1, 0.5, Number.NaN])
      refuses('out_of_range', () => device.alloc(bytes, 'x'))
    refuses('out_of_memory', () => device.alloc(2 ** 50, 'everything'))
    device.close()
  })

  it('names the op that was given a freed buffer', () => {
    const device = open()
    const on = new TestTensors(device)
    const weight = identity(on, 4)
    const input = on.f32([1, 4], [1, 2, 3, 4])
    const output = on.empty('f32', [1, 4])
    device.free(input.buffer)
    linear(device, { input, quantise: false, parts: [{ weight, output }] })
    expect(() => device.synchronise()).toThrow(/^cpu: run: linear: buffer \d+ was freed$/)
    // What was refused is gone; the device goes on.
    device.synchronise()
    device.close()
  })

  it('runs ops before later writes, frees and reads show', () => {
    const device = open()
    const on = new TestTensors(device)
    const weight = identity(on, 4)
    const input = on.f32([1, 4], [1, 2, 3, 4])
    const output = on.empty('f32', [1, 4])
    const step = { input, quantise: false, parts: [{ weight, output }] }
    linear(device, step)
    device.write(input.buffer, 0, new Uint8Array(16))
    expect(on.read(output)).toEqual([1, 2, 3, 4])
    linear(device, step)
    device.free(input.buffer)
    expect(on.read(output)).toEqual([0, 0, 0, 0])
    device.close()
  })

  it('runs as many ops as are given to it before anyone looks', () => {
    const device = open()
    const on = new TestTensors(device)
    const weight = identity(on, 4)
    const [a, b] = [on.f32([1, 4], [1, 2, 3, 4]), on.empty('f32', [1, 4])]
    for (let i = 0; i < 3000; i++) {
      linear(device, { input: a, quantise: false, parts: [{ weight, output: b }] })
      linear(device, { input: b, quantise: false, parts: [{ weight, output: a }] })
    }
    expect(on.read(a)).toEqual([1, 2, 3, 4])
    device.close()
  })

  it('gives the same bits whatever the number of threads', () => {
    const results = [1, 2, 3, 8].map((threads) => {
      const device = open({ threads })
      const on = new TestTensors(device)
      const weight = { weight: on.f32([700, 96], takeNumbers(1, 700 * 96)), scale: null }
      const input = on.f32([40, 96], takeNumbers(2, 40 * 96))
      const output = on.empty('f32', [40, 700])
      linear(device, { input, quantise: false, parts: [{ weight, output }] })
      const found = on.read(output)
      expect(device.threads).toBe(threads)
      device.close()
      return found
    })
    for (const found of results) expect(found).toEqual(results[0])
  })

  it('multiplies by a prepared weight as before, and keeps its bytes to itself', () => {
    const device = open()
    const on = new TestTensors(device)
    const weight = { weight: on.f32([40, 64], takeNumbers(3, 40 * 64)), scale: null }
    const input = on.f32([3, 64], takeNumbers(4, 3 * 64))
    const run = (): number[] => {
      const output = on.empty('f32', [3, 40])
      linear(device, { input, quantise: false, parts: [{ weight, output }] })
      return on.read(output)
    }
    const before = run()
    expect(device.prepare(weight)).toBe(true)
    expect(device.prepare(weight)).toBe(true)
    expect(run()).toEqual(before)
    refuses('out_of_range', () => on.read(weight.weight))
    refuses('out_of_range', () => device.write(weight.weight.buffer, 8, new Uint8Array(1)))
    const part = { weight: sliceRows(weight.weight, 16, 16), scale: null }
    const output = on.empty('f32', [3, 16])
    expect(() =>
      linear(device, { input, quantise: false, parts: [{ weight: part, output }] }),
    ).toThrow('a weight is used as it was prepared, not in part')
    device.close()
  })

  it('leaves weights alone whose shape does not allow packing', () => {
    const device = open()
    const on = new TestTensors(device)
    const narrow = { weight: on.f32([16, 6], takeNumbers(5, 96)), scale: null }
    expect(device.prepare(narrow)).toBe(false)
    expect(on.read(narrow.weight)).toHaveLength(96)
    device.close()
  })

  it('is closed for good, and twice is once', () => {
    const device = open()
    const buffer = device.alloc(64, 'left behind')
    device.close()
    device.close()
    refuses('device_closed', () => device.alloc(1, 'x'))
    refuses('device_closed', () => device.read(buffer, 0, new Uint8Array(1)))
    refuses('device_closed', () => device.synchronise())
    refuses('device_closed', () => device.memory())
  })
})
