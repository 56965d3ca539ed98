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
    const group = new GpuGroup(fake.driver, fake.images, [0, 1])
    groups.push(group)
    return { group, machine: fake.machine, devices: group.devices as [CudaDevice, CudaDevice] }
  }

  afterEach(() => {
    for (const group of groups.splice(0)) group.close()
  })

  const tensor = (device: CudaDevice, values: readonly number[]): Tensor => {
    const bytes = floatBytes(values)
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

  /** Tensors on both GPUs, and a step in which each works something out for the other to take. */
  const exchanging = (group: GpuGroup, devices: readonly CudaDevice[]) => {
    const given = devices.map((device) => tensor(device, [0, 0]))
    const own = devices.map((device) => tensor(device, [0, 0]))
    const got = devices.map((device) => tensor(device, [0, 0]))
    const at = (tensors: readonly Tensor[], i: number): Tensor => {
      const found = tensors[i]
      if (found === undefined) throw new RangeError(`there is no GPU ${i}`)
      return found
    }
    const step = (meet: () => void): void => {
      for (const [i, device] of devices.entries()) {
        device.run('copy', { from: at(given, i), to: at(own, i) })
      }
      meet()
      for (const [i, device] of devices.entries()) {
        const other = 1 - i
        const from = group.lend(at(own, other), other, i)
        device.run('gather', { parts: [{ from, to: at(got, i) }] })
      }
      meet()
    }
    const give = (...columns: readonly (readonly number[])[]): void => {
      for (const [i, column] of columns.entries()) {
        devices[i]?.write(at(given, i).buffer, 0, floatBytes(column))
      }
    }
    const taken = (): number[][] => devices.map((device, i) => values(device, at(got, i)))
    return { step, give, taken, own }
  }

  it('see what the other worked out before they met, step by step and as one graph', async () => {
    const { group, devices, machine } = await open()
    const { step, give, taken } = exchanging(group, devices)
    const replayed = (): void => group.replay('step', () => step(() => group.meet()))
    for (const round of [1, 2, 3]) {
      give([round, 10], [round, 20])
      replayed()
      expect(taken()).toEqual([
        [round, 20],
        [round, 10],
      ])
    }
    expect(group.replays).toBe(2)
    expect(machine.report()).toMatchObject({ graphLaunches: 2, peerCopies: 0 })
  })

  it('that do not meet take what was there before, live or in a graph', async () => {
    const { group, devices } = await open()
    const { step, give, taken } = exchanging(group, devices)
    for (const round of [1, 2]) {
      give([round], [round])
      group.replay('careless', () => step(() => undefined))
      // The graph's kernels run in the last order allowed, so it is the first GPU that comes too early.
      expect(taken().map(([first]) => first)).not.toEqual([round, round])
    }
  })

  it('forget a step once a buffer that one lent to the other is freed', async () => {
    const { group, devices } = await open()
    const { step, give, own } = exchanging(group, devices)
    give([1], [2])
    group.replay('step', () => step(() => group.meet()))
    const [, second] = own
    if (second === undefined) throw new Error('there are two')
    const lent = group.lend(second, 1, 0)
    devices[1].free(second.buffer)
    expect(() => group.replay('step', () => step(() => group.meet()))).toThrow('was freed')
    expect(() => devices[0].address(lent)).toThrow(`buffer ${lent.buffer} was freed`)
    expect(group.replays).toBe(0)
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
      kernel: 'copy_bytes',
      grid: [1, 1, 1],
      block: [256, 1, 1],
      sharedBytes: 0,
      args: [{ as: 'struct', value: copyArgs(second.address(there), first.address(here)) }],
    })
    expect(() => first.synchronise()).toThrow('ILLEGAL_ADDRESS')
    expect(fake.machine.report().fault).toContain('a buffer of GPU 1, which this one may not reach')
    expect(values(second, there)).toEqual([1, 2])
    first.close()
    second.close()
  })
})

function copyArgs(from: bigint, to: bigint): Uint8Array {
  return new Uint8Array(BigUint64Array.of(from, to, 8n).buffer)
}

function floatBytes(column: readonly number[]): Uint8Array {
  return new Uint8Array(Float32Array.from(column).buffer)
}
