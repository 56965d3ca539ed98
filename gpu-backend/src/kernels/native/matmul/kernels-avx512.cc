// AVX-512 with VBMI, VNNI and, where there is one, the bfloat16 dot product: one register holds a
// panel's sixteen rows.
//
// Ladder. One thread of a Zen 4, medians of ratios taken side by side.
// One input row, share of the read bandwidth:
//   FP4, rows one after the other, four side by side                            0.31
//   FP4, rows one after the other, vpdpbusd, prefetch                           0.57
//   FP4 in panels: one stream; nibbles by vpermb, which needs no mask           0.85
//   without looking for extreme scales first, scales prefetched                 0.89
//   the same with three limbs (22-bit inputs)                                   0.70
//   the same, two or four runs interleaved: lines out of order lose the prefetcher 0.78, 0.50
//   every other line prefetched                                                 0.59
//   FP8 by half precision (vcvtph2ps)                                           0.60
//   FP8 by look-up of both bytes of a bfloat16 (vpermi2b), fp32 products        0.72
//   the same with bfloat16 products                                             0.87
//   prefetched into the second-level cache                                      0.95
// Sixteen input rows and more, share of the vpdpbusd peak (bfloat16 has half, fp32 a quarter of it):
//   FP4, a run's codes decoded once for sixteen rows                            0.59
//   inputs as memory operands: the compiler broadcasts them one by one          0.72
//   exponents added, not multiplied: the multipliers are left to dot products   0.79
//   four rows' chains interleaved                                               0.82
//   FP4 with three limbs (at most 0.33)                                         0.30
//   FP8 decoded to memory once for all rows, a chain at a time, bfloat16 / fp32 0.34 / 0.20
//   FP8 decoded again for every eight rows, two chains in registers             0.42 / 0.22

#include "../formats.h"
#include "kernels.h"

#if SLUICE_X86

#include <immintrin.h>

#include <algorithm>

namespace sluice {
namespace {

SLUICE_AVX512 inline __m512i load(const void* at) { return _mm512_loadu_si512(at); }

/// Doubled values plus 12 of all sixteen codes, four times over: vpermb looks at six bits, so the
/// neighbour's two lower bits need not be masked away.
SLUICE_AVX512 inline __m512i fp4Table() {
  return _mm512_broadcast_i32x4(
      _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
}

/// A run's doubled codes: register i meets inputs 4·i … 4·i + 3.
SLUICE_AVX512 inline void decodeRun(const uint8_t* packed, __m512i table, __m512i (&codes)[8]) {
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    const __m512i bytes = load(packed + 64 * i);
    __builtin_prefetch(packed + 64 * i + 8192);
    codes[2 * i] = _mm512_permutexvar_epi8(bytes, table);
    codes[2 * i + 1] = _mm512_permutexvar_epi8(_mm512_srli_epi16(bytes, 4), table);
  }
}

/// How a run's scale and an input's unit become one factor.
enum class Scaling {
  /// Their product.
  multiply,
  /// The unit with the scale's exponent added: the same bits as long as nothing leaves the range of
  /// normal numbers.
  addExponents,
};

/// Factors of both kinds of exponent whose sum stays a normal number.
constexpr int exponentMin = 127 - unitExponentMax;
constexpr int exponentMax = 127 + unitExponentMax;

/// Sixteen scales, as floats or as what is to be added to a float's bits.
template <Scaling scaling>
SLUICE_AVX512 inline __m512i scalesOf(const uint8_t* bytes) {
  const __m128i sixteen = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes));
  const __m512i exponents = _mm512_slli_epi32(_mm512_cvtepu8_epi32(sixteen), 23);
  if constexpr (scaling == Scaling::addExponents) {
    return _mm512_sub_epi32(exponents, _mm512_set1_epi32(127 << 23));
  }
  // Byte 0 is a subnormal, which the maximum supplies.
  return _mm512_max_epu32(exponents, _mm512_set1_epi32(0x00400000));
}

template <Scaling scaling>
SLUICE_AVX512 inline __m512 factorOf(__m512i scales, const float* unit) {
  if constexpr (scaling == Scaling::addExponents) {
    const __m512i bits = _mm512_set1_epi32(*reinterpret_cast<const int32_t*>(unit));
    return _mm512_castsi512_ps(_mm512_add_epi32(scales, bits));
  }
  return _mm512_mul_ps(_mm512_castsi512_ps(scales), _mm512_set1_ps(*unit));
}

