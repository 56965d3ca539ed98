// Body of `weighMatches` in the vectors of one instruction set; see `vectors.h`.

namespace sluice::SLUICE_VECTORS {
namespace {

SLUICE_TARGET void weighMatches(const float* dots, const float* weights, int64_t groups,
                                int64_t count, uint32_t* scores) {
  constexpr int vectors = queryGroup / lanes;
  for (int64_t j = 0; j < count; j++) {
    Floats sum[vectors];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) sum[v] = zero();
    for (int64_t g = 0; g < groups; g++) {
#pragma GCC unroll 4
      for (int v = 0; v < vectors; v++) {
        const Floats dot = load(dots + (g * chunkKeys + j) * queryGroup + v * lanes);
        sum[v] = fma(load(weights + g * queryGroup + v * lanes), largerOf(zero(), dot), sum[v]);
      }
    }
#pragma GCC unroll 4
    for (int v = 1; v < vectors; v++) sum[0] = add(sum[0], sum[v]);
    scores[j] = orderedBits(sumOf(sum[0]));
  }
}

}  // namespace
}  // namespace sluice::SLUICE_VECTORS
