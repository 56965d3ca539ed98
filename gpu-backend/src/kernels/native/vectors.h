#pragma once

#include <cstdint>

#include "cpu.h"

#if SLUICE_X86
#include <immintrin.h>
#endif

// Vectors of fp32 in the widths of three instruction sets, under the same names in three namespaces.
// A kernel that needs registers by hand is a header written in these names; its `.cc` includes it
// once for each namespace, with SLUICE_VECTORS as the namespace and SLUICE_TARGET as the attribute.

#define SLUICE_VECTOR_OP static inline __attribute__((always_inline))

#if SLUICE_X86

namespace sluice::avx512 {

using Floats = __m512;
constexpr int lanes = 16;
/// How many accumulators a kernel may hold beside what it multiplies.
constexpr int accumulators = 16;

SLUICE_AVX512 SLUICE_VECTOR_OP Floats zero() { return _mm512_setzero_ps(); }
SLUICE_AVX512 SLUICE_VECTOR_OP Floats all(float value) { return _mm512_set1_ps(value); }
SLUICE_AVX512 SLUICE_VECTOR_OP Floats load(const float* at) { return _mm512_loadu_ps(at); }
SLUICE_AVX512 SLUICE_VECTOR_OP void store(float* at, Floats value) { _mm512_storeu_ps(at, value); }
SLUICE_AVX512 SLUICE_VECTOR_OP Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
SLUICE_AVX512 SLUICE_VECTOR_OP Floats mul(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
/// a·b + c, rounded once where the machine can.
SLUICE_AVX512 SLUICE_VECTOR_OP Floats fma(Floats a, Floats b, Floats c) {
  return _mm512_fmadd_ps(a, b, c);
}
/// The larger of each two; `b` where one is NaN.
SLUICE_AVX512 SLUICE_VECTOR_OP Floats largerOf(Floats a, Floats b) { return _mm512_max_ps(a, b); }
/// All lanes added, halves first.
SLUICE_AVX512 SLUICE_VECTOR_OP float sumOf(Floats value) { return _mm512_reduce_add_ps(value); }

}  // namespace sluice::avx512

namespace sluice::avx2 {

using Floats = __m256;
constexpr int lanes = 8;
constexpr int accumulators = 8;

SLUICE_AVX2 SLUICE_VECTOR_OP Floats zero() { return _mm256_setzero_ps(); }
SLUICE_AVX2 SLUICE_VECTOR_OP Floats all(float value) { return _mm256_set1_ps(value); }
SLUICE_AVX2 SLUICE_VECTOR_OP Floats load(const float* at) { return _mm256_loadu_ps(at); }
SLUICE_AVX2 SLUICE_VECTOR_OP void store(float* at, Floats value) { _mm256_storeu_ps(at, value); }
SLUICE_AVX2 SLUICE_VECTOR_OP Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
SLUICE_AVX2 SLUICE_VECTOR_OP Floats mul(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
SLUICE_AVX2 SLUICE_VECTOR_OP Floats fma(Floats a, Floats b, Floats c) {
  return _mm256_fmadd_ps(a, b, c);
}
SLUICE_AVX2 SLUICE_VECTOR_OP Floats largerOf(Floats a, Floats b) { return _mm256_max_ps(a, b); }
SLUICE_AVX2 SLUICE_VECTOR_OP float sumOf(Floats value) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(value), _mm256_extractf128_ps(value, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

}  // namespace sluice::avx2

#endif

namespace sluice::portable {

/// Four at a time is what SSE and NEON have; the compiler does the rest.
typedef float Floats __attribute__((vector_size(16)));
constexpr int lanes = 4;
constexpr int accumulators = 8;

SLUICE_VECTOR_OP Floats zero() { return Floats{}; }
SLUICE_VECTOR_OP Floats all(float value) { return Floats{value, value, value, value}; }
SLUICE_VECTOR_OP Floats load(const float* at) {
  Floats value;
  __builtin_memcpy(&value, at, sizeof value);
  return value;
}
SLUICE_VECTOR_OP void store(float* at, Floats value) {
  __builtin_memcpy(at, &value, sizeof value);
}
SLUICE_VECTOR_OP Floats add(Floats a, Floats b) { return a + b; }
SLUICE_VECTOR_OP Floats mul(Floats a, Floats b) { return a * b; }
SLUICE_VECTOR_OP Floats fma(Floats a, Floats b, Floats c) { return a * b + c; }
SLUICE_VECTOR_OP Floats largerOf(Floats a, Floats b) { return a > b ? a : b; }
SLUICE_VECTOR_OP float sumOf(Floats value) {
  return (value[0] + value[2]) + (value[1] + value[3]);
}

}  // namespace sluice::portable
