#pragma once

// CUDA's device code under a host compiler: a block runs on the calling thread, its threads as fibers
// that give way at barriers and warp exchanges, blocks one after the other. What a kernel may use is
// what stands here; `platform.h` chooses between this and the real thing.
//
// Seen: wrong results, reads of shared memory nobody wrote (NaN), a barrier not all threads reach,
// writes behind the block's shared memory, and under a sanitizer out-of-bounds accesses and accesses
// that no barrier orders. Not seen: speed, bank conflicts, weak memory between blocks.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "../../../device/cuda/testing/simt-abi.h"

#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __restrict__ __restrict

/// What the thread sanitizer does not look at: the runtime's own doings, which one thread does at a time.
#if defined(__SANITIZE_THREAD__)
#define SLUICE_UNSEEN __attribute__((no_sanitize("thread")))
#else
#define SLUICE_UNSEEN
#endif

struct dim3 {
  unsigned x, y, z;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};

namespace simt {

constexpr int warpSize = 32;
/// Words a lane brings to an exchange or takes from it.
constexpr int exchangeWords = 12;

using Words = uint32_t[exchangeWords];
/// Runs once all lanes of `mask` have come; reads what they brought, writes what they take.
using Exchange = void (*)(uint32_t mask, const Words* in, Words* out);

struct Thread {
  dim3 index;
  int number;
};

extern Thread* current;
extern dim3 blockIndex;
extern dim3 blockExtent;
extern dim3 gridExtent;
extern unsigned char* sharedMemory;

void barrier();
/// Meets the other lanes of `mask`; `in` and `out` have `exchangeWords` words.
void meet(uint32_t mask, Exchange exchange, const uint32_t* in, uint32_t* out);
/// Memory order of `__syncwarp`, which shuffles do not give.
void meetInOrder(uint32_t mask);
/// Runs `body` for every thread of every block.
void run(const SluiceSimtLaunch* launch, void (*body)(void** params), int threadsMax);
[[noreturn]] void fail(const char* what);

void shuffle(uint32_t mask, const Words* in, Words* out);
void ballot(uint32_t mask, const Words* in, Words* out);

template <class T>
inline T shuffled(uint32_t mask, T value, int lane) {
  static_assert(sizeof(T) == 4);
  uint32_t in[exchangeWords];
  uint32_t out[exchangeWords];
  std::memcpy(in, &value, 4);
  in[1] = static_cast<uint32_t>(lane & (warpSize - 1));
  meet(mask, shuffle, in, out);
  T result;
  std::memcpy(&result, out, 4);
  return result;
}

inline int laneId() { return current->number & (warpSize - 1); }

}  // namespace simt

#define threadIdx (simt::current->index)
#define blockIdx (simt::blockIndex)
#define blockDim (simt::blockExtent)
#define gridDim (simt::gridExtent)

inline void __syncthreads() { simt::barrier(); }
inline void __syncwarp(uint32_t mask = 0xffffffffu) { simt::meetInOrder(mask); }

template <class T>
inline T __shfl_sync(uint32_t mask, T value, int lane) {
  return simt::shuffled(mask, value, lane);
}
template <class T>
inline T __shfl_xor_sync(uint32_t mask, T value, int distance) {
  return simt::shuffled(mask, value, simt::laneId() ^ distance);
}
/// A lane without one so far above it keeps its own value.
template <class T>
inline T __shfl_up_sync(uint32_t mask, T value, unsigned distance) {
  const int from = simt::laneId() - static_cast<int>(distance);
  return simt::shuffled(mask, value, from < 0 ? simt::laneId() : from);
}
inline uint32_t __ballot_sync(uint32_t mask, int predicate) {
  uint32_t in[simt::exchangeWords] = {predicate != 0};
  uint32_t out[simt::exchangeWords];
  simt::meet(mask, simt::ballot, in, out);
  return out[0];
}

inline unsigned atomicAdd(unsigned* at, unsigned value) {
  return __atomic_fetch_add(at, value, __ATOMIC_ACQ_REL);
}
inline unsigned atomicInc(unsigned* at, unsigned last) {
  unsigned old = __atomic_load_n(at, __ATOMIC_ACQUIRE);
  while (!__atomic_compare_exchange_n(at, &old, old >= last ? 0 : old + 1, false, __ATOMIC_ACQ_REL,
                                      __ATOMIC_ACQUIRE)) {
  }
  return old;
}
inline void __threadfence() {}

/// Bytes of two words, by four selectors of four bits; the upper one of a selector is not known here.
inline uint32_t __byte_perm(uint32_t low, uint32_t high, uint32_t selectors) {
  const uint64_t bytes = uint64_t{high} << 32 | low;
  uint32_t picked = 0;
  for (int i = 0; i < 4; i++) {
    picked |= static_cast<uint32_t>(bytes >> (selectors >> 4 * i & 7) * 8 & 255) << 8 * i;
  }
  return picked;
}
inline int __popc(uint32_t bits) { return __builtin_popcount(bits); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline void sincosf(float x, float* sine, float* cosine) {
  *sine = std::sin(x);
  *cosine = std::cos(x);
}
using std::fabs;
inline float fmaxf(float a, float b) { return std::fmax(a, b); }
inline float fminf(float a, float b) { return std::fmin(a, b); }
inline uint32_t __float_as_uint(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}
inline float __uint_as_float(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

#define SLUICE_EXPORTED __attribute__((visibility("default")))

/// The kernel `name(const Args args)` and what the fake driver calls it by. Its body follows.
#define SLUICE_KERNEL(name, Args, threads, blocks)                                           \
  static void name##Body(const Args& args);                                                  \
  extern "C" {                                                                               \
  SLUICE_EXPORTED extern const SluiceSimtParams sluice_simt_##name##_params;                 \
  const SluiceSimtParams sluice_simt_##name##_params = {1, {sizeof(Args)}, 0, threads};      \
  SLUICE_EXPORTED void sluice_simt_##name(const SluiceSimtLaunch* launch);                   \
  void sluice_simt_##name(const SluiceSimtLaunch* launch) {                                  \
    simt::run(                                                                               \
        launch, [](void** params) { name##Body(*static_cast<const Args*>(params[0])); },     \
        threads);                                                                            \
  }                                                                                          \
  }                                                                                          \
  static void name##Body([[maybe_unused]] const Args& args)

#define SLUICE_DYNAMIC_SHARED(name) unsigned char* const name = simt::sharedMemory
