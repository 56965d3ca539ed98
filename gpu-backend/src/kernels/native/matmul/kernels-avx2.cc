// AVX2 with FMA and F16C: two registers of eight rows a panel.
//
// Ladder (one thread, one input row, GB/s of weights): float products of FP4 7.8; int8 by maddubs 14.
// FP8 through half precision (shift, mask, vcvtph2ps: exact including subnormals; the factor 2^8
// between the two exponent biases goes into the block's scale), decoded to memory first 6.6, with
// even and odd columns left side by side in a register 12.

#include "../formats.h"
#include "kernels.h"

#if SLUICE_X86

#include <immintrin.h>

namespace sluice {
namespace {

struct Codes {
  /// `[group of four inputs][rows 0–7, rows 8–15]`, doubled values plus 12.
  __m256i group[8][2];
};

SLUICE_AVX2 void decodeRun(const uint8_t* codes, Codes& into) {
  const __m256i table = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
  const __m256i nibble = _mm256_set1_epi8(15);
  for (int i = 0; i < 8; i++) {
    const __m256i packed = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes + i * 32));
    const __m256i low = _mm256_and_si256(packed, nibble);
    const __m256i high = _mm256_and_si256(_mm256_srli_epi16(packed, 4), nibble);
    into.group[i / 2 * 2][i % 2] = _mm256_shuffle_epi8(table, low);
    into.group[i / 2 * 2 + 1][i % 2] = _mm256_shuffle_epi8(table, high);
  }
}

/// Σ over a run of one limb. Four products of two stay below 2^15: 4·2·24·128 = 24,576.
SLUICE_AVX2 void limbSums(const Codes& codes, const int8_t* input, __m256i (&sums)[2]) {
  const __m256i ones = _mm256_set1_epi16(1);
  const int32_t* words = reinterpret_cast<const int32_t*>(input);
  for (int half = 0; half < 2; half++) {
    __m256i sum = _mm256_setzero_si256();
    for (int quarter = 0; quarter < 2; quarter++) {
      __m256i pairs = _mm256_setzero_si256();
      for (int i = quarter * 4; i < quarter * 4 + 4; i++) {
        const __m256i x = _mm256_set1_epi32(words[i]);
        pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(codes.group[i][half], x));
      }
      sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, ones));
    }
    sums[half] = sum;
  }
}

template <int limbs>
SLUICE_AVX2 void addRun(const Codes& codes, const int8_t* input, int32_t start,
                        const __m256 (&scales)[2], float unit, float* into) {
  __m256i whole[2] = {_mm256_set1_epi32(start), _mm256_set1_epi32(start)};
  for (int limb = 0; limb < limbs; limb++) {
    __m256i part[2];
    limbSums(codes, input + limb * fp4Run, part);
    for (int half = 0; half < 2; half++) {
      whole[half] = _mm256_add_epi32(whole[half], _mm256_slli_epi32(part[half], 8 * limb));
    }
  }
  for (int half = 0; half < 2; half++) {
    const __m256 factor = _mm256_mul_ps(scales[half], _mm256_set1_ps(unit));
    const __m256 sum = _mm256_loadu_ps(into + half * 8);
    _mm256_storeu_ps(into + half * 8,
                     _mm256_fmadd_ps(_mm256_cvtepi32_ps(whole[half]), factor, sum));
  }
}

/// 2^(byte − 127) of eight bytes; byte 0 is a subnormal, which the maximum supplies.
SLUICE_AVX2 __m256 scalesOf(const uint8_t* bytes) {
  const __m128i eight = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes));
  const __m256i exponents = _mm256_slli_epi32(_mm256_cvtepu8_epi32(eight), 23);
  return _mm256_castsi256_ps(_mm256_max_epu32(exponents, _mm256_set1_epi32(0x00400000)));
}

void clear(const Tile* tiles, int count, float* sums) {
  for (int t = 0; t < count; t++) {
    for (int i = 0; i < tiles[t].rows * panelRows; i++) *sums++ = 0;
  }
}

