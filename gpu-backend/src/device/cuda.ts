import { strict as assert } from 'node:assert'
import type { OpTable } from '../kernels/registry.ts'
import { KernelArguments } from './cuda/arguments.ts'
import { CudaContext } from './cuda/context.ts'
import type { Driver } from './cuda/driver.ts'
import { CudaError } from './cuda/errors.ts'
import { type Gpu, listGpus, requireKernels } from './cuda/gpu.ts'
import type { KernelImages, LaunchTable } from './cuda/images.ts'
import type {
  DevicePointer,
  Launch,
  LaunchOp,
  LaunchTarget,
  ProductUnits,
  TileMatrix,
} from './cuda/launch.ts'
import { LoadedModules } from './cuda/modules.ts'
import { RecordedSteps, type Recorder, type StepRecording } from './cuda/recorded-steps.ts'
import { Staging } from './cuda/staging.ts'
import { TileMaps } from './cuda/tile-maps.ts'
import { type Device, DeviceError, type DeviceFormats, type DeviceMemory } from './device.ts'
import { type DeviceBuffer, type Tensor, tensorBytes } from './tensor.ts'

export interface CudaOptions {
  /** Which GPU, in the driver's order; absent: the first. */
  readonly ordinal?: number
  /** Absent: `mma`, as long as no proof on hardware says that the other one is right and faster. */
  readonly products?: ProductUnits
}

/** The only architecture with `wgmma`. */
const wgmmaArchitecture = 90

interface GpuBuffer {
  readonly label: string
  readonly address: DevicePointer
  readonly bytes: number
}

/** Of all GPUs of the process, so that a buffer taken to another GPU is not known there. */
let lastHandle = 0

/**
 * One NVIDIA GPU over the driver API. Everything runs in one stream, in the order it was given; only
 * `read` and `synchronise` wait, and faults of kernels show there. Ops are launched one by one, or as
 * a recorded step in one call.
 */
export class CudaDevice implements Device, LaunchTarget, Recorder {
  readonly name = 'cuda'
  readonly formats: DeviceFormats
  readonly gpu: Gpu
  readonly products: ProductUnits
  readonly context: CudaContext
  readonly #launchers: LaunchTable
  readonly #modules: LoadedModules
  readonly #staging: Staging
  readonly #tileMaps: TileMaps
  readonly #arguments: KernelArguments
  #steps: RecordedSteps
  readonly #buffers = new Map<DeviceBuffer, GpuBuffer>()
  /** Buffers of other GPUs by their handles there, under handles of this one's; and who borrows from it. */
  readonly #borrowed = new Map<DeviceBuffer, DeviceBuffer>()
  readonly #borrowers = new Set<CudaDevice>()
  /** What launches of one op hand values to each other in, by name. */
  readonly #rooms = new Map<string, DeviceBuffer>()
  #recording: StepRecording | null = null
  #held: { readonly op: string; readonly launch: Launch } | null = null
  #allocatedBytes = 0
  #peakBytes = 0
  #closed = false

  /** Throws `CudaError` where the GPU is not there or no kernel was built for it. */
  constructor(driver: Driver, images: KernelImages, options: CudaOptions = {}) {
    const { ordinal = 0, products = 'mma' } = options
    const gpu = listGpus(driver)[ordinal]
    assert(gpu !== undefined, `GPU ${ordinal} is among those the driver shows`)
    requireKernels(gpu, images)
    if (products === 'wgmma' && gpu.architecture !== wgmmaArchitecture) {
      const message = `${gpu.name} is sm_${gpu.architecture}; products by wgmma are for sm_90`
      throw new CudaError('no_kernels', message)
    }
    this.gpu = gpu
    this.products = products
    this.formats = images.formats
    this.#launchers = images.launchers
    this.context = new CudaContext(driver, ordinal)
    this.#steps = new RecordedSteps(this.context)
    try {
      this.#modules = new LoadedModules(this.context, images)
      this.#staging = new Staging(this.context)
      this.#tileMaps = new TileMaps(this.context)
    } catch (error) {
      this.context.close()
      throw error
    }
    this.#arguments = new KernelArguments((memory) => driver.addressOf(memory))
  }

  /** Steps that were run as one graph so far. */
  get replays(): number {
    return this.#steps.replays
  }

  /** Kernels of the largest step that is recorded now. */
  get recordedLaunchesMax(): number {
    return this.#steps.launchesMax
  }

