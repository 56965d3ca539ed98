#pragma once

#include <cstdint>

#include "../native/cpu.h"

namespace sluice {

/// Keys scored together.
constexpr int64_t chunkKeys = 64;

/// scores[j] = Σ_h weights[h]·max(0, dots[h][j]) for `count` ≤ chunkKeys keys, as `orderedBits`;
/// dots `[groups][chunkKeys][16]`, weights `[groups][16]`.
using WeighMatches = void (*)(const float* dots, const float* weights, int64_t groups,
                              int64_t count, uint32_t* scores);

WeighMatches weighMatches(Isa isa);

}  // namespace sluice
