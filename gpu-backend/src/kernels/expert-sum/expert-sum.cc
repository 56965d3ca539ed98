// expert-sum: each row's experts, worked out by several devices, added up (`expert-sum.ts`). In double and in
// the order of `experts`: as they were picked, the shared one last.

#include <vector>

#include "../native/op.h"
#include "../native/rows.h"

namespace sluice {
namespace {

void expertSum(Context& context, Args& args) {
  const Tensor picks = args.tensor(DType::i32, 2);
  std::vector<const float*> results(args.integer());
  for (const float*& each : results) each = args.tensor(DType::f32, 3).as<const float>();
  const int64_t expertsEach = args.integer();
  const int64_t firstRow = args.integer();
  const Tensor output = args.tensor(DType::f32, 2);
  args.finish();
  const int64_t picked = picks.shape[1];
  const int64_t hidden = output.shape[1];
  const int64_t experts = expertsEach * static_cast<int64_t>(results.size());
  const int32_t* owners = indicesBelow(picks, experts, "expert");
  overRows(context.pool, picks.shape[0], hidden, picked + 1,
           [&](int64_t row, int64_t from, int64_t to, int) {
             float* into = output.as<float>() + row * hidden;
             for (int64_t i = from; i < to; i++) {
               double sum = 0;
               for (int64_t slot = 0; slot < picked; slot++) {
                 const float* of = results[owners[row * picked + slot] / expertsEach];
                 sum += of[((firstRow + row) * picked + slot) * hidden + i];
               }
               into[i] = static_cast<float>(sum + into[i]);
             }
           });
}

const RegisterOp registered("expert-sum", expertSum);

}  // namespace
}  // namespace sluice
