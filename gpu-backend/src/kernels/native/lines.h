#pragma once

#include <cstdint>

#include "cpu.h"

namespace sluice {

/// Asks for cache lines to write to, all at once. Another core has read them in the last step; without
/// this each first write to one would wait until that core has let go of it, one after the other:
/// 10 µs for the inputs of one row of 4096, against 2.5 µs of work.
inline void ownLines(const void* from, int64_t bytes) {
  for (int64_t at = 0; at < bytes; at += 64) {
    const char* line = static_cast<const char*>(from) + at;
#if SLUICE_X86
    asm volatile("prefetchw %0" : : "m"(*line));
#else
    __builtin_prefetch(line, 1);
#endif
  }
}

}  // namespace sluice
