// hc-head: the pending update into all streams, then the rows picked are contracted and normed
// (`hc-head.ts`). Numerics as in `hc-pre`.

#include "../native/dots.h"
#include "../native/norm-weight.h"
#include "../native/rows.h"
#include "../native/streams.h"

namespace sluice {
namespace {

void hcHead(Context& context, Args& args) {
  const Streams streams = readStreams(args);
  const std::optional<StreamUpdate> pending = readPending(args);
  const Tensor picks = args.tensor(DType::i32, 1);
  const MatrixRows fn = matrixRows(args.tensor(DType::f32, 2));
  const double scale = args.tensor(DType::f32, 1).as<const float>()[0];
  const float* base = args.tensor(DType::f32, 1).as<const float>();
  const float* norm = normWeight(context, args.tensor());
  const double hcEps = args.number();
  const double normEps = args.number();
  float* output = args.tensor(DType::f32, 2).as<float>();
  args.finish();

  const int32_t* rows = indicesBelow(picks, streams.rows, "stream row");
  if (pending) updateStreams(context, streams, *pending, 0, streams.rows);
  const int64_t picked = picks.count();
  const int64_t stride = fn.count + 1;
  double* sums = context.scratch.take<double>(picked * stride);
  double* contracted = context.scratch.take<double>(streams.hidden * context.pool.threads());
  const float** inputs = context.scratch.take<const float*>(picked);
  for (int64_t i = 0; i < picked; i++) inputs[i] = streams.row(rows[i]);
  dotsInParallel(context, inputs, picked, fn, true, sums, stride);
  context.pool.parallelFor(picked, [&](int64_t index, int worker) {
    const double* products = sums + index * stride;
    const double inverse = inverseRoot(products[fn.count], fn.width, normEps);
    double weights[streamsMax];
    for (int64_t a = 0; a < streams.count; a++) {
      weights[a] = sigmoid(mixLogit(products[a], inverse) * scale + base[a]) + hcEps;
    }
    contractAndNorm({context.isa, inputs[index], streams.count, streams.hidden, weights, norm, normEps},
                    contracted + worker * streams.hidden, output + index * streams.hidden);
  });
}

const RegisterOp registered("hc-head", hcHead);

}  // namespace
}  // namespace sluice
