#pragma once

#include "mma.h"
#include "warp.h"

// Products of a few or many rows with a weight matrix, the weight's bytes lying as in the checkpoint.
//
// y[token][output] = Σ x[token][i]·w[output][i] on the tensor cores in bfloat16: weights of every format
// but fp32 are exact in it, and so is an input that was rounded to FP8; other inputs are rounded to it.
// The weight is the left factor, so that one token costs as much as eight. Lanes read 16 bytes of a
// row's own, which decides in which order columns meet; inputs are read the same way.
//
// Whatever the shape of a launch, a sum is taken over eight slices of the columns, each in ascending
// units of 128, and then over slices: a token's bits depend on no other token, and are the same in the
// kernels for few rows, where eight warps share the slices out, and for many, where one takes them all.

namespace sluice {

constexpr int unitColumns = 128;
constexpr int columnSlices = 8;
/// Outputs a warp works on at once: two tiles of the tensor cores.
constexpr int warpOutputs = 32;
constexpr int tokensOfTile = 8;
/// From one token's inputs in shared memory to the next one's: eight rows in different banks.
constexpr int inputStride = unitColumns + 4;

/// A weight `[rows, width]`, as `matrixArgs` of `matrix.ts` writes it.
struct Matrix {
  const uint8_t* weight;
  const uint8_t* scale;
  int rows;
  int width;
  DType dtype;
  int reserved;

  /// Element `index` of a stack.
  SLUICE_DEVICE Matrix at(int index) const {
    Matrix item = *this;
    item.weight += index * (rowBytes() * rows);
    if (dtype == DType::f8e4m3) {
      item.scale += int64_t{index} * ((rows + fp8Tile - 1) / fp8Tile) * scaleStride();
    } else if (dtype == DType::fp4) {
      item.scale += int64_t{index} * rows * scaleStride();
    }
    return item;
  }

  SLUICE_DEVICE int64_t rowBytes() const {
    if (dtype == DType::f32) return int64_t{width} * 4;
    if (dtype == DType::bf16) return int64_t{width} * 2;
    return dtype == DType::fp4 ? width / 2 : width;
  }

  SLUICE_DEVICE int scaleStride() const {
    return dtype == DType::fp4 ? width / fp4Run : (width + fp8Tile - 1) / fp8Tile;
  }

  /// Whether every row begins where 16 bytes can be read at once.
  SLUICE_DEVICE bool aligned() const {
    return ((reinterpret_cast<uintptr_t>(weight) | static_cast<uintptr_t>(rowBytes())) & 15) == 0;
  }
};

SLUICE_DEVICE int unitsOf(int width) { return (width + unitColumns - 1) / unitColumns; }
SLUICE_DEVICE int sliceBegin(int slice, int width) {
  return slice * unitsOf(width) / columnSlices;
}

/// What one lane reads of a row at once.
template <DType dtype>
constexpr int laneColumns = dtype == DType::fp4 ? 32 : dtype == DType::f8e4m3 ? 16 : 8;

template <DType dtype>
SLUICE_DEVICE uint4 loadLane(const Matrix& matrix, bool aligned, int row, int column) {
  uint4 raw = {0, 0, 0, 0};
  if (row >= matrix.rows || column >= matrix.width) return raw;
  constexpr int columns = laneColumns<dtype>;
  const uint8_t* const from = matrix.weight + row * matrix.rowBytes() + int64_t{column} * 16 / columns;
  if (aligned && column + columns <= matrix.width) return *reinterpret_cast<const uint4*>(from);
  const int left = matrix.width - column < columns ? matrix.width - column : columns;
  const int bytes = left * 16 / columns;
  uint32_t words[4] = {0, 0, 0, 0};
#pragma unroll
  for (int i = 0; i < 16; i++) {
    if (i < bytes) words[i / 4] |= uint32_t{from[i]} << (8 * (i % 4));
  }
  return {words[0], words[1], words[2], words[3]};
}

/// Scale of the columns a lane reads; 1 where there is none.
template <DType dtype>
SLUICE_DEVICE float laneScale(const Matrix& matrix, int row, int column) {
  if (dtype == DType::bf16) return 1.0f;
  if (row >= matrix.rows || column >= matrix.width) return 0.0f;
  if (dtype == DType::fp4) {
    return fromE8m0(matrix.scale[int64_t{row} * matrix.scaleStride() + column / fp4Run]);
  }
  return fromE8m0(
      matrix.scale[int64_t{row / fp8Tile} * matrix.scaleStride() + column / fp8Tile]);
}

SLUICE_DEVICE uint32_t wordOf(const uint4& raw, int index) {
  return index == 0 ? raw.x : index == 1 ? raw.y : index == 2 ? raw.z : raw.w;
}

/// Elements 4·step … 4·step + 3 of what a lane has read, as two pairs of bfloat16.
template <DType dtype>
SLUICE_DEVICE uint2 decodeStep(const uint4& raw, int step, float scale) {
  if (dtype == DType::bf16) return {wordOf(raw, 2 * step), wordOf(raw, 2 * step + 1)};
  if (dtype == DType::f8e4m3) {
    const uint32_t word = wordOf(raw, step);
    return {packBf16(fromE4m3(word) * scale, fromE4m3(word >> 8) * scale),
            packBf16(fromE4m3(word >> 16) * scale, fromE4m3(word >> 24) * scale)};
  }
  const uint32_t word = wordOf(raw, step / 2) >> (16 * (step % 2));
  return {packBf16(fromE2m1(word) * scale, fromE2m1(word >> 4) * scale),
          packBf16(fromE2m1(word >> 8) * scale, fromE2m1(word >> 12) * scale)};
}

/// Sums of two tiles of outputs with `tiles` tiles of tokens.
template <int tiles>
struct Sums {
  float c[2][tiles][4];

