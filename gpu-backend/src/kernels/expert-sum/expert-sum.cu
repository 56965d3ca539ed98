// expert-sum: each own row's experts added up, read where they were worked out, on this GPU or on others
// (`expert-sum.ts`): in the order of `experts`, as they were picked, the shared one last.

#include "../cuda/platform.h"

namespace sluice {
namespace {

constexpr int gpusMax = 16;

struct ExpertSumArgs {
  const int* experts;
  const float* results[gpusMax];
  float* output;
  int expertsEach;
  int firstRow;
  int picked;
  int hidden;
};

}  // namespace

SLUICE_KERNEL(expert_sum, ExpertSumArgs, 256, 2) {
  const int row = static_cast<int>(blockIdx.x);
  const int i = static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x);
  if (i >= args.hidden) return;
  float sum = 0;
  for (int slot = 0; slot < args.picked; slot++) {
    const int owner = args.experts[int64_t{row} * args.picked + slot] / args.expertsEach;
    const int64_t place = int64_t{args.firstRow + row} * args.picked + slot;
    sum += args.results[owner][place * args.hidden + i];
  }
  float* const output = args.output + int64_t{row} * args.hidden + i;
  *output = sum + *output;
}

}  // namespace sluice
