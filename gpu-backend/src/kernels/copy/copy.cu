// copy: bytes from one tensor to another (`copy.ts`), sixteen at a time where both allow it.

#include "../cuda/platform.h"

namespace sluice {
namespace {

struct CopyArgs {
  const uint8_t* from;
  uint8_t* to;
  int64_t bytes;
};

}  // namespace

SLUICE_KERNEL(copy_bytes, CopyArgs, 256, 2) {
  const int64_t first = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  const uintptr_t places = reinterpret_cast<uintptr_t>(args.from) | reinterpret_cast<uintptr_t>(args.to);
  const int64_t wide = (places & 15) == 0 ? args.bytes / 16 : 0;
  const uint4* const from = reinterpret_cast<const uint4*>(args.from);
  uint4* const to = reinterpret_cast<uint4*>(args.to);
  for (int64_t i = first; i < wide; i += step) to[i] = from[i];
  for (int64_t i = 16 * wide + first; i < args.bytes; i += step) args.to[i] = args.from[i];
}

}  // namespace sluice
