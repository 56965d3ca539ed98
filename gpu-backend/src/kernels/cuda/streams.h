#pragma once

#include "values.h"
#include "warp.h"

// What hc-pre, hc-post and hc-head do to a row's residual streams (`numerics/streams.ts`). A row is
// shared out over blocks of `columnsOfBlock` columns of every stream; each leaves its part of the
// products with fn, and the last one to finish does what needs them all. In fp32 throughout: what the
// mixes decide is never made narrower.

namespace sluice {

constexpr int streamsMax = 4;
constexpr int columnsOfBlock = 256;
/// Products a row has with fn, and its square sum.
constexpr int sumsMax = (2 + streamsMax) * streamsMax + 1;

struct StreamUpdate {
  /// Null where there is none.
  const float* output;
  const float* post;
  const float* mix;
};

struct Streams {
  float* data;
  int rows;
  int count;
  int hidden;
  int reserved;

  SLUICE_DEVICE float* row(int row) const { return data + int64_t{row} * count * hidden; }
};

/// X'[b] = post[b]·y + Σ_a mix[a][b]·X[a] of one column, all streams at once.
SLUICE_DEVICE void updateColumn(float* x, const Streams& streams, const StreamUpdate& update, int row,
                                int column) {
  const int count = streams.count;
  const float y = update.output[int64_t{row} * streams.hidden + column];
  const float* const post = update.post + int64_t{row} * count;
  const float* const mix = update.mix + int64_t{row} * count * count;
  float old[streamsMax];
#pragma unroll
  for (int a = 0; a < streamsMax; a++) old[a] = a < count ? x[int64_t{a} * streams.hidden] : 0;
#pragma unroll
  for (int b = 0; b < streamsMax; b++) {
    if (b >= count) continue;
    float sum = post[b] * y;
#pragma unroll
    for (int a = 0; a < streamsMax; a++) {
      if (a < count) sum += mix[a * count + b] * old[a];
    }
    x[int64_t{b} * streams.hidden] = sum;
  }
}

/// This block's columns of a row; updates them if there is something pending, and keeps them in `kept`,
/// `[streams][columnsOfBlock]` of shared memory. Returns how many there are.
SLUICE_DEVICE int takeColumns(const Streams& streams, const StreamUpdate& update, int row, int block,
                              float* kept) {
  const int first = block * columnsOfBlock;
  const int left = streams.hidden - first;
  const int count = left < columnsOfBlock ? left : columnsOfBlock;
  for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x)) {
    float* const x = streams.row(row) + first + i;
    if (update.output != nullptr) updateColumn(x, streams, update, row, first + i);
    for (int a = 0; a < streams.count; a++) {
      kept[a * columnsOfBlock + i] = x[int64_t{a} * streams.hidden];
    }
  }
  __syncthreads();
  return count;
}

/// Of the columns kept: products with the rows of `fn`, and behind them the square sum, into `sums`.
SLUICE_DEVICE void partialSums(const float* fn, int outputs, const Streams& streams, int block,
                               const float* kept, int count, float* sums) {
  const int warps = static_cast<int>(blockDim.x) / 32;
  for (int output = warpOf(); output <= outputs; output += warps) {
    float sum = 0;
    for (int a = 0; a < streams.count; a++) {
      const float* const x = kept + a * columnsOfBlock;
      const float* const w = fn + (int64_t{output} * streams.count + a) * streams.hidden +
                             block * columnsOfBlock;
      for (int i = laneOf(); i < count; i += 32) sum += x[i] * (output < outputs ? w[i] : x[i]);
    }
    sum = warpSum(sum);
    if (laneOf() == 0) sums[output] = sum;
  }
}

/// Adds up the parts `[blocks][outputs + 1]` and divides by the rms: q = fn·z / rms(z) in `logits`.
SLUICE_DEVICE void finishLogits(const float* parts, int blocks, int outputs, int width, float eps,
                                float* logits) {
  for (int i = static_cast<int>(threadIdx.x); i <= outputs; i += static_cast<int>(blockDim.x)) {
    float sum = 0;
    for (int block = 0; block < blocks; block++) sum += parts[block * (outputs + 1) + i];
    logits[i] = sum;
  }
  __syncthreads();
  const float inverse = 1.0f / sqrtf(logits[outputs] / static_cast<float>(width) + eps);
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < outputs; i += static_cast<int>(blockDim.x)) {
    logits[i] *= inverse;
  }
  __syncthreads();
}

/// 1 / (1 + e^-x) without overflow at either end.
SLUICE_DEVICE float sigmoid(float x) {
  const float e = expf(-fabsf(x));
  return x >= 0 ? 1.0f / (1.0f + e) : e / (1.0f + e);
}

/// out = norm · u / rms(u), u = Σ_a weights[a]·X[a]. `values`: room for a row of u.
SLUICE_DEVICE void contractAndNorm(const Streams& streams, int row, const float* weights,
                                   const Values& norm, float eps, float* values, float* room,
                                   float* out) {
  const float* const x = streams.row(row);
  float squares = 0;
  for (int i = static_cast<int>(threadIdx.x); i < streams.hidden; i += static_cast<int>(blockDim.x)) {
    float sum = 0;
    for (int a = 0; a < streams.count; a++) sum += weights[a] * x[int64_t{a} * streams.hidden + i];
    values[i] = sum;
    squares += sum * sum;
  }
  const float mean = blockSum(squares, room) / static_cast<float>(streams.hidden);
  const float inverse = 1.0f / sqrtf(mean + eps);
  for (int i = static_cast<int>(threadIdx.x); i < streams.hidden; i += static_cast<int>(blockDim.x)) {
    out[i] = values[i] * inverse * norm[i];
  }
}

}  // namespace sluice
