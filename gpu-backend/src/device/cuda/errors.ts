/** All that can go wrong between us and a GPU, by what to do about it. */
export type CudaErrorCode =
  /** The driver's library is not on this machine, or cannot be opened. */
  | 'driver_absent'
  /** It lacks a function that every driver of version 580 has. */
  | 'driver_incomplete'
  /** Older than 580 (CUDA 13.0), for which the kernels are built. */
  | 'driver_too_old'
  | 'no_device'
  /** No kernels were built, or none for this GPU's architecture. */
  | 'no_kernels'
  /** Two GPUs that are to work together cannot reach each other's memory. */
  | 'no_peer_access'
  | 'out_of_memory'
  /** A call was refused: wrong arguments, a grid too large. The device goes on working. */
  | 'call_refused'
  /** A kernel touched memory it may not, trapped or hung, or the GPU failed. Nothing works after it. */
  | 'device_failed'

export class CudaError extends Error {
  readonly code: CudaErrorCode
  /** The driver's own number, where it gave one. */
  readonly result: number | null

  constructor(code: CudaErrorCode, message: string, result: number | null = null) {
    super(message)
    this.name = 'CudaError'
    this.code = code
    this.result = result
  }
}

/** Results of driver calls by number (`CUresult` in the driver API's documentation). */
const results: Readonly<Record<number, readonly [name: string, code: CudaErrorCode]>> = {
  1: ['INVALID_VALUE', 'call_refused'],
  2: ['OUT_OF_MEMORY', 'out_of_memory'],
  3: ['NOT_INITIALIZED', 'call_refused'],
  4: ['DEINITIALIZED', 'device_failed'],
  34: ['STUB_LIBRARY', 'driver_absent'],
  46: ['DEVICE_UNAVAILABLE', 'no_device'],
  100: ['NO_DEVICE', 'no_device'],
  101: ['INVALID_DEVICE', 'no_device'],
  200: ['INVALID_IMAGE', 'no_kernels'],
  201: ['INVALID_CONTEXT', 'call_refused'],
  209: ['NO_BINARY_FOR_GPU', 'no_kernels'],
  214: ['ECC_UNCORRECTABLE', 'device_failed'],
  217: ['PEER_ACCESS_UNSUPPORTED', 'no_peer_access'],
  218: ['INVALID_PTX', 'no_kernels'],
  220: ['NVLINK_UNCORRECTABLE', 'device_failed'],
  222: ['UNSUPPORTED_PTX_VERSION', 'no_kernels'],
  400: ['INVALID_HANDLE', 'call_refused'],
  500: ['NOT_FOUND', 'no_kernels'],
  700: ['ILLEGAL_ADDRESS', 'device_failed'],
  701: ['LAUNCH_OUT_OF_RESOURCES', 'call_refused'],
  702: ['LAUNCH_TIMEOUT', 'device_failed'],
  704: ['PEER_ACCESS_ALREADY_ENABLED', 'call_refused'],
  709: ['CONTEXT_IS_DESTROYED', 'device_failed'],
  710: ['ASSERT', 'device_failed'],
  714: ['HARDWARE_STACK_ERROR', 'device_failed'],
  715: ['ILLEGAL_INSTRUCTION', 'device_failed'],
  716: ['MISALIGNED_ADDRESS', 'device_failed'],
  717: ['INVALID_ADDRESS_SPACE', 'device_failed'],
  718: ['INVALID_PC', 'device_failed'],
  719: ['LAUNCH_FAILED', 'device_failed'],
  801: ['NOT_SUPPORTED', 'call_refused'],
  802: ['SYSTEM_NOT_READY', 'no_device'],
  803: ['SYSTEM_DRIVER_MISMATCH', 'driver_too_old'],
  999: ['UNKNOWN', 'device_failed'],
}

/** The error a driver call's result stands for. A number not listed fails the device: nobody knows. */
export function resultError(call: string, result: number): CudaError {
  const [name, code] = results[result] ?? ['an undocumented result', 'device_failed' as const]
  return new CudaError(code, `${call}: ${name} (${result})`, result)
}
