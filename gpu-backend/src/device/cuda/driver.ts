import { strict as assert } from 'node:assert'
import { CudaError, resultError } from './errors.ts'

/** Handles and device addresses are 64-bit integers on every platform the driver exists for. */
const signatures = {
  cuInit: 'uint32_t',
  cuDriverGetVersion: 'void *',
  cuDeviceGetCount: 'void *',
  cuDeviceGet: 'void *, int32_t',
  cuDeviceGetName: 'void *, int32_t, int32_t',
  cuDeviceGetAttribute: 'void *, int32_t, int32_t',
  cuDeviceTotalMem_v2: 'void *, int32_t',
  cuDeviceCanAccessPeer: 'void *, int32_t, int32_t',
  cuDeviceGetDefaultMemPool: 'void *, int32_t',
  cuDevicePrimaryCtxRetain: 'void *, int32_t',
  cuDevicePrimaryCtxRelease_v2: 'int32_t',
  cuCtxSetCurrent: 'uint64_t',
  cuCtxEnablePeerAccess: 'uint64_t, uint32_t',
  cuMemGetInfo_v2: 'void *, void *',
  cuMemPoolSetAttribute: 'uint64_t, int32_t, void *',
  cuMemPoolSetAccess: 'uint64_t, void *, size_t',
  cuMemPoolTrimTo: 'uint64_t, size_t',
  cuMemAllocAsync: 'void *, size_t, uint64_t',
  cuMemFreeAsync: 'uint64_t, uint64_t',
  cuMemHostAlloc: 'void *, size_t, uint32_t',
  cuMemFreeHost: 'uint64_t',
  cuMemcpyHtoDAsync_v2: 'uint64_t, uint64_t, size_t, uint64_t',
  cuMemcpyDtoHAsync_v2: 'uint64_t, uint64_t, size_t, uint64_t',
  cuMemcpyPeerAsync: 'uint64_t, uint64_t, uint64_t, uint64_t, size_t, uint64_t',
  cuStreamCreate: 'void *, uint32_t',
  cuStreamDestroy_v2: 'uint64_t',
  cuStreamSynchronize: 'uint64_t',
  cuStreamWaitEvent: 'uint64_t, uint64_t, uint32_t',
  cuEventCreate: 'void *, uint32_t',
  cuEventDestroy_v2: 'uint64_t',
  cuEventRecord: 'uint64_t, uint64_t',
  cuEventSynchronize: 'uint64_t',
  cuEventElapsedTime: 'void *, uint64_t, uint64_t',
  cuModuleLoadData: 'void *, void *',
  cuModuleUnload: 'uint64_t',
  cuModuleGetFunction: 'void *, uint64_t, str',
  cuFuncSetAttribute: 'uint64_t, int32_t, int32_t',
  cuTensorMapEncodeTiled:
    'void *, uint32_t, uint32_t, uint64_t, void *, void *, void *, void *, uint32_t, uint32_t, uint32_t, uint32_t',
  cuLaunchKernel:
    'uint64_t, uint32_t, uint32_t, uint32_t, uint32_t, uint32_t, uint32_t, uint32_t, uint64_t, void *, void *',
  cuGraphCreate: 'void *, uint32_t',
  cuGraphDestroy: 'uint64_t',
  cuGraphAddKernelNode_v2: 'void *, uint64_t, void *, size_t, void *',
  cuGraphInstantiateWithFlags: 'void *, uint64_t, uint64_t',
  cuGraphLaunch: 'uint64_t, uint64_t',
  cuGraphExecDestroy: 'uint64_t',
} as const

export type DriverFunction = keyof typeof signatures
type Argument = number | bigint | string | ArrayBufferView | null
type NativeFunction = (...args: Argument[]) => number

/** CUDA 13.0: what driver 580 reports. */
const versionMin = 13_000
const defaultLibrary = 'libcuda.so.1'

/** The driver's library, opened and initialised. Calls are made by the thread that opened it. */
export class Driver {
  /** As CUDA counts: 13000 is 13.0. */
  readonly version: number
  readonly library: string
  /** Kernels run on the host, as a test of everything but themselves and their speed. */
  readonly isFake: boolean
  readonly #functions: ReadonlyMap<DriverFunction, NativeFunction>
  readonly #view: OpenedLibrary['view']
  readonly #addressOf: OpenedLibrary['addressOf']
  readonly #out = new BigUint64Array(1)
  readonly #outInts = new Int32Array(this.#out.buffer)
  #context = 0n

