#pragma once

#include <cmath>
#include <cstdint>
#include <optional>

#include "op.h"

// Hyper-connections: residual streams X [rows, S, D] and what ops do with them (`numerics/streams.ts`).
// Stored values are fp32, everything between two stores is double: the updated streams are the
// nearest fp32 of the exact sums, except where double rounding of S + 1 terms shows, once in 2^27.

namespace sluice {

/// The model has four; a config may give others up to this.
constexpr int streamsMax = 16;

struct Streams {
  float* data;
  int64_t rows;
  int64_t count;
  int64_t hidden;

  int64_t width() const { return count * hidden; }
  float* row(int64_t index) const { return data + index * width(); }
};

/// X'[b] = post[b]·y + Σ_a mix[a][b]·X[a]
struct StreamUpdate {
  const float* output;
  const float* post;
  const float* mix;
};

Streams readStreams(Args& args);
/// Output, post and mix, as `packUpdate` writes them.
StreamUpdate readUpdate(Args& args);
std::optional<StreamUpdate> readPending(Args& args);

/// Applies the update to rows `first … end − 1`.
void updateStreams(Context& context, const Streams& streams, const StreamUpdate& update,
                   int64_t first, int64_t end);

/// The product q = t·(fn·z) as the definition rounds it: to fp32 after the sum and after scaling.
inline double mixLogit(double sum, double inverse) {
  return static_cast<float>(inverse * static_cast<double>(static_cast<float>(sum)));
}

/// 1 / sqrt(mean square + eps)
inline double inverseRoot(double squares, int64_t count, double eps) {
  return 1.0 / std::sqrt(squares / static_cast<double>(count) + eps);
}

double sigmoid(double x);

/// Mixing matrices that are worked out together: their steps wait for one another.
constexpr int sinkhornGroup = 8;

/// Logits `[size, size, count]` to mixing matrices, in place (`numerics/sinkhorn.ts`); `count` is 1
/// or `sinkhornGroup`. A matrix's bits are the same alone as among others.
void sinkhorn(Isa isa, double* matrices, int count, int size, int64_t iterations, double eps);

struct Contraction {
  Isa isa;
  const float* streams;
  int64_t count;
  int64_t hidden;
  /// `[count]`.
  const double* weights;
  const float* norm;
  double eps;
};

/// into = norm·u ÷ rms(u), u = Σ_a weights[a]·X[a]; `sums` has room for `hidden` values.
void contractAndNorm(const Contraction& row, double* sums, float* into);

}  // namespace sluice
