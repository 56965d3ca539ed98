// index-query: the indexer's queries are rotated, transformed and rounded to FP4 (`index-query.ts`). A
// warp a head, whose values lie in shared memory meanwhile.

#include "../cuda/batch.h"
#include "../cuda/transforms.h"

namespace sluice {
namespace {

struct IndexQueryArgs {
  float* queries;
  const float* frequencies;
  const BatchRow* rows;
  int heads;
  int head;
  int pairs;
  int quantise;
};

}  // namespace

SLUICE_KERNEL(index_query, IndexQueryArgs, 256) {
  SLUICE_DYNAMIC_SHARED(shared);
  float* const values = reinterpret_cast<float*>(shared) + warpOf() * args.head;
  const int h = static_cast<int>(blockIdx.y) * 8 + warpOf();
  if (h >= args.heads) return;
  float* const query = args.queries + (int64_t{blockIdx.x} * args.heads + h) * args.head;
  for (int i = laneOf(); i < args.head; i += 32) values[i] = query[i];
  __syncwarp();
  rotateRow(values, args.head, args.frequencies, args.pairs, args.rows[blockIdx.x].position);
  walshHadamard(values, args.head);
  __syncwarp();
  if (args.quantise != 0) roundIndexKey(values, args.head);
  __syncwarp();
  for (int i = laneOf(); i < args.head; i += 32) query[i] = values[i];
}

}  // namespace sluice
