#pragma once

#include <cstdint>

#include "cpu.h"

// Sixteen queries of one position against keys that lie anywhere: what attention and the index do
// most. Queries are the lanes, so that keys are read as they were stored, one value at a time, and
// nothing has to be added across a register.

namespace sluice {

/// Queries, mostly heads of one row, that go through a kernel together.
constexpr int queryGroup = 16;
/// Products summed in one chain before the chain is added to the others.
constexpr int dotRun = 128;

/// Interleaves `count` ≤ 16 queries of `width` values, `stride` apart, to `[width][16]`; zeros fill
/// the places of those that are not there.
void interleaveQueries(const float* queries, int64_t count, int64_t stride, int64_t width,
                       float* into);

/// dots[j][16] = Σ_d queries[d][16]·keys[j][d] for `count` keys: runs of 128 fused multiply-adds,
/// one run's sum after the other. The order depends on nothing else.
using QueryDots = void (*)(const float* queries, int64_t width, const float* const* keys,
                           int64_t count, float* dots);

QueryDots queryDots(Isa isa);

}  // namespace sluice
