// draft-join: X[a] += e for every stream (`draft-join.ts`). One fp32 addition rounds like the sum in
// double rounded afterwards, so the bits are the definition's.

#include "../native/rows.h"

namespace sluice {
namespace {

SLUICE_INLINE void addBody(const float* embedding, float* stream, int64_t count) {
  for (int64_t i = 0; i < count; i++) stream[i] += embedding[i];
}

SLUICE_PER_ISA(add, addBody, (const float* embedding, float* stream, int64_t count),
               (embedding, stream, count))

void draftJoin(Context& context, Args& args) {
  const Tensor embedding = args.tensor(DType::f32, 2);
  const Tensor streams = args.tensor(DType::f32, 3);
  args.finish();
  const int64_t count = streams.shape[1];
  const int64_t hidden = streams.shape[2];
  const auto kernel = add(context.isa);
  overRows(context.pool, streams.shape[0], hidden, count,
           [&](int64_t row, int64_t from, int64_t to, int) {
             const float* added = embedding.as<const float>() + row * hidden + from;
             for (int64_t stream = row * count; stream < (row + 1) * count; stream++) {
               kernel(added, streams.as<float>() + stream * hidden + from, to - from);
             }
           });
}

const RegisterOp registered("draft-join", draftJoin);

}  // namespace
}  // namespace sluice
