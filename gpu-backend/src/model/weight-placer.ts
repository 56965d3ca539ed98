import { strict as assert } from 'node:assert'
import type { TensorDtype } from '#weights/layout/inventory.ts'
import type { TensorSource } from '#weights/load.ts'
import type { TensorLocation } from '#weights/manifest.ts'
import type { Device } from '../device/device.ts'
import {
  byteLength,
  type DeviceBuffer,
  type DType,
  type LinearWeight,
  reshape,
  stackItem,
  type Tensor,
  tensorBytes,
} from '../device/tensor.ts'
import { fp4Run, fp8Tile } from '../kernels/numerics/decode.ts'
import { ModelError } from './error.ts'

export type WeightSource = TensorSource<TensorLocation>

/** Takes one of the checkpoint's tensors to where it belongs. */
type Placement = (bytes: Uint8Array<ArrayBuffer>) => void

/**
 * Gives out tensors for names of the checkpoint, and remembers which name's bytes go where. Without
 * a device it only checks names, dtypes and shapes.
 */
export class WeightPlacer {
  readonly buffers: DeviceBuffer[] = []
  /** What products are taken with, whole; `prepare` tells the device once all bytes are there. */
  readonly #linears: LinearWeight[] = []
  readonly #source: WeightSource
  readonly #device: Device | null
  readonly #placements = new Map<string, Placement>()

  constructor(source: WeightSource, device: Device | null) {
    this.#source = source
    this.#device = device
  }

  get names(): ReadonlySet<string> {
    return new Set(this.#placements.keys())
  }

  has(name: string): boolean {
    return this.#placements.has(name)
  }

  place(name: string, bytes: Uint8Array<ArrayBuffer>): void {
    const placement = this.#placements.get(name)
    assert(placement !== undefined && this.#device !== null, `${name} has a place on a device`)
    placement(bytes)
  }

  /** Every placed byte has arrived. */
  prepare(): void {
    for (const linear of this.#linears) this.#device?.prepare?.(linear)
  }

  /** A linear's weight as it is; `bf16` is for whatever else is stored so. */
  bf16Linear(name: string, shape: readonly number[]): LinearWeight {
    return this.#linear({ weight: this.bf16(name, shape), scale: null })
  }

  bf16(name: string, shape: readonly number[]): Tensor {
    this.#require(name, 'BF16', shape)
    return this.#single(name, 'bf16', shape)
  }

  f32(name: string, shape: readonly number[]): Tensor {
    this.#require(name, 'F32', shape)
    return this.#single(name, 'f32', shape)
  }

  /** A small table that is worked out, not loaded. */
  computed(label: string, values: Float32Array): Tensor {
    const tensor = this.#alloc(label, 'f32', [values.length])
    const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
    this.#device?.write(tensor.buffer, 0, bytes)
    return tensor
  }

  /** I64 in the checkpoint, i32 here: the values are below the number of experts. */
  ids(name: string, shape: readonly number[]): Tensor {
    this.#require(name, 'I64', shape)
    return this.#single(name, 'i32', shape, narrowIds)
  }

  fp8(name: string, matrix: readonly [number, number]): LinearWeight {
    return this.#linear(this.#fp8Matrix(name, matrix))
  }

  /** Rows that are multiplied in `groups` equal parts, each with inputs of its own. */
  fp8Groups(name: string, matrix: readonly [number, number], groups: number): LinearWeight {
    const { weight, scale } = this.#fp8Matrix(name, matrix)
    const [rows, width] = matrix
    this.#linear({ weight: reshape(weight, [groups, rows / groups, width]), scale })
    return { weight, scale }
  }

  fp8Stack(names: readonly string[], matrix: readonly [number, number]): LinearWeight {
    return this.#linear(this.#fp8Pair(names, matrix))
  }

  #fp8Matrix(name: string, matrix: readonly [number, number]): LinearWeight {
    const { weight, scale } = this.#fp8Pair([name], matrix)
    assert(scale !== null, 'FP8 has scales')
    return { weight: stackItem(weight, 0), scale: stackItem(scale, 0) }
  }

  #fp8Pair(names: readonly string[], [rows, width]: readonly [number, number]): LinearWeight {
    const tiles = [Math.ceil(rows / fp8Tile), Math.ceil(width / fp8Tile)]
    for (const name of names) {
      this.#require(`${name}.weight`, 'F8_E4M3', [rows, width])
      this.#require(`${name}.scale`, 'F8_E8M0', tiles)
    }
    return this.#stackPair(names, this.#stackOf(names, 'f8e4m3', [rows, width]), tiles)
  }

  /** Packed two codes a byte: the file's shape counts bytes, ours elements. */
  fp4Stack(names: readonly string[], [rows, width]: readonly [number, number]): LinearWeight {
    const runs = [rows, width / fp4Run]
    for (const name of names) {
      this.#require(`${name}.weight`, 'I8', [rows, width / 2])
      this.#require(`${name}.scale`, 'F8_E8M0', runs)
    }
    return this.#linear(this.#stackPair(names, this.#stackOf(names, 'fp4', [rows, width]), runs))
  }

  /** One expert's projection, whose codes and scales go to `place` instead of a stack of the layer's. */
  expert(
    name: string,
    [rows, width]: readonly [number, number],
    dtype: 'fp4' | 'fp8',
    place: (kind: 'weight' | 'scale', bytes: Uint8Array) => void,
  ): void {
    const tiles = [Math.ceil(rows / fp8Tile), Math.ceil(width / fp8Tile)]
    if (dtype === 'fp4') this.#require(`${name}.weight`, 'I8', [rows, width / 2])
    else this.#require(`${name}.weight`, 'F8_E4M3', [rows, width])
    this.#require(`${name}.scale`, 'F8_E8M0', dtype === 'fp4' ? [rows, width / fp4Run] : tiles)
    this.#put(`${name}.weight`, (bytes) => place('weight', bytes))
    this.#put(`${name}.scale`, (bytes) => place('scale', bytes))
  }

  #linear(linear: LinearWeight): LinearWeight {
    this.#linears.push(linear)
    return linear
  }

