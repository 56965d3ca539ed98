#include "streams.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "rows.h"

namespace sluice {
namespace {

/// Channels whose streams are widened before any of them is overwritten.
constexpr int64_t blockChannels = 64;

struct UpdateRow {
  float* streams;
  int64_t count;
  int64_t hidden;
  const float* output;
  const float* post;
  const float* mix;
};

/// Channels `from … from + n − 1`. `fixed`: the number of streams where the compiler may know it.
template <int fixed>
SLUICE_INLINE void updateBlock(const UpdateRow& row, int64_t from, int64_t n) {
  const int64_t count = fixed > 0 ? fixed : row.count;
  double old[fixed > 0 ? fixed : streamsMax][blockChannels];
  double y[blockChannels];
  for (int64_t i = 0; i < n; i++) y[i] = row.output[from + i];
  for (int64_t a = 0; a < count; a++) {
    const float* stream = row.streams + a * row.hidden + from;
    for (int64_t i = 0; i < n; i++) old[a][i] = stream[i];
  }
  for (int64_t b = 0; b < count; b++) {
    const double post = row.post[b];
    double mix[fixed > 0 ? fixed : streamsMax];
    for (int64_t a = 0; a < count; a++) mix[a] = row.mix[a * count + b];
    float* stream = row.streams + b * row.hidden + from;
    for (int64_t i = 0; i < n; i++) {
      double sum = post * y[i];
      for (int64_t a = 0; a < count; a++) sum += mix[a] * old[a][i];
      stream[i] = static_cast<float>(sum);
    }
  }
}

SLUICE_INLINE void updateBody(const UpdateRow& row, int64_t from, int64_t to) {
  for (int64_t at = from; at < to; at += blockChannels) {
    const int64_t n = std::min(blockChannels, to - at);
    if (row.count == 4 && n == blockChannels) {
      updateBlock<4>(row, at, blockChannels);
    } else {
      updateBlock<0>(row, at, n);
    }
  }
}

SLUICE_PER_ISA(update, updateBody, (const UpdateRow& row, int64_t from, int64_t to),
               (row, from, to))

template <int fixed>
SLUICE_INLINE void sumStreams(const Contraction& row, double* sums) {
  const int64_t count = fixed > 0 ? fixed : row.count;
  const float* stream = row.streams;
  for (int64_t d = 0; d < row.hidden; d++) {
    double sum = 0;
    for (int64_t a = 0; a < count; a++) sum += row.weights[a] * stream[a * row.hidden + d];
    sums[d] = sum;
  }
}

constexpr int lanes = 8;

SLUICE_INLINE void contractBody(const Contraction& row, double* sums, float* into) {
  if (row.count == 4) {
    sumStreams<4>(row, sums);
  } else {
    sumStreams<0>(row, sums);
  }
  double chain[lanes] = {};
  const int64_t whole = row.hidden / lanes * lanes;
  for (int64_t d = 0; d < whole; d += lanes) {
    for (int lane = 0; lane < lanes; lane++) chain[lane] += sums[d + lane] * sums[d + lane];
  }
  for (int64_t d = whole; d < row.hidden; d++) chain[d - whole] += sums[d] * sums[d];
  const double squares = ((chain[0] + chain[4]) + (chain[2] + chain[6])) +
                         ((chain[1] + chain[5]) + (chain[3] + chain[7]));
  const double inverse = inverseRoot(squares, row.hidden, row.eps);
  for (int64_t d = 0; d < row.hidden; d++) {
    into[d] = static_cast<float>(sums[d] * inverse * row.norm[d]);
  }
}

SLUICE_PER_ISA(contract, contractBody, (const Contraction& row, double* sums, float* into),
               (row, sums, into))

/// Matrices side by side: element i of matrix l is at i·count + l.
template <int count>
SLUICE_INLINE void softmaxRow(double* row, int size, double eps) {
  for (int l = 0; l < count; l++) {
    double largest = row[l];
    for (int i = 1; i < size; i++) largest = std::max(largest, row[i * count + l]);
    double sum = 0;
    for (int i = 0; i < size; i++) sum += row[i * count + l] = std::exp(row[i * count + l] - largest);
    for (int i = 0; i < size; i++) row[i * count + l] = row[i * count + l] / sum + eps;
  }
}

/// `step` walks along one row or column, `next` leads to the following one. One division a line and
/// matrix: its rounding is far below that of the fp32 the result ends in.
template <int count>
SLUICE_INLINE void divideBySums(double* matrices, int size, int step, int next, double eps) {
  for (int line = 0; line < size; line++) {
    double* first = matrices + line * next * count;
    double inverse[count];
    for (int l = 0; l < count; l++) inverse[l] = eps;
    for (int i = 0; i < size; i++) {
      for (int l = 0; l < count; l++) inverse[l] += first[i * step * count + l];
    }
    for (int l = 0; l < count; l++) inverse[l] = 1.0 / inverse[l];
    for (int i = 0; i < size; i++) {
      for (int l = 0; l < count; l++) first[i * step * count + l] *= inverse[l];
    }
  }
}

template <int count>
SLUICE_INLINE void sinkhornBody(double* matrices, int size, int64_t iterations, double eps) {
  for (int row = 0; row < size; row++) softmaxRow<count>(matrices + row * size * count, size, eps);
  divideBySums<count>(matrices, size, size, 1, eps);
  for (int64_t round = 1; round < iterations; round++) {
    divideBySums<count>(matrices, size, 1, size, eps);
    divideBySums<count>(matrices, size, size, 1, eps);
  }
}

SLUICE_PER_ISA(sinkhornMany, sinkhornBody<sinkhornGroup>,
               (double* matrices, int size, int64_t iterations, double eps),
               (matrices, size, iterations, eps))

}  // namespace

Streams readStreams(Args& args) {
  const Tensor tensor = args.tensor(DType::f32, 3);
  if (tensor.shape[1] > streamsMax) {
    throw OpError("unsupported_op", std::to_string(tensor.shape[1]) + " streams are more than " +
                                        std::to_string(streamsMax));
  }
  return {tensor.as<float>(), tensor.shape[0], tensor.shape[1], tensor.shape[2]};
}

StreamUpdate readUpdate(Args& args) {
  const Tensor output = args.tensor(DType::f32, 2);
  const Tensor post = args.tensor(DType::f32, 2);
  const Tensor mix = args.tensor(DType::f32, 3);
  return {output.as<const float>(), post.as<const float>(), mix.as<const float>()};
}

std::optional<StreamUpdate> readPending(Args& args) {
  if (!args.flag()) return std::nullopt;
  return readUpdate(args);
}

void updateStreams(Context& context, const Streams& streams, const StreamUpdate& pending,
                   int64_t first, int64_t end) {
  const auto kernel = update(context.isa);
  const auto work = [&](int64_t index, int64_t from, int64_t to, int) {
    const int64_t row = first + index;
    const int64_t count = streams.count;
    kernel({streams.row(row), count, streams.hidden, pending.output + row * streams.hidden,
            pending.post + row * count, pending.mix + row * count * count},
           from, to);
  };
  overRows(context.pool, end - first, streams.hidden, streams.count, work);
}

double sigmoid(double x) {
  if (x >= 0) return 1.0 / (1.0 + std::exp(-x));
  const double e = std::exp(x);
  return e / (1.0 + e);
}

void sinkhorn(Isa isa, double* matrices, int count, int size, int64_t iterations, double eps) {
  if (count == 1) return sinkhornBody<1>(matrices, size, iterations, eps);
  sinkhornMany(isa)(matrices, size, iterations, eps);
}

void contractAndNorm(const Contraction& row, double* sums, float* into) {
  contract(row.isa)(row, sums, into);
}

}  // namespace sluice