  alloc(bytes: number, label: string): DeviceBuffer {
    this.#assertOpen()
    if (!Number.isSafeInteger(bytes) || bytes <= 0) {
      throw this.#error('out_of_range', `cannot allocate ${bytes} bytes for ${label}`)
    }
    const buffer = this.#take(bytes, label)
    this.#allocatedBytes += bytes
    this.#peakBytes = Math.max(this.#peakBytes, this.#allocatedBytes)
    return buffer
  }

  free(buffer: DeviceBuffer): void {
    assert(![...this.#borrowed.values()].includes(buffer), 'what is borrowed is freed by its owner')
    this.#allocatedBytes -= this.#buffer(buffer).bytes
    this.#release(buffer)
  }

  write(buffer: DeviceBuffer, offset: number, bytes: Uint8Array): void {
    const target = this.#range(buffer, offset, bytes.byteLength)
    this.#assertNotRecording('write')
    this.#staging.write(target, bytes)
  }

  read(buffer: DeviceBuffer, offset: number, into: Uint8Array): void {
    const source = this.#range(buffer, offset, into.byteLength)
    this.#assertNotRecording('read')
    this.#staging.read(source, into)
  }

  hostMemory(bytes: number): Uint8Array {
    this.#assertOpen()
    return this.#staging.pinned(bytes)
  }

  run<Op extends keyof OpTable>(op: Op, args: OpTable[Op]): void {
    this.#assertOpen()
    const launcher: LaunchOp<OpTable[Op]> | undefined = this.#launchers[op]
    if (launcher === undefined) throw this.#error('unsupported_op', `there is no op ${op}`)
    for (const launch of launcher(args, this)) {
      if (this.#recording === null) this.#launch(op, launch)
      else this.#launchOrHold(op, launch)
    }
  }

  /** Launches a kernel that belongs to no op. */
  launch(launch: Launch): void {
    this.#assertOpen()
    this.#launch('a launch', launch)
  }

  replay<T>(key: string, body: () => T): T {
    this.#assertOpen()
    return this.#steps.run(key, [this], body)
  }

  /** From now on steps are recorded with those of other GPUs of its group. */
  recordWith(steps: RecordedSteps): void {
    this.#steps = steps
  }

  beginRecording(recording: StepRecording): void {
    assert(this.#recording === null, 'steps are not recorded inside each other')
    this.#recording = recording
  }

  endRecording(): void {
    this.launchHeld()
    this.#recording = null
  }

  dropRecording(): void {
    this.#held = null
    this.#recording = null
  }

  /**
   * A tensor of another GPU whose memory this one may read, for its ops. It is there as long as its
   * buffer is.
   */
  borrow(owner: CudaDevice, tensor: Tensor): Tensor {
    const known = this.#borrowed.get(tensor.buffer)
    if (known !== undefined) return { ...tensor, buffer: known }
    const buffer = ++lastHandle as DeviceBuffer
    this.#buffers.set(buffer, owner.#buffer(tensor.buffer))
    this.#borrowed.set(tensor.buffer, buffer)
    owner.#borrowers.add(this)
    return { ...tensor, buffer }
  }

  synchronise(): void {
    this.#assertOpen()
    this.context.synchronise()
  }

  /** What was asked for; rooms for launches come on top of it. */
  memory(): DeviceMemory {
    this.#assertOpen()
    return {
      allocatedBytes: this.#allocatedBytes,
      peakBytes: this.#peakBytes,
      buffers: this.#buffers.size - this.#rooms.size - this.#borrowed.size,
    }
  }

  close(): void {
    if (this.#closed) return
    this.#closed = true
    try {
      if (!this.context.failed) this.#giveBack()
    } catch (error) {
      // What it was still doing has failed: of a lost GPU nothing can be given back.
      if (!this.context.failed) throw error
    }
    this.context.close()
  }

  address(tensor: Tensor): DevicePointer {
    return this.#range(tensor.buffer, tensor.byteOffset, tensorBytes(tensor), true)
  }

  scratch(name: string, bytes: number): DevicePointer {
    return this.#room(name, bytes).address
  }

  tileMap(matrix: TileMatrix): Uint8Array {
    return this.#tileMaps.encode(matrix)
  }

  counters(count: number): DevicePointer {
    const room = this.#room('counters', 4 * count)
    if (room.isNew) this.#staging.write(room.address, new Uint8Array(4 * count))
    return room.address
  }

  #room(name: string, bytes: number): { readonly address: DevicePointer; readonly isNew: boolean } {
    const held = this.#rooms.get(name)
    const fits = held !== undefined && this.#buffer(held).bytes >= bytes
    if (held !== undefined && !fits) this.#release(held)
    const buffer = fits ? held : this.#take(Math.max(1, bytes), `room for ${name}`)
    this.#rooms.set(name, buffer)
    this.#recording?.buffers.add(buffer)
    return { address: this.#buffer(buffer).address, isNew: !fits }
  }

  #take(bytes: number, label: string): DeviceBuffer {
    const address = this.context.allocate(bytes)
    if (address === null) throw this.#outOfMemory(bytes, label)
    const handle = ++lastHandle as DeviceBuffer
    this.#buffers.set(handle, { label, address, bytes })
    return handle
  }

  #release(buffer: DeviceBuffer): void {
    const { address } = this.#buffer(buffer)
    for (const borrower of this.#borrowers) borrower.#giveBackBorrowed(buffer)
    this.#forget(buffer)
    this.context.release(address)
  }

  #giveBackBorrowed(buffer: DeviceBuffer): void {
    const own = this.#borrowed.get(buffer)
    if (own === undefined) return
    this.#forget(own)
    this.#borrowed.delete(buffer)
  }

  #forget(buffer: DeviceBuffer): void {
    // A launch that waits may have been given its address.
    this.launchHeld()
    this.#steps.forget(buffer)
    if (this.#recording?.buffers.has(buffer) === true) this.#recording.abandon()
    this.#buffers.delete(buffer)
  }

  #launch(op: string, { kernel, grid, block, sharedBytes, args }: Launch): void {
    const loaded = this.#modules.kernel(kernel, sharedBytes)
    if (loaded === null) throw this.#error('unsupported_op', `${op} has no kernel ${kernel}`)
    this.#arguments.pack(args)
    const { pointers } = this.#arguments
    const { stream } = this.context
    const shape = [...grid, ...block, sharedBytes] as const
    this.context.call('cuLaunchKernel', loaded.handle, ...shape, stream, pointers, null)
    this.#recording?.add(this.context, loaded.handle, shape, pointers)
  }

  /** In a recorded step a launch may wait for the next one, to become one with it. */
  #launchOrHold(op: string, launch: Launch): void {
    const joined = this.#held?.launch.join?.(launch) ?? null
    if (joined === null) this.launchHeld()
    if (joined === null && launch.join === undefined) this.#launch(op, launch)
    else this.#held = { op, launch: joined ?? launch }
  }

  /** Launches what waits to become one with the next. */
  launchHeld(): void {
    const held = this.#held
    this.#held = null
    if (held !== null) this.#launch(held.op, held.launch)
  }

  #giveBack(): void {
    this.#steps.close()
    for (const borrowed of this.#borrowed.values()) this.#buffers.delete(borrowed)
    for (const { address } of this.#buffers.values()) this.context.release(address)
    this.#buffers.clear()
    // What is still running may use all of what follows.
    this.context.synchronise()
    this.#staging.close()
    this.#modules.close()
  }

  #range(buffer: DeviceBuffer, offset: number, bytes: number, launched = false): DevicePointer {
    const { label, address, bytes: size } = this.#buffer(buffer)
    if (!Number.isSafeInteger(offset) || offset < 0 || offset + bytes > size) {
      throw this.#error(
        'out_of_range',
        `bytes ${offset}…${offset + bytes} are outside ${label} of ${size}`,
      )
    }
    if (launched) this.#recording?.buffers.add(buffer)
    return address + BigInt(offset)
  }

  #buffer(buffer: DeviceBuffer): GpuBuffer {
    this.#assertOpen()
    const found = this.#buffers.get(buffer)
    if (found !== undefined) return found
    const past = buffer >= 1 && buffer <= lastHandle
    throw this.#error(
      'unknown_buffer',
      past
        ? `buffer ${buffer} was freed, or is another GPU's`
        : `buffer ${buffer} was never allocated here`,
    )
  }

  #outOfMemory(bytes: number, label: string): DeviceError {
    const { freeBytes, totalBytes } = this.context.memory()
    const free = `${freeBytes} of ${totalBytes} are free on GPU ${this.gpu.ordinal}`
    return this.#error('out_of_memory', `no ${bytes} bytes for ${label}: ${free}`)
  }

  #assertNotRecording(what: string): void {
    assert(this.#recording === null, `a recorded step has ops alone, not a ${what}`)
  }

  #assertOpen(): void {
    if (this.#closed) throw this.#error('device_closed', 'the device was closed')
  }

  #error(code: DeviceError['code'], message: string): DeviceError {
    return new DeviceError(code, this.name, message)
  }
}
