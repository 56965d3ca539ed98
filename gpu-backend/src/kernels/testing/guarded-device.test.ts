import { describe, expect, it } from 'vitest'
import { DeviceError } from '../../device/device.ts'
import { ReferenceDevice } from '../../device/reference.ts'
import type { Tensor } from '../../device/tensor.ts'
import { copy } from '../copy/copy.ts'
import { guardBytes, GuardedDevice, GuardError, rubbishWords } from './guarded-device.ts'

const bytesOf = (device: GuardedDevice, tensor: Tensor, count: number): number[] => {
  const bytes = new Uint8Array(count)
  device.read(tensor.buffer, tensor.byteOffset, bytes)
  return [...bytes]
}

function twoTensors(device: GuardedDevice): { from: Tensor; to: Tensor } {
  const tensor = (label: string): Tensor => {
    return { buffer: device.alloc(6, label), byteOffset: 0, dtype: 'f8e4m3', shape: [6] }
  }
  const [from, to] = [tensor('from'), tensor('to')]
  device.write(from.buffer, 0, Uint8Array.of(1, 2, 3, 4, 5, 6))
  return { from, to }
}

describe('a guarded device', () => {
  it('reads and runs as the device inside', () => {
    const device = new GuardedDevice(new ReferenceDevice())
    const args = twoTensors(device)
    copy(device, args)
    expect(bytesOf(device, args.to, 6)).toEqual([1, 2, 3, 4, 5, 6])
    expect(device.opsRun).toBe(1)
  })

  it('fills new buffers with what is no number and no index', () => {
    for (const word of rubbishWords) {
      const device = new GuardedDevice(new ReferenceDevice(), word)
      const buffer = device.alloc(8, 'new')
      const bytes = new Uint8Array(8)
      device.read(buffer, 0, bytes)
      expect([...new Float32Array(bytes.buffer)]).toEqual([Number.NaN, Number.NaN])
      const halves = Uint32Array.from(new Uint16Array(bytes.buffer), (half) => half << 16)
      expect([...new Float32Array(halves.buffer)].every(Number.isNaN)).toBe(true)
      expect(new Int32Array(bytes.buffer)[0]).toBeGreaterThan(2 ** 30)
    }
  })

  it.each([
    ['behind', guardBytes + 6, /copy wrote outside to \(6 bytes\): 0 bytes behind it/],
    ['behind', guardBytes + 6 + 255, /255 bytes behind/],
    ['before', guardBytes - 1, /1 bytes before/],
    ['before', 0, /256 bytes before/],
  ])('sees one byte changed %s a buffer, at %i', (_, at, message) => {
    const inner = new ReferenceDevice()
    const device = new GuardedDevice(inner)
    const args = twoTensors(device)
    inner.write(args.to.buffer, at, Uint8Array.of(0))
    expect(() => copy(device, args)).toThrow(GuardError)
    expect(() => copy(device, args)).toThrow(message)
  })

  it('lets no one reach the guards from outside', () => {
    const device = new GuardedDevice(new ReferenceDevice())
    const { to } = twoTensors(device)
    expect(() => device.write(to.buffer, 4, new Uint8Array(3))).toThrow(DeviceError)
    expect(() => device.read(to.buffer, -1, new Uint8Array(1))).toThrow(/outside to of 6/)
  })
})