  SLUICE_DEVICE void clear() {
#pragma unroll
    for (int m = 0; m < 2; m++) {
#pragma unroll
      for (int n = 0; n < tiles; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) c[m][n][i] = 0;
      }
    }
  }

  SLUICE_DEVICE void add(const Sums& other) {
#pragma unroll
    for (int m = 0; m < 2; m++) {
#pragma unroll
      for (int n = 0; n < tiles; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) c[m][n][i] += other.c[m][n][i];
      }
    }
  }

  /// Calls `visit(output, token, sum)` for what this lane holds, counted from the warp's first ones.
  template <class Visit>
  SLUICE_DEVICE void forEach(Visit visit) const {
    const int g = laneOf() / 4;
    const int t = laneOf() % 4;
#pragma unroll
    for (int m = 0; m < 2; m++) {
#pragma unroll
      for (int n = 0; n < tiles; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
          visit(16 * m + g + 8 * (i / 2), tokensOfTile * n + 2 * t + i % 2, c[m][n][i]);
        }
      }
    }
  }
};

/// What a lane holds of one unit of a weight: its bytes of four rows, chunk by chunk.
template <DType dtype>
struct UnitBytes {
  static constexpr int columns = laneColumns<dtype>;
  static constexpr int chunks = unitColumns / (4 * columns);
  uint4 raw[chunks][2][2];
  float scale[chunks][2][2];

  /// Row `half` of tile `m` of those from `firstRow` on, for this lane.
  SLUICE_DEVICE static int rowOf(int firstRow, int m, int half) {
    return firstRow + 16 * m + 8 * half + laneOf() / 4;
  }

  SLUICE_DEVICE void load(const Matrix& matrix, int firstRow, int unit) {
    const bool aligned = matrix.aligned();
#pragma unroll
    for (int chunk = 0; chunk < chunks; chunk++) {
      const int column = unit * unitColumns + (4 * chunk + laneOf() % 4) * columns;
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int row = rowOf(firstRow, i / 2, i % 2);
        raw[chunk][i / 2][i % 2] = loadLane<dtype>(matrix, aligned, row, column);
        scale[chunk][i / 2][i % 2] = laneScale<dtype>(matrix, row, column);
      }
    }
  }

  /// Into the sums. `inputs`: the unit's bfloat16 `[8·tiles][inputStride]`.
  template <int tiles>
  SLUICE_DEVICE void multiply(Sums<tiles>& sums, const uint16_t* inputs) const {
    const int g = laneOf() / 4;
    const int t = laneOf() % 4;
#pragma unroll
    for (int chunk = 0; chunk < chunks; chunk++) {
#pragma unroll
      for (int step = 0; step < columns / 4; step++) {
        uint32_t a[2][4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const uint2 pairs =
              decodeStep<dtype>(raw[chunk][i / 2][i % 2], step, scale[chunk][i / 2][i % 2]);
          a[i / 2][i % 2] = pairs.x;
          a[i / 2][i % 2 + 2] = pairs.y;
        }
#pragma unroll
        for (int n = 0; n < tiles; n++) {
          const uint16_t* const at = inputs + (tokensOfTile * n + g) * inputStride +
                                     (4 * chunk + t) * columns + 4 * step;
          const uint2 pairs = *reinterpret_cast<const uint2*>(at);
          const uint32_t b[2] = {pairs.x, pairs.y};
#pragma unroll
          for (int m = 0; m < 2; m++) mmaBf16(sums.c[m][n], a[m], b);
        }
      }
    }
  }
};

