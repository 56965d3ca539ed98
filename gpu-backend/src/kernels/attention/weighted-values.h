#pragma once

#include <cstdint>

#include "../native/cpu.h"

namespace sluice {

/// Keys of a block: 256 KiB of them at 512, which the second-level cache keeps between the two
/// products.
constexpr int64_t blockKeys = 128;
/// Heads' sums lie a multiple of this apart: whole tiles of columns in every instruction set.
constexpr int64_t strideUnit = 16;

/// sums[head·stride + d] = Σ_j weights[j][head]·values[j][d] for `count` ≤ blockKeys values, in one
/// chain of fused multiply-adds. Tiles that are not full are written whole: up to fifteen heads and
/// columns more than there are mean nothing.
using WeightedValues = void (*)(const float* weights, const float* const* values, int64_t count,
                                int64_t heads, int64_t width, float* sums, int64_t stride);

WeightedValues weightedValues(Isa isa);

}  // namespace sluice
