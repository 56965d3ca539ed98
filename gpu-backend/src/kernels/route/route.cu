// route: scores of every expert, the largest of them or a table's, and their weights (`route.ts`).
//
// One launch: blocks take 32 experts of four rows, so that a gate row read serves four; the last block
// of the four rows picks, a warp a row. In fp32: what the gate decides is never made narrower.

#include "../cuda/values.h"
#include "../cuda/warp.h"

namespace sluice {
namespace {

constexpr int rowsOfBlock = 4;
constexpr int expertsOfBlock = 32;

struct RouteArgs {
  const float* input;
  const int* tokens;
  Values gate;
  /// Null where a table chooses.
  const float* bias;
  const int* table;
  int* experts;
  float* weights;
  float* scores;
  unsigned* counters;
  int rows;
  int hidden;
  int expertCount;
  int picked;
  int vocabulary;
  float factor;
};

/// √(ln(1 + e^x)), stable for large |x|.
SLUICE_DEVICE float sqrtSoftplus(float x) {
  return sqrtf(fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x))));
}

/// Gate row `expert` with four rows of the input, eight values at a time where they lie right.
SLUICE_DEVICE void dots(const RouteArgs& args, int expert, int firstRow, float* sums) {
  const int64_t hidden = args.hidden;
  const float* x[rowsOfBlock];
#pragma unroll
  for (int r = 0; r < rowsOfBlock; r++) {
    x[r] = args.input + (firstRow + r < args.rows ? firstRow + r : firstRow) * hidden;
    sums[r] = 0;
  }
  for (int i = 4 * laneOf(); i < args.hidden; i += 128) {
#pragma unroll
    for (int j = 0; j < 4; j++) {
      if (i + j >= args.hidden) continue;
      const float w = args.gate[expert * hidden + i + j];
#pragma unroll
      for (int r = 0; r < rowsOfBlock; r++) sums[r] += w * x[r][i + j];
    }
  }
#pragma unroll
  for (int r = 0; r < rowsOfBlock; r++) sums[r] = warpSum(sums[r]);
}

/// The largest score + bias not yet taken, by one warp; equal ones to the lower expert. −0 equals 0.
SLUICE_DEVICE int pickLargest(const RouteArgs& args, const float* scores, const int* taken, int count) {
  float best = -INFINITY;
  int chosen = args.expertCount;
  for (int e = laneOf(); e < args.expertCount; e += 32) {
    bool free = true;
    for (int i = 0; i < count; i++) free = free && taken[i] != e;
    const float value = scores[e] + args.bias[e];
    if (free && (value > best || chosen == args.expertCount)) {
      best = value;
      chosen = e;
    }
  }
  for (int distance = 16; distance > 0; distance /= 2) {
    const float other = __shfl_xor_sync(allLanes, best, distance);
    const int otherChosen = __shfl_xor_sync(allLanes, chosen, distance);
    const bool real = otherChosen < args.expertCount;
    const bool better = chosen == args.expertCount || other > best ||
                        (other == best && otherChosen < chosen);
    if (real && better) {
      best = other;
      chosen = otherChosen;
    }
  }
  return chosen;
}

SLUICE_DEVICE void choose(const RouteArgs& args, int row) {
  const float* const scores = args.scores + int64_t{row} * args.expertCount;
  int* const experts = args.experts + int64_t{row} * args.picked;
  for (int slot = 0; slot < args.picked; slot++) {
    int expert;
    if (args.table != nullptr) {
      const int token = args.tokens[row];
      expert = args.table[int64_t{token} * args.picked + slot];
    } else {
      expert = pickLargest(args, scores, experts, slot);
    }
    if (laneOf() == 0) experts[slot] = expert;
    __syncwarp();
  }
  float sum = 0;
  for (int slot = 0; slot < args.picked; slot++) sum += scores[experts[slot]];
  for (int slot = laneOf(); slot < args.picked; slot += 32) {
    args.weights[int64_t{row} * args.picked + slot] = scores[experts[slot]] / sum * args.factor;
  }
}

}  // namespace

SLUICE_KERNEL(route_rows, RouteArgs, 256, 2) {
  SLUICE_DYNAMIC_SHARED(shared);
  const int firstRow = static_cast<int>(blockIdx.y) * rowsOfBlock;
  const int end = static_cast<int>(blockIdx.x + 1) * expertsOfBlock;
  for (int expert = end - expertsOfBlock + warpOf(); expert < end; expert += 8) {
    if (expert >= args.expertCount) break;
    float sums[rowsOfBlock];
    dots(args, expert, firstRow, sums);
    for (int r = 0; r < rowsOfBlock && firstRow + r < args.rows; r++) {
      if (laneOf() != r) continue;
      args.scores[int64_t{firstRow + r} * args.expertCount + expert] = sqrtSoftplus(sums[r]);
    }
  }
  if (!lastToArrive(args.counters + blockIdx.y, gridDim.x, reinterpret_cast<int*>(shared))) return;
  const int row = firstRow + warpOf();
  if (warpOf() < rowsOfBlock && row < args.rows) choose(args, row);
}

}  // namespace sluice
