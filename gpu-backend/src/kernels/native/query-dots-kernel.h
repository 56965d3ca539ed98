// Body of `queryDots` in the vectors of one instruction set; see `vectors.h`.

namespace sluice::SLUICE_VECTORS {
namespace {

/// Vectors that sixteen queries are, keys at a time, and values of a key at a time: together they
/// fill the registers.
constexpr int queryVectors = queryGroup / lanes;
constexpr int tileKeys = accumulators / queryVectors;
constexpr int steps = accumulators / 4;

/// Cache lines of the next tile to fetch with each step of a run, so that a run fetches a run.
constexpr int lineFloats = 16;
constexpr int fetches = tileKeys * steps / lineFloats > 0 ? tileKeys * steps / lineFloats : 1;

SLUICE_TARGET SLUICE_VECTOR_OP void fetchSome(const float* const* keys, int64_t from,
                                              int64_t step) {
#pragma GCC unroll 4
  for (int i = 0; i < fetches; i++) {
    const int64_t line = (step * fetches + i) / tileKeys;
    if (line * lineFloats >= dotRun) return;
    __builtin_prefetch(keys[(step * fetches + i) % tileKeys] + from + line * lineFloats, 0, 2);
  }
}

/// `count` ≤ tileKeys keys. A tile that is not full multiplies its last key over again.
template <bool full>
SLUICE_TARGET inline void dotTile(const float* queries, int64_t width, const float* const* keys,
                                  int64_t count, float* dots, const float* const* next) {
  const float* row[tileKeys];
  for (int k = 0; k < tileKeys; k++) row[k] = keys[full || k < count ? k : count - 1];
  for (int64_t from = 0; from < width; from += dotRun) {
    const int64_t end = from + dotRun < width ? from + dotRun : width;
    Floats sums[tileKeys][queryVectors];
#pragma GCC unroll 16
    for (int k = 0; k < tileKeys; k++) {
#pragma GCC unroll 4
      for (int v = 0; v < queryVectors; v++) sums[k][v] = zero();
    }
    int64_t d = from;
    for (; d + steps <= end; d += steps) {
      if (next != nullptr) fetchSome(next, from, (d - from) / steps);
      Floats query[steps][queryVectors];
#pragma GCC unroll 4
      for (int s = 0; s < steps; s++) {
#pragma GCC unroll 4
        for (int v = 0; v < queryVectors; v++) {
          query[s][v] = load(queries + (d + s) * queryGroup + v * lanes);
        }
      }
#pragma GCC unroll 16
      for (int k = 0; k < tileKeys; k++) {
#pragma GCC unroll 4
        for (int s = 0; s < steps; s++) {
          const Floats value = all(row[k][d + s]);
#pragma GCC unroll 4
          for (int v = 0; v < queryVectors; v++) {
            sums[k][v] = fma(query[s][v], value, sums[k][v]);
          }
        }
      }
    }
    for (; d < end; d++) {
#pragma GCC unroll 16
      for (int k = 0; k < tileKeys; k++) {
        const Floats value = all(row[k][d]);
#pragma GCC unroll 4
        for (int v = 0; v < queryVectors; v++) {
          sums[k][v] = fma(load(queries + d * queryGroup + v * lanes), value, sums[k][v]);
        }
      }
    }
#pragma GCC unroll 16
    for (int k = 0; k < tileKeys; k++) {
      if (!full && k >= count) break;
#pragma GCC unroll 4
      for (int v = 0; v < queryVectors; v++) {
        float* at = dots + k * queryGroup + v * lanes;
        store(at, from == 0 ? sums[k][v] : add(load(at), sums[k][v]));
      }
    }
  }
}

SLUICE_TARGET void queryDots(const float* queries, int64_t width, const float* const* keys,
                             int64_t count, float* dots) {
  int64_t at = 0;
  for (; at + tileKeys <= count; at += tileKeys) {
    const bool more = at + 2 * tileKeys <= count;
    dotTile<true>(queries, width, keys + at, tileKeys, dots + at * queryGroup,
                  more ? keys + at + tileKeys : nullptr);
  }
  if (at < count) {
    dotTile<false>(queries, width, keys + at, count - at, dots + at * queryGroup, nullptr);
  }
}

}  // namespace
}  // namespace sluice::SLUICE_VECTORS
