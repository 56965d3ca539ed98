// draft-join: a row's projected embedding is added to each of its projected streams (`draft-join.ts`).

#include "../cuda/platform.h"

namespace sluice {
namespace {

struct DraftJoinArgs {
  const float* embedding;
  float* streams;
  int count;
  int hidden;
};

}  // namespace

SLUICE_KERNEL(draft_join, DraftJoinArgs, 256, 2) {
  const int column = static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x);
  if (column >= args.hidden) return;
  const int64_t row = blockIdx.x;
  const float added = args.embedding[row * args.hidden + column];
  float* const streams = args.streams + row * args.count * args.hidden + column;
  for (int stream = 0; stream < args.count; stream++) {
    streams[int64_t{stream} * args.hidden] += added;
  }
}

}  // namespace sluice
