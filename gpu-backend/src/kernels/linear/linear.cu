// linear: output = input · weightᵀ for several weights that read one input (`linear.ts`).
//
// One launch however many parts: blocks of all parts lie one after the other in the grid. Memory-bound
// for few rows, where a block's eight warps share out the columns of 32 outputs so that many loads are
// under way; from 64 rows on a block takes 256 outputs, and every weight decoded serves 64 rows. Both
// give the same bits (`cuda/matrix.h`).

#include "../cuda/matrix.h"

namespace sluice {
namespace {

constexpr int partsMax = 8;

struct Part {
  Matrix matrix;
  float* output;
  /// The first of its blocks in the grid.
  int firstBlock;
  int reserved;
};

struct LinearArgs {
  const float* input;
  int rows;
  int width;
  int quantise;
  int partCount;
  Part parts[partsMax];

  SLUICE_DEVICE const Part& partOf(int block) const {
    int part = 0;
    while (part + 1 < partCount && parts[part + 1].firstBlock <= block) part++;
    return parts[part];
  }
};

template <int tiles>
SLUICE_DEVICE void few(const LinearArgs& args, unsigned char* shared) {
  const int block = static_cast<int>(blockIdx.x);
  const Part& part = args.partOf(block);
  const int firstOutput = (block - part.firstBlock) * warpOutputs;
  const InputRows row = {args.input, static_cast<int>(blockIdx.y) * tokensOfTile * tiles, args.rows,
                         args.width};
  const auto store = [&](int output, int token, float sum) {
    if (firstOutput + output >= part.matrix.rows || row.first + token >= args.rows) return;
    part.output[int64_t{row.first + token} * part.matrix.rows + firstOutput + output] = sum;
  };
  if (part.matrix.dtype == DType::f32) {
    multiplyPlain(part.matrix, firstOutput, firstOutput + warpOutputs, tokensOfTile * tiles, row,
                  store);
    return;
  }
  const bool quantise = args.quantise != 0 && part.matrix.dtype != DType::bf16;
  multiplyFew<tiles>(part.matrix, firstOutput, row, quantise, shared, store);
}

}  // namespace

SLUICE_KERNEL(linear_8, LinearArgs, 256, 2) {
  SLUICE_DYNAMIC_SHARED(shared);
  few<1>(args, shared);
}

SLUICE_KERNEL(linear_16, LinearArgs, 256, 2) {
  SLUICE_DYNAMIC_SHARED(shared);
  few<2>(args, shared);
}

SLUICE_KERNEL(linear_64, LinearArgs, 256, 1) {
  constexpr int tiles = 8;
  SLUICE_DYNAMIC_SHARED(shared);
  const int block = static_cast<int>(blockIdx.x);
  const Part& part = args.partOf(block);
  const int firstOutput = (block - part.firstBlock) * warpOutputs * columnSlices;
  const InputRows row = {args.input, static_cast<int>(blockIdx.y) * tokensOfTile * tiles, args.rows,
                         args.width};
  int from = firstOutput;
  const auto store = [&](int output, int token, float sum) {
    if (from + output >= part.matrix.rows || row.first + token >= args.rows) return;
    part.output[int64_t{row.first + token} * part.matrix.rows + from + output] = sum;
  };
  if (part.matrix.dtype == DType::f32) {
    multiplyPlain(part.matrix, from, from + warpOutputs * columnSlices, tokensOfTile * tiles, row,
                  store);
    return;
  }
  from += warpOf() * warpOutputs;
  const bool quantise = args.quantise != 0 && part.matrix.dtype != DType::bf16;
  Sums<tiles> totals[1];
  const Matrix matrices[1] = {part.matrix};
  multiplyMany(totals, matrices, from, row, quantise, shared);
  totals[0].forEach(store);
}

}  // namespace sluice
