import type { Device } from '../../device/device.ts'
import { byteLength, type DType, type Tensor, tensorBytes } from '../../device/tensor.ts'
import { rowFieldCount } from '../batch.ts'
import { toBf16 } from '../numerics/bf16.ts'

/** One segment of a test's batch: positions `start … start + length − 1` of the sequence in `slot`. */
export interface TestSegment {
  readonly slot: number
  readonly start: number
  readonly length: number
}

/** Puts small tensors on a device and reads them back. */
export class TestTensors {
  readonly device: Device

  constructor(device: Device) {
    this.device = device
  }

  f32(shape: readonly number[], values: Iterable<number>): Tensor {
    return this.#place('f32', shape, Float32Array.from(values))
  }

  i32(shape: readonly number[], values: Iterable<number>): Tensor {
    return this.#place('i32', shape, Int32Array.from(values))
  }

  /** Values rounded to bf16. */
  bf16(shape: readonly number[], values: Iterable<number>): Tensor {
    return this.#place('bf16', shape, Uint16Array.from(values, toBf16))
  }

  bytes(dtype: DType, shape: readonly number[], values: Iterable<number>): Tensor {
    return this.#place(dtype, shape, Uint8Array.from(values))
  }

  /** A tensor that holds the device's rubbish. */
  empty(dtype: DType, shape: readonly number[]): Tensor {
    const bytes = Math.max(1, byteLength(dtype, shape))
    return { buffer: this.device.alloc(bytes, 'test'), byteOffset: 0, dtype, shape }
  }

  filled(shape: readonly number[], value: number): Tensor {
    const count = shape.reduce((product, extent) => product * extent, 1)
    return this.f32(shape, new Float32Array(count).fill(value))
  }

  /** `Batch.rows` of these segments, laid out one after the other. */
  rows(segments: readonly TestSegment[]): Tensor {
    const fields = segments.flatMap(({ slot, start, length }) =>
      Array.from({ length }, (_, i) => [start + i, slot, start, start + length]),
    )
    return this.i32([fields.length, rowFieldCount], fields.flat())
  }

  read(tensor: Tensor): number[] {
    const bytes = new Uint8Array(tensorBytes(tensor))
    this.device.read(tensor.buffer, tensor.byteOffset, bytes)
    if (tensor.dtype === 'u8') return [...bytes]
    return [
      ...(tensor.dtype === 'i32' ? new Int32Array(bytes.buffer) : new Float32Array(bytes.buffer)),
    ]
  }

  #place(
    dtype: DType,
    shape: readonly number[],
    values: Float32Array | Int32Array | Uint16Array | Uint8Array,
  ): Tensor {
    const tensor = this.empty(dtype, shape)
    if (tensorBytes(tensor) !== values.byteLength) {
      throw new RangeError(`${values.length} values do not fill ${dtype} [${shape.join(', ')}]`)
    }
    if (values.byteLength > 0) {
      this.device.write(tensor.buffer, 0, new Uint8Array(values.buffer))
    }
    return tensor
  }
}

/** Repeatable numbers in [−1, 1) from a seed; nothing depends on their quality. */
export function* testNumbers(seed: number): Generator<number, never> {
  let state = seed >>> 0
  for (;;) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    yield state / 2 ** 31 - 1
  }
}

export function takeNumbers(seed: number, count: number): number[] {
  const numbers = testNumbers(seed)
  return Array.from({ length: count }, () => numbers.next().value)
}
