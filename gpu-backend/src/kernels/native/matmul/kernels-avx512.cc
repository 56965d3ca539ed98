// AVX-512 with VBMI, VNNI and, where there is one, the bfloat16 dot product: one register holds a
// panel's sixteen rows.
//
// Ladder (m = 1, share of the read bandwidth that one thread has):
//   rows read one by one, four side by side                                    0.31
//   rows read one by one, VNNI, prefetch                                       0.57
//   panels: sixteen rows in one stream, nibbles by vpermb, which needs no mask 0.86
//   the same with three limbs (22-bit inputs)                                  0.65
// and for many rows (share of the vpdpbusd peak): tile of sixteen rows, a run's codes decoded once
// into eight registers 0.78; adding exponents instead of multiplying scales leaves the two
// multiplier pipes to the dot products 0.84.
// FP8: table look-up of both bytes of a bfloat16 (vpermi2b) beats half precision (vcvtph2ps).

#include "../formats.h"
#include "kernels.h"

#if SLUICE_X86

#include <immintrin.h>

#include <array>
#include <utility>

namespace sluice {
namespace {

SLUICE_AVX512 inline __m512i load(const void* at) { return _mm512_loadu_si512(at); }

/// Doubled values plus 12 of all sixteen codes, four times over: vpermb looks at six bits, so the
/// neighbour's two lower bits need not be masked away.
SLUICE_AVX512 inline __m512i fp4Table() {
  return _mm512_broadcast_i32x4(
      _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
}

/// 2^(byte − 127) of sixteen bytes; byte 0 is a subnormal, which the maximum supplies.
SLUICE_AVX512 inline __m512 scalesOf(const uint8_t* bytes) {
  const __m128i sixteen = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes));
  const __m512i exponents = _mm512_slli_epi32(_mm512_cvtepu8_epi32(sixteen), 23);
  return _mm512_castsi512_ps(_mm512_max_epu32(exponents, _mm512_set1_epi32(0x00400000)));
}

/// One run of FP4: the sum over 32 inputs for sixteen weight rows, exact.
template <int limbs>
SLUICE_AVX512 inline __m512i runSum(const __m512i (&codes)[8], const int8_t* input, int32_t start) {
  const int32_t* words = reinterpret_cast<const int32_t*>(input);
  __m512i sum[limbs];
  sum[0] = _mm512_set1_epi32(start);
  for (int limb = 1; limb < limbs; limb++) sum[limb] = _mm512_setzero_si512();
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) {
#pragma GCC unroll 3
    for (int limb = 0; limb < limbs; limb++) {
      sum[limb] = _mm512_dpbusd_epi32(sum[limb], codes[i], _mm512_set1_epi32(words[limb * 8 + i]));
    }
  }
  if constexpr (limbs == 1) return sum[0];
  return _mm512_add_epi32(
      sum[0], _mm512_add_epi32(_mm512_slli_epi32(sum[1], 8), _mm512_slli_epi32(sum[2], 16)));
}

template <int limbs, int rows>
SLUICE_AVX512 void limbTile(const Panel& panel, const Tile& tile, float* sums) {
  const __m512i table = fp4Table();
  __m512 total[rows];
  for (auto& row : total) row = _mm512_setzero_ps();
  const uint8_t* packed = panel.codes;
  const int64_t runs = panel.width / fp4Run;
  for (int64_t run = 0; run < runs; run++, packed += fp4Run / 2 * panelRows) {
    __m512i codes[8];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
      const __m512i bytes = load(packed + 64 * i);
      __builtin_prefetch(packed + 64 * i + 4096);
      codes[2 * i] = _mm512_permutexvar_epi8(bytes, table);
      codes[2 * i + 1] = _mm512_permutexvar_epi8(_mm512_srli_epi16(bytes, 4), table);
    }
    const __m512 scales = scalesOf(panel.scales + run * panelRows);
#pragma GCC unroll 16
    for (int m = 0; m < rows; m++) {
      const int64_t at = run * rows + m;
      const __m512i whole =
          runSum<limbs>(codes, tile.limbs + at * limbs * fp4Run, tile.starts[at]);
      const __m512 factor = _mm512_mul_ps(scales, _mm512_set1_ps(tile.units[at]));
      total[m] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(whole), factor, total[m]);
    }
  }
  for (int m = 0; m < rows; m++) _mm512_storeu_ps(sums + m * panelRows, total[m]);
}

