// Body of `weightedValues` in the vectors of one instruction set; see `vectors.h`.

namespace sluice::SLUICE_VECTORS {
namespace {

/// Heads and vectors of their output that are summed at a time.
constexpr int tileHeads = accumulators == queryGroup ? queryGroup : accumulators / 2;
constexpr int tileVectors = accumulators / tileHeads;
constexpr int tileColumns = tileVectors * lanes;

/// Some columns of all values side by side, zeros where there are none. Where several tiles of heads
/// read them this is faster than reading rows that lie 2 KiB apart again and again, since those share
/// few sets of the first-level cache.
SLUICE_TARGET SLUICE_VECTOR_OP void gatherColumns(const float* const* values, int64_t count,
                                                  int64_t at, int64_t columns, float* into) {
  if (columns >= tileColumns) {
    for (int64_t j = 0; j < count; j++) {
#pragma GCC unroll 2
      for (int v = 0; v < tileVectors; v++) {
        store(into + j * tileColumns + v * lanes, load(values[j] + at + v * lanes));
      }
    }
    return;
  }
  for (int64_t j = 0; j < count; j++) {
    for (int64_t c = 0; c < tileColumns; c++) {
      into[j * tileColumns + c] = c < columns ? values[j][at + c] : 0.0f;
    }
  }
}

/// Values are rows of `columns`, or without them `values[j] + at`.
template <bool gathered>
SLUICE_TARGET inline void valueTile(const float* weights, const float* const* values, int64_t at,
                                    const float* columns, int64_t count, float* sums,
                                    int64_t stride) {
  Floats sum[tileHeads][tileVectors];
#pragma GCC unroll 16
  for (int h = 0; h < tileHeads; h++) {
#pragma GCC unroll 2
    for (int v = 0; v < tileVectors; v++) sum[h][v] = zero();
  }
  for (int64_t j = 0; j < count; j++) {
    const float* row = gathered ? columns + j * tileColumns : values[j] + at;
    Floats value[tileVectors];
#pragma GCC unroll 2
    for (int v = 0; v < tileVectors; v++) value[v] = load(row + v * lanes);
#pragma GCC unroll 16
    for (int h = 0; h < tileHeads; h++) {
      const Floats weight = all(weights[j * queryGroup + h]);
#pragma GCC unroll 2
      for (int v = 0; v < tileVectors; v++) sum[h][v] = fma(weight, value[v], sum[h][v]);
    }
  }
#pragma GCC unroll 16
  for (int h = 0; h < tileHeads; h++) {
#pragma GCC unroll 2
    for (int v = 0; v < tileVectors; v++) store(sums + h * stride + v * lanes, sum[h][v]);
  }
}

SLUICE_TARGET void weightedValues(const float* weights, const float* const* values, int64_t count,
                                  int64_t heads, int64_t width, float* sums, int64_t stride) {
  float columns[blockKeys * tileColumns];
  for (int64_t at = 0; at < width; at += tileColumns) {
    if (tileHeads == queryGroup && at + tileColumns <= width) {
      valueTile<false>(weights, values, at, nullptr, count, sums + at, stride);
      continue;
    }
    gatherColumns(values, count, at, width - at, columns);
    for (int64_t h = 0; h < heads; h += tileHeads) {
      valueTile<true>(weights + h, nullptr, 0, columns, count, sums + h * stride + at, stride);
    }
  }
}

}  // namespace
}  // namespace sluice::SLUICE_VECTORS
