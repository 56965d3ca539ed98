import { describe, expect, it } from 'vitest'
import { CudaDevice } from './cuda.ts'
import { type Driver, openDriver } from './cuda/driver.ts'
import { listGpus } from './cuda/gpu.ts'
import { FakeMachine, type FakeOptions } from './cuda/testing/fake.ts'
import { sampleImages } from './cuda/testing/sample-images.ts'
import type { DeviceErrorCode } from './device.ts'
import { type DeviceBuffer, type Tensor } from './tensor.ts'

const built = await FakeMachine.build()
if ('reason' in built) console.warn(`skipped: no fake CUDA driver, ${built.reason}`)
const images = 'reason' in built ? null : await sampleImages()

describe.skipIf('reason' in built)('the CUDA device on a machine that is not there', () => {
  const machine = (): FakeMachine => {
    if ('reason' in built) throw new Error('skipped')
    return built
  }

  const open = async (options: FakeOptions = {}, ordinal = 0): Promise<CudaDevice> => {
    if (images === null) throw new Error('skipped')
    return new CudaDevice(await machine().open(options), images, { ordinal })
  }

  const refuses = (code: DeviceErrorCode, call: () => unknown, message = ''): void => {
    const expected = { name: 'DeviceError', code, device: 'cuda' }
    expect(call).toThrow(expect.objectContaining(expected))
    expect(call).toThrow(message)
  }

  const tensor = (device: CudaDevice, values: readonly number[], label = 'values'): Tensor => {
    const bytes = new Uint8Array(Float32Array.from(values).buffer)
    const buffer = device.alloc(bytes.length, label)
    device.write(buffer, 0, bytes)
    return { buffer, byteOffset: 0, dtype: 'f32', shape: [values.length] }
  }

  const values = (device: CudaDevice, { buffer, byteOffset, shape }: Tensor): number[] => {
    const into = new Float32Array(shape[0] ?? 0)
    device.read(buffer, byteOffset, new Uint8Array(into.buffer))
    return [...into]
  }

  const double = (device: CudaDevice, streams: Tensor): void =>
    device.run('draft-join', { embedding: streams, streams })

  describe('memory', () => {
    it('keeps bytes as they were written, at any offset and of any length', async () => {
      const device = await open()
      const bytes = 11 * 2 ** 20 + 3
      const buffer = device.alloc(bytes, 'bytes')
      const pattern = Uint8Array.from({ length: bytes }, (_, i) => (i * 7919) >> 5)
      device.write(buffer, 0, pattern)
      device.write(buffer, 4093, Uint8Array.of(1, 2, 3))
      pattern.set([1, 2, 3], 4093)
      const found = new Uint8Array(bytes)
      device.read(buffer, 0, found)
      expect(Buffer.compare(found, pattern)).toBe(0)
      device.close()
    })

    it('takes bytes that change as soon as the call has returned', async () => {
      const device = await open()
      const buffer = device.alloc(64, 'bytes')
      const bytes = new Uint8Array(64)
      for (let i = 0; i < 64; i++) device.write(buffer, i, bytes.fill(i).subarray(0, 1))
      const found = new Uint8Array(64)
      device.read(buffer, 0, found)
      expect([...found]).toEqual(Array.from({ length: 64 }, (_, i) => i))
      device.close()
    })

    it('copies to and from host memory of its own without another in between', async () => {
      const device = await open()
      const buffer = device.alloc(4096, 'bytes')
      const host = device.hostMemory(4096).fill(7)
      device.write(buffer, 100, host.subarray(50, 60))
      const back = device.hostMemory(4096)
      device.read(buffer, 100, back.subarray(0, 10))
      expect([...back.subarray(0, 10)]).toEqual(Array.from({ length: 10 }, () => 7))
      // A write still reads it until somebody waits.
      device.write(buffer, 0, host.subarray(0, 1))
      host[0] = 9
      device.read(buffer, 0, back.subarray(0, 1))
      expect(back[0]).toBe(9)
      device.close()
      expect(machine().report().handles).toBe(0)
    })

    it('refuses freed and foreign buffers and bytes outside of one, by every call', async () => {
      const device = await open()
      const freed = device.alloc(64, 'freed')
      device.free(freed)
      const kept = device.alloc(64, 'kept')
      expect(kept).not.toBe(freed)
      for (const buffer of [freed, 999 as DeviceBuffer, -1 as DeviceBuffer]) {
        refuses('unknown_buffer', () => device.free(buffer))
        refuses('unknown_buffer', () => device.write(buffer, 0, new Uint8Array(1)))
        refuses('unknown_buffer', () => device.read(buffer, 0, new Uint8Array(1)))
      }
      const gone: Tensor = { buffer: freed, byteOffset: 0, dtype: 'f32', shape: [1] }
      refuses('unknown_buffer', () => double(device, gone))
      refuses('out_of_range', () => device.write(kept, 63, new Uint8Array(2)))
      refuses('out_of_range', () => device.read(kept, -1, new Uint8Array(1)))
      refuses('out_of_range', () => double(device, { ...gone, buffer: kept, shape: [17] }))
      refuses('out_of_range', () => device.alloc(0, 'nothing'))
      device.close()
    })

    it('gives everything back when it is closed', async () => {
      const device = await open()
      const a = tensor(device, [1, 2, 3])
      device.run('copy', { from: a, to: tensor(device, [0, 0, 0]) })
      device.replay('step', () => double(device, a))
      device.close()
      expect(machine().report()).toMatchObject({ buffers: 0, liveBytes: 0, handles: 0, fault: '' })
      refuses('device_closed', () => device.memory())
    })

    it('can be opened again once it was closed', async () => {
      if (images === null) throw new Error('skipped')
      const driver = await machine().open()
      for (let i = 0; i < 2; i++) {
        const device = new CudaDevice(driver, images)
        expect(values(device, tensor(device, [i]))).toEqual([i])
        device.close()
      }
    })

    it('says how much there is where it does not suffice, and goes on', async () => {
      const device = await open({ memoryBytes: 1_000_000 })
      const first = device.alloc(900_000, 'first')
      refuses(
        'out_of_memory',
        () => device.alloc(200_000, 'second'),
        'cuda: no 200000 bytes for second: 99904 of 1000000 are free on GPU 0',
      )
      device.free(first)
      // Freed in stream order: the driver hands it out again once the stream has come to it.
      device.free(device.alloc(900_000, 'third'))
      device.close()
    })

    it('tries once more before it gives up', async () => {
      const device = await open({ oomAt: 1 })
      device.free(device.alloc(100, 'first'))
      device.close()
    })
  })

  describe('ops', () => {
    it('reach their kernels with all arguments, rooms between their launches included', async () => {
      const device = await open()
      const from = tensor(device, [1, -2, 3.5])
      const to = tensor(device, [0, 0, 0])
      device.run('copy', { from, to })
      expect(values(device, to)).toEqual([1, -2, 3.5])
      expect(device.memory()).toMatchObject({ buffers: 2, allocatedBytes: 24 })
      device.close()
    })

    it('are refused where there is no launcher, or no kernel of the name', async () => {
      const device = await open()
      const some = tensor(device, [1])
      refuses('unsupported_op', () =>
        device.run('hc-head', {
          streams: some,
          pending: null,
          picks: some,
          fn: some,
          scale: some,
          base: some,
          norm: some,
          hcEps: 0,
          normEps: 0,
          output: some,
        }),
      )
      refuses(
        'unsupported_op',
        () => device.run('embed', { tokens: some, table: some, streams: some }),
        'cuda: embed has no kernel missing',
      )
      device.close()
    })

    it('that write outside of a buffer lose the device, which says so to every later call', async () => {
      const device = await open()
      const streams = tensor(
        device,
        Array.from({ length: 64 }, () => 1),
      )
      device.run('hc-post', { streams, update: { output: streams, post: streams, mix: streams } })
      const lost =
        'cuda: GPU 0: cuStreamSynchronize: ILLEGAL_ADDRESS (700); the GPU is lost to this process, restart it'
      refuses('device_failed', () => device.synchronise(), lost)
      expect(machine().report().fault).toBe('stray touched 1 bytes behind a buffer of 256 bytes')
      refuses('device_failed', () => device.alloc(4, 'more'), lost)
      refuses('device_failed', () => values(device, streams), lost)
      refuses('device_failed', () => double(device, streams), lost)
      device.close()
    })

    it('that write into the rest of a last word are caught too', async () => {
      const device = await open()
      const streams = tensor(device, [1, 2, 3])
      device.run('hc-post', { streams, update: { output: streams, post: streams, mix: streams } })
      refuses('device_failed', () => device.synchronise())
      expect(machine().report().fault).toMatch(/^when the stream was waited for: something was/)
      device.close()
    })

    it('may fail on the GPU at any of their kernels', async () => {
      for (const faultAt of [1, 2, 3]) {
        const device = await open({ faultAt })
        const streams = tensor(device, [1])
        for (let i = 0; i < 3; i++) double(device, streams)
        refuses('device_failed', () => device.synchronise(), 'LAUNCH_FAILED (719)')
        device.close()
      }
    })
  })

  describe('recorded steps', () => {
    it('run once when they are recorded, and again as one graph', async () => {
      const device = await open()
      const streams = tensor(device, [1, 2])
      let calls = 0
      const step = (): string =>
        device.replay('step', () => {
          calls++
          for (let i = 0; i < 3; i++) double(device, streams)
          return 'result'
        })
      expect([step(), step(), step()]).toEqual(['result', 'result', 'result'])
      expect(values(device, streams)).toEqual([512, 1024])
      expect(calls).toBe(1)
      expect(device.recordedLaunchesMax).toBe(3)
      expect(machine().report()).toMatchObject({ graphLaunches: 2, kernels: 9 })
      device.close()
    })

    it('keep the order of their ops', async () => {
      const device = await open()
      const [a, b] = [tensor(device, [1]), tensor(device, [0])]
      const step = (): void =>
        device.replay('step', () => {
          double(device, a)
          device.run('copy', { from: a, to: b })
          double(device, b)
        })
      step()
      step()
      expect([values(device, a), values(device, b)]).toEqual([[4], [8]])
      device.close()
    })

    it('are told apart by their keys', async () => {
      const device = await open()
      const [a, b] = [tensor(device, [1]), tensor(device, [1])]
      for (let i = 0; i < 2; i++) {
        device.replay('a', () => double(device, a))
        device.replay('b', () => double(device, b))
      }
      expect([values(device, a), values(device, b)]).toEqual([[4], [4]])
      device.close()
    })

    it('see what is written between them', async () => {
      const device = await open()
      const streams = tensor(device, [1])
      device.replay('step', () => double(device, streams))
      device.write(streams.buffer, 0, new Uint8Array(Float32Array.of(5).buffer))
      device.replay('step', () => double(device, streams))
      expect(values(device, streams)).toEqual([10])
      device.close()
    })

    it('are recorded anew once a buffer they were given is freed', async () => {
      const device = await open()
      let streams = tensor(device, [1])
      const step = (): void => device.replay('step', () => double(device, streams))
      step()
      step()
      device.free(streams.buffer)
      streams = tensor(device, [3])
      step()
      step()
      expect(values(device, streams)).toEqual([12])
      expect(device.replays).toBe(2)
      device.close()
    })

    it('are recorded anew once the room between their launches has moved', async () => {
      const device = await open()
      const [a, b] = [tensor(device, [7]), tensor(device, [0])]
      const step = (): void => device.replay('step', () => device.run('copy', { from: a, to: b }))
      step()
      const large = tensor(device, [1, 2, 3, 4])
      device.run('copy', { from: large, to: tensor(device, [0, 0, 0, 0]) })
      step()
      expect(device.replays).toBe(0)
      expect(values(device, b)).toEqual([7])
      device.close()
    })

    it('are not kept where a buffer was freed while they were recorded', async () => {
      const device = await open()
      const kept = tensor(device, [1])
      const step = (): void =>
        device.replay('step', () => {
          const passing = tensor0(device)
          double(device, passing)
          device.free(passing.buffer)
          double(device, kept)
        })
      step()
      step()
      expect(device.replays).toBe(0)
      expect(values(device, kept)).toEqual([4])
      device.close()
    })

    it('are not kept where their recording failed', async () => {
      const device = await open()
      const streams = tensor(device, [1])
      const failing = (): void =>
        device.replay('step', () => {
          double(device, streams)
          throw new RangeError('half-way')
        })
      expect(failing).toThrow('half-way')
      device.replay('step', () => double(device, streams))
      expect(values(device, streams)).toEqual([4])
      device.close()
      expect(machine().report().handles).toBe(0)
    })

    it('would be caught if one were replayed behind a freed buffer', async () => {
      const device = await open()
      const driver: Driver = device.context.driver
      const streams = tensor(device, [1])
      device.replay('step', () => double(device, streams))
      // Freed behind the device's back, as a driver without our books would let it be.
      device.context.release(device.address(streams))
      device.replay('step', () => double(device, streams))
      refuses('device_failed', () => device.synchronise(), 'ILLEGAL_ADDRESS (700)')
      expect(machine().report().fault).toBe('twice touched memory that was freed')
      expect(driver.isFake).toBe(true)
      device.close()
    })
  })

  describe('the driver', () => {
    it('is absent where its library is, or cannot be one', async () => {
      await expect(openDriver('/nowhere/libcuda.so.1')).rejects.toMatchObject({
        code: 'driver_absent',
        message: 'no NVIDIA driver: /nowhere/libcuda.so.1 cannot be opened',
      })
      await expect(openDriver('libc.so.6')).rejects.toMatchObject({
        code: 'driver_incomplete',
        message: 'libc.so.6 has no function cuDriverGetVersion',
      })
    })

    it('has to be 580 or newer', async () => {
      await expect(machine().open({ version: 12_080 })).rejects.toMatchObject({
        code: 'driver_too_old',
        message:
          'the NVIDIA driver is for CUDA 12.8; update it to version 580 (CUDA 13.0) or newer',
      })
    })

    it('may show no GPU', async () => {
      await expect(machine().open({ devices: 0 })).rejects.toMatchObject({
        code: 'no_device',
        message: 'cuInit: NO_DEVICE (100)',
      })
    })

    it('describes its GPUs', async () => {
      const driver = await machine().open({ devices: 2, architecture: 120, memoryBytes: 5000 })
      const gpus = listGpus(driver)
      expect(gpus).toMatchObject([
        { ordinal: 0, name: 'fake GPU 0', architecture: 120, totalBytes: 5000 },
        { ordinal: 1, name: 'fake GPU 1', architecture: 120, totalBytes: 5000 },
      ])
    })

    it('is of no use without kernels for the GPU', async () => {
      await expect(open({ architecture: 80 })).rejects.toMatchObject({
        code: 'no_kernels',
        message: 'fake GPU 0 is sm_80; there are kernels for sm_90',
      })
    })
  })
})

function tensor0(device: CudaDevice): Tensor {
  const buffer = device.alloc(4, 'passing')
  return { buffer, byteOffset: 0, dtype: 'f32', shape: [1] }
}
