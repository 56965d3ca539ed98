#include "dots.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <type_traits>

#if SLUICE_X86
#include <immintrin.h>
#endif

#include "formats.h"

// Ladder, one thread on Zen 4. One input against weights in DRAM: one weight row at a time 13 GB/s
// (widening to double, not memory, is what takes the time); four at a time, so that an input is
// widened once for four, 23; eight 16, too many streams; prefetching gains nothing for fp32 and a
// sixth for bfloat16. Four inputs by four weight rows: 20 GMAC/s against 10 for one input.

namespace sluice {
namespace {

constexpr int lanes = 8;
/// Weight rows and inputs a thread takes at a time: its inputs stay in the second-level cache.
constexpr int64_t chunkRows = 4;
constexpr int64_t chunkInputs = 8;

SLUICE_INLINE double sumOf(const double* chain) {
  return ((chain[0] + chain[4]) + (chain[2] + chain[6])) +
         ((chain[1] + chain[5]) + (chain[3] + chain[7]));
}

template <typename T>
SLUICE_INLINE double valueOf(T stored) {
  if constexpr (sizeof(T) == 2) return fromBf16(stored);
  return stored;
}

/// One call's arguments, weights as their element type.
template <typename T>
struct Task {
  const float* const* inputs;
  const T* weights;
  int64_t width;
  double* sums;
  int64_t sumsStride;

  const T* row(int64_t o) const { return weights + o * width; }
  double& sum(int64_t r, int64_t o) const { return sums[r * sumsStride + o]; }
};

template <typename T>
void dotsPortable(const Task<T>& task, int64_t inputs, int64_t outputs) {
  const int64_t whole = task.width / lanes * lanes;
  for (int64_t r = 0; r < inputs; r++) {
    const float* x = task.inputs[r];
    for (int64_t o = 0; o < outputs; o++) {
      const T* w = task.row(o);
      double chain[lanes] = {};
      for (int64_t i = 0; i < whole; i += lanes) {
        for (int lane = 0; lane < lanes; lane++) {
          chain[lane] += double(x[i + lane]) * valueOf(w[i + lane]);
        }
      }
      for (int64_t i = whole; i < task.width; i++) chain[i - whole] += double(x[i]) * valueOf(w[i]);
      task.sum(r, o) = sumOf(chain);
    }
  }
}

#if SLUICE_X86

constexpr int prefetchBytes = 2048;

SLUICE_AVX512 inline __m512d load8(const float* at) {
  return _mm512_cvtps_pd(_mm256_loadu_ps(at));
}
SLUICE_AVX512 inline __m512d load8(const float* at, __mmask8 mask) {
  return _mm512_cvtps_pd(_mm256_maskz_loadu_ps(mask, at));
}
SLUICE_AVX512 inline __m512d widen8(__m128i codes) {
  const __m256i bits = _mm256_slli_epi32(_mm256_cvtepu16_epi32(codes), 16);
  return _mm512_cvtps_pd(_mm256_castsi256_ps(bits));
}
SLUICE_AVX512 inline __m512d load8(const uint16_t* at) {
  _mm_prefetch(reinterpret_cast<const char*>(at) + prefetchBytes, _MM_HINT_T0);
  return widen8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)));
}
SLUICE_AVX512 inline __m512d load8(const uint16_t* at, __mmask8 mask) {
  return widen8(_mm_maskz_loadu_epi16(mask, at));
}

/// Inputs from `r` on, weight rows from `o` on.
template <int inputs, int outputs, typename T>
SLUICE_AVX512 void tileAvx512(const Task<T>& task, int64_t r, int64_t o) {
  __m512d sum[inputs][outputs];
  const float* x[inputs];
  const T* w[outputs];
  for (int i = 0; i < inputs; i++) x[i] = task.inputs[r + i];
  for (int k = 0; k < outputs; k++) w[k] = task.row(o + k);
  for (int i = 0; i < inputs; i++) {
    for (int k = 0; k < outputs; k++) sum[i][k] = _mm512_setzero_pd();
  }
  __m512d value[inputs];
  const int64_t whole = task.width / lanes * lanes;
  for (int64_t at = 0; at < whole; at += lanes) {
    for (int i = 0; i < inputs; i++) value[i] = load8(x[i] + at);
    for (int k = 0; k < outputs; k++) {
      const __m512d weight = load8(w[k] + at);
      for (int i = 0; i < inputs; i++) sum[i][k] = _mm512_fmadd_pd(value[i], weight, sum[i][k]);
    }
  }
  if (whole < task.width) {
    const __mmask8 rest = static_cast<__mmask8>((1u << (task.width - whole)) - 1);
    for (int i = 0; i < inputs; i++) value[i] = load8(x[i] + whole, rest);
    for (int k = 0; k < outputs; k++) {
      const __m512d weight = load8(w[k] + whole, rest);
      for (int i = 0; i < inputs; i++) {
        sum[i][k] = _mm512_mask3_fmadd_pd(value[i], weight, sum[i][k], rest);
      }
    }
  }
  alignas(64) double chain[lanes];
  for (int i = 0; i < inputs; i++) {
    for (int k = 0; k < outputs; k++) {
      _mm512_store_pd(chain, sum[i][k]);
      task.sum(r + i, o + k) = sumOf(chain);
    }
  }
}

