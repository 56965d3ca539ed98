import type { Device, DeviceFormats, DeviceMemory } from '../../device/device.ts'
import { type DeviceBuffer, type Tensor, tensorBytes } from '../../device/tensor.ts'
import { type BatchRow, batchRow, rowFieldCount } from '../batch.ts'
import { type Cost, opCost } from '../costs.ts'
import type { OpName, OpTable } from '../registry.ts'

/** Small writes are kept, so that a step's rows can be looked up; weights are not. */
const keptBytesMax = 2 ** 20

/**
 * A device that computes nothing and counts what its ops would cost: models of any size and
 * contexts of any length fit on it, and what is counted is what the forward pass asked for.
 */
export class CountingDevice implements Device {
  readonly name = 'reference'
  readonly formats: DeviceFormats
  readonly #written = new Map<DeviceBuffer, Uint8Array>()
  readonly #sizes = new Map<DeviceBuffer, number>()
  readonly #totals = new Map<OpName, Cost>()
  #lastHandle = 0

  constructor(formats: DeviceFormats) {
    this.formats = formats
  }

  /** What ran since the last `reset`, by op. */
  get totals(): ReadonlyMap<OpName, Cost> {
    return this.#totals
  }

  reset(): void {
    this.#totals.clear()
  }

  alloc(bytes: number): DeviceBuffer {
    const handle = ++this.#lastHandle as DeviceBuffer
    this.#sizes.set(handle, bytes)
    return handle
  }

  free(buffer: DeviceBuffer): void {
    this.#sizes.delete(buffer)
    this.#written.delete(buffer)
  }

  write(buffer: DeviceBuffer, offset: number, bytes: Uint8Array): void {
    if (offset === 0 && bytes.length <= keptBytesMax) this.#written.set(buffer, bytes.slice())
  }

  read(_buffer: DeviceBuffer, _offset: number, into: Uint8Array): void {
    into.fill(0)
  }

  run<Op extends OpName>(op: Op, args: OpTable[Op]): void {
    const rows = 'rows' in args ? this.#rows(args.rows) : []
    const before = this.#totals.get(op) ?? { flops: 0, bytes: 0 }
    const { flops, bytes } = opCost(op, args, { rows })
    this.#totals.set(op, { flops: before.flops + flops, bytes: before.bytes + bytes })
  }

  synchronise(): void {
    // Nothing runs, so nothing is waited for.
  }

  memory(): DeviceMemory {
    const allocatedBytes = [...this.#sizes.values()].reduce((sum, bytes) => sum + bytes, 0)
    return { allocatedBytes, peakBytes: allocatedBytes, buffers: this.#sizes.size }
  }

  close(): void {
    this.#sizes.clear()
    this.#written.clear()
  }

  #rows(tensor: Tensor): readonly BatchRow[] {
    const bytes = this.#written.get(tensor.buffer)?.slice(0, tensorBytes(tensor))
    if (bytes === undefined) throw new RangeError('the rows of a step are written before it runs')
    const fields = new Int32Array(bytes.buffer)
    return Array.from({ length: fields.length / rowFieldCount }, (_, row) => batchRow(fields, row))
  }
}