using LimbTile = void (*)(const Panel&, const Tile&, float*);

template <int limbs, size_t... rows>
constexpr std::array<LimbTile, sizeof...(rows)> limbTiles(std::index_sequence<rows...>) {
  return {limbTile<limbs, rows + 1>...};
}

template <int limbs>
void limbKernel(const Panel& panel, const Tile* tiles, int count, float* sums) {
  static constexpr auto byRows = limbTiles<limbs>(std::make_index_sequence<tileRowsMax>());
  for (int t = 0; t < count; t++) {
    byRows[tiles[t].rows - 1](panel, tiles[t], sums);
    sums += tiles[t].rows * panelRows;
  }
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
    __builtin_prefetch(codes + group * 64 + 4096);
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
  int64_t from;
  int width;
  float scale;
};

inline Block blockAt(const Panel& panel, int64_t from) {
  const int64_t left = panel.width - from;
  const float scale = panel.scales == nullptr ? 1.0f : fromE8m0(panel.scales[from / fp8Tile]);
  return {from, static_cast<int>(left < blockWidth ? left : blockWidth), scale};
}

SLUICE_AVX512 inline __m512 joined(__m512 c0, __m512 c1, __m512 c2, __m512 c3) {
  return _mm512_add_ps(_mm512_add_ps(c0, c1), _mm512_add_ps(c2, c3));
}

/// One to four input rows: decoded columns go straight into all four chains.
template <DType dtype, int rows>
SLUICE_AVX512 void floatsFused(const Panel& panel, const Tile& tile, float* sums) {
  const FloatReader<dtype> reader;
  __m512 total[rows];
  for (auto& row : total) row = _mm512_setzero_ps();
  for (int64_t from = 0; from < panel.width; from += blockWidth) {
    const Block block = blockAt(panel, from);
    __m512 chains[rows][4];
    for (auto& row : chains) {
      for (auto& chain : row) chain = _mm512_setzero_ps();
    }
    const float* input = tile.floats + from * rows;
#pragma GCC unroll 2
    for (int group = 0; group < block.width / 4; group++, input += 4 * rows) {
      __m512 columns[4];
      reader.read(panel.codes, from / 4 + group, columns);
#pragma GCC unroll 4
      for (int m = 0; m < rows; m++) {
#pragma GCC unroll 4
        for (int c = 0; c < 4; c++) {
          chains[m][c] =
              _mm512_fmadd_ps(columns[c], _mm512_set1_ps(input[c * rows + m]), chains[m][c]);
        }
      }
    }
    for (int m = 0; m < rows; m++) {
      total[m] = _mm512_fmadd_ps(joined(chains[m][0], chains[m][1], chains[m][2], chains[m][3]),
                                 _mm512_set1_ps(block.scale), total[m]);
    }
  }
  for (int m = 0; m < rows; m++) _mm512_storeu_ps(sums + m * panelRows, total[m]);
}

/// Many input rows: a block is decoded once for all tiles, then its chains run one after the other,
/// so that sixteen sums fit into registers.
template <int rows>
SLUICE_AVX512 void floatsTile(const float* weights, const Block& block, const Tile& tile,
                              float* sums) {
  alignas(64) float chains[4][rows][panelRows];
  const float* input = tile.floats + block.from * rows;
  for (int c = 0; c < 4; c++) {
    __m512 sum[rows];
    for (auto& row : sum) row = _mm512_setzero_ps();
    for (int k = c; k < block.width; k += 4) {
      const __m512 column = _mm512_load_ps(weights + k * panelRows);
#pragma GCC unroll 16
      for (int m = 0; m < rows; m++) {
        sum[m] = _mm512_fmadd_ps(column, _mm512_set1_ps(input[k * rows + m]), sum[m]);
      }
    }
    for (int m = 0; m < rows; m++) _mm512_store_ps(chains[c][m], sum[m]);
  }
  for (int m = 0; m < rows; m++) {
    const __m512 sum = joined(_mm512_load_ps(chains[0][m]), _mm512_load_ps(chains[1][m]),
                              _mm512_load_ps(chains[2][m]), _mm512_load_ps(chains[3][m]));
    float* into = sums + m * panelRows;
    _mm512_storeu_ps(into,
                     _mm512_fmadd_ps(sum, _mm512_set1_ps(block.scale), _mm512_loadu_ps(into)));
  }
}