template <int inputs, typename T>
SLUICE_AVX512 void inputsAvx512(const Task<T>& task, int64_t r, int64_t outputs) {
  int64_t o = 0;
  for (; o + 4 <= outputs; o += 4) tileAvx512<inputs, 4>(task, r, o);
  for (; o < outputs; o++) tileAvx512<inputs, 1>(task, r, o);
}

template <typename T>
SLUICE_AVX512 void dotsAvx512(const Task<T>& task, int64_t inputs, int64_t outputs) {
  int64_t r = 0;
  for (; r + 4 <= inputs; r += 4) inputsAvx512<4>(task, r, outputs);
  for (; r + 2 <= inputs; r += 2) inputsAvx512<2>(task, r, outputs);
  for (; r < inputs; r++) inputsAvx512<1>(task, r, outputs);
}

SLUICE_AVX2 inline __m256d load4(const float* at) { return _mm256_cvtps_pd(_mm_loadu_ps(at)); }
SLUICE_AVX2 inline __m256d load4(const uint16_t* at) {
  const __m128i codes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(at));
  const __m128i bits = _mm_slli_epi32(_mm_cvtepu16_epi32(codes), 16);
  return _mm256_cvtps_pd(_mm_castsi128_ps(bits));
}

/// Chains 0 … 3 in the first half, 4 … 7 in the second.
template <int inputs, int outputs, typename T>
SLUICE_AVX2 void tileAvx2(const Task<T>& task, int64_t r, int64_t o) {
  __m256d sum[inputs][outputs][2];
  for (int i = 0; i < inputs; i++) {
    for (int k = 0; k < outputs; k++) sum[i][k][0] = sum[i][k][1] = _mm256_setzero_pd();
  }
  const int64_t whole = task.width / lanes * lanes;
  for (int64_t at = 0; at < whole; at += lanes) {
    for (int half = 0; half < 2; half++) {
      __m256d value[inputs];
      for (int i = 0; i < inputs; i++) value[i] = load4(task.inputs[r + i] + at + 4 * half);
      for (int k = 0; k < outputs; k++) {
        const __m256d weight = load4(task.row(o + k) + at + 4 * half);
        for (int i = 0; i < inputs; i++) {
          sum[i][k][half] = _mm256_fmadd_pd(value[i], weight, sum[i][k][half]);
        }
      }
    }
  }
  alignas(32) double chain[lanes];
  for (int i = 0; i < inputs; i++) {
    for (int k = 0; k < outputs; k++) {
      _mm256_store_pd(chain, sum[i][k][0]);
      _mm256_store_pd(chain + 4, sum[i][k][1]);
      for (int64_t at = whole; at < task.width; at++) {
        chain[at - whole] += double(task.inputs[r + i][at]) * valueOf(task.row(o + k)[at]);
      }
      task.sum(r + i, o + k) = sumOf(chain);
    }
  }
}

template <typename T>
SLUICE_AVX2 void dotsAvx2(const Task<T>& task, int64_t inputs, int64_t outputs) {
  int64_t r = 0;
  for (; r + 2 <= inputs; r += 2) {
    int64_t o = 0;
    for (; o + 2 <= outputs; o += 2) tileAvx2<2, 2>(task, r, o);
    for (; o < outputs; o++) tileAvx2<2, 1>(task, r, o);
  }
  for (; r < inputs; r++) {
    int64_t o = 0;
    for (; o + 4 <= outputs; o += 4) tileAvx2<1, 4>(task, r, o);
    for (; o < outputs; o++) tileAvx2<1, 1>(task, r, o);
  }
}

#endif

