#include "narrow.h"

#include <cstring>

#include "../native/formats.h"
#include "../native/query-dots.h"

#if SLUICE_X86
#include <immintrin.h>
#endif

namespace sluice {

#if SLUICE_X86
namespace {

/// Keys whose sums are in registers at a time.
constexpr int tileKeys = 8;
constexpr int runWords = narrowRun / 4;

/// Largest magnitudes from 2^-50 to 2^50: products of two units are normal numbers then.
constexpr uint32_t smallestBits = (127u - 50) << 23;
constexpr uint32_t endBits = (127u + 50) << 23;

/// 32 values as whole numbers of a unit that is at most a 64th of the largest and more than a
/// 128th; false where they are none.
SLUICE_AVX512 inline bool narrowValues(const float* values, __m512i& low, __m512i& high,
                                       float& unit) {
  const __m512 a = _mm512_loadu_ps(values);
  const __m512 b = _mm512_loadu_ps(values + 16);
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  const __m512i bits = _mm512_max_epu32(_mm512_and_si512(_mm512_castps_si512(a), magnitude),
                                        _mm512_and_si512(_mm512_castps_si512(b), magnitude));
  const uint32_t largest = _mm512_reduce_max_epu32(bits);
  if (largest < smallestBits || largest >= endBits) {
    low = high = _mm512_setzero_si512();
    unit = 1.0f;
    return largest == 0;
  }
  const uint32_t exponent = largest >> 23;
  unit = floatOfBits((exponent - 6) << 23);
  const __m512 inverse = _mm512_set1_ps(floatOfBits((254 + 6 - exponent) << 23));
  const __m512 scaledLow = _mm512_mul_ps(a, inverse);
  const __m512 scaledHigh = _mm512_mul_ps(b, inverse);
  low = _mm512_cvtps_epi32(scaledLow);
  high = _mm512_cvtps_epi32(scaledHigh);
  return (_mm512_cmp_ps_mask(_mm512_cvtepi32_ps(low), scaledLow, _CMP_NEQ_UQ) |
          _mm512_cmp_ps_mask(_mm512_cvtepi32_ps(high), scaledHigh, _CMP_NEQ_UQ)) == 0;
}

SLUICE_AVX512 bool narrowQueries512(const float* values, int64_t count, int64_t width,
                                    const NarrowQueries& into) {
  const int64_t runs = width / narrowRun;
  for (int64_t q = 0; q < queryGroup; q++) {
    for (int64_t run = 0; run < runs; run++) {
      __m512i low = _mm512_setzero_si512();
      __m512i high = low;
      float unit = 0;
      if (q < count && !narrowValues(values + q * width + run * narrowRun, low, high, unit)) {
        return false;
      }
      into.units[run * queryGroup + q] = unit;
      const int32_t sum = _mm512_reduce_add_epi32(_mm512_add_epi32(low, high));
      into.starts[run * queryGroup + q] = -128 * sum;
      int32_t words[runWords];
      _mm_storeu_si128(reinterpret_cast<__m128i*>(words), _mm512_cvtepi32_epi8(low));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(words + 4), _mm512_cvtepi32_epi8(high));
      for (int i = 0; i < runWords; i++) {
        std::memcpy(into.codes + ((run * runWords + i) * queryGroup + q) * 4, &words[i], 4);
      }
    }
  }
  return true;
}

SLUICE_AVX512 bool narrowKey512(const float* values, int64_t width, const NarrowKeys& into,
                                int64_t index) {
  const int64_t runs = width / narrowRun;
  const __m128i bias = _mm_set1_epi8(static_cast<char>(0x80));
  bool narrow = true;
  for (int64_t run = 0; run < runs; run++) {
    __m512i low, high;
    narrow &= narrowValues(values + run * narrowRun, low, high, into.units[index * runs + run]);
    __m128i* codes = reinterpret_cast<__m128i*>(into.codes + index * width + run * narrowRun);
    _mm_storeu_si128(codes, _mm_xor_si128(_mm512_cvtepi32_epi8(low), bias));
    _mm_storeu_si128(codes + 1, _mm_xor_si128(_mm512_cvtepi32_epi8(high), bias));
  }
  return narrow;
}

/// Doubled e2m1 values plus 128, by code.
SLUICE_AVX512 inline __m256i doubledTable() {
  return _mm256_broadcastsi128_si256(
      _mm_xor_si128(_mm_setr_epi8(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12),
                    _mm_set1_epi8(static_cast<char>(0x80))));
}

/// A run's largest magnitude is half its scale to six times that, or nothing.
SLUICE_AVX512 bool compactKey512(const uint8_t* row, int64_t width, const NarrowKeys& into,
                                 int64_t index) {
  constexpr uint32_t scaleLeast = 127 - 49;
  constexpr uint32_t scaleMost = 127 + 47;
  const int64_t runs = width / narrowRun;
  const __m256i table = doubledTable();
  const __m256i nibbles = _mm256_set1_epi16(0x0f0f);
  bool inRange = true;
  for (int64_t run = 0; run < runs; run++) {
    const uint32_t scale = row[width / 2 + run];
    inRange &= scale >= scaleLeast && scale <= scaleMost;
    into.units[index * runs + run] = floatOfBits((scale - 1) << 23);
    const auto* pairs = reinterpret_cast<const __m128i*>(row + run * narrowRun / 2);
    const __m256i wide = _mm256_cvtepu8_epi16(_mm_loadu_si128(pairs));
    const __m256i both = _mm256_or_si256(wide, _mm256_slli_epi16(wide, 4));
    const __m256i codes = _mm256_and_si256(both, nibbles);
    _mm256_storeu_si256(
        reinterpret_cast<__m256i*>(into.codes + index * width + run * narrowRun),
        _mm256_shuffle_epi8(table, codes));
  }
  return inRange;
}

SLUICE_AVX512 inline __m512i allWords(const uint8_t* at) {
  int32_t word;
  std::memcpy(&word, at, sizeof word);
  return _mm512_set1_epi32(word);
}

/// Keys from `index` on. Of a tile that is not full, the last one stands in for those missing.
template <bool full>
SLUICE_AVX512 inline void narrowTile(const NarrowQueries& queries, int64_t width,
                                     const NarrowKeys& keys, int64_t index, int64_t count,
                                     float* dots) {
  const int64_t runs = width / narrowRun;
  int64_t place[tileKeys];
  for (int k = 0; k < tileKeys; k++) place[k] = full || index + k < count ? index + k : count - 1;
  __m512 total[tileKeys];
#pragma GCC unroll 8
  for (int k = 0; k < tileKeys; k++) total[k] = _mm512_setzero_ps();
  for (int64_t run = 0; run < runs; run++) {
    const __m512i start = _mm512_loadu_si512(queries.starts + run * queryGroup);
    __m512i sum[tileKeys];
#pragma GCC unroll 8
    for (int k = 0; k < tileKeys; k++) sum[k] = start;
#pragma GCC unroll 8
    for (int i = 0; i < runWords; i++) {
      const int64_t word = run * runWords + i;
      const __m512i query = _mm512_loadu_si512(queries.codes + word * 4 * queryGroup);
#pragma GCC unroll 8
      for (int k = 0; k < tileKeys; k++) {
        const __m512i key = allWords(keys.codes + place[k] * width + word * 4);
        sum[k] = _mm512_dpbusd_epi32(sum[k], key, query);
      }
    }
    const __m512 unit = _mm512_loadu_ps(queries.units + run * queryGroup);
#pragma GCC unroll 8
    for (int k = 0; k < tileKeys; k++) {
      const __m512 both = _mm512_mul_ps(unit, _mm512_set1_ps(keys.units[place[k] * runs + run]));
      total[k] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[k]), both, total[k]);
    }
  }
#pragma GCC unroll 8
  for (int k = 0; k < tileKeys; k++) {
    if (full || index + k < count) _mm512_storeu_ps(dots + k * queryGroup, total[k]);
  }
}

SLUICE_AVX512 void narrowDots512(const NarrowQueries& queries, int64_t width,
                                 const NarrowKeys& keys, int64_t count, float* dots) {
  int64_t at = 0;
  for (; at + tileKeys <= count; at += tileKeys) {
    narrowTile<true>(queries, width, keys, at, count, dots + at * queryGroup);
  }
  if (at < count) narrowTile<false>(queries, width, keys, at, count, dots + at * queryGroup);
}

constexpr NarrowKernels kernels512{narrowQueries512, narrowKey512, compactKey512,
                                    narrowDots512};

}  // namespace
#endif

const NarrowKernels* narrowKernels(Isa isa) {
#if SLUICE_X86
  if (isa >= Isa::avx512) return &kernels512;
#endif
  (void)isa;
  return nullptr;
}

}  // namespace sluice
