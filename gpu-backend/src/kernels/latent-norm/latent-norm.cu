// latent-norm: the query latent is normed; the key is normed, rotated and rounded (`latent-norm.ts`).
// A block a row and tensor; both are a few KiB, so a launch costs more than its work.

#include "../cuda/batch.h"
#include "../cuda/transforms.h"
#include "../cuda/values.h"

namespace sluice {
namespace {

struct LatentNormArgs {
  float* latents;
  Values queryNorm;
  float* keys;
  Values keyNorm;
  const float* frequencies;
  const BatchRow* rows;
  int rank;
  int head;
  int pairs;
  int quantise;
  float eps;
};

}  // namespace

SLUICE_KERNEL(latent_norm, LatentNormArgs, 256, 2) {
  SLUICE_DYNAMIC_SHARED(shared);
  float* const room = reinterpret_cast<float*>(shared);
  float* const values = room + 32;
  const bool isKey = blockIdx.y == 1;
  const int width = isKey ? args.head : args.rank;
  const Values norm = isKey ? args.keyNorm : args.queryNorm;
  float* const row = (isKey ? args.keys : args.latents) + int64_t{blockIdx.x} * width;
  float squares = 0;
  for (int i = static_cast<int>(threadIdx.x); i < width; i += static_cast<int>(blockDim.x)) {
    values[i] = row[i];
    squares += values[i] * values[i];
  }
  const float mean = blockSum(squares, room) / static_cast<float>(width);
  const float inverse = 1.0f / sqrtf(mean + args.eps);
  for (int i = static_cast<int>(threadIdx.x); i < width; i += static_cast<int>(blockDim.x)) {
    const float normed = values[i] * inverse * norm[i];
    if (isKey) values[i] = normed;
    else row[i] = normed;
  }
  if (!isKey) return;
  __syncthreads();
  const int plain = width - 2 * args.pairs;
  if (warpOf() == 0) {
    rotateRow(values, width, args.frequencies, args.pairs, args.rows[blockIdx.x].position);
  } else if (warpOf() == 1 && args.quantise != 0) {
    roundKey(values, plain);
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < width; i += static_cast<int>(blockDim.x)) {
    row[i] = values[i];
  }
}

}  // namespace sluice
