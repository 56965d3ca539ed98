import { decodeRows, type EncodedMatrix, type RowTarget } from '../kernels/numerics/decode.ts'
import { type MatrixReader, readerRowsMax } from '../kernels/numerics/matmul.ts'
import { referenceKernels } from '../kernels/reference-kernels.ts'
import type { ReferenceMemory } from '../kernels/reference-memory.ts'
import type { OpTable } from '../kernels/registry.ts'
import { type Device, DeviceError, type DeviceFormats, type DeviceMemory } from './device.ts'
import {
  describeTensor,
  type DeviceBuffer,
  type DType,
  elementCount,
  type LinearWeight,
  type Tensor,
  tensorBytes,
} from './tensor.ts'

export interface ReferenceOptions {
  /**
   * Ceiling of fp32 copies of weights kept between ops. What does not fit is decoded again each
   * time it is used, a few rows at once.
   */
  readonly decodedBytesMax?: number
}

const defaultDecodedBytesMax = 512 * 2 ** 20

interface HostBuffer {
  readonly label: string
  readonly bytes: ArrayBuffer
  /** fp32 copies of weights inside this buffer, by byte offset; any write drops them. */
  readonly decoded: Map<number, Float32Array>
}

/**
 * Plain TypeScript over host memory: values in fp32, sums in double. The oracle of every op, and
 * the device of last resort.
 */
export class ReferenceDevice implements Device, ReferenceMemory {
  readonly name = 'reference'
  readonly formats: DeviceFormats = {
    activations: 'f32',
    keys: 'f32',
    indexKeys: 'f32',
    compactRows: true,
  }
  readonly #buffers = new Map<DeviceBuffer, HostBuffer>()
  readonly #decodedBytesMax: number
  #decodedBytes = 0
  #allocatedBytes = 0
  #peakBytes = 0
  #lastHandle = 0
  #closed = false

  constructor(options: ReferenceOptions = {}) {
    this.#decodedBytesMax = options.decodedBytesMax ?? defaultDecodedBytesMax
  }

  alloc(bytes: number, label: string): DeviceBuffer {
    this.#assertOpen()
    if (!Number.isSafeInteger(bytes) || bytes <= 0) {
      throw this.#error('out_of_range', `cannot allocate ${bytes} bytes for ${label}`)
    }
    const handle = ++this.#lastHandle as DeviceBuffer
    this.#buffers.set(handle, { label, bytes: this.#take(bytes, label), decoded: new Map() })
    this.#allocatedBytes += bytes
    this.#peakBytes = Math.max(this.#peakBytes, this.#allocatedBytes)
    return handle
  }

  free(buffer: DeviceBuffer): void {
    const host = this.#host(buffer)
    this.#forgetDecoded(host)
    this.#buffers.delete(buffer)
    this.#allocatedBytes -= host.bytes.byteLength
  }

  write(buffer: DeviceBuffer, offset: number, bytes: Uint8Array): void {
    const host = this.#host(buffer)
    this.#assertRange(host, offset, bytes.byteLength)
    this.#forgetDecoded(host)
    new Uint8Array(host.bytes, offset, bytes.byteLength).set(bytes)
  }

  read(buffer: DeviceBuffer, offset: number, into: Uint8Array): void {
    const host = this.#host(buffer)
    this.#assertRange(host, offset, into.byteLength)
    into.set(new Uint8Array(host.bytes, offset, into.byteLength))
  }

  run<Op extends keyof OpTable>(op: Op, args: OpTable[Op]): void {
    this.#assertOpen()
    const kernel = referenceKernels[op]
    if (kernel === undefined) throw this.#error('unsupported_op', `there is no op ${op}`)
    kernel(this, args)
  }

  /** Every op has ended when `run` returns. */
  synchronise(): void {
    this.#assertOpen()
  }

  memory(): DeviceMemory {
    return {
      allocatedBytes: this.#allocatedBytes,
      peakBytes: this.#peakBytes,
      buffers: this.#buffers.size,
    }
  }

  close(): void {
    this.#buffers.clear()
    this.#allocatedBytes = 0
    this.#decodedBytes = 0
    this.#closed = true
  }