/// One token's columns of a unit into shared memory as bfloat16, by one warp; null: zeros. With
/// `quantise` what survives FP8 of the 128, which bfloat16 holds exactly.
SLUICE_DEVICE void stageInput(uint16_t* into, const float* row, int width, int unit, bool quantise) {
  const int column = unit * unitColumns + 4 * laneOf();
  float x[4] = {0, 0, 0, 0};
  if (row != nullptr) {
    const bool whole = ((reinterpret_cast<uintptr_t>(row + column)) & 15) == 0;
    if (whole && column + 4 <= width) {
      const float4 four = *reinterpret_cast<const float4*>(row + column);
      x[0] = four.x;
      x[1] = four.y;
      x[2] = four.z;
      x[3] = four.w;
    } else {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        if (column + i < width) x[i] = row[column + i];
      }
    }
    if (quantise) {
      uint32_t largest = 0;
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const uint32_t bits = magnitudeBits(x[i]);
        largest = bits > largest ? bits : largest;
      }
      const float scale = fp8Scale(warpMaxBits(largest));
      const float inverse = 1.0f / scale;
#pragma unroll
      for (int i = 0; i < 4; i++) x[i] = roundE4m3(x[i] * inverse) * scale;
    }
  }
  const uint2 pairs = {packBf16(x[0], x[1]), packBf16(x[2], x[3])};
  *reinterpret_cast<uint2*>(into + 4 * laneOf()) = pairs;
}

/// Shared memory of `multiplyFew`, as `matrix.ts` counts it: every warp's inputs, and later sums.
template <int tiles>
SLUICE_DEVICE uint16_t* warpInputs(unsigned char* shared) {
  return reinterpret_cast<uint16_t*>(shared) + warpOf() * (tokensOfTile * tiles * inputStride);
}

/// Where a block's tokens find their inputs, rows of `stride` floats; null beyond the last one.
struct InputRows {
  const float* input;
  int first;
  int rows;
  int64_t stride;

  SLUICE_DEVICE const float* operator()(int token) const {
    return first + token < rows ? input + (first + token) * stride : nullptr;
  }
};

/// Calls `use` with the weights' element type as a constant; fp32 goes its own way.
template <class Use>
SLUICE_DEVICE void withType(DType dtype, Use use) {
  switch (dtype) {
    case DType::bf16: use.template operator()<DType::bf16>(); break;
    case DType::f8e4m3: use.template operator()<DType::f8e4m3>(); break;
    default: use.template operator()<DType::fp4>(); break;
  }
}

/// A block of eight warps, each a slice of the columns, on `warpOutputs` outputs of `count` weights of one
/// shape and type and up to 8·tiles tokens. `row(token)`: the token's inputs or null. Sums are this
/// warp's. A unit's weights are on their way while its inputs are made ready.
template <int tiles, int count, class Row>
SLUICE_DEVICE void multiplySlice(Sums<tiles> (&sums)[count], const Matrix (&matrices)[count],
                                 int firstRow, Row row, bool quantise, unsigned char* shared) {
  uint16_t* const inputs = warpInputs<tiles>(shared);
  const int width = matrices[0].width;
#pragma unroll
  for (int i = 0; i < count; i++) sums[i].clear();
  const int begin = sliceBegin(warpOf(), width);
  const int end = sliceBegin(warpOf() + 1, width);
  withType(matrices[0].dtype, [&]<DType dtype>() {
    for (int unit = begin; unit < end; unit++) {
      // Four times the bytes of FP4 do not fit beside more sums.
      constexpr bool ahead = dtype != DType::bf16 || (tiles == 1 && count == 1);
      UnitBytes<dtype> bytes[ahead ? count : 1];
      if constexpr (ahead) {
#pragma unroll
        for (int i = 0; i < count; i++) bytes[i].load(matrices[i], firstRow, unit);
      }
      for (int token = 0; token < tokensOfTile * tiles; token++) {
        stageInput(inputs + token * inputStride, row(token), width, unit, quantise);
      }
      __syncwarp();
#pragma unroll
      for (int i = 0; i < count; i++) {
        if constexpr (!ahead) bytes[0].load(matrices[i], firstRow, unit);
        bytes[ahead ? i : 0].multiply(sums[i], inputs);
      }
      __syncwarp();
    }
  });
}

