import { strict as assert } from 'node:assert'

declare const bufferBrand: unique symbol

/** A device buffer's handle: an integer, never used again once freed. Only its device reads it. */
export type DeviceBuffer = number & { readonly [bufferBrand]: true }

/**
 * Element types at rest on a device. `fp4` is e2m1, two codes a byte, low nibble first; its shape
 * counts elements. `e8m0` is a power of two kept as an exponent byte, never a number of its own. `u8`
 * is rows of bytes whose layout the ops that take them know (`numerics/compact-rows.ts`).
 */
export type DType = 'f32' | 'bf16' | 'i32' | 'i64' | 'f8e4m3' | 'e8m0' | 'fp4' | 'u8'

const bitsOf: Readonly<Record<DType, number>> = {
  f32: 32,
  bf16: 16,
  i32: 32,
  i64: 64,
  f8e4m3: 8,
  e8m0: 8,
  fp4: 4,
  u8: 8,
}

/** Where values lie and how they are read: row-major, contiguous, nothing else attached. */
export interface Tensor {
  readonly buffer: DeviceBuffer
  readonly byteOffset: number
  readonly dtype: DType
  readonly shape: readonly number[]
}

/**
 * A linear's weight `[out, in]`, or a stack `[count, out, in]` of them. `f8e4m3` carries one scale
 * per 128×128 tile, `fp4` one per 32 of a row; `bf16` and `f32` carry none.
 */
export interface LinearWeight {
  readonly weight: Tensor
  readonly scale: Tensor | null
}

export function elementCount(shape: readonly number[]): number {
  let count = 1
  for (const extent of shape) count *= extent
  return count
}

/** Bytes `shape` takes in `dtype`; packed rows must end on a byte. */
export function byteLength(dtype: DType, shape: readonly number[]): number {
  const bits = elementCount(shape) * bitsOf[dtype]
  assert(bits % 8 === 0, `${dtype} [${shape.join(', ')}] ends inside a byte`)
  return bits / 8
}

export function tensorBytes(tensor: Tensor): number {
  return byteLength(tensor.dtype, tensor.shape)
}

/** The tensor's first extent. */
export function rowCount(tensor: Tensor): number {
  const rows = tensor.shape[0]
  assert(rows !== undefined, 'a tensor with rows has at least one extent')
  return rows
}

/** `count` rows from `first` on, sharing the buffer. */
export function sliceRows(tensor: Tensor, first: number, count: number): Tensor {
  const [rows, ...row] = tensor.shape
  assert(rows !== undefined, 'a scalar has no rows')
  assert(
    first >= 0 && count >= 0 && first + count <= rows,
    `rows ${first}…${first + count} lie inside ${describeTensor(tensor)}`,
  )
  const byteOffset = tensor.byteOffset + first * byteLength(tensor.dtype, row)
  return { ...tensor, byteOffset, shape: [count, ...row] }
}

/** Element `index` of a stack, as a tensor with one extent fewer. */
export function stackItem(tensor: Tensor, index: number): Tensor {
  const item = sliceRows(tensor, index, 1)
  return { ...item, shape: item.shape.slice(1) }
}

/** The same elements under another shape. */
export function reshape(tensor: Tensor, shape: readonly number[]): Tensor {
  assert.equal(
    elementCount(shape),
    elementCount(tensor.shape),
    `[${shape.join(', ')}] holds as many elements as ${describeTensor(tensor)}`,
  )
  return { ...tensor, shape }
}

export function describeTensor(tensor: Tensor): string {
  return `${tensor.dtype} [${tensor.shape.join(', ')}]`
}
