import { afterEach, describe, expect, it } from 'vitest'
import type { CudaDevice } from '../cuda.ts'
import type { Tensor } from '../tensor.ts'
import { GpuGroup } from './group.ts'
import { openFakeCuda } from './testing/fake-device.ts'

const probe = await openFakeCuda()
if ('reason' in probe) console.warn(`skipped: no CUDA kernels on the host, ${probe.reason}`)

describe.skipIf('reason' in probe)('two GPUs that are not there', () => {
  const groups: GpuGroup[] = []

  const open = async (peers: 0 | 1 = 1) => {
    const fake = await openFakeCuda({ devices: 2, peers })
    if ('reason' in fake) throw new Error(fake.reason)
    const group = new GpuGroup(fake.driver, fake.images)
    groups.push(group)
    return { group, machine: fake.machine, devices: group.devices as [CudaDevice, CudaDevice] }
  }

  afterEach(() => {
    for (const group of groups.splice(0)) group.close()
  })

  const tensor = (device: CudaDevice, values: readonly number[]): Tensor => {
    const bytes = new Uint8Array(Float32Array.from(values).buffer)
    const buffer = device.alloc(bytes.length, 'values')
    device.write(buffer, 0, bytes)
    return { buffer, byteOffset: 0, dtype: 'f32', shape: [values.length] }
  }

  const values = (device: CudaDevice, { buffer, shape }: Tensor): number[] => {
    const into = new Float32Array(shape[0] ?? 0)
    device.read(buffer, 0, new Uint8Array(into.buffer))
    return [...into]
  }

  it('are told apart, and each has memory of its own', async () => {
    const { devices } = await open()
    expect(devices.map(({ gpu }) => gpu.name)).toEqual(['fake GPU 0', 'fake GPU 1'])
    const [a, b] = [tensor(devices[0], [1, 2]), tensor(devices[1], [3, 4])]
    expect([values(devices[0], a), values(devices[1], b)]).toEqual([
      [1, 2],
      [3, 4],
    ])
  })

  it('copy from one to the other, after what both were given before', async () => {
    const { group, devices, machine } = await open()
    const source = tensor(devices[0], [1, 2, 3])
    const target = tensor(devices[1], [0, 0, 0])
    group.copy(0, source, 1, target)
    // Given to the source's GPU later: may not overtake the copy.
    devices[0].write(source.buffer, 0, new Uint8Array(12))
    expect(values(devices[1], target)).toEqual([1, 2, 3])
    expect(machine.report().peerCopies).toBe(1)
  })

  it('run an op on what the other has just computed', async () => {
    const { group, devices } = await open()
    const [from, between] = [tensor(devices[0], [1, 2]), tensor(devices[0], [0, 0])]
    const [received, to] = [tensor(devices[1], [0, 0]), tensor(devices[1], [0, 0])]
    devices[0].run('copy', { from, to: between })
    group.copy(0, between, 1, received)
    devices[1].run('copy', { from: received, to })
    expect(values(devices[1], to)).toEqual([1, 2])
  })

  it('add up their tensors, in the same order and to the same bits on both', async () => {
    const { group, devices } = await open()
    const count = 700
    const column = (gpu: number) =>
      Array.from({ length: count }, (_, i) => Math.fround(((i * 37 + gpu * 11) % 101) / 7))
    const tensors = devices.map((device, gpu) => tensor(device, column(gpu)))
    const expected = column(0).map((value, i) => Math.fround(value + (column(1)[i] ?? 0)))
    for (let round = 0; round < 2; round++) group.allReduce(tensors)
    const twice = expected.map((value) => Math.fround(value + value))
    for (const [gpu, device] of devices.entries()) {
      const found = tensors[gpu]
      expect(found === undefined ? [] : values(device, found)).toEqual(twice)
    }
  })

  it('lose only the one whose kernel faults', async () => {
    const { devices } = await open()
    const [good, bad] = [tensor(devices[0], [1]), tensor(devices[1], [2])]
    const far: Tensor = { ...bad, shape: [1] }
    // Behind the device's back: a kernel is given an address of nothing.
    devices[1].context.release(devices[1].address(far))
    devices[1].run('copy', { from: far, to: far })
    expect(() => devices[1].synchronise()).toThrow('GPU 1: cuStreamSynchronize: ILLEGAL_ADDRESS')
    expect(values(devices[0], good)).toEqual([1])
  })

  it('that cannot reach each other make no group', async () => {
    await expect(open(0)).rejects.toMatchObject({
      code: 'no_peer_access',
      message: 'GPU 0 cannot reach the memory of GPU 1',
    })
  })

  it("fault on each other's memory where nobody allowed it", async () => {
    const fake = await openFakeCuda({ devices: 2, peers: 0 })
    if ('reason' in fake) throw new Error(fake.reason)
    const [first, second] = [fake.open(0), fake.open(1)]
    const there = tensor(second, [1, 2])
    second.synchronise()
    const here = tensor(first, [0, 0])
    first.launch({
      kernel: 'all_reduce_sum',
      grid: [1, 1, 1],
      block: [256, 1, 1],
      sharedBytes: 0,
      args: [{ as: 'struct', value: sumArgs(second.address(there), first.address(here)) }],
    })
    expect(() => first.synchronise()).toThrow('ILLEGAL_ADDRESS')
    expect(fake.machine.report().fault).toContain('a buffer of GPU 1, which this one may not reach')
    expect(values(second, there)).toEqual([1, 2])
    first.close()
    second.close()
  })
})

function sumArgs(input: bigint, output: bigint): Uint8Array {
  const view = new DataView(new ArrayBuffer(8 * 19))
  view.setBigUint64(0, input, true)
  view.setBigUint64(8 * 16, output, true)
  view.setBigInt64(8 * 17, 2n, true)
  view.setInt32(8 * 18, 1, true)
  return new Uint8Array(view.buffer)
}