/// Four inputs against sixteen rows. Written out because the compiler would load the inputs with an
/// instruction of its own.
SLUICE_AVX512 inline void dotOnto(__m512i& sum, __m512i codes, const int32_t* inputs) {
  asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(codes), "m"(*inputs));
}

/// What the rows of one FP4 kernel call share: where a run's inputs lie.
struct RunInputs {
  const int8_t* limbs;
  const int32_t* starts;
  const float* units;
};

/// One run for `rows` input rows, side by side: one alone would wait for each of its own additions.
template <int limbs, int rows, Scaling scaling>
SLUICE_AVX512 inline void addRun(const __m512i (&codes)[8], __m512i scales, const RunInputs& inputs,
                                 __m512* total) {
  __m512i sum[rows > 0 ? rows : 1][limbs];
#pragma GCC unroll 4
  for (int m = 0; m < rows; m++) {
    sum[m][0] = _mm512_set1_epi32(inputs.starts[m]);
    for (int limb = 1; limb < limbs; limb++) sum[m][limb] = _mm512_setzero_si512();
  }
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) {
#pragma GCC unroll 4
    for (int m = 0; m < rows; m++) {
      const int32_t* words = reinterpret_cast<const int32_t*>(inputs.limbs + m * limbs * fp4Run);
#pragma GCC unroll 3
      for (int limb = 0; limb < limbs; limb++) dotOnto(sum[m][limb], codes[i], words + limb * 8 + i);
    }
  }
#pragma GCC unroll 4
  for (int m = 0; m < rows; m++) {
    __m512i whole = sum[m][0];
    if constexpr (limbs == 3) {
      const __m512i middle = _mm512_slli_epi32(sum[m][1], 8);
      whole = _mm512_add_epi32(_mm512_add_epi32(whole, middle), _mm512_slli_epi32(sum[m][2], 16));
    }
    const __m512 factor = factorOf<scaling>(scales, inputs.units + m);
    total[m] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(whole), factor, total[m]);
  }
}

/// `rows` rows of a tile from `from` on.
template <int limbs, int rows, Scaling scaling>
SLUICE_AVX512 void limbRows(const Panel& panel, const Tile& tile, int from, float* sums) {
  constexpr int together = limbs == 1 ? 4 : 1;
  const __m512i table = fp4Table();
  __m512 total[rows];
  for (auto& row : total) row = _mm512_setzero_ps();
  const int64_t runs = panel.width / fp4Run;
  for (int64_t run = 0; run < runs; run++) {
    __m512i codes[8];
    decodeRun(panel.codes + run * (fp4Run / 2 * panelRows), table, codes);
    const __m512i scales = scalesOf<scaling>(panel.scales + run * panelRows);
    __builtin_prefetch(panel.scales + run * panelRows + 1024);
    const int64_t at = run * tile.rows + from;
    const RunInputs inputs{tile.limbs + at * limbs * fp4Run, tile.starts + at, tile.units + at};
#pragma GCC unroll 16
    for (int m = 0; m + together <= rows; m += together) {
      const RunInputs mine{inputs.limbs + m * limbs * fp4Run, inputs.starts + m, inputs.units + m};
      addRun<limbs, together, scaling>(codes, scales, mine, total + m);
    }
    constexpr int rest = rows % together;
    constexpr int done = rows - rest;
    const RunInputs last{inputs.limbs + done * limbs * fp4Run, inputs.starts + done,
                         inputs.units + done};
    addRun<limbs, rest, scaling>(codes, scales, last, total + done);
  }
  for (int m = 0; m < rows; m++) _mm512_storeu_ps(sums + m * panelRows, total[m]);
}

/// Multiplies some rows of a tile, from `from` on.
using RowsKernel = void (*)(const Panel& panel, const Tile& tile, int from, float* sums);

/// Whether all scales of the panel are close enough to one for their exponents to be added.
SLUICE_AVX512 bool ordinaryScales(const Panel& panel) {
  __m512i low = _mm512_set1_epi8(127);
  __m512i high = low;
  const int64_t bytes = panel.width / fp4Run * panelRows;
  for (int64_t at = 0; at < bytes; at += 64) {
    const __mmask64 there = bytes - at >= 64 ? ~__mmask64{0} : (__mmask64{1} << (bytes - at)) - 1;
    const __m512i scales = _mm512_mask_loadu_epi8(low, there, panel.scales + at);
    low = _mm512_min_epu8(low, scales);
    high = _mm512_max_epu8(high, scales);
  }
  return _mm512_cmplt_epu8_mask(low, _mm512_set1_epi8(exponentMin)) == 0 &&
         _mm512_cmpgt_epu8_mask(high, _mm512_set1_epi8(static_cast<char>(exponentMax))) == 0;
}