using FloatsFused = void (*)(const Panel&, const Tile&, float*);
using FloatsTile = void (*)(const float*, const Block&, const Tile&, float*);

template <size_t... rows>
constexpr std::array<FloatsTile, sizeof...(rows)> floatsTiles(std::index_sequence<rows...>) {
  return {floatsTile<rows + 1>...};
}

void clear(const Tile* tiles, int count, float* sums) {
  for (int t = 0; t < count; t++) {
    for (int i = 0; i < tiles[t].rows * panelRows; i++) *sums++ = 0;
  }
}

template <DType dtype>
SLUICE_AVX512 void floatsBlocked(const Panel& panel, const Tile* tiles, int count, float* sums) {
  static constexpr auto byRows = floatsTiles(std::make_index_sequence<tileRowsMax>());
  const FloatReader<dtype> reader;
  clear(tiles, count, sums);
  alignas(64) float decoded[blockWidth * panelRows];
  for (int64_t from = 0; from < panel.width; from += blockWidth) {
    const Block block = blockAt(panel, from);
    for (int group = 0; group < block.width / 4; group++) {
      __m512 columns[4];
      reader.read(panel.codes, from / 4 + group, columns);
      for (int c = 0; c < 4; c++) {
        _mm512_store_ps(decoded + (group * 4 + c) * panelRows, columns[c]);
      }
    }
    float* into = sums;
    for (int t = 0; t < count; t++) {
      byRows[tiles[t].rows - 1](decoded, block, tiles[t], into);
      into += tiles[t].rows * panelRows;
    }
  }
}

template <DType dtype>
void floatsOf(const Panel& panel, const Tile* tiles, int count, float* sums) {
  static constexpr FloatsFused fused[4] = {floatsFused<dtype, 1>, floatsFused<dtype, 2>,
                                           floatsFused<dtype, 3>, floatsFused<dtype, 4>};
  if (count == 1 && tiles[0].rows <= 4) {
    fused[tiles[0].rows - 1](panel, tiles[0], sums);
  } else {
    floatsBlocked<dtype>(panel, tiles, count, sums);
  }
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

SLUICE_AVX512_BF16 inline __m512 dot(__m512 sum, __m512i weights, uint32_t input) {
  return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(weights),
                          reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int>(input))));
}

/// Four columns, two pairs: onto chains `chain` and `chain + 1`.
template <DType dtype, int rows, int chain>
SLUICE_AVX512_BF16 inline void addGroup(const PairReader<dtype>& reader, const uint8_t* codes,
                                        int64_t group, const uint32_t* input,
                                        __m512 (&chains)[rows][4]) {
  __m512i first, second;
  reader.read(codes, group, first, second);
#pragma GCC unroll 4
  for (int m = 0; m < rows; m++) {
    chains[m][chain] = dot(chains[m][chain], first, input[m]);
    chains[m][chain + 1] = dot(chains[m][chain + 1], second, input[rows + m]);
  }
}

template <DType dtype, int rows>
SLUICE_AVX512_BF16 void pairsFused(const Panel& panel, const Tile& tile, float* sums) {
  const PairReader<dtype> reader;
  __m512 total[rows];
  for (auto& row : total) row = _mm512_setzero_ps();
  for (int64_t from = 0; from < panel.width; from += blockWidth) {
    const Block block = blockAt(panel, from);
    __m512 chains[rows][4];
    for (auto& row : chains) {
      for (auto& chain : row) chain = _mm512_setzero_ps();
    }
    const uint32_t* input = tile.pairs + from / 2 * rows;
    const int64_t first = from / 4;
    const int groups = block.width / 4;
    int group = 0;
    for (; group + 2 <= groups; group += 2, input += 4 * rows) {
      addGroup<dtype, rows, 0>(reader, panel.codes, first + group, input, chains);
      addGroup<dtype, rows, 2>(reader, panel.codes, first + group + 1, input + 2 * rows, chains);
    }
    if (group < groups) {
      addGroup<dtype, rows, 0>(reader, panel.codes, first + group, input, chains);
    }
    for (int m = 0; m < rows; m++) {
      total[m] = _mm512_fmadd_ps(joined(chains[m][0], chains[m][1], chains[m][2], chains[m][3]),
                                 _mm512_set1_ps(block.scale), total[m]);
    }
  }
  for (int m = 0; m < rows; m++) _mm512_storeu_ps(sums + m * panelRows, total[m]);
}

