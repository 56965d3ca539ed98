#pragma once

#include "formats.h"

#ifndef __CUDACC__
#include "simt/async.h"
#endif

// Hopper's tensor cores at FP8 and the copy engine that feeds them (sm_90a alone), or their stand-ins on
// the host (`simt/async.h`).
//
// A product is begun by a warpgroup, four warps on 64 rows of A, and is not there before it was waited
// for: warp w and lane 4g + t hold rows 16w + g (d[4j], d[4j + 1]) and 16w + g + 8 (d[4j + 2],
// d[4j + 3]) of columns 8j + 2t and 8j + 2t + 1. Of A from registers it holds bytes 4t … 4t + 3 (a0, a1)
// and 16 + 4t … (a2, a3) of the same two rows. Factors in shared memory lie with their columns as rows
// of 128 bytes, 16-byte chunks exchanged within eight rows as the copy engine does it.
//
// These sums are narrow: products are added to about 13 bits below the largest of them, so that a
// kernel takes them out into fp32 after every 128 columns.

#if defined(__CUDACC__) && defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define SLUICE_HOPPER 1
#elif !defined(__CUDACC__)
#define SLUICE_HOPPER 1
#else
#define SLUICE_HOPPER 0
#endif

namespace sluice {

/// Where a matrix lies and which part of it a copy takes, as the driver wrote it down.
struct alignas(64) TensorMap {
  uint64_t words[16];
};

/// Rows and bytes a row of the parts of matrices that are brought together.
constexpr int tileRows = 128;
constexpr int tileBytes = 128;
/// To which tiles in shared memory are aligned: eight rows.
constexpr uint32_t tileAlignment = 8 * tileBytes;

/// A tile in shared memory as products take it; `+ 2` is 32 columns on.
SLUICE_DEVICE uint64_t tileDescriptor(uint32_t address) {
  constexpr uint64_t swizzle128 = uint64_t{1} << 62;
  constexpr uint64_t eightRows = uint64_t{tileAlignment >> 4} << 32;
  constexpr uint64_t unused = uint64_t{1} << 16;
  return swizzle128 | eightRows | unused | ((address & 0x3ffffu) >> 4);
}

#if SLUICE_HOPPER
#ifdef __CUDACC__

SLUICE_DEVICE uint32_t sharedAddress(const void* at) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(at));
}

/// A barrier of 64 bits in shared memory, in phases: one ends when all have arrived and all bytes that
/// were announced have come. Waiting is for the end of the phase of this parity; the first is 0.
struct PhaseBarrier {
  uint32_t address;

  SLUICE_DEVICE void begin(uint32_t arrivals) const {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(address), "r"(arrivals) : "memory");
  }

  SLUICE_DEVICE void arrive() const {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(address) : "memory");
  }

  SLUICE_DEVICE void arriveExpecting(uint32_t bytes) const {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(address), "r"(bytes)
                 : "memory");
  }

  SLUICE_DEVICE void wait(uint32_t parity) const {
    uint32_t ended = 0;
    while (ended == 0) {
      asm volatile(
          "{\n.reg .pred p;\n"
          "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
          "selp.b32 %0, 1, 0, p;\n}\n"
          : "=r"(ended)
          : "r"(address), "r"(parity)
          : "memory");
    }
  }
};

/// Makes barriers just begun known to the copy engine; before the block's barrier.
SLUICE_DEVICE void fencePhaseBarriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

/// Begins to bring the tile from `column` and `row` on; elements beyond the matrix are zeros.
SLUICE_DEVICE void copyTile(uint32_t into, const TensorMap& map, int column, int row,
                            PhaseBarrier barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%2, %3}], [%4];" ::"r"(into),
      "l"(&map), "r"(column), "r"(row), "r"(barrier.address)
      : "memory");
}

/// Before the first product, and whenever registers of products were touched.
SLUICE_DEVICE void fenceProducts() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

/// The same where A comes from registers: all of them are written before it, not between the products.
SLUICE_DEVICE void fenceProducts(uint32_t (&a)[4][4]) {
#pragma unroll
  for (int k = 0; k < 4; k++) {
#pragma unroll
    for (int i = 0; i < 4; i++) asm volatile("" : "+r"(a[k][i])::"memory");
  }
  fenceProducts();
}

/// d = A·B, or with `keep` d + A·B, both factors from shared memory: 64×128 over 32 columns.
SLUICE_DEVICE void beginProduct(float (&d)[64], uint64_t a, uint64_t b, bool keep) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, "
      "%8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, "
      "%24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, "
      "%40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, "
      "%56, %57, %58, %59, %60, %61, %62, %63"
      "}, %64, %65, p, 1, 1;\n}\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]),
        "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
        "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]),
        "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
        "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]),
        "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
        "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]),
        "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]),
        "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]),
        "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]),
        "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]),
        "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),
        "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]),
        "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]),
        "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]),
        "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
      : "l"(a), "l"(b), "r"(static_cast<int>(keep)));
}

/// The same for 64×48 with this thread's part of A in registers.
SLUICE_DEVICE void beginProduct(float (&d)[24], const uint32_t (&a)[4], uint64_t b, bool keep) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %29, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n48k32.f32.e4m3.e4m3 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, "
      "%8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23"
      "}, {%24, %25, %26, %27}, %28, p, 1, 1;\n}\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]),
        "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
        "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]),
        "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
        "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]),
        "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(keep)));
}

/// What was begun since the last time is one group.
SLUICE_DEVICE void commitProducts() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/// Waits for all groups; `d` may be read from here on, which the compiler has to be told.
template <int count>
SLUICE_DEVICE void awaitProducts(float (&d)[count]) {
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#pragma unroll
  for (int i = 0; i < count; i++) asm volatile("" : "+f"(d[i])::"memory");
}

#else

SLUICE_DEVICE uint32_t sharedAddress(const void* at) { return simt::sharedAddress(at); }

struct PhaseBarrier {
  uint32_t address;

  SLUICE_DEVICE void begin(uint32_t arrivals) const { simt::phaseBegin(address, arrivals); }
  SLUICE_DEVICE void arrive() const { simt::phaseArrive(address, 0); }
  SLUICE_DEVICE void arriveExpecting(uint32_t bytes) const { simt::phaseArrive(address, bytes); }
  SLUICE_DEVICE void wait(uint32_t parity) const { simt::phaseWait(address, parity); }
};

SLUICE_DEVICE void fencePhaseBarriers() { simt::phaseFence(); }
SLUICE_DEVICE void copyTile(uint32_t into, const TensorMap& map, int column, int row,
                            PhaseBarrier barrier) {
  simt::copyTile(into, map.words, column, row, barrier.address);
}
SLUICE_DEVICE void fenceProducts() { simt::productFence(); }
SLUICE_DEVICE void fenceProducts(uint32_t (&)[4][4]) { simt::productFence(); }
template <int count>
SLUICE_DEVICE void beginProduct(float (&d)[count], uint64_t a, uint64_t b, bool keep) {
  simt::productBegin({d, count / 4 * 8, a, nullptr, b, keep});
}
template <int count>
SLUICE_DEVICE void beginProduct(float (&d)[count], const uint32_t (&a)[4], uint64_t b, bool keep) {
  simt::productBegin({d, count / 4 * 8, 0, a, b, keep});
}
SLUICE_DEVICE void commitProducts() { simt::productCommit(); }
template <int count>
SLUICE_DEVICE void awaitProducts(float (&)[count]) {
  simt::productWait();
}

#endif
#endif

}  // namespace sluice
