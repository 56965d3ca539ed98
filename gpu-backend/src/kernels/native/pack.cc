// pack: rearranges a weight in place into the panels that kernels read (`matmul/panels.h`). Done once
// after loading; the device remembers which weights are packed.

#include "matmul/panels.h"

namespace sluice {
namespace {

/// Panels one thread packs at a time: about 256 KiB of FP4 at a width of 4096.
constexpr int64_t panelsEach = 8;

void pack(Context& context, Args& args) {
  const Weight weight = args.weight();
  args.finish();
  const Tensor& codes = weight.codes;
  const int64_t width = codes.shape[codes.rank - 1];
  const int64_t rows = codes.count() / width;
  const int64_t rowsEach = codes.shape[codes.rank - 2];
  if (!packable(codes.dtype, width) || (codes.rank == 3 && rowsEach % panelRows != 0)) {
    throw OpError("unsupported_op", "rows of " + std::to_string(width) + " cannot be packed");
  }
  const int64_t bytes = width * bitsOf(codes.dtype) / 8;
  const int64_t scaleBytes = codes.dtype == DType::fp4 ? width / 32 : 0;
  const int64_t scratchEach = (bytes + scaleBytes) * panelRows;
  uint8_t* scratch = context.scratch.take<uint8_t>(scratchEach * context.pool.threads());
  uint8_t* scales = const_cast<uint8_t*>(weight.scales);
  const int64_t panels = rows / panelRows;
  context.pool.parallelFor((panels + panelsEach - 1) / panelsEach, [&](int64_t chunk, int worker) {
    const int64_t end = std::min(panels, (chunk + 1) * panelsEach);
    for (int64_t panel = chunk * panelsEach; panel < end; panel++) {
      const int64_t row = panel * panelRows;
      packPanel(codes.dtype, width, codes.as<uint8_t>() + row * bytes,
                scaleBytes > 0 ? scales + row * scaleBytes : nullptr,
                scratch + worker * scratchEach);
    }
  });
}

const RegisterOp registered("pack", pack);

}  // namespace
}  // namespace sluice