/// Adds up what the eight warps have, each of the same outputs and tokens.
template <int tiles, class Store>
SLUICE_DEVICE void sumSlices(const Sums<tiles>& sums, unsigned char* shared, Store store) {
  constexpr int each = warpOutputs * tokensOfTile * tiles;
  float* const parts = reinterpret_cast<float*>(shared);
  __syncthreads();
  float* const own = parts + warpOf() * each;
  sums.forEach([&](int output, int token, float sum) { own[token * warpOutputs + output] = sum; });
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < each; i += static_cast<int>(blockDim.x)) {
    float total = 0;
    for (int slice = 0; slice < columnSlices; slice++) total += parts[slice * each + i];
    store(i % warpOutputs, i / warpOutputs, total);
  }
  __syncthreads();
}

/// Outputs of one weight for few tokens. Calls `store(output, token, sum)` once each.
template <int tiles, class Row, class Store>
SLUICE_DEVICE void multiplyFew(const Matrix& matrix, int firstRow, Row row, bool quantise,
                               unsigned char* shared, Store store) {
  Sums<tiles> sums[1];
  const Matrix matrices[1] = {matrix};
  multiplySlice(sums, matrices, firstRow, row, quantise, shared);
  sumSlices(sums[0], shared, store);
}

/// A block of eight warps, each on `warpOutputs` outputs of its own from `firstRow` on, all on the same
/// 8·tiles tokens, whose inputs they bring together.
template <int tiles, int count, class Row>
SLUICE_DEVICE void multiplyMany(Sums<tiles> (&totals)[count], const Matrix (&matrices)[count],
                                int firstRow, Row row, bool quantise, unsigned char* shared) {
  uint16_t* const inputs = reinterpret_cast<uint16_t*>(shared);
  const int width = matrices[0].width;
#pragma unroll
  for (int i = 0; i < count; i++) totals[i].clear();
  for (int slice = 0; slice < columnSlices; slice++) {
    Sums<tiles> sums[count];
#pragma unroll
    for (int i = 0; i < count; i++) sums[i].clear();
    const int end = sliceBegin(slice + 1, width);
    for (int unit = sliceBegin(slice, width); unit < end; unit++) {
      for (int token = warpOf(); token < tokensOfTile * tiles; token += columnSlices) {
        stageInput(inputs + token * inputStride, row(token), width, unit, quantise);
      }
      __syncthreads();
      if (firstRow < matrices[0].rows) {
#pragma unroll
        for (int i = 0; i < count; i++) {
          withType(matrices[i].dtype, [&]<DType dtype>() {
            UnitBytes<dtype> bytes;
            bytes.load(matrices[i], firstRow, unit);
            bytes.multiply(sums[i], inputs);
          });
        }
      }
      __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < count; i++) totals[i].add(sums[i]);
  }
}

/// Σ x·w of one row and one token by one warp, in fp32: for weights that are never made narrower.
SLUICE_DEVICE float warpDot(const float* x, const float* w, int width) {
  float sum = 0;
  for (int i = laneOf(); i < width; i += 32) sum += x[i] * w[i];
  return warpSum(sum);
}

/// Outputs `from … to − 1` of an fp32 weight by all warps of the block.
template <class Row, class Store>
SLUICE_DEVICE void multiplyPlain(const Matrix& matrix, int from, int to, int tokens, Row row,
                                 Store store) {
  const float* const weight = reinterpret_cast<const float*>(matrix.weight);
  const int last = to < matrix.rows ? to : matrix.rows;
  for (int output = from + warpOf(); output < last; output += columnSlices) {
    for (int token = 0; token < tokens; token++) {
      const float* const x = row(token);
      if (x == nullptr) continue;
      const float sum = warpDot(x, weight + int64_t{output} * matrix.width, matrix.width);
      if (laneOf() == 0) store(output - from, token, sum);
    }
  }
}

}  // namespace sluice