template <int limbs>
SLUICE_AVX2 void limbKernel(const Panel& panel, const Tile* tiles, int count, float* sums) {
  clear(tiles, count, sums);
  Codes codes;
  for (int64_t run = 0; run < panel.width / fp4Run; run++) {
    const uint8_t* packed = panel.codes + run * (fp4Run / 2 * panelRows);
    for (int line = 0; line < 4; line++) __builtin_prefetch(packed + 2048 + line * 64);
    decodeRun(packed, codes);
    const __m256 scales[2] = {scalesOf(panel.scales + run * panelRows),
                              scalesOf(panel.scales + run * panelRows + 8)};
    float* into = sums;
    for (int t = 0; t < count; t++) {
      for (int m = 0; m < tiles[t].rows; m++, into += panelRows) {
        const int64_t at = run * tiles[t].rows + m;
        addRun<limbs>(codes, tiles[t].limbs + at * limbs * fp4Run, tiles[t].starts[at], scales,
                      tiles[t].units[at], into);
      }
    }
  }
}

/// Two columns of sixteen rows, an fp32 register of eight rows each.
struct Columns {
  __m256 even[2];
  __m256 odd[2];
};

SLUICE_AVX2 Columns fromHalves(__m256i first, __m256i second) {
  Columns columns;
  const __m256i words[2] = {first, second};
  const __m256i low = _mm256_set1_epi32(0xffff);
  for (int half = 0; half < 2; half++) {
    const __m256i packed = _mm256_permute4x64_epi64(
        _mm256_packus_epi32(_mm256_and_si256(words[half], low), _mm256_srli_epi32(words[half], 16)),
        0xd8);
    columns.even[half] = _mm256_cvtph_ps(_mm256_castsi256_si128(packed));
    columns.odd[half] = _mm256_cvtph_ps(_mm256_extracti128_si256(packed, 1));
  }
  return columns;
}

SLUICE_AVX2 void store(const Columns& columns, float* into) {
  for (int half = 0; half < 2; half++) {
    _mm256_store_ps(into + half * 8, columns.even[half]);
    _mm256_store_ps(into + panelRows + half * 8, columns.odd[half]);
  }
}

/// Four columns of FP8: as halves the codes are 2^-8 of their value.
SLUICE_AVX2 void decodeFp8(const uint8_t* codes, float* into) {
  const __m256i mask = _mm256_set1_epi16(static_cast<int16_t>(0xbfff));
  __m256i rows[4];
  for (int four = 0; four < 4; four++) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + four * 16));
    rows[four] = _mm256_and_si256(_mm256_slli_epi16(_mm256_cvtepi8_epi16(bytes), 7), mask);
  }
  const __m256i first[2] = {_mm256_permute2x128_si256(rows[0], rows[1], 0x20),
                            _mm256_permute2x128_si256(rows[2], rows[3], 0x20)};
  const __m256i second[2] = {_mm256_permute2x128_si256(rows[0], rows[1], 0x31),
                             _mm256_permute2x128_si256(rows[2], rows[3], 0x31)};
  store(fromHalves(first[0], first[1]), into);
  store(fromHalves(second[0], second[1]), into + 2 * panelRows);
}

SLUICE_AVX2 void decodeBf16(const uint8_t* codes, float* into) {
  const __m256i upper = _mm256_set1_epi32(static_cast<int>(0xffff0000));
  for (int pair = 0; pair < 2; pair++) {
    Columns columns;
    for (int half = 0; half < 2; half++) {
      const __m256i words = _mm256_loadu_si256(
          reinterpret_cast<const __m256i*>(codes + pair * 64 + half * 32));
      columns.even[half] = _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
      columns.odd[half] = _mm256_castsi256_ps(_mm256_and_si256(words, upper));
    }
    store(columns, into + pair * 2 * panelRows);
  }
}

