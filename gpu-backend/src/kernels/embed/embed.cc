// embed: each stream of a row is its token's embedding (`embed.ts`). Memory-bound: a row is widened
// once and copied to the other streams while it is in the first-level cache.

#include <cstring>

#include "../native/dots.h"
#include "../native/rows.h"

namespace sluice {
namespace {

void embed(Context& context, Args& args) {
  const Tensor tokens = args.tensor(DType::i32, 1);
  const MatrixRows table = matrixRows(args.tensor());
  const Tensor streams = args.tensor(DType::f32, 3);
  args.finish();
  const int32_t* ids = indicesBelow(tokens, table.count, "token");
  const int64_t hidden = table.width;
  const int64_t count = streams.shape[1];
  overRows(context.pool, tokens.count(), hidden, count,
           [&](int64_t row, int64_t from, int64_t to, int) {
             if (count == 0) return;
             float* first = streams.as<float>() + row * count * hidden + from;
             widenRow(context.isa, table, ids[row], from, to - from, first);
             for (int64_t stream = 1; stream < count; stream++) {
               std::memcpy(first + stream * hidden, first,
                           static_cast<size_t>(to - from) * sizeof(float));
             }
           });
}

const RegisterOp registered("embed", embed);

}  // namespace
}  // namespace sluice
