import { strict as assert } from 'node:assert'
import { CudaDevice } from '../cuda.ts'
import { elementCount, type Tensor, tensorBytes } from '../tensor.ts'
import type { Driver } from './driver.ts'
import { CudaError } from './errors.ts'
import { listGpus } from './gpu.ts'
import type { KernelImages } from './images.ts'
import { type Launch, struct } from './launch.ts'

/** GPUs `all-reduce.cu` can read from. */
const gpusMax = 16
const threads = 256

/**
 * All GPUs of a machine, each able to read the others' memory. Work on one GPU keeps its order; what
 * crosses between two waits for both, without the host waiting for either.
 */
export class GpuGroup {
  readonly devices: readonly CudaDevice[]
  readonly #events: readonly bigint[]

  /** Throws `CudaError` `no_peer_access` where two GPUs cannot reach each other. */
  constructor(driver: Driver, images: KernelImages) {
    const gpus = listGpus(driver)
    assert(gpus.length <= gpusMax, `a group has at most ${gpusMax} GPUs`)
    for (const from of gpus) for (const to of gpus) requirePeer(driver, from.ordinal, to.ordinal)
    const devices: CudaDevice[] = []
    try {
      for (const { ordinal } of gpus) devices.push(new CudaDevice(driver, images, { ordinal }))
      for (const { context } of devices) {
        for (const peer of devices) if (peer.context !== context) context.enablePeer(peer.context)
      }
    } catch (error) {
      for (const device of devices) device.close()
      throw error
    }
    this.devices = devices
    this.#events = devices.map(({ context }) => context.createEvent())
  }

  /** Copies a tensor of one GPU into one of another, once both have done what they were given before. */
  copy(from: number, source: Tensor, to: number, target: Tensor): void {
    const [reader, writer] = [this.#device(from), this.#device(to)]
    const bytes = tensorBytes(source)
    assert.equal(bytes, tensorBytes(target), 'a copy is as long as what it is made of')
    this.#meet([from, to])
    const { context } = writer
    context.call(
      'cuMemcpyPeerAsync',
      writer.address(target),
      context.handle,
      reader.address(source),
      reader.context.handle,
      bytes,
      context.stream,
    )
    // Nobody overwrites the source before it has been read.
    this.#meet([from, to])
  }

  /**
   * Leaves in each GPU's f32 tensor the sum of all of them, added in the order of the GPUs. Every GPU
   * reads every tensor whole, which is the quickest way while they are small.
   */
  allReduce(tensors: readonly Tensor[]): void {
    assert.equal(tensors.length, this.devices.length, 'every GPU brings a tensor')
    const [count = 0, ...others] = tensors.map(({ shape }) => elementCount(shape))
    assert(
      others.every((other) => other === count),
      'the tensors are of one size',
    )
    assert(
      tensors.every(({ dtype }) => dtype === 'f32'),
      'the tensors are f32',
    )
    const inputs = tensors.map((tensor, i) => this.#device(i).address(tensor))
    this.#meet()
    // Into room of its own first: the others still read what is here.
    const rooms = this.devices.map((device) => device.scratch('all-reduce', 4 * count))
    for (const [i, device] of this.devices.entries()) device.launch(sum(inputs, rooms[i], count))
    this.#meet()
    for (const [i, device] of this.devices.entries()) {
      device.launch(sum(rooms.slice(i, i + 1), inputs[i], count))
    }
  }

  synchronise(): void {
    for (const device of this.devices) device.synchronise()
  }

  close(): void {
    for (const [i, event] of this.#events.entries()) {
      const { context } = this.#device(i)
      if (!context.failed) context.call('cuEventDestroy_v2', event)
    }
    for (const device of this.devices) device.close()
  }

  /** What these GPUs are given from now on waits for what each of them was given before. */
  #meet(gpus: readonly number[] = [...this.devices.keys()]): void {
    for (const gpu of gpus) {
      const { context } = this.#device(gpu)
      context.call('cuEventRecord', this.#event(gpu), context.stream)
    }
    for (const gpu of gpus) {
      const { context } = this.#device(gpu)
      for (const other of gpus) {
        if (other === gpu) continue
        context.call('cuStreamWaitEvent', context.stream, this.#event(other), 0)
      }
    }
  }

  #device(gpu: number): CudaDevice {
    const device = this.devices[gpu]
    assert(device !== undefined, `GPU ${gpu} is in the group`)
    return device
  }

  #event(gpu: number): bigint {
    const event = this.#events[gpu]
    assert(event !== undefined, `GPU ${gpu} is in the group`)
    return event
  }
}

function requirePeer(driver: Driver, from: number, to: number): void {
  if (from === to || driver.int('cuDeviceCanAccessPeer', from, to) === 1) return
  throw new CudaError('no_peer_access', `GPU ${from} cannot reach the memory of GPU ${to}`)
}

/** `AllReduceArgs`: sixteen inputs, the output, the count, and how many inputs there are. */
function sum(inputs: readonly bigint[], output: bigint | undefined, count: number): Launch {
  assert(output !== undefined, 'every GPU has an output')
  const bytes = new Uint8Array(8 * (gpusMax + 3))
  const view = new DataView(bytes.buffer)
  for (const [i, input] of inputs.entries()) view.setBigUint64(8 * i, input, true)
  view.setBigUint64(8 * gpusMax, output, true)
  view.setBigInt64(8 * (gpusMax + 1), BigInt(count), true)
  view.setInt32(8 * (gpusMax + 2), inputs.length, true)
  return {
    kernel: 'all_reduce_sum',
    grid: [Math.ceil(count / threads), 1, 1],
    block: [threads, 1, 1],
    sharedBytes: 0,
    args: [struct(bytes)],
  }
}