  constructor(opened: OpenedLibrary) {
    this.library = opened.library
    this.isFake = opened.isFake
    this.#functions = opened.functions
    this.#view = opened.view
    this.#addressOf = opened.addressOf
    this.call('cuInit', 0)
    this.version = this.int('cuDriverGetVersion')
    if (this.version < versionMin) throw tooOld(this.version)
  }

  /** Makes a call; any result but success is thrown as `CudaError`. */
  call(name: DriverFunction, ...args: Argument[]): void {
    const result = this.attempt(name, ...args)
    if (result !== 0) throw resultError(name, result)
  }

  /** Makes a call and gives its result, for those that may fail in an expected way. */
  attempt(name: DriverFunction, ...args: Argument[]): number {
    const native = this.#functions.get(name)
    assert(native !== undefined, `${name} was looked up when the driver was opened`)
    return native(...args)
  }

  /** A call whose first argument points to the 64-bit handle or size it gives back. */
  handle(name: DriverFunction, ...args: Argument[]): bigint {
    this.#out[0] = 0n
    this.call(name, this.#out, ...args)
    return this.#out[0] ?? 0n
  }

  /** The same for a 32-bit integer. */
  int(name: DriverFunction, ...args: Argument[]): number {
    this.#out[0] = 0n
    this.call(name, this.#out, ...args)
    return this.#outInts[0] ?? 0
  }

  /** Calls that take no context use the current one; switching costs a call only where it changes. */
  enter(context: bigint): void {
    if (context === this.#context) return
    this.call('cuCtxSetCurrent', context)
    this.#context = context
  }

  /** The context is about to be given back, and must not stay current. */
  leave(context: bigint): void {
    if (context === this.#context) this.enter(0n)
  }

  /** `bytes` of host memory that the driver gave out. */
  view(address: bigint, bytes: number): Uint8Array {
    return new Uint8Array(this.#view(address, bytes))
  }

  /** Where a typed array's memory lies; only arrays of more than 64 bytes stay there. */
  addressOf(memory: ArrayBufferView): bigint {
    assert(memory.byteLength > 64, 'short arrays may be moved by the garbage collector')
    return this.#addressOf(memory)
  }
}

interface OpenedLibrary {
  readonly library: string
  readonly isFake: boolean
  readonly functions: ReadonlyMap<DriverFunction, NativeFunction>
  readonly view: (address: bigint, bytes: number) => ArrayBuffer
  readonly addressOf: (memory: ArrayBufferView) => bigint
}

/** Opens the driver, or throws the `CudaError` that says why there is none. */
export async function openDriver(library: string = defaultLibrary): Promise<Driver> {
  const koffi = await import('koffi').catch((cause: unknown) => {
    const why = cause instanceof Error ? cause.message : String(cause)
    throw new CudaError('driver_absent', `libraries cannot be called on this platform: ${why}`)
  })
  const handle = attemptOr(
    () => koffi.load(library),
    () => new CudaError('driver_absent', `no NVIDIA driver: ${library} cannot be opened`),
  )
  const lookUp = (name: string, types: string): NativeFunction =>
    attemptOr(
      () => handle.func(`int32_t ${name}(${types})`),
      () => new CudaError('driver_incomplete', `${library} has no function ${name}`),
    )
  // Found first: a version is the better reason than whatever an old driver lacks.
  const version = new Int32Array(1)
  lookUp('cuDriverGetVersion', 'void *')(version)
  const found = version[0] ?? 0
  if (found > 0 && found < versionMin) throw tooOld(found)
  const functions = new Map<DriverFunction, NativeFunction>()
  for (const [name, types] of Object.entries(signatures)) {
    functions.set(name as DriverFunction, lookUp(name, types))
  }
  const { view, address: addressOf } = koffi
  return new Driver({ library, functions, view, addressOf, isFake: hasSymbol(handle) })
}

function hasSymbol(handle: { symbol(name: string): unknown }): boolean {
  try {
    return handle.symbol('sluice_fake_reset') !== null
  } catch {
    // Only the fake has it.
    return false
  }
}

function attemptOr<T>(attempt: () => T, error: () => CudaError): T {
  try {
    return attempt()
  } catch {
    // What the loader says of a missing library or symbol adds nothing to ours.
    throw error()
  }
}

function tooOld(version: number): CudaError {
  const found = `${Math.floor(version / 1000)}.${Math.floor((version % 1000) / 10)}`
  return new CudaError(
    'driver_too_old',
    `the NVIDIA driver is for CUDA ${found}; update it to version 580 (CUDA 13.0) or newer`,
  )
}
