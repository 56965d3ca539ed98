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
/// The first `count` < lanes values; zeros behind them. Nothing beyond is touched.
SLUICE_AVX512 SLUICE_VECTOR_OP Floats loadFirst(const float* at, int count) {
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), at);
}
SLUICE_AVX512 SLUICE_VECTOR_OP void storeFirst(float* at, Floats value, int count) {
  _mm512_mask_storeu_ps(at, static_cast<__mmask16>((1u << count) - 1), value);
}

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
SLUICE_AVX2 SLUICE_VECTOR_OP __m256i firstLanes(int count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
SLUICE_AVX2 SLUICE_VECTOR_OP Floats loadFirst(const float* at, int count) {
  return _mm256_maskload_ps(at, firstLanes(count));
}
SLUICE_AVX2 SLUICE_VECTOR_OP void storeFirst(float* at, Floats value, int count) {
  _mm256_maskstore_ps(at, firstLanes(count), value);
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
SLUICE_VECTOR_OP Floats loadFirst(const float* at, int count) {
  Floats value{};
  for (int i = 0; i < count; i++) value[i] = at[i];
  return value;
}
SLUICE_VECTOR_OP void storeFirst(float* at, Floats value, int count) {
  for (int i = 0; i < count; i++) at[i] = value[i];
}

}  // namespace sluice::portable
