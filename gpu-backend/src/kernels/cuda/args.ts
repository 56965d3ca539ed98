import type { Launch, LaunchTarget, TileMatrix } from '../../device/cuda/launch.ts'
import { tileMapBytes } from '../../device/cuda/tile-maps.ts'
import { DeviceError } from '../../device/device.ts'
import { byteLength, type DType, type LinearWeight, type Tensor } from '../../device/tensor.ts'
import type { OpName } from '../registry.ts'

/** Element types by the numbers `formats.h` knows them by. */
const dtypeNumbers: Partial<Readonly<Record<DType, number>>> = {
  f32: 0,
  bf16: 1,
  f8e4m3: 4,
  fp4: 6,
  u8: 7,
}

const firstBytes = 128
/** `TensorMap` of `hopper.h` lies at multiples of it. */
const tileMapAlignment = 64

/**
 * The one struct a kernel takes, member by member in the order its `.cu` declares them; each lies
 * where the compiler puts it.
 */
export class ArgStruct {
  readonly #op: OpName
  readonly #target: LaunchTarget
  #view = new DataView(new ArrayBuffer(firstBytes))
  #length = 0
  #alignment = 8

  constructor(op: OpName, target: LaunchTarget) {
    this.#op = op
    this.#target = target
  }

  pointer(address: bigint): this {
    const at = this.#take(8)
    this.#view.setBigUint64(at, address, true)
    return this
  }

  /** A tensor's address; 0 for one that is absent. */
  tensor(tensor: Tensor | null): this {
    return this.pointer(tensor === null ? 0n : this.#target.address(tensor))
  }

  /** An activation: these kernels keep them in fp32. */
  activation(tensor: Tensor): this {
    if (tensor.dtype !== 'f32') {
      throw this.#refusal(`values of ${tensor.dtype}; its kernels keep them in f32`)
    }
    return this.tensor(tensor)
  }

  /** `Values` of `values.h`. */
  values(tensor: Tensor): this {
    return this.tensor(tensor).dtype(tensor.dtype).i32(0)
  }

  /** `Matrix` of `matrix.h`: a weight, or the first of a stack of them. */
  matrix({ weight, scale }: LinearWeight): this {
    const [rows = 0, width = 0] = weight.shape.slice(-2)
    this.tensor(weight).tensor(scale).i32(rows).i32(width)
    return this.dtype(weight.dtype).i32(0)
  }

  /** `TensorMap` of `hopper.h`. */
  tileMap(matrix: TileMatrix): this {
    const map = this.#target.tileMap(matrix)
    const at = this.#take(tileMapBytes, tileMapAlignment)
    new Uint8Array(this.#view.buffer).set(map, at)
    return this
  }

  /** `EntryPages` of `batch.h`: cached rows `[pages, rows a page, row]` and the table they are found by. */
  entryPages(entries: Tensor, pages: Tensor): this {
    const [, perPage = 0] = entries.shape
    this.#cached(entries).tensor(pages).i64(rowBytes(entries))
    return this.i32(pages.shape[1] ?? 0).i32(perPage)
  }

  /** `Ring` of `batch.h`: rows `[slots, rows, row]` by position. */
  ring(ring: Tensor): this {
    const [, rows = 0] = ring.shape
    return this.#cached(ring).i64(rowBytes(ring)).i32(rows).i32(0)
  }

  /** `RowLayout` of `compact-rows.h`. */
  rowLayout(
    rows: Tensor,
    layout: { readonly plain: number; readonly rotated: number; readonly index: boolean },
  ): this {
    this.i32(layout.plain).i32(layout.rotated)
    return this.flag(rows.dtype === 'u8').flag(layout.index)
  }

  /** Rows of a cache: fp32 or compact. */
  #cached(tensor: Tensor): this {
    return tensor.dtype === 'u8' ? this.tensor(tensor) : this.activation(tensor)
  }

  dtype(dtype: DType): this {
    const number = dtypeNumbers[dtype]
    if (number === undefined) throw this.#refusal(`tensors of ${dtype}`)
    return this.i32(number)
  }

  i32(value: number): this {
    const at = this.#take(4)
    this.#view.setInt32(at, value, true)
    return this
  }

  i64(value: number): this {
    const at = this.#take(8)
    this.#view.setBigInt64(at, BigInt(value), true)
    return this
  }

  f32(value: number): this {
    const at = this.#take(4)
    this.#view.setFloat32(at, value, true)
    return this
  }

  flag(value: boolean): this {
    return this.i32(value ? 1 : 0)
  }

  /** Leaves room for what is not there: the unused elements of an array. */
  skip(bytes: number): this {
    for (let i = 0; i < bytes; i += 8) this.pointer(0n)
    return this
  }

  /** The struct's bytes: its size is a multiple of its alignment, which is a pointer's or a map's. */
  bytes(): Uint8Array {
    const length = Math.ceil(this.#length / this.#alignment) * this.#alignment
    return new Uint8Array(this.#view.buffer.slice(0, length))
  }

  #take(bytes: number, alignment = bytes): number {
    const at = Math.ceil(this.#length / alignment) * alignment
    this.#alignment = Math.max(this.#alignment, alignment)
    this.#length = at + bytes
    while (this.#length > this.#view.byteLength) {
      const grown = new Uint8Array(2 * this.#view.byteLength)
      grown.set(new Uint8Array(this.#view.buffer))
      this.#view = new DataView(grown.buffer)
    }
    return at
  }

  #refusal(what: string): DeviceError {
    return new DeviceError('unsupported_op', 'cuda', `${this.#op} does not take ${what}`)
  }
}

/** Of a tensor's last extent. */
function rowBytes({ dtype, shape }: Tensor): number {
  return byteLength(dtype, shape.slice(-1))
}

export interface LaunchShape {
  /** Blocks. */
  readonly grid: readonly [x: number, y?: number, z?: number]
  readonly threads: number
  readonly sharedBytes?: number
}

/** A launch of a kernel that takes one struct. */
export function launch(kernel: string, shape: LaunchShape, args: ArgStruct): Launch {
  const [x, y = 1, z = 1] = shape.grid
  return {
    kernel,
    grid: [x, y, z],
    block: [shape.threads, 1, 1],
    sharedBytes: shape.sharedBytes ?? 0,
    args: [{ as: 'struct', value: args.bytes() }],
  }
}