/// Calls the kernel for sixteen, twelve or up to eight rows at once, until all are done.
void limb1Tile(const Panel& panel, const Tile& tile, float* sums) {
  constexpr Scaling add = Scaling::addExponents;
  static constexpr RowsKernel kernels[] = {limbRows<1, 1, add>, limbRows<1, 2, add>,
                                           limbRows<1, 3, add>, limbRows<1, 4, add>,
                                           limbRows<1, 5, add>, limbRows<1, 6, add>,
                                           limbRows<1, 7, add>, limbRows<1, 8, add>};
  for (int m = 0; m < tile.rows;) {
    const int left = tile.rows - m;
    const int rows = left == 16 ? 16 : left >= 12 ? 12 : std::min(left, 8);
    const RowsKernel kernel = rows == 16   ? limbRows<1, 16, add>
                              : rows == 12 ? limbRows<1, 12, add>
                                           : kernels[rows - 1];
    kernel(panel, tile, m, sums + m * panelRows);
    m += rows;
  }
}

/// The same with scales multiplied: in groups of four, for few rows or extreme scales.
void limb1TileMultiplied(const Panel& panel, const Tile& tile, float* sums) {
  constexpr Scaling by = Scaling::multiply;
  static constexpr RowsKernel kernels[] = {limbRows<1, 1, by>, limbRows<1, 2, by>,
                                           limbRows<1, 3, by>, limbRows<1, 4, by>};
  for (int m = 0; m < tile.rows; m += 4) {
    kernels[std::min(4, tile.rows - m) - 1](panel, tile, m, sums + m * panelRows);
  }
}

/// Looking at all scales beforehand costs more than it saves where few rows share it: the scales are
/// not in a cache yet, and nothing is computed while they arrive.
void limb1Kernel(const Panel& panel, const Tile* tiles, int count, float* sums) {
  const bool few = count == 1 && tiles[0].rows <= 4;
  const bool ordinary = !few && ordinaryScales(panel);
  for (int t = 0; t < count; t++) {
    if (ordinary && *tiles[t].extremes == 0) {
      limb1Tile(panel, tiles[t], sums);
    } else {
      limb1TileMultiplied(panel, tiles[t], sums);
    }
    sums += tiles[t].rows * panelRows;
  }
}

/// Input rows that share one decoding of a panel where there are two sums for each.
constexpr int rowsTogether = 8;

/// Tiles in groups of up to eight rows; `kernels[n − 1]` takes n.
inline void inGroups(const RowsKernel (&kernels)[rowsTogether], const Panel& panel,
                     const Tile* tiles, int count, float* sums) {
  for (int t = 0; t < count; t++) {
    for (int m = 0; m < tiles[t].rows; m += rowsTogether) {
      const int rows = std::min(rowsTogether, tiles[t].rows - m);
      kernels[rows - 1](panel, tiles[t], m, sums + m * panelRows);
    }
    sums += tiles[t].rows * panelRows;
  }
}

void limb3Kernel(const Panel& panel, const Tile* tiles, int count, float* sums) {
  constexpr Scaling by = Scaling::multiply;
  static constexpr RowsKernel kernels[] = {limbRows<3, 1, by>, limbRows<3, 2, by>,
                                           limbRows<3, 3, by>, limbRows<3, 4, by>,
                                           limbRows<3, 5, by>, limbRows<3, 6, by>,
                                           limbRows<3, 7, by>, limbRows<3, 8, by>};
  inGroups(kernels, panel, tiles, count, sums);
}

/// Lower and upper byte of the bfloat16 that an e4m3 magnitude is.
struct Fp8Tables {
  alignas(64) uint8_t low[128];
  alignas(64) uint8_t high[128];
};

constexpr Fp8Tables makeFp8Tables() {
  Fp8Tables tables{};
  for (int code = 0; code < 128; code++) {
    int exponent = code >> 3;
    int mantissa = code & 7;
    int bits = (exponent + 120) << 7 | mantissa << 4;
    if (exponent == 0) {
      // mantissa · 2^-9 as a normal number: its leading one moves into the exponent.
      const int lead = mantissa >= 4 ? 2 : mantissa >= 2 ? 1 : 0;
      bits = mantissa == 0 ? 0 : (118 + lead) << 7 | ((mantissa << (3 - lead)) & 7) << 4;
    }
    if (code == 127) bits = 0x7fc0;
    tables.low[code] = static_cast<uint8_t>(bits);
    tables.high[code] = static_cast<uint8_t>(bits >> 8);
  }
  return tables;
}