template <typename T>
void dotsOf(Isa isa, const Task<T>& task, int64_t inputs, int64_t outputs) {
#if SLUICE_X86
  if (isa >= Isa::avx512) return dotsAvx512(task, inputs, outputs);
  if (isa >= Isa::avx2) return dotsAvx2(task, inputs, outputs);
#endif
  dotsPortable(task, inputs, outputs);
}

SLUICE_INLINE void squaresBody(const float* values, int64_t count, double& sum) {
  double chain[lanes] = {};
  const int64_t whole = count / lanes * lanes;
  for (int64_t i = 0; i < whole; i += lanes) {
    for (int lane = 0; lane < lanes; lane++) {
      chain[lane] += double(values[i + lane]) * double(values[i + lane]);
    }
  }
  for (int64_t i = whole; i < count; i++) chain[i - whole] += double(values[i]) * double(values[i]);
  sum = sumOf(chain);
}

SLUICE_PER_ISA(squaresFor, squaresBody, (const float* values, int64_t count, double& sum),
               (values, count, sum))

SLUICE_INLINE void widenBody(const uint16_t* from, int64_t count, float* into) {
  for (int64_t i = 0; i < count; i++) into[i] = fromBf16(from[i]);
}

SLUICE_PER_ISA(widenFor, widenBody, (const uint16_t* from, int64_t count, float* into),
               (from, count, into))

int64_t rowBytes(const MatrixRows& rows) { return rows.width * bitsOf(rows.dtype) / 8; }

int64_t ceilDiv(int64_t value, int64_t unit) { return (value + unit - 1) / unit; }

}  // namespace

MatrixRows matrixRows(const Tensor& matrix, int64_t first, int64_t count) {
  if (matrix.dtype != DType::f32 && matrix.dtype != DType::bf16) {
    throw OpError("unsupported_op", "a matrix of type " + std::to_string(int(matrix.dtype)));
  }
  const int64_t width = matrix.shape[1];
  return {matrix.dtype, matrix.data + first * width * bitsOf(matrix.dtype) / 8, width, count};
}

MatrixRows matrixRows(const Tensor& matrix) { return matrixRows(matrix, 0, matrix.shape[0]); }

void widenRow(Isa isa, const MatrixRows& matrix, int64_t row, int64_t from, int64_t count,
              float* into) {
  const std::byte* at = matrix.data + row * rowBytes(matrix) + from * bitsOf(matrix.dtype) / 8;
  if (matrix.dtype == DType::bf16) {
    widenFor(isa)(reinterpret_cast<const uint16_t*>(at), count, into);
  } else {
    std::memcpy(into, at, static_cast<size_t>(count) * sizeof(float));
  }
}

void dots(Isa isa, const float* const* inputs, int64_t count, const MatrixRows& weights,
          double* sums, int64_t sumsStride) {
  const auto run = [&](const auto* rows) {
    using T = std::remove_cv_t<std::remove_pointer_t<decltype(rows)>>;
    dotsOf(isa, Task<T>{inputs, rows, weights.width, sums, sumsStride}, count, weights.count);
  };
  if (weights.dtype == DType::bf16) return run(reinterpret_cast<const uint16_t*>(weights.data));
  run(reinterpret_cast<const float*>(weights.data));
}

double squareSum(Isa isa, const float* values, int64_t count) {
  double sum = 0;
  squaresFor(isa)(values, count, sum);
  return sum;
}

void dotsInParallel(Context& context, const float* const* inputs, int64_t count,
                    const MatrixRows& weights, bool squares, double* sums, int64_t sumsStride) {
  const int64_t rowChunks = ceilDiv(weights.count, chunkRows);
  const int64_t parts = rowChunks + (squares ? 1 : 0);
  context.pool.parallelFor(ceilDiv(count, chunkInputs) * parts, [&](int64_t chunk, int) {
    const int64_t first = chunk / parts * chunkInputs;
    const int64_t inputsHere = std::min(chunkInputs, count - first);
    double* into = sums + first * sumsStride;
    const int64_t row = chunk % parts * chunkRows;
    if (row >= weights.count) {
      for (int64_t r = 0; r < inputsHere; r++) {
        into[r * sumsStride + weights.count] =
            squareSum(context.isa, inputs[first + r], weights.width);
      }
      return;
    }
    const MatrixRows rows{weights.dtype, weights.data + row * rowBytes(weights), weights.width,
                          std::min(chunkRows, weights.count - row)};
    dots(context.isa, inputs + first, inputsHere, rows, into + row, sumsStride);
  });
}

}  // namespace sluice