template <int rows>
SLUICE_AVX512_BF16 void pairsTile(const uint32_t* weights, const Block& block, const Tile& tile,
                                  float* sums) {
  alignas(64) float chains[4][rows][panelRows];
  const uint32_t* input = tile.pairs + block.from / 2 * rows;
  for (int c = 0; c < 4; c++) {
    __m512 sum[rows];
    for (auto& row : sum) row = _mm512_setzero_ps();
    for (int pair = c; pair < block.width / 2; pair += 4) {
      const __m512i column = load(weights + pair * panelRows);
#pragma GCC unroll 16
      for (int m = 0; m < rows; m++) sum[m] = dot(sum[m], column, input[pair * rows + m]);
    }
    for (int m = 0; m < rows; m++) _mm512_store_ps(chains[c][m], sum[m]);
  }
  for (int m = 0; m < rows; m++) {
    const __m512 sum = joined(_mm512_load_ps(chains[0][m]), _mm512_load_ps(chains[1][m]),
                              _mm512_load_ps(chains[2][m]), _mm512_load_ps(chains[3][m]));
    float* into = sums + m * panelRows;
    _mm512_storeu_ps(into,
                     _mm512_fmadd_ps(sum, _mm512_set1_ps(block.scale), _mm512_loadu_ps(into)));
  }
}

using PairsTile = void (*)(const uint32_t*, const Block&, const Tile&, float*);

template <size_t... rows>
constexpr std::array<PairsTile, sizeof...(rows)> pairsTiles(std::index_sequence<rows...>) {
  return {pairsTile<rows + 1>...};
}

/// A bf16 panel already is what the tiles read; FP8 is widened block by block.
template <DType dtype>
SLUICE_AVX512_BF16 const uint32_t* pairBlock(const Panel& panel, const Block& block,
                                             uint32_t* into) {
  const PairReader<dtype> reader;
  if constexpr (dtype == DType::bf16) {
    return reinterpret_cast<const uint32_t*>(panel.codes) + block.from / 2 * panelRows;
  }
  for (int group = 0; group < block.width / 4; group++) {
    __m512i first, second;
    reader.read(panel.codes, block.from / 4 + group, first, second);
    _mm512_store_si512(into + group * 2 * panelRows, first);
    _mm512_store_si512(into + (group * 2 + 1) * panelRows, second);
  }
  return into;
}

template <DType dtype>
SLUICE_AVX512_BF16 void pairsBlocked(const Panel& panel, const Tile* tiles, int count,
                                     float* sums) {
  static constexpr auto byRows = pairsTiles(std::make_index_sequence<tileRowsMax>());
  clear(tiles, count, sums);
  alignas(64) uint32_t decoded[blockWidth / 2 * panelRows];
  for (int64_t from = 0; from < panel.width; from += blockWidth) {
    const Block block = blockAt(panel, from);
    const uint32_t* weights = pairBlock<dtype>(panel, block, decoded);
    float* into = sums;
    for (int t = 0; t < count; t++) {
      byRows[tiles[t].rows - 1](weights, block, tiles[t], into);
      into += tiles[t].rows * panelRows;
    }
  }
}

template <DType dtype>
void pairsOf(const Panel& panel, const Tile* tiles, int count, float* sums) {
  static constexpr FloatsFused fused[4] = {pairsFused<dtype, 1>, pairsFused<dtype, 2>,
                                           pairsFused<dtype, 3>, pairsFused<dtype, 4>};
  if (count == 1 && tiles[0].rows <= 4) {
    fused[tiles[0].rows - 1](panel, tiles[0], sums);
  } else {
    pairsBlocked<dtype>(panel, tiles, count, sums);
  }
}

void pairKernel(const Panel& panel, const Tile* tiles, int count, float* sums) {
  if (panel.dtype == DType::bf16) return pairsOf<DType::bf16>(panel, tiles, count, sums);
  return pairsOf<DType::f8e4m3>(panel, tiles, count, sums);
}

}  // namespace

KernelSet avx512Kernels() { return {limbKernel<1>, limbKernel<3>, floatKernel, nullptr}; }

KernelSet avx512Bf16Kernels() {
  return {limbKernel<1>, limbKernel<3>, floatKernel, pairKernel};
}

}  // namespace sluice

#endif
