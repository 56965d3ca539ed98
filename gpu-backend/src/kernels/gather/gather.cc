// gather: bytes from many places to many (`gather.ts`).

#include <cstring>

#include "../native/op.h"

namespace sluice {
namespace {

struct Part {
  Tensor from;
  Tensor to;
};

void gather(Context& context, Args& args) {
  std::vector<Part> parts(args.integer());
  for (Part& part : parts) {
    part.from = args.tensor();
    part.to = args.tensor();
  }
  args.finish();
  context.pool.parallelFor(static_cast<int64_t>(parts.size()), [&](int64_t index, int) {
    const Part& part = parts[index];
    std::memcpy(part.to.data, part.from.data, static_cast<size_t>(part.to.bytes()));
  });
}

const RegisterOp registered("gather", gather);

}  // namespace
}  // namespace sluice
