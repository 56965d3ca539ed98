// Plain loops over sixteen lanes: the definition the other kernel sets are compared with, and what
// runs on arm64, where the compiler makes NEON of it.

#include "../formats.h"
#include "kernels.h"

namespace sluice {
namespace {

/// Doubled values of one FP4 run, in the order of the input limbs.
void decodeRun(const uint8_t* codes, int8_t (*into)[panelRows]) {
  for (int group = 0; group < fp4Run / 8; group++) {
    for (int row = 0; row < panelRows; row++) {
      for (int byte = 0; byte < 4; byte++) {
        const uint8_t code = codes[(group * panelRows + row) * 4 + byte];
        into[group * 8 + byte][row] = doubledE2m1[code & 15];
        into[group * 8 + 4 + byte][row] = doubledE2m1[code >> 4];
      }
    }
  }
}

template <int limbs>
void runSums(const int8_t (*codes)[panelRows], const int8_t* input, int32_t* sums) {
  for (int row = 0; row < panelRows; row++) sums[row] = 0;
  for (int limb = limbs - 1; limb >= 0; limb--) {
    // Unsigned: the upper limb alone may leave the range that the whole sum stays in.
    for (int row = 0; row < panelRows; row++) sums[row] = int32_t(uint32_t(sums[row]) << 8);
    for (int k = 0; k < fp4Run; k++) {
      const int32_t x = input[limb * fp4Run + k];
      for (int row = 0; row < panelRows; row++) sums[row] += x * codes[k][row];
    }
  }
}

template <int limbs>
void limbKernel(const Panel& panel, const Tile* tiles, int count, float* sums) {
  int rows = 0;
  for (int t = 0; t < count; t++) rows += tiles[t].rows;
  for (int i = 0; i < rows * panelRows; i++) sums[i] = 0;
  int8_t codes[fp4Run][panelRows];
  float scales[panelRows];
  int32_t whole[panelRows];
  for (int64_t run = 0; run < panel.width / fp4Run; run++) {
    decodeRun(panel.codes + run * fp4Run / 2 * panelRows, codes);
    for (int i = 0; i < panelRows; i++) scales[i] = fromE8m0(panel.scales[run * panelRows + i]);
    float* into = sums;
    for (int t = 0; t < count; t++) {
      for (int m = 0; m < tiles[t].rows; m++, into += panelRows) {
        const int64_t at = run * tiles[t].rows + m;
        runSums<limbs>(codes, tiles[t].limbs + at * limbs * fp4Run, whole);
        const float unit = tiles[t].units[at];
        for (int i = 0; i < panelRows; i++) {
          into[i] += static_cast<float>(whole[i]) * (scales[i] * unit);
        }
      }
    }
  }
}

float decoded(const Panel& panel, int64_t k, int row) {
  switch (panel.dtype) {
    case DType::f8e4m3: {
      // Four columns of sixteen rows: of each four rows first columns 0 and 1, then 2 and 3.
      const int64_t lane = k / 4 * 64 + row / 4 * 16;
      return fromE4m3(panel.codes[lane + k % 4 / 2 * 8 + row % 4 * 2 + k % 2]);
    }
    case DType::bf16:
      return fromBf16(reinterpret_cast<const uint16_t*>(panel.codes)[k / 2 * 32 + row * 2 + k % 2]);
    default:
      return reinterpret_cast<const float*>(panel.codes)[k * panelRows + row];
  }
}

void addBlock(const float (*weights)[panelRows], int width, const float* input, int stride,
              float scale, float* into) {
  float even[panelRows] = {};
  float odd[panelRows] = {};
  for (int k = 0; k < width; k += 2) {
    const float x = input[k * stride];
    const float y = input[(k + 1) * stride];
    for (int i = 0; i < panelRows; i++) {
      even[i] += weights[k][i] * x;
      odd[i] += weights[k + 1][i] * y;
    }
  }
  for (int i = 0; i < panelRows; i++) into[i] += (even[i] + odd[i]) * scale;
}

void floatKernel(const Panel& panel, const Tile* tiles, int count, float* sums) {
  int rows = 0;
  for (int t = 0; t < count; t++) rows += tiles[t].rows;
  for (int i = 0; i < rows * panelRows; i++) sums[i] = 0;
  float weights[blockWidth][panelRows];
  for (int64_t from = 0; from < panel.width; from += blockWidth) {
    const int width = static_cast<int>(panel.width - from < blockWidth ? panel.width - from : blockWidth);
    const float scale = panel.scales == nullptr ? 1.0f : fromE8m0(panel.scales[from / fp8Tile]);
    for (int k = 0; k < width; k++) {
      for (int i = 0; i < panelRows; i++) weights[k][i] = decoded(panel, from + k, i);
    }
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
