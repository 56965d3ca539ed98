// query-rotate: each head divided by its rms, its last elements rotated (`query-rotate.ts`).
//
// In double, rounded to fp32 after each stage as the reference does it: a result differs from the
// reference's only where the double lies within 2^-28 of a rounding boundary. The conversions are
// hidden behind memory: 64 heads of 512, one thread of Zen 4, 12 µs a row in cache, 3.3 ms for 256
// rows (AVX2 3.9, portable 5.7).

#include <algorithm>

#include "../native/key-finish.h"
#include "../native/op.h"
#include "../native/rotation.h"

namespace sluice {
namespace {

/// Heads one thread takes at a time: 32 KiB at 512.
constexpr int64_t headsEach = 16;

SLUICE_INLINE void rotateBody(float* head, int64_t width, double eps, const double* angles,
                              int64_t pairs) {
  const double inverse = inverseRms(head, width, eps);
  for (int64_t i = 0; i < width; i++) head[i] = static_cast<float>(double(head[i]) * inverse);
  rotatePairs(head + width - 2 * pairs, angles, pairs, false);
}

SLUICE_PER_ISA(rotateHead, rotateBody,
               (float* head, int64_t width, double eps, const double* angles, int64_t pairs),
               (head, width, eps, angles, pairs))

void queryRotate(Context& context, Args& args) {
  const Tensor queries = args.tensor(DType::f32, 3);
  const Tensor frequencies = args.tensor(DType::f32, 1);
  const BatchRows rows(args.tensor(DType::i32, 2));
  const double eps = args.number();
  args.finish();
  const Rotations rotations(context, rows, frequencies);
  const int64_t heads = queries.shape[1];
  const int64_t width = queries.shape[2];
  const int64_t total = rows.count() * heads;
  const auto rotate = rotateHead(context.isa);
  context.pool.parallelFor((total + headsEach - 1) / headsEach, [&](int64_t chunk, int) {
    const int64_t end = std::min(total, (chunk + 1) * headsEach);
    for (int64_t head = chunk * headsEach; head < end; head++) {
      rotate(queries.as<float>() + head * width, width, eps, rotations.row(head / heads),
             rotations.pairs());
    }
  });
}

const RegisterOp registered("query-rotate", queryRotate);

}  // namespace
}  // namespace sluice
