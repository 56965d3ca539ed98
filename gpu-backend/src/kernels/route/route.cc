// route: scores of the experts, the best of a row or those of its token, and their weights
// (`route.ts`).
//
// The gate's products are sums in double rounded once to fp32, as in the definition: a last place
// more or less could choose another expert. Where experts come from the table, only theirs are
// multiplied.

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "../native/dots.h"
#include "../native/rows.h"

namespace sluice {
namespace {

struct Route {
  Tensor input;
  const int32_t* tokens;
  Tensor gate;
  /// One of the two: f32 `[experts]`, or i32 `[vocabulary, picked]`.
  const float* bias;
  const int32_t* table;
  double factor;
  int64_t picked;
  int32_t* experts;
  float* weights;

  const float* row(int64_t index) const {
    return input.as<const float>() + index * input.shape[1];
  }
};

Route read(Args& args) {
  Route op{};
  op.input = args.tensor(DType::f32, 2);
  const Tensor tokens = args.tensor(DType::i32, 1);
  op.gate = args.tensor();
  op.tokens = tokens.as<const int32_t>();
  if (args.flag()) {
    const Tensor table = args.tensor(DType::i32, 2);
    op.tokens = indicesBelow(tokens, table.shape[0], "token");
    op.table = table.as<const int32_t>();
  } else {
    op.bias = args.tensor(DType::f32, 1).as<const float>();
  }
  op.factor = args.number();
  const Tensor experts = args.tensor(DType::i32, 2);
  op.picked = experts.shape[1];
  op.experts = experts.as<int32_t>();
  op.weights = args.tensor(DType::f32, 2).as<float>();
  args.finish();
  return op;
}

/// sqrt(ln(1 + e^x)) of a logit rounded to fp32.
double score(double sum) {
  const double x = static_cast<float>(sum);
  return std::sqrt(std::max(x, 0.0) + std::log1p(std::exp(-std::fabs(x))));
}

/// NaN would compare as false with everything; so it counts as the least.
double orderOf(double value) {
  return std::isnan(value) ? -std::numeric_limits<double>::infinity() : value;
}

/// Indices of the `picked` largest of scores + bias, largest first. A later one moves up past smaller
/// ones only, so equal ones stay in index order.
void largest(const double* scores, const float* bias, int64_t count, int64_t picked, int32_t* into) {
  const auto at = [&](int64_t expert) { return orderOf(scores[expert] + bias[expert]); };
  int64_t kept = 0;
  for (int64_t expert = 0; expert < count; expert++) {
    const double value = at(expert);
    int64_t place = kept;
    while (place > 0 && value > at(into[place - 1])) place--;
    if (place == picked) continue;
    kept = std::min(kept + 1, picked);
    for (int64_t i = kept - 1; i > place; i--) into[i] = into[i - 1];
    into[place] = static_cast<int32_t>(expert);
  }
}

/// Each weight its score's share of the sum, times the factor.
void weigh(const double* scores, int64_t picked, double factor, float* into) {
  double sum = 0;
  for (int64_t i = 0; i < picked; i++) sum += scores[i];
  for (int64_t i = 0; i < picked; i++) into[i] = static_cast<float>(scores[i] / sum * factor);
}

void routeByScore(Context& context, const Route& op) {
  const int64_t rows = op.input.shape[0];
  const MatrixRows gate = matrixRows(op.gate);
  double* scores = context.scratch.take<double>(rows * gate.count);
  double* chosen = context.scratch.take<double>(op.picked * context.pool.threads());
  const float** inputs = context.scratch.take<const float*>(rows);
  for (int64_t row = 0; row < rows; row++) inputs[row] = op.row(row);
  dotsInParallel(context, inputs, rows, gate, false, scores, gate.count);
  context.pool.parallelFor(rows, [&](int64_t row, int worker) {
    double* own = scores + row * gate.count;
    for (int64_t expert = 0; expert < gate.count; expert++) own[expert] = score(own[expert]);
    int32_t* experts = op.experts + row * op.picked;
    largest(own, op.bias, gate.count, op.picked, experts);
    double* picks = chosen + worker * op.picked;
    for (int64_t i = 0; i < op.picked; i++) picks[i] = own[experts[i]];
    weigh(picks, op.picked, op.factor, op.weights + row * op.picked);
  });
}

/// Copies the table's rows, each expert checked before its gate row is read.
void takeFromTable(const Route& op) {
  const int64_t rows = op.input.shape[0];
  for (int64_t row = 0; row < rows; row++) {
    const int32_t* listed = op.table + op.tokens[row] * op.picked;
    for (int64_t i = 0; i < op.picked; i++) {
      if (listed[i] < 0 || listed[i] >= op.gate.shape[0]) {
        throw OpError("out_of_range", "the table gives token " + std::to_string(op.tokens[row]) +
                                          " expert " + std::to_string(listed[i]) + " of " +
                                          std::to_string(op.gate.shape[0]));
      }
      op.experts[row * op.picked + i] = listed[i];
    }
  }
}

void routeByToken(Context& context, const Route& op) {
  takeFromTable(op);
  double* scores = context.scratch.take<double>(op.picked * context.pool.threads());
  context.pool.parallelFor(op.input.shape[0], [&](int64_t row, int worker) {
    double* own = scores + worker * op.picked;
    const float* input = op.row(row);
    for (int64_t i = 0; i < op.picked; i++) {
      const MatrixRows gate = matrixRows(op.gate, op.experts[row * op.picked + i], 1);
      dots(context.isa, &input, 1, gate, own + i, 1);
      own[i] = score(own[i]);
    }
    weigh(own, op.picked, op.factor, op.weights + row * op.picked);
  });
}

void route(Context& context, Args& args) {
  const Route op = read(args);
  if (op.table != nullptr) {
    routeByToken(context, op);
  } else {
    routeByScore(context, op);
  }
}

const RegisterOp registered("route", route);

}  // namespace
}  // namespace sluice
