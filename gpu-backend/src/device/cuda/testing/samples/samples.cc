// Kernels as a library for the fake driver has them, written out by hand: what the driver's tests
// launch, right ones and ones that do what a kernel must not.

#include "../simt-abi.h"

#define SAMPLE(name, count, ...)                                                             \
  extern "C" __attribute__((visibility("default"))) const SluiceSimtParams                   \
      sluice_simt_##name##_params = {count, {__VA_ARGS__}, 0, 256};                          \
  extern "C" __attribute__((visibility("default"))) void sluice_simt_##name(                 \
      const SluiceSimtLaunch* launch)

namespace {

template <typename T>
T param(const SluiceSimtLaunch* launch, int index) {
  return *static_cast<T*>(launch->params[index]);
}

uint32_t threads(const SluiceSimtLaunch* launch) { return launch->grid[0] * launch->block[0]; }

}  // namespace

/// out[i] = value, i < count
SAMPLE(fill, 3, 8, 4, 4) {
  auto* out = param<float*>(launch, 0);
  const auto count = param<uint32_t>(launch, 2);
  for (uint32_t i = 0; i < threads(launch) && i < count; i++) out[i] = param<float>(launch, 1);
}

/// out[i] = a[i] + b[i] · factor + offset, the last two of a struct
struct AddTerms {
  double factor;
  int32_t offset;
};
SAMPLE(add, 5, 8, 8, 8, sizeof(AddTerms), 8) {
  const auto* a = param<const float*>(launch, 0);
  const auto* b = param<const float*>(launch, 1);
  auto* out = param<float*>(launch, 2);
  const auto terms = param<AddTerms>(launch, 3);
  const auto count = param<int64_t>(launch, 4);
  for (int64_t i = 0; i < threads(launch) && i < count; i++) {
    out[i] = static_cast<float>(a[i] + b[i] * terms.factor + terms.offset);
  }
}

/// values[i] *= 2: not the same when run twice, or before what it follows
SAMPLE(twice, 2, 8, 4) {
  auto* values = param<float*>(launch, 0);
  for (int32_t i = 0; i < param<int32_t>(launch, 1); i++) values[i] *= 2;
}

/// Writes one element before or behind what it was given.
SAMPLE(stray, 2, 8, 4) { param<float*>(launch, 0)[param<int32_t>(launch, 1)] = 1; }
