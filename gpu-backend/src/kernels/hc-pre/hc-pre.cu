// hc-pre: a pending update into the streams, their weights, and the sub-layer's input (`hc-pre.ts`).
//
// One launch: blocks of 256 columns update them and leave their part of the 24 products with fn; a
// row's last block makes the weights of them, balances the mixing matrix in one warp, and contracts.

#include "../cuda/streams.h"

namespace sluice {
namespace {

struct HcPreArgs {
  Streams streams;
  StreamUpdate pending;
  const float* fn;
  const float* scale;
  const float* base;
  Values norm;
  float* normed;
  float* post;
  float* mix;
  float* parts;
  unsigned* counters;
  int iterations;
  float hcEps;
  float normEps;
};

/// Each element of a `size`×`size` matrix in a lane of its own, divided by the sum of its row or column
/// and eps; lanes without one take part in the exchanges.
SLUICE_DEVICE float divideBySum(float value, int size, bool byRow, float eps) {
  const int row = laneOf() / size;
  const int column = laneOf() % size;
  float sum = eps;
  for (int i = 0; i < size; i++) {
    sum += __shfl_sync(allLanes, value, byRow ? row * size + i : i * size + column);
  }
  return value / sum;
}

/// The mixing matrix of one row by one warp (`numerics/sinkhorn.ts`).
SLUICE_DEVICE float balance(float logit, int size, int iterations, float eps) {
  const int first = laneOf() / size * size;
  float largest = -INFINITY;
  for (int i = 0; i < size; i++) largest = fmaxf(largest, __shfl_sync(allLanes, logit, first + i));
  const float e = expf(logit - largest);
  float value = divideBySum(e, size, true, 0) + eps;
  value = divideBySum(value, size, false, eps);
  for (int round = 1; round < iterations; round++) {
    value = divideBySum(value, size, true, eps);
    value = divideBySum(value, size, false, eps);
  }
  return value;
}

/// Stream weights of a row; `weights` gets what its streams are contracted by.
SLUICE_DEVICE void weigh(const HcPreArgs& args, int row, const float* logits, float* weights) {
  const int count = args.streams.count;
  const int lane = laneOf();
  const auto logit = [&](int part, int i) { return logits[i] * args.scale[part] + args.base[i]; };
  if (lane < count) {
    weights[lane] = sigmoid(logit(0, lane)) + args.hcEps;
    args.post[int64_t{row} * count + lane] = 2.0f * sigmoid(logit(1, count + lane));
  }
  const int size = count * count;
  const float mixed =
      balance(lane < size ? logit(2, 2 * count + lane) : 0.0f, count, args.iterations, args.hcEps);
  if (lane < size) args.mix[int64_t{row} * size + lane] = mixed;
}

}  // namespace

SLUICE_KERNEL(hc_pre, HcPreArgs, 256, 2) {
  SLUICE_DYNAMIC_SHARED(shared);
  float* const room = reinterpret_cast<float*>(shared);
  float* const logits = room + 32;
  float* const values = room + 64;
  const Streams& streams = args.streams;
  const int outputs = (2 + streams.count) * streams.count;
  const int block = static_cast<int>(blockIdx.x);
  const int blocks = static_cast<int>(gridDim.x);
  const int row = static_cast<int>(blockIdx.y);
  float* const parts = args.parts + int64_t{row} * blocks * (outputs + 1);
  const int count = takeColumns(streams, args.pending, row, block, values);
  partialSums(args.fn, outputs, streams, block, values, count, parts + block * (outputs + 1));
  if (!lastToArrive(args.counters + row, gridDim.x, reinterpret_cast<int*>(room))) return;
  finishLogits(parts, blocks, outputs, streams.count * streams.hidden, args.normEps, logits);
  float* const weights = logits + sumsMax;
  if (warpOf() == 0) weigh(args, row, logits, weights);
  __syncthreads();
  contractAndNorm(streams, row, weights, args.norm, args.normEps, values, room,
                  args.normed + int64_t{row} * streams.hidden);
}

}  // namespace sluice
