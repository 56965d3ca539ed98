// Numbers of `tile-ring.h` and `hopper.h`.

/** Eight warps take tiles, one asks for them. */
export const ringThreads = 288
/** To which the first stage is aligned, wherever shared memory begins. */
const tileAlignment = 1024
/** Of a stage: filled, emptied. */
const barrierBytes = 16

/** Shared memory of a `TileRing`. */
export function tileRingBytes(stages: number, stageBytes: number): number {
  return tileAlignment + stages * (stageBytes + barrierBytes)
}
