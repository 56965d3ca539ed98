#pragma once

#include "../cuda/matrix.h"

// What the kernels of experts for few and for many rows share: their arguments, and what becomes of a
// place's gate and up.

namespace sluice {

struct Projections {
  Matrix gate;
  Matrix up;
  Matrix down;
};

struct ExpertsArgs {
  const float* input;
  const int* experts;
  const float* weights;
  Projections routed;
  Projections shared;
  float* output;
  /// t of every place, and behind them of every row's shared expert.
  float* inner;
  /// What `down` makes of them: of places, and of rows of the shared expert.
  float* results;
  float* sharedResults;
  unsigned* counters;
  /// Many rows: places sorted by expert, and for each expert the first of its own and of its tiles.
  int* sorted;
  int* firstPlace;
  int* firstTile;
  int rows;
  int picked;
  int expertCount;
  int hidden;
  int innerStride;
  int quantise;
  float limit;
  /// The first expert of the stacks.
  int firstExpert;
  /// Rows the shared expert is worked out for.
  int sharedFirst;
  int sharedRows;
  /// Whether all experts are here, and rows are added up.
  int whole;
  int reserved;

  SLUICE_DEVICE int places() const { return rows * picked; }
  /// A place's expert among those here, or −1.
  SLUICE_DEVICE int expertOf(int place) const {
    const int expert = experts[place] - firstExpert;
    return expert >= 0 && expert < expertCount ? expert : -1;
  }
  SLUICE_DEVICE float* resultOf(int place) const {
    return place < places() ? results + int64_t{place} * hidden
                            : sharedResults + int64_t{place - places()} * hidden;
  }
};

/// x·σ(x)
SLUICE_DEVICE float silu(float x) { return x / (1.0f + expf(-x)); }

SLUICE_DEVICE void storeInner(const ExpertsArgs& args, int place, int output, float gate, float up) {
  const float weight = place < args.places() ? args.weights[place] : 1.0f;
  const float bounded = fmaxf(-args.limit, fminf(up, args.limit));
  args.inner[int64_t{place} * args.innerStride + output] =
      silu(fminf(gate, args.limit)) * bounded * weight;
}

}  // namespace sluice