/// Columns `from … from + width − 1` as fp32 `[width][16]`.
SLUICE_AVX2 const float* decodeBlock(const Panel& panel, int64_t from, int width, float* into) {
  const int64_t bytes = bitsOf(panel.dtype) / 8 * panelRows;
  const uint8_t* codes = panel.codes + from * bytes;
  if (panel.dtype == DType::f32) return reinterpret_cast<const float*>(codes);
  for (int k = 0; k < width; k += 4) {
    __builtin_prefetch(codes + k * bytes + 2048);
    if (panel.dtype == DType::bf16) {
      decodeBf16(codes + k * bytes, into + k * panelRows);
    } else {
      decodeFp8(codes + k * bytes, into + k * panelRows);
    }
  }
  return into;
}

/// Adds one block for `rows` input rows: all even columns, then all odd ones, since sums of both
/// would not fit into registers.
template <int rows>
SLUICE_AVX2 void addBlock(const float* weights, int width, const float* input, int stride,
                          float scale, float* into) {
  __m256 even[rows][2];
  __m256 sums[rows][2];
  for (int parity = 0; parity < 2; parity++) {
    for (auto& row : sums) row[0] = row[1] = _mm256_setzero_ps();
    for (int k = parity; k < width; k += 2) {
      const __m256 low = _mm256_loadu_ps(weights + k * panelRows);
      const __m256 high = _mm256_loadu_ps(weights + k * panelRows + 8);
#pragma GCC unroll 6
      for (int m = 0; m < rows; m++) {
        const __m256 x = _mm256_set1_ps(input[k * stride + m]);
        sums[m][0] = _mm256_fmadd_ps(low, x, sums[m][0]);
        sums[m][1] = _mm256_fmadd_ps(high, x, sums[m][1]);
      }
    }
    if (parity == 1) break;
    for (int m = 0; m < rows; m++) {
      even[m][0] = sums[m][0];
      even[m][1] = sums[m][1];
    }
  }
  for (int m = 0; m < rows; m++) {
    for (int half = 0; half < 2; half++) {
      const __m256 sum = _mm256_add_ps(even[m][half], sums[m][half]);
      float* target = into + m * panelRows + half * 8;
      _mm256_storeu_ps(target, _mm256_fmadd_ps(sum, _mm256_set1_ps(scale), _mm256_loadu_ps(target)));
    }
  }
}

/// One FP8 block for one input row. A register holds even and odd columns of four rows side by side,
/// so the two chains are neighbouring lanes, added at the end.
SLUICE_AVX2 void addFp8Block(const uint8_t* codes, int width, const float* input, float scale,
                             float* into) {
  const __m256i mask = _mm256_set1_epi16(static_cast<int16_t>(0xbfff));
  __m256 chains[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(),
                      _mm256_setzero_ps()};
  for (int k = 0; k < width; k += 4, codes += 64) {
    __builtin_prefetch(codes + 2048);
    const __m256 first = _mm256_castpd_ps(_mm256_broadcast_sd(reinterpret_cast<const double*>(input + k)));
    const __m256 second =
        _mm256_castpd_ps(_mm256_broadcast_sd(reinterpret_cast<const double*>(input + k + 2)));
#pragma GCC unroll 4
    for (int four = 0; four < 4; four++) {
      const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + four * 16));
      const __m256i halves =
          _mm256_and_si256(_mm256_slli_epi16(_mm256_cvtepi8_epi16(bytes), 7), mask);
      const __m256 columns01 = _mm256_cvtph_ps(_mm256_castsi256_si128(halves));
      const __m256 columns23 = _mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1));
      chains[four] = _mm256_fmadd_ps(columns01, first, chains[four]);
      chains[four] = _mm256_fmadd_ps(columns23, second, chains[four]);
    }
  }
  for (int half = 0; half < 2; half++) {
    // Sums of neighbours come out as rows 0 1 4 5 2 3 6 7.
    const __m256 mixed = _mm256_hadd_ps(chains[half * 2], chains[half * 2 + 1]);
    const __m256 sum =
        _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(mixed), 0xd8));
    float* target = into + half * 8;
    _mm256_storeu_ps(target, _mm256_fmadd_ps(sum, _mm256_set1_ps(scale), _mm256_loadu_ps(target)));
  }
}