constexpr Fp8Tables fp8Tables = makeFp8Tables();

/// Columns of a panel as words of two bfloat16 (neighbouring columns), sixteen rows a register.
template <DType dtype>
struct PairReader;

template <>
struct PairReader<DType::f8e4m3> {
  __m512i low0, low1, high0, high1;

  SLUICE_AVX512 PairReader()
      : low0(load(fp8Tables.low)),
        low1(load(fp8Tables.low + 64)),
        high0(load(fp8Tables.high)),
        high1(load(fp8Tables.high + 64)) {}

  /// Columns 4·group … 4·group + 3.
  SLUICE_AVX512 inline void read(const uint8_t* codes, int64_t group, __m512i& first,
                                 __m512i& second) const {
    const __m512i bytes = load(codes + group * 64);
    __builtin_prefetch(codes + group * 64 + 8192, 0, 2);
    const __m512i low = _mm512_permutex2var_epi8(low0, bytes, low1);
    const __m512i magnitude = _mm512_permutex2var_epi8(high0, bytes, high1);
    const __m512i sign = _mm512_set1_epi8(static_cast<char>(0x80));
    // magnitude | (bytes & sign)
    const __m512i high = _mm512_ternarylogic_epi32(magnitude, bytes, sign, 0xf8);
    first = _mm512_unpacklo_epi8(low, high);
    second = _mm512_unpackhi_epi8(low, high);
  }
};

template <>
struct PairReader<DType::bf16> {
  SLUICE_AVX512 inline void read(const uint8_t* codes, int64_t group, __m512i& first,
                                 __m512i& second) const {
    first = load(codes + group * 128);
    second = load(codes + group * 128 + 64);
    __builtin_prefetch(codes + group * 128 + 4096);
    __builtin_prefetch(codes + group * 128 + 4160);
  }
};

/// The same columns in fp32.
template <DType dtype>
struct FloatReader {
  PairReader<dtype> pairs;

  SLUICE_AVX512 FloatReader() {}
  SLUICE_AVX512 inline void read(const uint8_t* codes, int64_t group, __m512 (&columns)[4]) const {
    const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000));
    __m512i first, second;
    pairs.read(codes, group, first, second);
    columns[0] = _mm512_castsi512_ps(_mm512_slli_epi32(first, 16));
    columns[1] = _mm512_castsi512_ps(_mm512_and_si512(first, upper));
    columns[2] = _mm512_castsi512_ps(_mm512_slli_epi32(second, 16));
    columns[3] = _mm512_castsi512_ps(_mm512_and_si512(second, upper));
  }
};

template <>
struct FloatReader<DType::f32> {
  SLUICE_AVX512 inline void read(const uint8_t* codes, int64_t group, __m512 (&columns)[4]) const {
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
      columns[i] = _mm512_castsi512_ps(load(codes + group * 256 + i * 64));
      __builtin_prefetch(codes + group * 256 + i * 64 + 4096);
    }
  }
};

struct Block {
  int width;
  float scale;
};

inline Block blockAt(const Panel& panel, int64_t from) {
  const int64_t left = panel.width - from;
  const float scale = panel.scales == nullptr ? 1.0f : fromE8m0(panel.scales[from / fp8Tile]);
  return {static_cast<int>(left < blockWidth ? left : blockWidth), scale};
}

/// `rows` rows of a tile: decoded columns go straight onto an even and an odd chain each.
template <DType dtype, int rows>
SLUICE_AVX512 void floatRows(const Panel& panel, const Tile& tile, int first, float* sums) {
  const FloatReader<dtype> reader;
  __m512 total[rows];
  for (auto& row : total) row = _mm512_setzero_ps();
  for (int64_t from = 0; from < panel.width; from += blockWidth) {
    const Block block = blockAt(panel, from);
    __m512 chains[rows][2];
    for (auto& row : chains) row[0] = row[1] = _mm512_setzero_ps();
    const float* input = tile.floats + from * tile.rows + first;
    for (int group = 0; group < block.width / 4; group++, input += 4 * tile.rows) {
      __m512 columns[4];
      reader.read(panel.codes, from / 4 + group, columns);
#pragma GCC unroll 4
      for (int c = 0; c < 4; c++) {
#pragma GCC unroll 8
        for (int m = 0; m < rows; m++) {
          const __m512 x = _mm512_set1_ps(input[c * tile.rows + m]);
          chains[m][c % 2] = _mm512_fmadd_ps(columns[c], x, chains[m][c % 2]);
        }
      }
    }
    for (int m = 0; m < rows; m++) {
      const __m512 sum = _mm512_add_ps(chains[m][0], chains[m][1]);
      total[m] = _mm512_fmadd_ps(sum, _mm512_set1_ps(block.scale), total[m]);
    }
  }
  for (int m = 0; m < rows; m++) _mm512_storeu_ps(sums + m * panelRows, total[m]);
}

