// index-query: each head rotated, transformed and, with `quantise`, rounded to FP4
// (`index-query.ts`).
//
// The transform is in double and in the reference's order, so that what is rounded to FP4 are the
// reference's bits. Its first three stages pair neighbours, which no vector does well; on the
// transposed head they add whole rows. 64 heads of 128, one thread of Zen 4: 20 µs a row (AVX2 the
// same, portable 37), a seventh of scoring 2,048 keys.

#include <algorithm>

#include "../native/key-finish.h"
#include "../native/op.h"
#include "../native/rotation.h"

namespace sluice {
namespace {

/// Heads one thread takes at a time: 8 KiB at 128.
constexpr int64_t headsEach = 16;

struct Head {
  float* values;
  int64_t width;
  const double* angles;
  int64_t pairs;
};

SLUICE_INLINE void prepareBody(const Head& head, bool quantise, double* work) {
  rotatePairs(head.values + head.width - 2 * head.pairs, head.angles, head.pairs, false);
  walshHadamard(head.values, head.width, work);
  if (quantise) simulateIndex(head.values, head.width);
}

SLUICE_PER_ISA(prepareHead, prepareBody, (const Head& head, bool quantise, double* work),
               (head, quantise, work))

void indexQuery(Context& context, Args& args) {
  const Tensor queries = args.tensor(DType::f32, 3);
  const Tensor frequencies = args.tensor(DType::f32, 1);
  const BatchRows rows(args.tensor(DType::i32, 2));
  const bool quantise = args.flag();
  args.finish();
  const Rotations rotations(context, rows, frequencies);
  const int64_t heads = queries.shape[1];
  const int64_t width = queries.shape[2];
  const int64_t total = rows.count() * heads;
  double* work = context.scratch.take<double>(2 * width * context.pool.threads());
  const auto prepare = prepareHead(context.isa);
  context.pool.parallelFor((total + headsEach - 1) / headsEach, [&](int64_t chunk, int worker) {
    const int64_t end = std::min(total, (chunk + 1) * headsEach);
    for (int64_t at = chunk * headsEach; at < end; at++) {
      const Head head{queries.as<float>() + at * width, width, rotations.row(at / heads),
                      rotations.pairs()};
      prepare(head, quantise, work + 2 * width * worker);
    }
  });
}

const RegisterOp registered("index-query", indexQuery);

}  // namespace
}  // namespace sluice
