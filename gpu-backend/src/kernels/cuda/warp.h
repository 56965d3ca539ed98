#pragma once

#include "platform.h"

// Sums and largest values over a warp and a block. Lanes combine in a fixed tree, so a result depends on
// its terms alone; every lane gets it.

namespace sluice {

SLUICE_DEVICE float warpSum(float value) {
  for (int distance = 16; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(allLanes, value, distance);
  }
  return value;
}

SLUICE_DEVICE float warpMax(float value) {
  for (int distance = 16; distance > 0; distance /= 2) {
    value = fmaxf(value, __shfl_xor_sync(allLanes, value, distance));
  }
  return value;
}

/// Largest of bit patterns: with signs cleared it orders magnitudes, NaN above everything.
SLUICE_DEVICE uint32_t warpMaxBits(uint32_t bits) {
  for (int distance = 16; distance > 0; distance /= 2) {
    const uint32_t other = __shfl_xor_sync(allLanes, bits, distance);
    bits = other > bits ? other : bits;
  }
  return bits;
}

/// `room`: 32 floats of shared memory. Every thread of the block comes; the room is free again after.
SLUICE_DEVICE float blockSum(float value, float* room) {
  const float sum = warpSum(value);
  const int warps = static_cast<int>(blockDim.x) / 32;
  if (laneOf() == 0) room[warpOf()] = sum;
  __syncthreads();
  float total = 0;
  for (int i = 0; i < warps; i++) total += room[i];
  __syncthreads();
  return total;
}

/// Whether this block is the last of `count` to get here. Then it sees what all of them wrote before,
/// and the counter stands at zero again. `room`: an int of shared memory; every thread comes.
SLUICE_DEVICE bool lastToArrive(unsigned* counter, unsigned count, int* room) {
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) *room = atomicInc(counter, count - 1) == count - 1;
  __syncthreads();
  const bool last = *room != 0;
  __threadfence();
  __syncthreads();
  return last;
}

}  // namespace sluice
