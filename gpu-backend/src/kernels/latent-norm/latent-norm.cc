// latent-norm: the query latent normed; the key normed, rotated and, with `quantise`, rounded to
// FP8 outside the rotation (`latent-norm.ts`).
//
// Norms and rotation in double: the bits of the reference, and so the same FP8 codes. 1,024 and 512
// values, one thread of Zen 4: 2 µs a row, most of it the 32 sines and cosines; 256 rows 0.3 ms.

#include <algorithm>

#include "../native/key-finish.h"
#include "../native/norm-weight.h"
#include "../native/op.h"
#include "../native/rotation.h"

namespace sluice {
namespace {

/// Rows one thread takes at a time: about 4 µs.
constexpr int64_t rowsEach = 4;

struct Vector {
  float* values;
  const float* weight;
  int64_t width;
};

SLUICE_INLINE void normBody(const Vector& latent, const Vector& key, const double* angles,
                            int64_t pairs, double eps, bool quantise) {
  rmsNorm(latent.values, latent.weight, latent.width, eps);
  rmsNorm(key.values, key.weight, key.width, eps);
  const int64_t plain = key.width - 2 * pairs;
  rotatePairs(key.values + plain, angles, pairs, false);
  if (quantise) simulateKeys(key.values, plain);
}

SLUICE_PER_ISA(normRow, normBody,
               (const Vector& latent, const Vector& key, const double* angles, int64_t pairs,
                double eps, bool quantise),
               (latent, key, angles, pairs, eps, quantise))

void latentNorm(Context& context, Args& args) {
  const Tensor latents = args.tensor(DType::f32, 2);
  const float* latentWeight = normWeight(context, args.tensor());
  const Tensor keys = args.tensor(DType::f32, 2);
  const float* keyWeight = normWeight(context, args.tensor());
  const Tensor frequencies = args.tensor(DType::f32, 1);
  const BatchRows rows(args.tensor(DType::i32, 2));
  const bool quantise = args.flag();
  const double eps = args.number();
  args.finish();
  const Rotations rotations(context, rows, frequencies);
  const int64_t rank = latents.shape[1];
  const int64_t head = keys.shape[1];
  const auto norm = normRow(context.isa);
  context.pool.parallelFor((rows.count() + rowsEach - 1) / rowsEach, [&](int64_t chunk, int) {
    const int64_t end = std::min(rows.count(), (chunk + 1) * rowsEach);
    for (int64_t row = chunk * rowsEach; row < end; row++) {
      norm({latents.as<float>() + row * rank, latentWeight, rank},
           {keys.as<float>() + row * head, keyWeight, head}, rotations.row(row),
           rotations.pairs(), eps, quantise);
    }
  });
}

const RegisterOp registered("latent-norm", latentNorm);

}  // namespace
}  // namespace sluice
