// Numbers of `matrix.h` that launches are shaped by.

/** Outputs one warp works on; a block of few tokens has as many, one of many tokens eight times that. */
export const warpOutputs = 32
export const warpsOfBlock = 8
const tokensOfTile = 8
const inputStride = 128 + 4

/** Rows from which on a block takes many tokens. */
export const manyRows = 64

/** Shared memory of `multiplyFew<tiles>`: inputs of eight warps, and later their sums. */
export function fewSharedBytes(tiles: number): number {
  const tokens = tokensOfTile * tiles
  return warpsOfBlock * tokens * Math.max(2 * inputStride, 4 * warpOutputs)
}

/** Shared memory of `multiplyMany<tiles>`. */
export function manySharedBytes(tiles: number): number {
  return 2 * tokensOfTile * tiles * inputStride
}

/** How a block of a product with few or many tokens is shaped. */
export interface ProductShape {
  /** Tokens a block takes: what the kernel's name ends in. */
  readonly tokens: number
  readonly outputs: number
  readonly sharedBytes: number
}

export function productShape(rows: number): ProductShape {
  if (rows >= manyRows) {
    return { tokens: 64, outputs: warpOutputs * warpsOfBlock, sharedBytes: manySharedBytes(8) }
  }
  const tiles = rows <= tokensOfTile ? 1 : 2
  return { tokens: tokensOfTile * tiles, outputs: warpOutputs, sharedBytes: fewSharedBytes(tiles) }
}
