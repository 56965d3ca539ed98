#include "rotation.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace sluice {
namespace {

/// A row of 32 pairs takes 1.5 µs.
constexpr int64_t rowsEach = 4;

}  // namespace

void fillAngles(const float* frequencies, int64_t pairs, int64_t position, double* into) {
  for (int64_t i = 0; i < pairs; i++) {
    const double angle = static_cast<float>(position) * frequencies[i];
    into[i] = std::cos(angle);
    into[pairs + i] = std::sin(angle);
  }
}

Rotations::Rotations(Context& context, const BatchRows& rows, const Tensor& frequencies)
    : pairs_(frequencies.count()) {
  const float* given = frequencies.as<const float>();
  const int64_t count = rows.count();
  const std::vector<float> wanted(given, given + pairs_);
  std::vector<int32_t> positions(count);
  for (int64_t row = 0; row < count; row++) positions[row] = rows[row].position;
  if (const RotationTables::Table* found = context.rotations.find(wanted, positions)) {
    table_ = found->values.data();
    return;
  }
  RotationTables::Table& made = context.rotations.replace();
  made = {wanted, positions, std::vector<double>(2 * count * pairs_)};
  double* values = made.values.data();
  context.pool.parallelFor((count + rowsEach - 1) / rowsEach, [&](int64_t chunk, int) {
    const int64_t end = std::min(count, (chunk + 1) * rowsEach);
    for (int64_t row = chunk * rowsEach; row < end; row++) {
      fillAngles(given, pairs_, positions[row], values + 2 * pairs_ * row);
    }
  });
  table_ = values;
}

}  // namespace sluice
