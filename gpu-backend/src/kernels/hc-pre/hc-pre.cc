// hc-pre: a pending update into the streams, their weights, and the sub-layer's input (`hc-pre.ts`).
//
// Three passes of the pool over some rows at a time: streams updated, fn·z, then row by row all that
// is small. Everything is double between stores, and fn·z is rounded to fp32 where the definition
// rounds it, so results equal the definition's bits except where two orders of summation in double
// fall on different sides of an fp32 boundary: about n·2^-53 ÷ 2^-24 of all sums, one in 10^5.
// What such a last place (2^-24 of a logit) does: σ' ≤ 1/4, and the mixing matrix moves by at most
// its own size times it; so pre, post and mix stay within 2^-22 · (1 + |logit·scale|) of the exact.

#include <algorithm>

#include "../native/dots.h"
#include "../native/norm-weight.h"
#include "../native/streams.h"

namespace sluice {
namespace {

/// Rows taken through all three passes before the next ones: 4 MiB of Flash's streams, which the
/// third-level cache holds from pass to pass.
constexpr int64_t rowsEach = 64;

struct HcPre {
  Streams streams;
  std::optional<StreamUpdate> pending;
  MatrixRows fn;
  const float* scale;
  const float* base;
  const float* norm;
  int64_t sinkhornIterations;
  double hcEps;
  double normEps;
  float* normed;
  float* post;
  float* mix;
};

HcPre read(Context& context, Args& args) {
  HcPre op{};
  op.streams = readStreams(args);
  op.pending = readPending(args);
  op.fn = matrixRows(args.tensor(DType::f32, 2));
  op.scale = args.tensor(DType::f32, 1).as<const float>();
  op.base = args.tensor(DType::f32, 1).as<const float>();
  op.norm = normWeight(context, args.tensor());
  op.sinkhornIterations = args.integer();
  op.hcEps = args.number();
  op.normEps = args.number();
  op.normed = args.tensor(DType::f32, 2).as<float>();
  op.post = args.tensor(DType::f32, 2).as<float>();
  op.mix = args.tensor(DType::f32, 3).as<float>();
  args.finish();
  return op;
}

/// What follows from one row's products with fn and its square sum behind them.
void finishRow(const HcPre& op, Isa isa, int64_t row, const double* sums, double* scratch) {
  const int count = static_cast<int>(op.streams.count);
  const double inverse = inverseRoot(sums[op.fn.count], op.fn.width, op.normEps);
  const auto logit = [&](int group, int i) {
    return mixLogit(sums[i], inverse) * op.scale[group] + op.base[i];
  };
  double weights[streamsMax];
  for (int a = 0; a < count; a++) {
    weights[a] = sigmoid(logit(0, a)) + op.hcEps;
    op.post[row * count + a] = static_cast<float>(2 * sigmoid(logit(1, count + a)));
  }
  double matrix[streamsMax * streamsMax];
  for (int i = 0; i < count * count; i++) matrix[i] = logit(2, 2 * count + i);
  sinkhorn(matrix, count, op.sinkhornIterations, op.hcEps);
  float* mix = op.mix + row * count * count;
  for (int i = 0; i < count * count; i++) mix[i] = static_cast<float>(matrix[i]);
  const int64_t hidden = op.streams.hidden;
  contractAndNorm({isa, op.streams.row(row), count, hidden, weights, op.norm, op.normEps}, scratch,
                  op.normed + row * hidden);
}

void hcPre(Context& context, Args& args) {
  const HcPre op = read(context, args);
  const int64_t hidden = op.streams.hidden;
  const int64_t stride = op.fn.count + 1;
  double* sums = context.scratch.take<double>(rowsEach * stride);
  double* contracted = context.scratch.take<double>(hidden * context.pool.threads());
  const float* inputs[rowsEach];
  for (int64_t first = 0; first < op.streams.rows; first += rowsEach) {
    const int64_t end = std::min(op.streams.rows, first + rowsEach);
    if (op.pending) updateStreams(context, op.streams, *op.pending, first, end);
    for (int64_t row = first; row < end; row++) inputs[row - first] = op.streams.row(row);
    dotsInParallel(context, inputs, end - first, op.fn, true, sums, stride);
    context.pool.parallelFor(end - first, [&](int64_t index, int worker) {
      finishRow(op, context.isa, first + index, sums + index * stride, contracted + worker * hidden);
    });
  }
}

const RegisterOp registered("hc-pre", hcPre);

}  // namespace
}  // namespace sluice
