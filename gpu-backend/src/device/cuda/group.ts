import { strict as assert } from 'node:assert'
import { CudaDevice } from '../cuda.ts'
import type { DeviceGroup } from '../group.ts'
import { type Tensor, tensorBytes } from '../tensor.ts'
import type { Driver } from './driver.ts'
import { CudaError } from './errors.ts'
import { listGpus } from './gpu.ts'
import type { KernelImages } from './images.ts'
import { RecordedSteps, type Recorder, type StepRecording } from './recorded-steps.ts'

/** GPUs that `expert-sum.cu` can read from. */
const gpusMax = 16

/**
 * GPUs of a machine, each able to read the others' memory. Work on one GPU keeps its order; what
 * crosses between two waits for both, without the host waiting for either.
 */
export class GpuGroup implements DeviceGroup, Recorder {
  readonly devices: readonly CudaDevice[]
  readonly #events: readonly bigint[]
  readonly #steps: RecordedSteps
  #recording: StepRecording | null = null

  /** Throws `CudaError` `no_device`, or `no_peer_access` where two GPUs cannot reach each other. */
  constructor(driver: Driver, images: KernelImages, ordinals: readonly number[]) {
    const count = ordinals.length
    assert(count >= 1 && count <= gpusMax, `a group has 1 to ${gpusMax} GPUs, not ${count}`)
    requireGpus(driver, ordinals)
    for (const from of ordinals) for (const to of ordinals) requirePeer(driver, from, to)
    const devices: CudaDevice[] = []
    try {
      for (const ordinal of ordinals) devices.push(new CudaDevice(driver, images, { ordinal }))
      for (const { context } of devices) {
        for (const peer of devices) if (peer.context !== context) context.enablePeer(peer.context)
      }
    } catch (error) {
      for (const device of devices) device.close()
      throw error
    }
    this.devices = devices
    this.#events = devices.map(({ context }) => context.createEvent())
    // One list for all: a step of the group is one graph with kernels of each GPU.
    this.#steps = new RecordedSteps(this.#device(0).context)
    for (const device of devices) device.recordWith(this.#steps)
  }

  /** Steps that were run as one graph so far. */
  get replays(): number {
    return this.#steps.replays
  }

  lend(tensor: Tensor, from: number, to: number): Tensor {
    return from === to ? tensor : this.#device(to).borrow(this.#device(from), tensor)
  }

  meet(): void {
    for (const device of this.devices) device.launchHeld()
    this.#recording?.meet(this.devices.map(({ context }) => context))
    this.#meet()
  }

  replay<T>(key: string, body: () => T): T {
    // A graph is in the order of the first GPU alone.
    this.#meet()
    const result = this.#steps.run(key, [...this.devices, this], body)
    this.#meet()
    return result
  }

  beginRecording(recording: StepRecording): void {
    this.#recording = recording
  }

  endRecording(): void {
    this.#recording = null
  }

  dropRecording(): void {
    this.#recording = null
  }

  /** Copies a tensor of one GPU into one of another, once both have done what they were given before. */
  copy(from: number, source: Tensor, to: number, target: Tensor): void {
    const [reader, writer] = [this.#device(from), this.#device(to)]
    const bytes = tensorBytes(source)
    assert(this.#recording === null, 'a recorded step has ops alone, not a copy')
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

function requireGpus(driver: Driver, ordinals: readonly number[]): void {
  const there = listGpus(driver).length
  const missing = ordinals.find((ordinal) => ordinal >= there)
  if (missing === undefined) return
  throw new CudaError(
    'no_device',
    `there is no GPU ${missing}: the driver shows ${there}, from 0 on`,
  )
}

function requirePeer(driver: Driver, from: number, to: number): void {
  if (from === to || driver.int('cuDeviceCanAccessPeer', from, to) === 1) return
  throw new CudaError('no_peer_access', `GPU ${from} cannot reach the memory of GPU ${to}`)
}
