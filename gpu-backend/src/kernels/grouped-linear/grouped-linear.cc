// grouped-linear: a block-diagonal product (`grouped-linear.ts`): group g of the input meets its own
// rows of the weight. One pass of the pool over all groups; the input is never rounded to FP8.

#include <vector>

#include "../native/matmul/matmul.h"

namespace sluice {
namespace {

void groupedLinear(Context& context, Args& args) {
  const Tensor input = args.tensor(DType::f32, 2);
  const Weight weight = args.weight();
  const int64_t groups = args.integer();
  const Tensor output = args.tensor(DType::f32, 2);
  args.finish();
  const Matrix matrix = matrixOf(weight);
  const int64_t rank = matrix.rows / groups;
  const InputKind kind = inputKind(context, matrix.dtype, false);
  std::vector<Inputs> inputs(groups);
  std::vector<InputRows> rows(groups);
  std::vector<Product> products;
  for (int64_t g = 0; g < groups; g++) {
    inputs[g] = planInputs(context, kind, false, input.shape[0], matrix.width);
    rows[g] = {&inputs[g], input.as<const float>() + g * matrix.width, input.shape[1]};
    const int64_t end = (g + 1) * rank;
    for (int64_t row = g * rank, count = 0; row < end; row += count) {
      count = rowsTogether(matrix, row, end - row);
      products.push_back({rowsOf(matrix, row, count), &inputs[g], output.as<float>() + row,
                          output.shape[1]});
    }
  }
  fillRows(context, rows);
  runProducts(context, products);
}

const RegisterOp registered("grouped-linear", groupedLinear);

}  // namespace
}  // namespace sluice
