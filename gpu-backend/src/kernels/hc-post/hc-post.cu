// hc-post: X'[b] = post[b]·y + Σ_a C[a][b]·X[a] (`hc-post.ts`). Memory-bound: a thread a column.

#include "../cuda/streams.h"

namespace sluice {
namespace {

struct HcPostArgs {
  Streams streams;
  StreamUpdate update;
};

}  // namespace

SLUICE_KERNEL(hc_post, HcPostArgs, 256, 2) {
  const int column = static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x);
  const int row = static_cast<int>(blockIdx.x);
  if (column >= args.streams.hidden) return;
  updateColumn(args.streams.row(row) + column, args.streams, args.update, row, column);
}

}  // namespace sluice
