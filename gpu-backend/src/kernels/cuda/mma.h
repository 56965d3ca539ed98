#pragma once

#include "formats.h"

// The tensor cores' product of bfloat16 in fp32, by fragments: a warp's 16×8 tile C += A[16×16]·B[16×8].
// With g = lane ÷ 4 and t = lane mod 4 a lane holds
//   a0 (row g, columns 2t, 2t+1)  a1 (row g+8, same)  a2 (row g, columns 2t+8, 2t+9)  a3 (row g+8, same)
//   b0 (rows 2t, 2t+1, column g)  b1 (rows 2t+8, 2t+9, column g)
//   c0, c1 (row g, columns 2t, 2t+1)  c2, c3 (row g+8, same).
// Which columns of A meet which rows of B is all the same as long as both agree.

namespace sluice {

#ifdef __CUDACC__

SLUICE_DEVICE void mmaBf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/// Of sixteen rows of shared memory, `stride` apart and 16-byte aligned, sixteen columns from `at` on, as
/// two fragments B: the first eight columns in r0 and r1, the others in r2 and r3.
SLUICE_DEVICE void loadColumns(uint32_t (&r)[4], const uint16_t* at, int stride) {
  const int lane = laneOf();
  const uint16_t* const row = at + lane % 16 * stride + lane / 16 * 8;
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

#else

SLUICE_DEVICE void loadColumns(uint32_t (&r)[4], const uint16_t* at, int stride) {
  const uint16_t* const first = at + 2 * (laneOf() % 4) * stride + laneOf() / 4;
  for (int i = 0; i < 4; i++) {
    const uint16_t* const from = first + i % 2 * 8 * stride + i / 2 * 8;
    r[i] = from[0] | uint32_t{from[stride]} << 16;
  }
}

/// Puts the lanes' fragments together, multiplies, and hands the tile out again.
SLUICE_UNSEEN inline void mmaExchange(uint32_t mask, const simt::Words* in, simt::Words* out) {
  if (mask != allLanes) simt::fail("mma without all lanes of its warp");
  float a[16][16];
  float b[16][8];
  float c[16][8];
  for (int lane = 0; lane < 32; lane++) {
    const int g = lane / 4;
    const int t = lane % 4;
    const uint32_t* words = in[lane];
    for (int i = 0; i < 4; i++) {
      float* const row = a[g + 8 * (i % 2)];
      const int column = 2 * t + 8 * (i / 2);
      row[column] = fromBf16(words[i] & 0xffffu);
      row[column + 1] = fromBf16(words[i] >> 16);
      c[g + 8 * (i / 2)][2 * t + i % 2] = __uint_as_float(words[6 + i]);
    }
    for (int i = 0; i < 2; i++) {
      const int row = 2 * t + 8 * i;
      b[row][g] = fromBf16(words[4 + i] & 0xffffu);
      b[row + 1][g] = fromBf16(words[4 + i] >> 16);
    }
  }
  for (int row = 0; row < 16; row++) {
    for (int k = 0; k < 16; k++) {
      for (int column = 0; column < 8; column++) c[row][column] += a[row][k] * b[k][column];
    }
  }
  for (int lane = 0; lane < 32; lane++) {
    for (int i = 0; i < 4; i++) {
      out[lane][i] = __float_as_uint(c[lane / 4 + 8 * (i / 2)][2 * (lane % 4) + i % 2]);
    }
  }
}

SLUICE_DEVICE void mmaBf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  uint32_t in[simt::exchangeWords] = {a[0], a[1], a[2], a[3], b[0], b[1]};
  uint32_t out[simt::exchangeWords];
  for (int i = 0; i < 4; i++) in[6 + i] = __float_as_uint(c[i]);
  simt::meet(allLanes, mmaExchange, in, out);
  for (int i = 0; i < 4; i++) c[i] = __uint_as_float(out[i]);
}

#endif

}  // namespace sluice
