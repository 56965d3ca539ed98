// Body of `weightedValues` in the vectors of one instruction set; see `vectors.h`.

namespace sluice::SLUICE_VECTORS {
namespace {

/// Heads and vectors of their output that are summed at a time.
constexpr int tileHeads = accumulators == queryGroup ? queryGroup : accumulators / 2;
constexpr int tileVectors = accumulators / tileHeads;
constexpr int tileColumns = tileVectors * lanes;

/// The last columns of all values side by side, filled with zeros to a whole tile.
SLUICE_TARGET SLUICE_VECTOR_OP void gatherLast(const float* const* values, int64_t count,
                                               int64_t at, int64_t columns, float* into) {
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
  int64_t at = 0;
  for (; at + tileColumns <= width; at += tileColumns) {
    for (int64_t h = 0; h < heads; h += tileHeads) {
      valueTile<false>(weights + h, values, at, nullptr, count, sums + h * stride + at, stride);
    }
  }
  if (at == width) return;
  float last[blockKeys * tileColumns];
  gatherLast(values, count, at, width - at, last);
  for (int64_t h = 0; h < heads; h += tileHeads) {
    valueTile<true>(weights + h, nullptr, 0, last, count, sums + h * stride + at, stride);
  }
}

}  // namespace
}  // namespace sluice::SLUICE_VECTORS
