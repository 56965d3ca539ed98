// linear: output = input · weightᵀ for several weights that read one input (`linear.ts`).
//
// Ladder: one pass of the pool for each part; all parts in one pass, so that narrow projections
// (a key of 512 rows is eight chunks) fill the threads together with the wide ones.

#include "../native/matmul/matmul.h"

namespace sluice {
namespace {

constexpr int partsMax = 16;

/// The input in each form that some part reads, written down once.
struct SharedInputs {
  Inputs forms[8];
  int count = 0;

  const Inputs* get(Context& context, const Tensor& input, DType weight, bool quantise) {
    const bool rounded = quantise && (weight == DType::f8e4m3 || weight == DType::fp4);
    const InputKind kind = inputKind(context, weight, rounded);
    for (int i = 0; i < count; i++) {
      if (forms[i].kind == kind && forms[i].quantise == rounded) return &forms[i];
    }
    Inputs& made = forms[count++];
    made = planInputs(context, kind, rounded, input.shape[0], input.shape[1]);
    const InputRows rows{&made, input.as<const float>(), input.shape[1]};
    fillRows(context, {&rows, 1});
    return &made;
  }
};

void linear(Context& context, Args& args) {
  const Tensor input = args.tensor(DType::f32, 2);
  const bool quantise = args.flag();
  const int64_t parts = args.integer();
  if (parts > partsMax) {
    throw OpError("unsupported_op", std::to_string(parts) + " parts are more than 16");
  }
  SharedInputs shared;
  Product products[partsMax];
  for (int64_t i = 0; i < parts; i++) {
    const Weight weight = args.weight();
    const Tensor output = args.tensor(DType::f32, 2);
    const Inputs* inputs = shared.get(context, input, weight.codes.dtype, quantise);
    products[i] = {matrixOf(weight), inputs, output.as<float>(), output.shape[1]};
  }
  args.finish();
  runProducts(context, {products, static_cast<size_t>(parts)});
}

const RegisterOp registered("linear", linear);

}  // namespace
}  // namespace sluice
