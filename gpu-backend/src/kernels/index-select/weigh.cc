#include "weigh.h"

#include "../native/query-dots.h"
#include "../native/vectors.h"
#include "pick-largest.h"

#if SLUICE_X86
#define SLUICE_VECTORS avx512
#define SLUICE_TARGET SLUICE_AVX512
#include "weigh-kernel.h"
#undef SLUICE_VECTORS
#undef SLUICE_TARGET
#define SLUICE_VECTORS avx2
#define SLUICE_TARGET SLUICE_AVX2
#include "weigh-kernel.h"
#undef SLUICE_VECTORS
#undef SLUICE_TARGET
#endif
#define SLUICE_VECTORS portable
#define SLUICE_TARGET
#include "weigh-kernel.h"

namespace sluice {

WeighMatches weighMatches(Isa isa) {
#if SLUICE_X86
  if (isa >= Isa::avx512) return &avx512::weighMatches;
  if (isa >= Isa::avx2) return &avx2::weighMatches;
#endif
  (void)isa;
  return &portable::weighMatches;
}

}  // namespace sluice
