import type { Device } from '../device/device.ts'
import { byteLength, type DeviceBuffer, type DType, type Tensor } from '../device/tensor.ts'

/**
 * Intermediate values by name. A name keeps its buffer from step to step and layer to layer, and
 * only moves when it needs more room, so a step's addresses settle after the largest has run.
 */
export class Scratch {
  readonly #device: Device
  readonly #buffers = new Map<string, { buffer: DeviceBuffer; bytes: number }>()

  constructor(device: Device) {
    this.#device = device
  }

  /** The tensor for `name`, in this dtype and shape; its contents are those of an earlier use. */
  take(name: string, dtype: DType, shape: readonly number[]): Tensor {
    // A buffer has at least a byte, also for a step without rows of this kind.
    const bytes = Math.max(1, byteLength(dtype, shape))
    const held = this.#buffers.get(name)
    if (held !== undefined && held.bytes >= bytes) {
      return { buffer: held.buffer, byteOffset: 0, dtype, shape }
    }
    if (held !== undefined) this.#device.free(held.buffer)
    const buffer = this.#device.alloc(bytes, name)
    this.#buffers.set(name, { buffer, bytes })
    return { buffer, byteOffset: 0, dtype, shape }
  }

  close(): void {
    for (const { buffer } of this.#buffers.values()) this.#device.free(buffer)
    this.#buffers.clear()
  }
}