/// One bf16 block for one input row.
SLUICE_AVX2 void addBf16Block(const uint8_t* codes, int width, const float* input, float* into) {
  const __m256i upper = _mm256_set1_epi32(static_cast<int>(0xffff0000));
  __m256 even[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
  __m256 odd[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
  for (int k = 0; k < width; k += 2, codes += 64) {
    __builtin_prefetch(codes + 2048);
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
      const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes + half * 32));
      const __m256 first = _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
      const __m256 second = _mm256_castsi256_ps(_mm256_and_si256(words, upper));
      even[half] = _mm256_fmadd_ps(first, _mm256_set1_ps(input[k]), even[half]);
      odd[half] = _mm256_fmadd_ps(second, _mm256_set1_ps(input[k + 1]), odd[half]);
    }
  }
  for (int half = 0; half < 2; half++) {
    float* target = into + half * 8;
    const __m256 sum = _mm256_add_ps(even[half], odd[half]);
    _mm256_storeu_ps(target, _mm256_add_ps(sum, _mm256_loadu_ps(target)));
  }
}

SLUICE_AVX2 void addTile(const float* weights, int64_t from, int width, const Tile& tile,
                         float scale, float* into) {
  const float* input = tile.floats + from * tile.rows;
  int m = 0;
  for (; m + 6 <= tile.rows; m += 6) {
    addBlock<6>(weights, width, input + m, tile.rows, scale, into + m * panelRows);
  }
  for (; m + 3 <= tile.rows; m += 3) {
    addBlock<3>(weights, width, input + m, tile.rows, scale, into + m * panelRows);
  }
  float* rest = into + m * panelRows;
  if (tile.rows - m == 2) addBlock<2>(weights, width, input + m, tile.rows, scale, rest);
  if (tile.rows - m == 1) addBlock<1>(weights, width, input + m, tile.rows, scale, rest);
}

/// One block for one input row, without decoding it to memory where there is anything to decode.
SLUICE_AVX2 void addRow(const Panel& panel, int64_t from, int width, const Tile& tile, float unit,
                        float* into) {
  const float* input = tile.floats + from;
  const uint8_t* codes = panel.codes + from * bitsOf(panel.dtype) / 8 * panelRows;
  switch (panel.dtype) {
    case DType::f8e4m3:
      return addFp8Block(codes, width, input, unit, into);
    case DType::bf16:
      return addBf16Block(codes, width, input, into);
    default:
      return addBlock<1>(reinterpret_cast<const float*>(codes), width, input, 1, unit, into);
  }
}

SLUICE_AVX2 void floatKernel(const Panel& panel, const Tile* tiles, int count, float* sums) {
  clear(tiles, count, sums);
  const bool oneRow = count == 1 && tiles[0].rows == 1;
  alignas(32) float decoded[blockWidth * panelRows];
  for (int64_t from = 0; from < panel.width; from += blockWidth) {
    const int64_t left = panel.width - from;
    const int width = static_cast<int>(left < blockWidth ? left : blockWidth);
    const float scale = panel.scales == nullptr ? 1.0f : fromE8m0(panel.scales[from / fp8Tile]);
    const float unit = panel.dtype == DType::f8e4m3 ? 256.0f * scale : scale;
    if (oneRow) {
      addRow(panel, from, width, tiles[0], unit, sums);
      continue;
    }
    const float* weights = decodeBlock(panel, from, width, decoded);
    float* into = sums;
    for (int t = 0; t < count; t++) {
      addTile(weights, from, width, tiles[t], unit, into);
      into += tiles[t].rows * panelRows;
    }
  }
}

}  // namespace

KernelSet avx2Kernels() { return {limbKernel<1>, limbKernel<3>, floatKernel, nullptr}; }

}  // namespace sluice

#endif
