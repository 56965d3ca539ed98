import { strict as assert } from 'node:assert'
import { DeviceError, type DeviceErrorCode } from '../device.ts'
import type { Driver, DriverFunction } from './driver.ts'
import { CudaError, type CudaErrorCode } from './errors.ts'

type Argument = Parameters<Driver['call']>[1]

const deviceCodes: Readonly<Record<CudaErrorCode, DeviceErrorCode>> = {
  driver_absent: 'device_unavailable',
  driver_incomplete: 'device_unavailable',
  driver_too_old: 'device_unavailable',
  no_device: 'device_unavailable',
  no_kernels: 'device_unavailable',
  no_peer_access: 'device_unavailable',
  out_of_memory: 'out_of_memory',
  call_refused: 'device_failed',
  device_failed: 'device_failed',
}

/** `CU_STREAM_NON_BLOCKING`, `CU_EVENT_DISABLE_TIMING`. */
const streamFlags = 1
const eventFlags = 2

/** `CUDA_ERROR_NOT_FOUND`. */
const notFound = 500

/** `CU_MEMPOOL_ATTR_RELEASE_THRESHOLD`: memory that was freed stays ours. */
const releaseThreshold = 4

/**
 * One GPU's context with the stream all of the device's work runs in. Calls through it reach that
 * GPU. After a fault of the GPU every call throws what happened first: CUDA's own answer to any call
 * is then the same error, and only a new process gets the GPU back.
 */
export class CudaContext {
  readonly driver: Driver
  readonly ordinal: number
  readonly stream: bigint
  readonly handle: bigint
  readonly #pool: bigint
  #failure: DeviceError | null = null
  #closed = false

  constructor(driver: Driver, ordinal: number) {
    this.driver = driver
    this.ordinal = ordinal
    this.handle = driver.handle('cuDevicePrimaryCtxRetain', ordinal)
    driver.enter(this.handle)
    this.stream = driver.handle('cuStreamCreate', streamFlags)
    this.#pool = driver.handle('cuDeviceGetDefaultMemPool', ordinal)
    const everything = BigUint64Array.of(2n ** 64n - 1n)
    driver.call('cuMemPoolSetAttribute', this.#pool, releaseThreshold, everything)
  }

  call(name: DriverFunction, ...args: Argument[]): void {
    this.#enter()
    try {
      this.driver.call(name, ...args)
    } catch (error) {
      throw this.#told(error)
    }
  }

  handleOf(name: DriverFunction, ...args: Argument[]): bigint {
    this.#enter()
    try {
      return this.driver.handle(name, ...args)
    } catch (error) {
      throw this.#told(error)
    }
  }

  /** Waits until the stream has run dry. Faults of kernels show here. */
  synchronise(): void {
    this.call('cuStreamSynchronize', this.stream)
  }

  /** Device memory in stream order, or null where there is none left, freed memory given back. */
  allocate(bytes: number): bigint | null {
    const first = this.#tryAllocate(bytes)
    if (first !== null) return first
    // What was freed in stream order counts once the stream has reached it.
    this.synchronise()
    this.call('cuMemPoolTrimTo', this.#pool, 0)
    return this.#tryAllocate(bytes)
  }

  release(address: bigint): void {
    this.call('cuMemFreeAsync', address, this.stream)
  }

  /** A module's kernel, or null where it has none of that name. */
  functionOf(module: bigint, name: string): bigint | null {
    try {
      return this.handleOf('cuModuleGetFunction', module, name)
    } catch (error) {
      const cause = error instanceof DeviceError ? error.cause : null
      if (cause instanceof CudaError && cause.result === notFound) return null
      throw error
    }
  }

  createEvent(): bigint {
    return this.handleOf('cuEventCreate', eventFlags)
  }

  memory(): { readonly freeBytes: number; readonly totalBytes: number } {
    const total = new BigUint64Array(1)
    const free = this.handleOf('cuMemGetInfo_v2', total)
    return { freeBytes: Number(free), totalBytes: Number(total[0] ?? 0n) }
  }

  /** Lets kernels on this GPU read and write what `peer` holds, its pool's memory included. */
  enablePeer(peer: CudaContext): void {
    this.call('cuCtxEnablePeerAccess', peer.handle, 0)
    // CUmemAccessDesc: location type (1: device), its number, flags (3: read and write).
    peer.call('cuMemPoolSetAccess', peer.#pool, Int32Array.of(1, this.ordinal, 3), 1)
  }

  get failed(): boolean {
    return this.#failure !== null
  }

  /** Gives the context back. A failed one cannot be tidied up; the process's end does that. */
  close(): void {
    if (this.#closed) return
    if (!this.failed) this.call('cuStreamDestroy_v2', this.stream)
    this.#closed = true
    this.driver.leave(this.handle)
    this.driver.attempt('cuDevicePrimaryCtxRelease_v2', this.ordinal)
  }

  #tryAllocate(bytes: number): bigint | null {
    this.#enter()
    try {
      return this.driver.handle('cuMemAllocAsync', bytes, this.stream)
    } catch (error) {
      if (error instanceof CudaError && error.code === 'out_of_memory') return null
      throw this.#told(error)
    }
  }

  #enter(): void {
    if (this.#failure !== null) throw this.#failure
    assert(!this.#closed, 'a context that was given back is not used')
    this.driver.enter(this.handle)
  }

  /** The device's error for the driver's; one that lasts is remembered. */
  #told(error: unknown): unknown {
    if (!(error instanceof CudaError)) return error
    const code = deviceCodes[error.code]
    const lasting = error.code === 'device_failed'
    const advice = lasting ? '; the GPU is lost to this process, restart it' : ''
    const told = new DeviceError(code, 'cuda', `GPU ${this.ordinal}: ${error.message}${advice}`, {
      cause: error,
    })
    if (lasting) this.#failure = told
    return told
  }
}
