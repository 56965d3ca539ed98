import type { Device, DeviceFormats, DeviceMemory, DeviceName } from '../src/device/device.ts'
import { type DeviceBuffer, type LinearWeight, tensorBytes } from '../src/device/tensor.ts'
import type { BatchRow } from '../src/kernels/batch.ts'
import { type Cost, opCost } from '../src/kernels/costs.ts'
import type { OpName, OpTable } from '../src/kernels/registry.ts'

/** A device that, while asked to, adds up what the ops it runs cannot do without. */
export class CostCountingDevice implements Device {
  readonly name: DeviceName
  readonly formats: DeviceFormats
  readonly #inner: Device
  #rows: readonly BatchRow[] | null = null
  #cost: Cost = { flops: 0, bytes: 0 }

  constructor(inner: Device) {
    this.name = inner.name
    this.formats = inner.formats
    this.#inner = inner
  }

  /** The cost of the ops that `work` runs on these rows. */
  count(rows: readonly BatchRow[], work: () => void): Cost {
    this.#rows = rows
    this.#cost = { flops: 0, bytes: 0 }
    work()
    this.#rows = null
    return this.#cost
  }

  alloc(bytes: number, label: string): DeviceBuffer {
    return this.#inner.alloc(bytes, label)
  }

  free(buffer: DeviceBuffer): void {
    this.#inner.free(buffer)
  }

  write(buffer: DeviceBuffer, offset: number, bytes: Uint8Array): void {
    this.#inner.write(buffer, offset, bytes)
  }

  read(buffer: DeviceBuffer, offset: number, into: Uint8Array): void {
    this.#inner.read(buffer, offset, into)
  }

  run<Op extends OpName>(op: Op, args: OpTable[Op]): void {
    this.#inner.run(op, args)
    if (this.#rows === null) return
    const { flops, bytes } = opCost(op, args, { rows: this.#rows, ...this.#picked(args) })
    this.#cost = { flops: this.#cost.flops + flops, bytes: this.#cost.bytes + bytes }
  }

  prepare(weight: LinearWeight): boolean {
    return this.#inner.prepare?.(weight) ?? false
  }

  synchronise(): void {
    this.#inner.synchronise()
  }

  memory(): DeviceMemory {
    return this.#inner.memory()
  }

  close(): void {
    this.#inner.close()
  }

  /** How many experts some row was routed to: only their weights are read. */
  #picked(args: object): { readonly expertsPicked?: number } {
    if (!('routed' in args)) return {}
    const { experts } = args as OpTable['experts']
    const picks = new Int32Array(tensorBytes(experts) / Int32Array.BYTES_PER_ELEMENT)
    this.#inner.read(experts.buffer, experts.byteOffset, new Uint8Array(picks.buffer))
    return { expertsPicked: new Set(picks).size }
  }
}
