import type { OpTable } from '../kernels/registry.ts'
import type { DeviceBuffer, DType, LinearWeight } from './tensor.ts'

export type DeviceName = 'reference' | 'cpu' | 'cuda'

/** What a device keeps its values in; the forward pass allocates accordingly. */
export interface DeviceFormats {
  readonly activations: DType & ('f32' | 'bf16')
  /** Window keys and compressed entries, where they are not kept in compact rows. */
  readonly keys: DType & ('f32' | 'bf16')
  readonly indexKeys: DType & ('f32' | 'bf16')
  /** Whether the ops take cached rows as u8, in the layouts of `numerics/compact-rows.ts`. */
  readonly compactRows: boolean
}

export interface DeviceMemory {
  readonly allocatedBytes: number
  readonly peakBytes: number
  readonly buffers: number
}

/**
 * Everything the model asks of hardware. Work runs in the order it was given; only `read` and
 * `synchronise` wait for it. What an op is told through `args` may be baked into a captured graph,
 * so a value that changes between steps of one shape travels in a tensor.
 */
export interface Device {
  readonly name: DeviceName
  readonly formats: DeviceFormats
  /** A buffer with undefined contents. `label` says in messages what it was for. */
  alloc(bytes: number, label: string): DeviceBuffer
  free(buffer: DeviceBuffer): void
  /** Host to device; `bytes` may be reused when the call returns. */
  write(buffer: DeviceBuffer, offset: number, bytes: Uint8Array): void
  /**
   * Host memory that copies need no second one for; devices that are in it themselves have no such
   * method. A `write` from it may still read it when it returns, until the next `read` or
   * `synchronise`. It is freed with the device.
   */
  hostMemory?(bytes: number): Uint8Array
  /** Device to host, once everything before it has run. */
  read(buffer: DeviceBuffer, offset: number, into: Uint8Array): void
  run<Op extends keyof OpTable>(op: Op, args: OpTable[Op]): void
  /**
   * Tells that a linear's weight has been written completely and that from now on only ops use it, as
   * a whole: a device may lay its bytes out anew, in place. False where it stays as it is. Ops give
   * the same results either way; devices to whom it is all one have no such method.
   */
  prepare?(weight: LinearWeight): boolean
  /**
   * Runs `body`, which only calls `run` and takes buffers, or what it did under this `key` before,
   * without calling it: a device may record ops and do them again in one go. Under one key `body`
   * has to do the same with the same buffers; once one of them is freed it is called again. Gives
   * what `body` gave when it was called.
   */
  replay?<T>(key: string, body: () => T): T
  synchronise(): void
  memory(): DeviceMemory
  /** Frees every buffer; nothing may be called afterwards. */
  close(): void
}

export type DeviceErrorCode =
  /** This machine or this build has no such device; the message says why. */
  | 'device_unavailable'
  /** The device does not implement the op. */
  | 'unsupported_op'
  /** The handle was freed, or never given out by this device. */
  | 'unknown_buffer'
  /** Bytes outside the buffer, or a size that is no size. */
  | 'out_of_range'
  | 'out_of_memory'
  /** The hardware or its driver gave up; nothing works any more until the process is restarted. */
  | 'device_failed'
  | 'device_closed'

export class DeviceError extends Error {
  readonly code: DeviceErrorCode
  readonly device: DeviceName

  constructor(code: DeviceErrorCode, device: DeviceName, message: string, options?: ErrorOptions) {
    super(`${device}: ${message}`, options)
    this.name = 'DeviceError'
    this.code = code
    this.device = device
  }
}
