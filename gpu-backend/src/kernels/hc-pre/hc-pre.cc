// hc-pre: a pending update into the streams, their weights, and the sub-layer's input (`hc-pre.ts`).
//
// Ladder: mixing matrices eight rows at a time, 0.07 µs a row against 0.6 one by one, of 1.9 at the
// toy's width and 29 at Flash's, where fn·z takes most.
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

/// Room for what one thread works out.
struct Workspace {
  double* contracted;
  double* matrices;
};

/// What follows from the products of `count` rows with fn, each row's square sum behind them.
void finishRows(const HcPre& op, Isa isa, int64_t first, int count, const double* sums,
                const Workspace& space) {
  const int streams = static_cast<int>(op.streams.count);
  const int size = streams * streams;
  const int group = count == 1 ? 1 : sinkhornGroup;
  std::fill(space.matrices, space.matrices + size * group, 0.0);
  double weights[sinkhornGroup][streamsMax];
  for (int r = 0; r < count; r++) {
    const double* products = sums + r * (op.fn.count + 1);
    const double inverse = inverseRoot(products[op.fn.count], op.fn.width, op.normEps);
    const auto logit = [&](int part, int i) {
      return mixLogit(products[i], inverse) * op.scale[part] + op.base[i];
    };
    float* post = op.post + (first + r) * streams;
    for (int a = 0; a < streams; a++) {
      weights[r][a] = sigmoid(logit(0, a)) + op.hcEps;
      post[a] = static_cast<float>(2 * sigmoid(logit(1, streams + a)));
    }
    for (int i = 0; i < size; i++) space.matrices[i * group + r] = logit(2, 2 * streams + i);
  }
  sinkhorn(isa, space.matrices, group, streams, op.sinkhornIterations, op.hcEps);
  const int64_t hidden = op.streams.hidden;
  for (int r = 0; r < count; r++) {
    const int64_t row = first + r;
    float* mix = op.mix + row * size;
    for (int i = 0; i < size; i++) mix[i] = static_cast<float>(space.matrices[i * group + r]);
    contractAndNorm({isa, op.streams.row(row), streams, hidden, weights[r], op.norm, op.normEps},
                    space.contracted, op.normed + row * hidden);
  }
}

void hcPre(Context& context, Args& args) {
  const HcPre op = read(context, args);
  const int64_t hidden = op.streams.hidden;
  const int64_t stride = op.fn.count + 1;
  double* sums = context.scratch.take<double>(rowsEach * stride);
  const int threads = context.pool.threads();
  const int64_t matricesEach = op.streams.count * op.streams.count * sinkhornGroup;
  double* contracted = context.scratch.take<double>(hidden * threads);
  double* matrices = context.scratch.take<double>(matricesEach * threads);
  const float* inputs[rowsEach];
  for (int64_t first = 0; first < op.streams.rows; first += rowsEach) {
    const int64_t end = std::min(op.streams.rows, first + rowsEach);
    if (op.pending) updateStreams(context, op.streams, *op.pending, first, end);
    for (int64_t row = first; row < end; row++) inputs[row - first] = op.streams.row(row);
    dotsInParallel(context, inputs, end - first, op.fn, true, sums, stride);
    // Few rows are shared out one by one.
    const int64_t each = end - first < 2 * threads ? 1 : sinkhornGroup;
    context.pool.parallelFor((end - first + each - 1) / each, [&](int64_t chunk, int worker) {
      const int64_t row = chunk * each;
      const int count = static_cast<int>(std::min(each, end - first - row));
      finishRows(op, context.isa, first + row, count, sums + row * stride,
                 {contracted + worker * hidden, matrices + worker * matricesEach});
    });
  }
}

const RegisterOp registered("hc-pre", hcPre);

}  // namespace
}  // namespace sluice
