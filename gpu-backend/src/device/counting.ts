import { type BatchRow, batchRow, rowFieldCount } from '../kernels/batch.ts'
import { opFlops } from '../kernels/flops.ts'
import type { OpName, OpTable } from '../kernels/registry.ts'
import type { Device, DeviceFormats, DeviceMemory } from './device.ts'
import { type DeviceBuffer, elementCount, type Tensor } from './tensor.ts'

/**
 * A device that computes nothing: it counts the bytes it is asked for and the operations the ops
 * would do. A model of any size fits. Only what was written can be read again.
 */
export class CountingDevice implements Device {
  readonly name = 'reference'
  readonly formats: DeviceFormats = { activations: 'f32', keys: 'f32', indexKeys: 'f32' }
  /** Floating-point operations by op. */
  readonly flops = new Map<OpName, number>()
  readonly #sizes = new Map<DeviceBuffer, number>()
  readonly #written = new Map<DeviceBuffer, Uint8Array>()
  #allocatedBytes = 0
  #peakBytes = 0
  #lastHandle = 0

  alloc(bytes: number): DeviceBuffer {
    const buffer = ++this.#lastHandle as DeviceBuffer
    this.#sizes.set(buffer, bytes)
    this.#allocatedBytes += bytes
    this.#peakBytes = Math.max(this.#peakBytes, this.#allocatedBytes)
    return buffer
  }

  free(buffer: DeviceBuffer): void {
    this.#allocatedBytes -= this.#sizes.get(buffer) ?? 0
    this.#sizes.delete(buffer)
    this.#written.delete(buffer)
  }

  write(buffer: DeviceBuffer, offset: number, bytes: Uint8Array): void {
    this.#content(buffer).set(bytes, offset)
  }

  read(buffer: DeviceBuffer, offset: number, into: Uint8Array): void {
    into.set(this.#content(buffer).subarray(offset, offset + into.byteLength))
  }

  run<Op extends keyof OpTable>(op: Op, args: OpTable[Op]): void {
    const rows = 'rows' in args ? this.#batchRows(args.rows) : []
    this.flops.set(op, (this.flops.get(op) ?? 0) + opFlops[op](args, rows))
  }

  synchronise(): void {}

  memory(): DeviceMemory {
    return {
      allocatedBytes: this.#allocatedBytes,
      peakBytes: this.#peakBytes,
      buffers: this.#sizes.size,
    }
  }

  close(): void {
    this.#sizes.clear()
    this.#written.clear()
  }

  #batchRows(rows: Tensor): readonly BatchRow[] {
    const fields = new Int32Array(elementCount(rows.shape))
    this.read(rows.buffer, rows.byteOffset, new Uint8Array(fields.buffer))
    return Array.from({ length: fields.length / rowFieldCount }, (_, row) => batchRow(fields, row))
  }

  #content(buffer: DeviceBuffer): Uint8Array {
    const content = this.#written.get(buffer) ?? new Uint8Array(this.#sizes.get(buffer) ?? 0)
    this.#written.set(buffer, content)
    return content
  }
}
