#include "query-dots.h"

#include "vectors.h"

#if SLUICE_X86
#define SLUICE_VECTORS avx512
#define SLUICE_TARGET SLUICE_AVX512
#include "query-dots-kernel.h"
#undef SLUICE_VECTORS
#undef SLUICE_TARGET
#define SLUICE_VECTORS avx2
#define SLUICE_TARGET SLUICE_AVX2
#include "query-dots-kernel.h"
#undef SLUICE_VECTORS
#undef SLUICE_TARGET
#endif
#define SLUICE_VECTORS portable
#define SLUICE_TARGET
#include "query-dots-kernel.h"

namespace sluice {

void interleaveQueries(const float* queries, int64_t count, int64_t stride, int64_t width,
                       float* into) {
  for (int64_t d = 0; d < width; d++) {
    for (int64_t q = 0; q < queryGroup; q++) {
      into[d * queryGroup + q] = q < count ? queries[q * stride + d] : 0.0f;
    }
  }
}

QueryDots queryDots(Isa isa) {
#if SLUICE_X86
  if (isa >= Isa::avx512) return &avx512::queryDots;
  if (isa >= Isa::avx2) return &avx2::queryDots;
#endif
  (void)isa;
  return &portable::queryDots;
}

}  // namespace sluice
