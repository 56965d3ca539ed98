import type { LinearWeight, Tensor } from '../device/tensor.ts'
import type { MatrixReader } from './numerics/matmul.ts'

/** What a reference kernel sees of its device: tensors as typed arrays over the device's bytes. */
export interface ReferenceMemory {
  f32(tensor: Tensor): Float32Array
  i32(tensor: Tensor): Int32Array
  u8(tensor: Tensor): Uint8Array
  /** Values of an `f32` or `bf16` tensor small enough to be held whole, read only. */
  values(tensor: Tensor): Float32Array
  /** Rows of a matrix in any weight format, read only. */
  matrix(weight: LinearWeight): MatrixReader
}

/** One op's definition in plain TypeScript. */
export type ReferenceKernel<Args> = (memory: ReferenceMemory, args: Args) => void
