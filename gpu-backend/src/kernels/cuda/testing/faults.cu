// A sum over a block and a copy, done right or with one mistake planted: proof that the host build sees
// such mistakes (`simt.test.ts`).

#include "../warp.h"

namespace sluice {
namespace {

enum class Fault : int {
  none,
  missingBarrier,
  outOfBounds,
  behindShared,
  wrongLane,
  laneNotInMask,
  barrierNotReached,
};

struct PlantedArgs {
  const float* input;
  float* output;
  int count;
  Fault fault;
};

SLUICE_DEVICE float sumOfWarp(float value, Fault fault) {
  for (int distance = 16; distance > 0; distance /= 2) {
    const int lane = fault == Fault::wrongLane && distance == 4 ? laneOf() : laneOf() ^ distance;
    value += __shfl_sync(allLanes, value, lane);
  }
  return value;
}

}  // namespace

/// output[0] = Σ input, and output[1 …] = input one place on.
SLUICE_KERNEL(planted_fault, PlantedArgs, 128, 2) {
  SLUICE_DYNAMIC_SHARED(shared);
  float* const values = reinterpret_cast<float*>(shared);
  float* const sums = values + blockDim.x;
  const int i = static_cast<int>(threadIdx.x);
  if (args.fault == Fault::barrierNotReached && i == 40) return;
  values[i] = i < args.count ? args.input[i] : 0;
  if (args.fault == Fault::behindShared && i == 0) sums[4 + 1] = 1;
  if (args.fault != Fault::missingBarrier) __syncthreads();
  const int next = (i + 33) % static_cast<int>(blockDim.x);
  const float sum = sumOfWarp(values[next], args.fault);
  if (laneOf() == 0) sums[warpOf()] = sum;
  __syncthreads();
  if (i == 0) {
    float total = 0;
    for (int warp = 0; warp < 4; warp++) total += sums[warp];
    args.output[0] = total;
  }
  if (args.fault == Fault::laneNotInMask) {
    if (laneOf() < 16) args.output[0] = __shfl_sync(0xffffu, values[i], 20);
    return;
  }
  const int last = args.fault == Fault::outOfBounds ? args.count : args.count - 1;
  if (i < last) args.output[1 + i] = args.input[i + 1];
}

}  // namespace sluice
