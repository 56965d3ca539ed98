// The sum of one buffer of each GPU, for small ones (`device/cuda/group.ts`): every GPU reads all of them
// where they lie and adds in the order of the GPUs, so that all get the same bits.

#include "platform.h"

namespace sluice {
namespace {

constexpr int gpusMax = 16;

struct AllReduceArgs {
  const float* inputs[gpusMax];
  float* output;
  int64_t count;
  int gpus;
  int reserved;
};

}  // namespace

SLUICE_KERNEL(all_reduce_sum, AllReduceArgs, 256, 2) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= args.count) return;
  float sum = args.inputs[0][i];
  for (int gpu = 1; gpu < args.gpus; gpu++) sum += args.inputs[gpu][i];
  args.output[i] = sum;
}

}  // namespace sluice
