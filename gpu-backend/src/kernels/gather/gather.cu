// gather: bytes from many places, of this GPU or of others, to many of this one (`gather.ts`). A row of
// blocks for each part; sixteen bytes at a time where both ends allow it.

#include "../cuda/platform.h"

namespace sluice {
namespace {

constexpr int partsMax = 48;

struct Part {
  const uint8_t* from;
  uint8_t* to;
  int64_t bytes;
};

struct GatherArgs {
  Part parts[partsMax];
};

}  // namespace

SLUICE_KERNEL(gather_bytes, GatherArgs, 256, 2) {
  const Part& part = args.parts[blockIdx.y];
  const int64_t first = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  const uintptr_t places = reinterpret_cast<uintptr_t>(part.from) | reinterpret_cast<uintptr_t>(part.to);
  const int64_t wide = (places & 15) == 0 ? part.bytes / 16 : 0;
  const uint4* const from = reinterpret_cast<const uint4*>(part.from);
  uint4* const to = reinterpret_cast<uint4*>(part.to);
  for (int64_t i = first; i < wide; i += step) to[i] = from[i];
  for (int64_t i = 16 * wide + first; i < part.bytes; i += step) part.to[i] = part.from[i];
}

}  // namespace sluice
