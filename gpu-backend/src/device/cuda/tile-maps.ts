import { DeviceError } from '../device.ts'
import type { CudaContext } from './context.ts'
import type { TileMatrix } from './launch.ts'

/** `CUtensorMap`: its size, and what its address is a multiple of. */
export const tileMapBytes = 128
const alignment = 64

/** `CU_TENSOR_MAP_DATA_TYPE_UINT8`, `…_SWIZZLE_128B`, `…_L2_PROMOTION_L2_256B`. */
const [bytesOnly, swizzle128, promote256] = [0, 3, 3]
/** `…_INTERLEAVE_NONE`, `…_FLOAT_OOB_FILL_NONE`: zeros beyond the matrix. */
const none = 0
const dimensions = 2

/** Bytes of a tile's row (`hopper.h`). */
const tileBytes = 128

/** Has the driver write down where matrices lie, for kernels that have tiles of them brought. */
export class TileMaps {
  readonly #context: CudaContext
  readonly #map: Uint8Array

  constructor(context: CudaContext) {
    this.#context = context
    const room = new Uint8Array(tileMapBytes + alignment)
    const at = Number(-context.driver.addressOf(room) & BigInt(alignment - 1))
    this.#map = room.subarray(at, at + tileMapBytes)
  }

  encode({ address, rows, columns, tileRows }: TileMatrix): Uint8Array {
    if (address % 16n !== 0n || columns % 16 !== 0) {
      const what = `a matrix of ${columns} bytes a row at ${address}`
      throw new DeviceError('unsupported_op', 'cuda', `${what} cannot be brought in tiles`)
    }
    this.#context.call(
      'cuTensorMapEncodeTiled',
      this.#map,
      bytesOnly,
      dimensions,
      address,
      BigUint64Array.of(BigInt(columns), BigInt(rows)),
      BigUint64Array.of(BigInt(columns)),
      Uint32Array.of(tileBytes, tileRows),
      Uint32Array.of(1, 1),
      none,
      swizzle128,
      promote256,
      none,
    )
    return this.#map.slice()
  }
}
