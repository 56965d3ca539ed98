// draft-inputs: the normed embedding of each row's next token and the normed streams of the row it
// follows (`draft-inputs.ts`). The root is taken in double, relative error below n·2^-53, and the
// result rounded once: the nearest fp32 or, in about one case of a million, the one beside it.

#include <cstring>

#include "../native/dots.h"
#include "../native/key-finish.h"
#include "../native/norm-weight.h"
#include "../native/rows.h"

namespace sluice {
namespace {

SLUICE_INLINE void normBody(const float* from, const float* weight, double eps, int64_t count,
                            float* into) {
  if (into != from) std::memcpy(into, from, static_cast<size_t>(count) * sizeof(float));
  rmsNorm(into, weight, count, eps);
}

SLUICE_PER_ISA(normRow, normBody,
               (const float* from, const float* weight, double eps, int64_t count, float* into),
               (from, weight, eps, count, into))

void draftInputs(Context& context, Args& args) {
  const Tensor tokens = args.tensor(DType::i32, 1);
  const MatrixRows table = matrixRows(args.tensor());
  const Tensor source = args.tensor(DType::f32, 3);
  const Tensor picks = args.tensor(DType::i32, 1);
  const float* embeddingNorm = normWeight(context, args.tensor());
  const float* streamNorm = normWeight(context, args.tensor());
  const double eps = args.number();
  float* embedding = args.tensor(DType::f32, 2).as<float>();
  float* streams = args.tensor(DType::f32, 3).as<float>();
  args.finish();

  const int32_t* ids = indicesBelow(tokens, table.count, "token");
  const int32_t* followed = indicesBelow(picks, source.shape[0], "stream row");
  const int64_t count = source.shape[1];
  const int64_t hidden = source.shape[2];
  const auto norm = normRow(context.isa);
  // One vector a chunk: the embedding, then each stream.
  context.pool.parallelFor(tokens.count() * (count + 1), [&](int64_t chunk, int) {
    const int64_t row = chunk / (count + 1);
    const int64_t stream = chunk % (count + 1) - 1;
    if (stream < 0) {
      float* into = embedding + row * hidden;
      widenRow(context.isa, table, ids[row], 0, hidden, into);
      norm(into, embeddingNorm, eps, hidden, into);
      return;
    }
    const float* from = source.as<const float>() + (followed[row] * count + stream) * hidden;
    norm(from, streamNorm, eps, hidden, streams + (row * count + stream) * hidden);
  });
}

const RegisterOp registered("draft-inputs", draftInputs);

}  // namespace
}  // namespace sluice
