// grouped-linear: a block-diagonal product (`grouped-linear.ts`), as `linear` with each group of outputs
// on its own columns of the input. Blocks do not cross from one group to the next.

#include "../cuda/matrix.h"

namespace sluice {
namespace {

struct GroupedLinearArgs {
  const float* input;
  Matrix matrix;
  float* output;
  int rows;
  int rank;
  int blocksOfGroup;
  int groups;
};

/// What one block works on.
struct Place {
  Matrix matrix;
  InputRows row;
  int firstOutput;
};

/// The group's outputs end the matrix as this block sees it.
SLUICE_DEVICE Place placeOf(const GroupedLinearArgs& args, int tokens, int outputs) {
  const int group = static_cast<int>(blockIdx.x) / args.blocksOfGroup;
  const int64_t width = args.matrix.width;
  Place place = {args.matrix,
                 {args.input + group * width, static_cast<int>(blockIdx.y) * tokens, args.rows,
                  args.groups * width},
                 group * args.rank +
                     static_cast<int>(blockIdx.x) % args.blocksOfGroup * outputs};
  place.matrix.rows = (group + 1) * args.rank;
  return place;
}

SLUICE_DEVICE void store(const GroupedLinearArgs& args, const Place& place, int output, int token,
                         float sum) {
  if (output >= place.matrix.rows || place.row.first + token >= args.rows) return;
  args.output[int64_t{place.row.first + token} * args.matrix.rows + output] = sum;
}

template <int tiles>
SLUICE_DEVICE void few(const GroupedLinearArgs& args, unsigned char* shared) {
  const Place place = placeOf(args, tokensOfTile * tiles, warpOutputs);
  const auto storeOne = [&](int output, int token, float sum) {
    store(args, place, place.firstOutput + output, token, sum);
  };
  if (place.matrix.dtype == DType::f32) {
    multiplyPlain(place.matrix, place.firstOutput, place.firstOutput + warpOutputs,
                  tokensOfTile * tiles, place.row, storeOne);
    return;
  }
  multiplyFew<tiles>(place.matrix, place.firstOutput, place.row, false, shared, storeOne);
}

}  // namespace

SLUICE_KERNEL(grouped_linear_8, GroupedLinearArgs, 256, 2) {
  SLUICE_DYNAMIC_SHARED(shared);
  few<1>(args, shared);
}

SLUICE_KERNEL(grouped_linear_16, GroupedLinearArgs, 256, 2) {
  SLUICE_DYNAMIC_SHARED(shared);
  few<2>(args, shared);
}

SLUICE_KERNEL(grouped_linear_64, GroupedLinearArgs, 256, 1) {
  constexpr int tiles = 8;
  constexpr int outputs = warpOutputs * columnSlices;
  SLUICE_DYNAMIC_SHARED(shared);
  const Place place = placeOf(args, tokensOfTile * tiles, outputs);
  int from = place.firstOutput;
  const auto storeOne = [&](int output, int token, float sum) {
    store(args, place, from + output, token, sum);
  };
  if (place.matrix.dtype == DType::f32) {
    multiplyPlain(place.matrix, from, from + outputs, tokensOfTile * tiles, place.row, storeOne);
    return;
  }
  from += warpOf() * warpOutputs;
  Sums<tiles> totals[1];
  const Matrix matrices[1] = {place.matrix};
  multiplyMany(totals, matrices, from, place.row, false, shared);
  totals[0].forEach(storeOne);
}

}  // namespace sluice
