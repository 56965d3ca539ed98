#pragma once

// What every kernel includes: CUDA's device code, or its stand-in for the host. Kernels take one struct
// by value and only dynamic shared memory, use nothing of a runtime library, and count on float sums
// being taken in the order they are written; products and sums may fuse.

#ifdef __CUDACC__

#include <cstdint>

/// The kernel `name(const Args args)`, launched with at most `threads` threads a block, of which a
/// multiprocessor has room for `blocks` at once.
#define SLUICE_KERNEL(name, Args, threads, blocks)              \
  extern "C" __global__ void __launch_bounds__(threads, blocks) \
      name(const __grid_constant__ Args args)

#define SLUICE_DYNAMIC_SHARED(name) extern __shared__ __align__(128) unsigned char name[]

#else

#include "simt/simt.h"

#endif

#define SLUICE_DEVICE __device__ __forceinline__

namespace sluice {

constexpr unsigned allLanes = 0xffffffffu;

SLUICE_DEVICE int laneOf() { return static_cast<int>(threadIdx.x & 31); }
SLUICE_DEVICE int warpOf() { return static_cast<int>(threadIdx.x >> 5); }

}  // namespace sluice
