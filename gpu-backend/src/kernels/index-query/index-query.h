#pragma once

#include "../cuda/batch.h"
#include "../cuda/transforms.h"

// index-query: the indexer's queries are rotated, transformed and rounded to FP4 (`index-query.ts`). A
// warp a head, whose values lie in shared memory meanwhile.

namespace sluice {

struct IndexQueryArgs {
  float* queries;
  const float* frequencies;
  const BatchRow* rows;
  int rowCount;
  int heads;
  int head;
  int pairs;
  int quantise;
};

/// `block`: of its rows, then of its groups of heads.
SLUICE_DEVICE void prepareIndexQueries(const IndexQueryArgs& args, int block, unsigned char* shared) {
  const int row = block % args.rowCount;
  float* const values = reinterpret_cast<float*>(shared) + warpOf() * args.head;
  const int h = block / args.rowCount * 8 + warpOf();
  if (h >= args.heads) return;
  float* const query = args.queries + (int64_t{row} * args.heads + h) * args.head;
  for (int i = laneOf(); i < args.head; i += 32) values[i] = query[i];
  __syncwarp();
  rotateRow(values, args.head, args.frequencies, args.pairs, args.rows[row].position);
  walshHadamard(values, args.head);
  __syncwarp();
  if (args.quantise != 0) roundIndexKey(values, args.head);
  __syncwarp();
  for (int i = laneOf(); i < args.head; i += 32) query[i] = values[i];
}

}  // namespace sluice
