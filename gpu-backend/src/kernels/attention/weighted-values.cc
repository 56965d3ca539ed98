#include "weighted-values.h"

#include "../native/query-dots.h"
#include "../native/vectors.h"

#if SLUICE_X86
#define SLUICE_VECTORS avx512
#define SLUICE_TARGET SLUICE_AVX512
#include "weighted-values-kernel.h"
#undef SLUICE_VECTORS
#undef SLUICE_TARGET
#define SLUICE_VECTORS avx2
#define SLUICE_TARGET SLUICE_AVX2
#include "weighted-values-kernel.h"
#undef SLUICE_VECTORS
#undef SLUICE_TARGET
#endif
#define SLUICE_VECTORS portable
#define SLUICE_TARGET
#include "weighted-values-kernel.h"

namespace sluice {

WeightedValues weightedValues(Isa isa) {
#if SLUICE_X86
  if (isa >= Isa::avx512) return &avx512::weightedValues;
  if (isa >= Isa::avx2) return &avx2::weightedValues;
#endif
  (void)isa;
  return &portable::weightedValues;
}

}  // namespace sluice