template <DType dtype>
void floatsOf(const Panel& panel, const Tile* tiles, int count, float* sums) {
  static constexpr RowsKernel kernels[] = {floatRows<dtype, 1>, floatRows<dtype, 2>,
                                           floatRows<dtype, 3>, floatRows<dtype, 4>,
                                           floatRows<dtype, 5>, floatRows<dtype, 6>,
                                           floatRows<dtype, 7>, floatRows<dtype, 8>};
  inGroups(kernels, panel, tiles, count, sums);
}

void floatKernel(const Panel& panel, const Tile* tiles, int count, float* sums) {
  switch (panel.dtype) {
    case DType::f8e4m3:
      return floatsOf<DType::f8e4m3>(panel, tiles, count, sums);
    case DType::bf16:
      return floatsOf<DType::bf16>(panel, tiles, count, sums);
    default:
      return floatsOf<DType::f32>(panel, tiles, count, sums);
  }
}

/// Two inputs against sixteen rows; a memory operand for the same reason as above.
SLUICE_AVX512_BF16 inline void dotOnto(__m512& sum, __m512i weights, const uint32_t* inputs) {
  asm("vdpbf16ps %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(weights), "m"(*inputs));
}

template <DType dtype, int rows>
SLUICE_AVX512_BF16 void pairRows(const Panel& panel, const Tile& tile, int first, float* sums) {
  const PairReader<dtype> reader;
  __m512 total[rows];
  for (auto& row : total) row = _mm512_setzero_ps();
  for (int64_t from = 0; from < panel.width; from += blockWidth) {
    const Block block = blockAt(panel, from);
    __m512 even[rows];
    __m512 odd[rows];
    for (int m = 0; m < rows; m++) even[m] = odd[m] = _mm512_setzero_ps();
    const uint32_t* input = tile.pairs + from / 2 * tile.rows + first;
    for (int group = 0; group < block.width / 4; group++, input += 2 * tile.rows) {
      __m512i columns01, columns23;
      reader.read(panel.codes, from / 4 + group, columns01, columns23);
#pragma GCC unroll 8
      for (int m = 0; m < rows; m++) {
        dotOnto(even[m], columns01, input + m);
        dotOnto(odd[m], columns23, input + tile.rows + m);
      }
    }
    for (int m = 0; m < rows; m++) {
      const __m512 sum = _mm512_add_ps(even[m], odd[m]);
      total[m] = _mm512_fmadd_ps(sum, _mm512_set1_ps(block.scale), total[m]);
    }
  }
  for (int m = 0; m < rows; m++) _mm512_storeu_ps(sums + m * panelRows, total[m]);
}

template <DType dtype>
void pairsOf(const Panel& panel, const Tile* tiles, int count, float* sums) {
  static constexpr RowsKernel kernels[] = {pairRows<dtype, 1>, pairRows<dtype, 2>,
                                           pairRows<dtype, 3>, pairRows<dtype, 4>,
                                           pairRows<dtype, 5>, pairRows<dtype, 6>,
                                           pairRows<dtype, 7>, pairRows<dtype, 8>};
  inGroups(kernels, panel, tiles, count, sums);
}

void pairKernel(const Panel& panel, const Tile* tiles, int count, float* sums) {
  if (panel.dtype == DType::bf16) return pairsOf<DType::bf16>(panel, tiles, count, sums);
  return pairsOf<DType::f8e4m3>(panel, tiles, count, sums);
}

}  // namespace

KernelSet avx512Kernels() { return {limb1Kernel, limb3Kernel, floatKernel, nullptr}; }

KernelSet avx512Bf16Kernels() { return {limb1Kernel, limb3Kernel, floatKernel, pairKernel}; }

}  // namespace sluice

#endif
