#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

#include "op.h"

namespace sluice {

/// Values one thread takes of an elementwise op: 16 KiB of fp32, some microseconds.
constexpr int64_t valuesEach = 4096;

/// Calls `work(row, from, to, worker)` until every column of every row was in one call's range: wide
/// rows are cut, narrow ones taken several at a time. `valuesPerColumn` is how much a column stands
/// for. Cuts are multiples of 64 columns and do not depend on the number of threads.
template <typename Work>
void overRows(ThreadPool& pool, int64_t rows, int64_t width, int64_t valuesPerColumn, Work&& work) {
  if (rows <= 0 || width <= 0) return;
  const int64_t wanted = std::max<int64_t>(valuesEach / std::max<int64_t>(valuesPerColumn, 1), 64);
  const int64_t widthEach = std::min(width, wanted / 64 * 64);
  const int64_t parts = (width + widthEach - 1) / widthEach;
  const int64_t rowsEach = parts > 1 ? 1 : std::max<int64_t>(1, wanted / width);
  const int64_t groups = (rows + rowsEach - 1) / rowsEach;
  pool.parallelFor(groups * parts, [&](int64_t chunk, int worker) {
    const int64_t from = chunk % parts * widthEach;
    const int64_t to = std::min(width, from + widthEach);
    const int64_t first = chunk / parts * rowsEach;
    const int64_t end = std::min(rows, first + rowsEach);
    for (int64_t row = first; row < end; row++) work(row, from, to, worker);
  });
}

/// An i32 tensor of indices that arrives as data: refused where one is outside 0 … limit − 1, before
/// anything is read by it.
inline const int32_t* indicesBelow(const Tensor& tensor, int64_t limit, const char* what) {
  const int32_t* indices = tensor.as<const int32_t>();
  const int64_t count = tensor.count();
  for (int64_t i = 0; i < count; i++) {
    if (indices[i] >= 0 && indices[i] < limit) continue;
    throw OpError("out_of_range", std::string(what) + " " + std::to_string(indices[i]) +
                                      " is outside the " + std::to_string(limit) + " there are");
  }
  return indices;
}

}  // namespace sluice
