// hc-head: the streams of the rows picked, contracted and normed for the head (`hc-head.ts`), as in
// hc-pre. A pending update went into all rows before (`hc_post`).

#include "../cuda/streams.h"

namespace sluice {
namespace {

struct HcHeadArgs {
  Streams streams;
  const int* picks;
  const float* fn;
  const float* scale;
  const float* base;
  Values norm;
  float* output;
  float* parts;
  unsigned* counters;
  float hcEps;
  float normEps;
};

}  // namespace

SLUICE_KERNEL(hc_head, HcHeadArgs, 256, 2) {
  SLUICE_DYNAMIC_SHARED(shared);
  float* const room = reinterpret_cast<float*>(shared);
  float* const logits = room + 32;
  float* const values = room + 64;
  const Streams& streams = args.streams;
  const int outputs = streams.count;
  const int block = static_cast<int>(blockIdx.x);
  const int blocks = static_cast<int>(gridDim.x);
  const int pick = static_cast<int>(blockIdx.y);
  const int row = args.picks[pick];
  float* const parts = args.parts + int64_t{pick} * blocks * (outputs + 1);
  const int count = takeColumns(streams, {nullptr, nullptr, nullptr}, row, block, values);
  partialSums(args.fn, outputs, streams, block, values, count, parts + block * (outputs + 1));
  if (!lastToArrive(args.counters + pick, gridDim.x, reinterpret_cast<int*>(room))) return;
  finishLogits(parts, blocks, outputs, streams.count * streams.hidden, args.normEps, logits);
  float* const weights = logits + sumsMax;
  const int lane = static_cast<int>(threadIdx.x);
  if (lane < outputs) {
    weights[lane] = sigmoid(logits[lane] * args.scale[0] + args.base[lane]) + args.hcEps;
  }
  __syncthreads();
  contractAndNorm(streams, row, weights, args.norm, args.normEps, values, room,
                  args.output + int64_t{pick} * streams.hidden);
}

}  // namespace sluice