  #stackPair(
    names: readonly string[],
    weight: Tensor,
    scaleShape: readonly number[],
  ): LinearWeight {
    const scale = this.#stackOf(names, 'e8m0', scaleShape)
    for (const [index, name] of names.entries()) {
      this.#putTensor(`${name}.weight`, stackItem(weight, index))
      this.#putTensor(`${name}.scale`, stackItem(scale, index))
    }
    return { weight, scale }
  }

  #stackOf(names: readonly string[], dtype: DType, shape: readonly number[]): Tensor {
    return this.#alloc(names[0] ?? '', dtype, [names.length, ...shape])
  }

  #single(
    name: string,
    dtype: DType,
    shape: readonly number[],
    convert?: (bytes: Uint8Array<ArrayBuffer>) => Uint8Array,
  ): Tensor {
    const target = this.#alloc(name, dtype, shape)
    this.#putTensor(name, target, convert)
    return target
  }

  #putTensor(
    name: string,
    target: Tensor,
    convert: (bytes: Uint8Array<ArrayBuffer>) => Uint8Array = (bytes) => bytes,
  ): void {
    this.#put(name, (bytes) => {
      const content = convert(bytes)
      assert.equal(content.byteLength, tensorBytes(target), `${name} fills its place`)
      this.#device?.write(target.buffer, target.byteOffset, content)
    })
  }

  #put(name: string, placement: Placement): void {
    assert(!this.#placements.has(name), `${name} is used once`)
    this.#placements.set(name, placement)
  }

  #alloc(label: string, dtype: DType, shape: readonly number[]): Tensor {
    // Without a device the handle is never used: place() asserts that there is one.
    let buffer = 0 as DeviceBuffer
    if (this.#device !== null) {
      buffer = this.#device.alloc(byteLength(dtype, shape), label)
      this.buffers.push(buffer)
    }
    return { buffer, byteOffset: 0, dtype, shape }
  }

  #require(name: string, dtype: TensorDtype, shape: readonly number[]): void {
    const found = this.#source.tensors.get(name)
    if (found === undefined) {
      throw new ModelError('weights_mismatch', `${this.#source.location} has no tensor ${name}`)
    }
    if (found.dtype === dtype && found.shape.join() === shape.join()) return
    throw new ModelError(
      'weights_mismatch',
      `${name} of ${this.#source.location} is ${found.dtype} [${found.shape.join(', ')}]; ` +
        `the model needs ${dtype} [${shape.join(', ')}]`,
    )
  }
}

function narrowIds(bytes: Uint8Array<ArrayBuffer>): Uint8Array {
  const wide = new BigInt64Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 8)
  return new Uint8Array(Int32Array.from(wide, Number).buffer)
}
