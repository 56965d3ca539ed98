// copy: bytes to bytes (`copy.ts`).

#include <algorithm>
#include <cstring>

#include "../native/op.h"

namespace sluice {
namespace {

/// One core cannot use the whole memory bandwidth; below this a second one is not worth waking.
constexpr int64_t pieceBytes = int64_t{256} << 10;

void copy(Context& context, Args& args) {
  const Tensor from = args.tensor();
  const Tensor to = args.tensor();
  args.finish();
  const int64_t bytes = to.bytes();
  context.pool.parallelFor((bytes + pieceBytes - 1) / pieceBytes, [&](int64_t piece, int) {
    const int64_t at = piece * pieceBytes;
    std::memcpy(to.data + at, from.data + at, static_cast<size_t>(std::min(pieceBytes, bytes - at)));
  });
}

const RegisterOp registered("copy", copy);

}  // namespace
}  // namespace sluice
