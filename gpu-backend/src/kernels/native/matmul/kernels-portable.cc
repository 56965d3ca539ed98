// Sixteen lanes in the compiler's own vectors, which it cuts into whatever registers there are: what
// runs on arm64 and on processors before AVX2, and the plainest of the kernel sets.
//
// Ladder (one thread on SSE2, GFLOP/s for many input rows): plain loops, which the compiler did not
// vectorise, FP4 12, FP8 3.5; vectors 23 and 10.

#include <cstring>

#include "../formats.h"
#include "kernels.h"

namespace sluice {
namespace {

using Floats = float __attribute__((vector_size(panelRows * sizeof(float))));
using Shorts = int16_t __attribute__((vector_size(panelRows * sizeof(int16_t))));
using Ints = int32_t __attribute__((vector_size(panelRows * sizeof(int32_t))));

/// Both doubled values of a byte of FP4, the low nibble's first.
struct Fp4Pairs {
  int16_t values[256][2];
  constexpr Fp4Pairs() : values() {
    for (int byte = 0; byte < 256; byte++) {
      values[byte][0] = doubledE2m1[byte & 15];
      values[byte][1] = doubledE2m1[byte >> 4];
    }
  }
};

constexpr Fp4Pairs fp4Pairs;

/// Doubled values of one FP4 run, in the order of the input limbs.
void decodeRun(const uint8_t* codes, Shorts* into) {
  for (int group = 0; group < fp4Run / 8; group++) {
    for (int row = 0; row < panelRows; row++) {
      for (int byte = 0; byte < 4; byte++) {
        const int16_t* pair = fp4Pairs.values[codes[(group * panelRows + row) * 4 + byte]];
        into[group * 8 + byte][row] = pair[0];
        into[group * 8 + 4 + byte][row] = pair[1];
      }
    }
  }
}

/// Σ over a run. Sixteen products of one limb stay below 2^15 (16·12·128 = 24,576), so they are
/// added as 16-bit integers, which every vector unit multiplies.
template <int limbs>
SLUICE_INLINE void runSums(const Shorts* codes, const int8_t* input, Ints& sums) {
  sums = Ints{};
  for (int limb = limbs - 1; limb >= 0; limb--) {
    Shorts first = {};
    Shorts second = {};
    for (int k = 0; k < fp4Run / 2; k++) {
      const int16_t x = input[limb * fp4Run + k];
      const int16_t y = input[limb * fp4Run + fp4Run / 2 + k];
      first += codes[k] * x;
      second += codes[fp4Run / 2 + k] * y;
    }
    // Multiplied, not shifted: sums have a sign. The whole sum stays below 2^31.
    sums = sums * 256 + __builtin_convertvector(first, Ints) + __builtin_convertvector(second, Ints);
  }
}

/// Adds to sixteen sums in memory, which need not be aligned.
SLUICE_INLINE void addTo(float* sums, const Floats& values) {
  Floats now;
  std::memcpy(&now, sums, sizeof now);
  now += values;
  std::memcpy(sums, &now, sizeof now);
}

template <int limbs>
void limbKernel(const Panel& panel, const Tile* tiles, int count, float* sums) {
  int rows = 0;
  for (int t = 0; t < count; t++) rows += tiles[t].rows;
  for (int i = 0; i < rows * panelRows; i++) sums[i] = 0;
  Shorts codes[fp4Run];
  Floats scales;
  for (int64_t run = 0; run < panel.width / fp4Run; run++) {
    decodeRun(panel.codes + run * fp4Run / 2 * panelRows, codes);
    for (int i = 0; i < panelRows; i++) scales[i] = fromE8m0(panel.scales[run * panelRows + i]);
    float* into = sums;
    for (int t = 0; t < count; t++) {
      for (int m = 0; m < tiles[t].rows; m++, into += panelRows) {
        const int64_t at = run * tiles[t].rows + m;
        Ints whole;
        runSums<limbs>(codes, tiles[t].limbs + at * limbs * fp4Run, whole);
        addTo(into, __builtin_convertvector(whole, Floats) * (scales * tiles[t].units[at]));
      }
    }
  }
}

struct E4m3Values {
  float values[256];
  E4m3Values() {
    for (int code = 0; code < 256; code++) values[code] = fromE4m3(static_cast<uint8_t>(code));
  }
};

/// Four columns of sixteen rows: of each four rows first columns 0 and 1, then 2 and 3.
void decodeFp8(const uint8_t* codes, Floats* into) {
  static const E4m3Values table;
  for (int row = 0; row < panelRows; row++) {
    const uint8_t* own = codes + row / 4 * 16 + row % 4 * 2;
    into[0][row] = table.values[own[0]];
    into[1][row] = table.values[own[1]];
    into[2][row] = table.values[own[8]];
    into[3][row] = table.values[own[9]];
  }
}

/// Two columns of sixteen rows, a word for both.
void decodeBf16(const uint16_t* codes, Floats* into) {
  for (int row = 0; row < panelRows; row++) {
    into[0][row] = fromBf16(codes[row * 2]);
    into[1][row] = fromBf16(codes[row * 2 + 1]);
  }
}

/// Columns `from … from + width − 1` as fp32.
void decodeBlock(const Panel& panel, int64_t from, int width, Floats* into) {
  switch (panel.dtype) {
    case DType::f8e4m3:
      for (int k = 0; k < width; k += 4) decodeFp8(panel.codes + (from + k) * panelRows, into + k);
      return;
    case DType::bf16:
      for (int k = 0; k < width; k += 2) {
        decodeBf16(reinterpret_cast<const uint16_t*>(panel.codes) + (from + k) * panelRows, into + k);
      }
      return;
    default:
      std::memcpy(into, panel.codes + from * panelRows * sizeof(float),
                  width * panelRows * sizeof(float));
  }
}

void addBlock(const Floats* weights, int width, const float* input, int stride, float scale,
              float* into) {
  Floats even = {};
  Floats odd = {};
  for (int k = 0; k < width; k += 2) {
    even += weights[k] * input[k * stride];
    odd += weights[k + 1] * input[(k + 1) * stride];
  }
  addTo(into, (even + odd) * scale);
}

void floatKernel(const Panel& panel, const Tile* tiles, int count, float* sums) {
  int rows = 0;
  for (int t = 0; t < count; t++) rows += tiles[t].rows;
  for (int i = 0; i < rows * panelRows; i++) sums[i] = 0;
  Floats weights[blockWidth];
  for (int64_t from = 0; from < panel.width; from += blockWidth) {
    const int width = static_cast<int>(panel.width - from < blockWidth ? panel.width - from : blockWidth);
    const float scale = panel.scales == nullptr ? 1.0f : fromE8m0(panel.scales[from / fp8Tile]);
    decodeBlock(panel, from, width, weights);
    float* into = sums;
    for (int t = 0; t < count; t++) {
      const int stride = tiles[t].rows;
      for (int m = 0; m < stride; m++, into += panelRows) {
        addBlock(weights, width, tiles[t].floats + from * stride + m, stride, scale, into);
      }
    }
  }
}

}  // namespace

KernelSet portableKernels() {
  return {limbKernel<1>, limbKernel<3>, floatKernel, nullptr};
}

KernelSet kernelsFor(Isa isa) {
#if SLUICE_X86
  switch (isa) {
    case Isa::avx512Bf16:
      return avx512Bf16Kernels();
    case Isa::avx512:
      return avx512Kernels();
    case Isa::avx2:
      return avx2Kernels();
    case Isa::portable:
      return portableKernels();
  }
#endif
  (void)isa;
  return portableKernels();
}

}  // namespace sluice
