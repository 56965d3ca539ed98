import type { Device } from '../../../device/device.ts'
import { type DeviceBuffer, type Tensor, tensorBytes } from '../../../device/tensor.ts'
import type { OpName, OpTable } from '../../registry.ts'
import { decodeValues, encodeValues } from '../encoding.ts'
import { PassingDevice } from '../passing-device.ts'

/** One mistake a kernel could make: what the device does instead of its op. */
export interface Fault {
  readonly op: OpName
  readonly name: string
  /**
   * Smaller than what a device of fp32 sums or int8 inputs may be off by; only the tight bounds of
   * exact devices show it.
   */
  readonly fine: boolean
  run(tools: FaultTools, args: never): void
}

export function plant<Op extends OpName>(
  op: Op,
  name: string,
  run: (tools: FaultTools, args: OpTable[Op]) => void,
): Fault {
  return { op, name, fine: false, run }
}

export function plantFine<Op extends OpName>(
  op: Op,
  name: string,
  run: (tools: FaultTools, args: OpTable[Op]) => void,
): Fault {
  return { op, name, fine: true, run }
}

/** What a fault is made of: the right op, and hands in the device's memory. */
export class FaultTools {
  readonly #device: Device
  readonly #copies: DeviceBuffer[] = []

  constructor(device: Device) {
    this.#device = device
  }

  run<Op extends OpName>(op: Op, args: OpTable[Op]): void {
    this.#device.run(op, args)
  }

  bytes(tensor: Tensor): Uint8Array {
    const bytes = new Uint8Array(tensorBytes(tensor))
    this.#device.read(tensor.buffer, tensor.byteOffset, bytes)
    return bytes
  }

  values(tensor: Tensor): Float64Array {
    return decodeValues(tensor.dtype, this.bytes(tensor))
  }

  putBytes(tensor: Tensor, bytes: Uint8Array): void {
    this.#device.write(tensor.buffer, tensor.byteOffset, bytes)
  }

  put(tensor: Tensor, values: ArrayLike<number>): void {
    this.putBytes(tensor, encodeValues(tensor.dtype, values))
  }

  /** A copy in a buffer of its own, with other values. */
  copy(tensor: Tensor, edit: (values: Float64Array) => ArrayLike<number>): Tensor {
    return this.copyBytes(tensor, () => encodeValues(tensor.dtype, edit(this.values(tensor))))
  }

  copyBytes(tensor: Tensor, edit: (bytes: Uint8Array) => Uint8Array): Tensor {
    const bytes = edit(this.bytes(tensor))
    const buffer = this.#device.alloc(bytes.length, 'copy for a fault')
    this.#copies.push(buffer)
    this.#device.write(buffer, 0, bytes)
    return { ...tensor, buffer, byteOffset: 0 }
  }

  /** Other values in place. */
  change(tensor: Tensor, edit: (values: Float64Array) => ArrayLike<number>): void {
    this.put(tensor, edit(this.values(tensor)))
  }

  /** Bytes relative to the tensor's first, inside it or not. */
  poke(tensor: Tensor, offset: number, bytes: Uint8Array): void {
    this.#device.write(tensor.buffer, tensor.byteOffset + offset, bytes)
  }

  release(): void {
    for (const buffer of this.#copies) this.#device.free(buffer)
    this.#copies.length = 0
  }
}

/** A right device with one fault in it. */
export class FaultyDevice extends PassingDevice {
  readonly #fault: Fault

  constructor(inner: Device, fault: Fault) {
    super(inner)
    this.#fault = fault
  }

  override run<Op extends OpName>(op: Op, args: OpTable[Op]): void {
    if (op !== this.#fault.op) return this.inner.run(op, args)
    const tools = new FaultTools(this.inner)
    try {
      // The op was just compared: these are the arguments the fault was written for.
      this.#fault.run(tools, args as never)
    } finally {
      tools.release()
    }
  }
}
