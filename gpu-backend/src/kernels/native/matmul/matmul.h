#pragma once

#include <cstdint>
#include <span>

#include "../op.h"
#include "inputs.h"
#include "panels.h"

namespace sluice {

/// output[row·stride + o] = Σ_i input[row][i] · weight[o][i]
struct Product {
  Matrix weight;
  const Inputs* inputs;
  float* output;
  int64_t outputStride;
};

/// Runs products side by side: one pass of the pool over all of them, cut into 64 weight rows each
/// and, for many input rows, into 128 of those.
void runProducts(Context& context, std::span<const Product> products);

}  // namespace sluice
