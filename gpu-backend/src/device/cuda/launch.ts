import type { DeviceFormats } from '../device.ts'
import type { Tensor } from '../tensor.ts'

// What an op asks of a GPU: kernels by name, in order, with their arguments. Each op's folder has a
// `cuda.ts` that works this out from the op's arguments; `kernels/cuda/launchers.ts` lists them. A
// launch may be recorded into a graph and replayed with other bytes behind the same addresses, so
// grids and arguments follow from shapes and constants of the model alone, never from data.

/** A device address, as kernels take it. */
export type DevicePointer = bigint

export type KernelArg =
  | { readonly as: 'pointer'; readonly value: DevicePointer }
  | { readonly as: 'i32' | 'u32' | 'f32'; readonly value: number }
  | { readonly as: 'i64' | 'u64'; readonly value: bigint }
  /** A struct passed by value, laid out as the kernel declares it; its alignment is at most 16. */
  | { readonly as: 'struct'; readonly value: Uint8Array }

export type Extent3 = readonly [x: number, y: number, z: number]

/** One kernel on one grid. Launches of one op run one after the other, each seeing what the last wrote. */
export interface Launch {
  /** The `extern "C" __global__` function's name, unique among all ops. */
  readonly kernel: string
  /** Blocks. */
  readonly grid: Extent3
  /** Threads a block. */
  readonly block: Extent3
  /** Dynamic shared memory a block, beside what the kernel declares itself. */
  readonly sharedBytes: number
  /** In the order of the kernel's parameters. */
  readonly args: readonly KernelArg[]
  /** The launch that does this one's work and the next one's, in no order; null where there is none. */
  readonly join?: (next: Launch) => Launch | null
}

/** What launches are shaped by. */
export interface GpuTraits {
  /** Compute capability as one number: 90, 100, 120. */
  readonly architecture: number
  readonly multiprocessors: number
  /** Most shared memory a block may ask for, static and dynamic together. */
  readonly sharedBytesMax: number
}

/**
 * What multiplies many rows by FP8 weights: `mma` everywhere, in bfloat16; `wgmma` on sm_90 alone, code
 * by code. The two differ in the last bits, so that rows of one step must be many or few in both.
 */
export type ProductUnits = 'mma' | 'wgmma'

/** Bytes `[rows, columns]` of which a copy engine brings tiles; rows begin at multiples of 16. */
export interface TileMatrix {
  readonly address: DevicePointer
  readonly rows: number
  readonly columns: number
  /** Rows of a tile. */
  readonly tileRows: number
}

/** What a launcher learns from the device it launches on. */
export interface LaunchTarget {
  readonly gpu: GpuTraits
  readonly formats: DeviceFormats
  readonly products: ProductUnits
  /** Where a tensor's first byte lies. Throws `DeviceError` where its bytes are not in its buffer. */
  address(tensor: Tensor): DevicePointer
  /**
   * Room of at least `bytes` for what this op's launches hand to each other, 256-byte aligned, with
   * undefined contents. Another op may be given the same room; the same `name` twice within one op
   * gives the same room, another name other room.
   */
  scratch(name: string, bytes: number): DevicePointer
  /**
   * `count` 32-bit counters that are zero when a launch finds them: zero at first, and every launch
   * that counts with them leaves them so. The last block to arrive finishes what all have begun.
   */
  counters(count: number): DevicePointer
  /** The 128 bytes by which a kernel has tiles of 128 bytes a row brought to it. */
  tileMap(matrix: TileMatrix): Uint8Array
}

/** An op's launches for these arguments. Nothing is launched if it throws. */
export type LaunchOp<Args> = (args: Args, target: LaunchTarget) => readonly Launch[]

export function pointer(value: DevicePointer): KernelArg {
  return { as: 'pointer', value }
}

export function tensorPointer(target: LaunchTarget, tensor: Tensor): KernelArg {
  return { as: 'pointer', value: target.address(tensor) }
}

export function i32(value: number): KernelArg {
  return { as: 'i32', value }
}

export function u32(value: number): KernelArg {
  return { as: 'u32', value }
}

export function f32(value: number): KernelArg {
  return { as: 'f32', value }
}

export function i64(value: number | bigint): KernelArg {
  return { as: 'i64', value: BigInt(value) }
}

export function struct(value: Uint8Array): KernelArg {
  return { as: 'struct', value }
}