  f32(tensor: Tensor): Float32Array {
    return new Float32Array(...this.#view(tensor, ['f32']))
  }

  i32(tensor: Tensor): Int32Array {
    return new Int32Array(...this.#view(tensor, ['i32']))
  }

  u8(tensor: Tensor): Uint8Array {
    const host = this.#host(tensor.buffer)
    const bytes = tensorBytes(tensor)
    this.#assertRange(host, tensor.byteOffset, bytes)
    return new Uint8Array(host.bytes, tensor.byteOffset, bytes)
  }

  values(tensor: Tensor): Float32Array {
    if (tensor.dtype === 'f32') return this.f32(tensor)
    const count = elementCount(tensor.shape)
    const matrix = this.matrix({ weight: { ...tensor, shape: [1, count] }, scale: null })
    const at = matrix.load(0, 1)
    return matrix.values.subarray(at, at + count)
  }

  matrix({ weight, scale }: LinearWeight): MatrixReader {
    const [rows = 0, width = 0] = weight.shape
    if (weight.dtype === 'f32') return wholeMatrix(this.f32(weight), rows, width)
    const dtype = weight.dtype
    if (dtype !== 'bf16' && dtype !== 'f8e4m3' && dtype !== 'fp4') {
      throw this.#error('unsupported_op', `${describeTensor(weight)} is no weight format`)
    }
    const host = this.#host(weight.buffer)
    const kept = host.decoded.get(weight.byteOffset)
    if (kept?.length === rows * width) return wholeMatrix(kept, rows, width)
    const scales = scale === null ? new Uint8Array() : this.u8(scale)
    const encoded: EncodedMatrix = { dtype, codes: this.u8(weight), scales, width }
    if (this.#decodedBytes + rows * width * 4 > this.#decodedBytesMax) {
      return decodingMatrix(encoded, rows)
    }
    return wholeMatrix(this.#keepDecoded(host, weight, encoded), rows, width)
  }

  #keepDecoded(host: HostBuffer, weight: Tensor, encoded: EncodedMatrix): Float32Array {
    const rows = weight.shape[0] ?? 0
    const values = new Float32Array(rows * encoded.width)
    decodeRows(encoded, 0, rows, { into: values, at: 0 })
    this.#decodedBytes -= host.decoded.get(weight.byteOffset)?.byteLength ?? 0
    host.decoded.set(weight.byteOffset, values)
    this.#decodedBytes += values.byteLength
    return values
  }

  #forgetDecoded(host: HostBuffer): void {
    for (const values of host.decoded.values()) this.#decodedBytes -= values.byteLength
    host.decoded.clear()
  }

  #view(tensor: Tensor, dtypes: readonly DType[]): [ArrayBuffer, number, number] {
    if (!dtypes.includes(tensor.dtype)) {
      throw this.#error(
        'unsupported_op',
        `${describeTensor(tensor)} cannot be read as ${dtypes.join(' or ')}`,
      )
    }
    const host = this.#host(tensor.buffer)
    this.#assertRange(host, tensor.byteOffset, tensorBytes(tensor))
    return [host.bytes, tensor.byteOffset, elementCount(tensor.shape)]
  }

  #take(bytes: number, label: string): ArrayBuffer {
    try {
      const taken = new ArrayBuffer(bytes)
      // Every byte 0xff reads as NaN, −1 or an impossible scale: a missed write shows.
      new Uint8Array(taken).fill(0xff)
      return taken
    } catch (cause) {
      throw new DeviceError('out_of_memory', this.name, `no ${bytes} bytes for ${label}`, { cause })
    }
  }

  #host(buffer: DeviceBuffer): HostBuffer {
    this.#assertOpen()
    const host = this.#buffers.get(buffer)
    if (host !== undefined) return host
    const past = buffer >= 1 && buffer <= this.#lastHandle
    throw this.#error(
      'unknown_buffer',
      past ? `buffer ${buffer} was freed` : `buffer ${buffer} was never allocated here`,
    )
  }

  #assertRange(host: HostBuffer, offset: number, bytes: number): void {
    const size = host.bytes.byteLength
    if (Number.isSafeInteger(offset) && offset >= 0 && offset + bytes <= size) return
    throw this.#error(
      'out_of_range',
      `bytes ${offset}…${offset + bytes} are outside ${host.label} of ${size}`,
    )
  }

  #assertOpen(): void {
    if (this.#closed) throw this.#error('device_closed', 'the device was closed')
  }

  #error(code: DeviceError['code'], message: string): DeviceError {
    return new DeviceError(code, this.name, message)
  }
}

function wholeMatrix(values: Float32Array, rows: number, width: number): MatrixReader {
  return { rows, width, values, load: (first) => first * width }
}

/** Decodes into a buffer of a few rows each time. */
function decodingMatrix(encoded: EncodedMatrix, rows: number): MatrixReader {
  const { width } = encoded
  const target: RowTarget = { into: new Float32Array(readerRowsMax * width), at: 0 }
  return {
    rows,
    width,
    values: target.into,
    load: (first, count) => {
      decodeRows(encoded, first, count, target)
      return 0
    },
  }
}
