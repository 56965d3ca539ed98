#pragma once

#include "../cuda/batch.h"
#include "../cuda/warp.h"

// query-rotate: each head of a query is divided by its rms and rotated (`query-rotate.ts`). A warp a
// head; the eight of a block share a row's sines and cosines, which cost more than all the rest.

namespace sluice {

struct QueryRotateArgs {
  float* queries;
  const float* frequencies;
  const BatchRow* rows;
  int rowCount;
  int heads;
  int head;
  int pairs;
  float eps;
};

/// `block`: of its rows, then of its groups of heads.
SLUICE_DEVICE void rotateQueries(const QueryRotateArgs& args, int block, unsigned char* shared) {
  const int row = block % args.rowCount;
  float* const sines = reinterpret_cast<float*>(shared);
  float* const cosines = sines + args.pairs;
  const float position = static_cast<float>(args.rows[row].position);
  for (int i = static_cast<int>(threadIdx.x); i < args.pairs; i += static_cast<int>(blockDim.x)) {
    sincosf(__fmul_rn(position, args.frequencies[i]), &sines[i], &cosines[i]);
  }
  __syncthreads();
  const int h = block / args.rowCount * 8 + warpOf();
  if (h >= args.heads) return;
  float* const values = args.queries + (int64_t{row} * args.heads + h) * args.head;
  float squares = 0;
  for (int i = laneOf(); i < args.head; i += 32) squares += values[i] * values[i];
  const float mean = warpSum(squares) / static_cast<float>(args.head);
  const float inverse = 1.0f / sqrtf(mean + args.eps);
  // Other lanes write what this one has read; an exchange of sums does not order that.
  __syncwarp();
  const int plain = args.head - 2 * args.pairs;
  for (int i = laneOf(); i < plain; i += 32) values[i] *= inverse;
  for (int i = laneOf(); i < args.pairs; i += 32) {
    float* const pair = values + plain + 2 * i;
    const float a = pair[0] * inverse;
    const float b = pair[1] * inverse;
    pair[0] = a * cosines[i] - b * sines[i];
    pair[1] = a * sines[i] + b * cosines[i];
  }
}

}  // namespace sluice
