#pragma once

#include "../cuda/batch.h"
#include "../cuda/compact-rows.h"
#include "../cuda/transforms.h"

// What both kernels of attention share: which keys a row has, and how its parts are put together.

namespace sluice {

constexpr int attentionThreads = 128;
constexpr int partsMax = 16;
constexpr int keysOfPart = 64;
/// Parts begin at multiples of as many keys.
constexpr int partGrain = 16;

struct AttentionArgs {
  const float* queries;
  const float* keys;
  Ring window;
  EntryPages entries;
  const int* selected;
  const float* sink;
  const float* frequencies;
  const BatchRow* rows;
  float* output;
  /// Of every row, head and part: its values, then maximum and sum. Null where one block does all parts.
  float* parts;
  unsigned* counters;
  RowLayout layout;
  int rowCount;
  int heads;
  int head;
  int pairs;
  int windowSize;
  /// 0: there are no entries.
  int ratio;
  int selectedWidth;
  float scale;
};

/// A row's keys by number: the window in ascending position, then entries.
struct KeyList {
  BatchRow at;
  int row;
  int first;
  int windowCount;
  int count;

  SLUICE_DEVICE KeyList(const AttentionArgs& args, int rowNumber) {
    row = rowNumber;
    at = args.rows[row];
    first = at.position - args.windowSize + 1;
    if (first < 0) first = 0;
    windowCount = at.position - first + 1;
    int entries = 0;
    if (args.ratio != 0) {
      entries = args.selected != nullptr ? args.selectedWidth : visibleEntries(at.position, args.ratio);
    }
    count = windowCount + entries;
  }

  SLUICE_DEVICE int parts() const {
    const int parts = (count + keysOfPart - 1) / keysOfPart;
    return parts < partsMax ? parts : partsMax;
  }

  /// Where part `part` begins, a whole number of tiles from the first key.
  SLUICE_DEVICE int partBegin(int part) const {
    const int tiles = (count + partGrain - 1) / partGrain;
    const int begin = part * tiles / parts() * partGrain;
    return begin < count ? begin : count;
  }
};

/// One key: a row of this step, or of a cache; neither where nothing is selected.
struct Key {
  const float* own;
  const uint8_t* cached;
};

SLUICE_DEVICE Key keyAt(const AttentionArgs& args, const KeyList& list, int number) {
  if (number >= list.count) return {nullptr, nullptr};
  if (number < list.windowCount) {
    const int position = list.first + number;
    if (position < list.at.start) return {nullptr, args.window.row(list.at.slot, position)};
    return {args.keys + int64_t{list.row - (list.at.position - position)} * args.head, nullptr};
  }
  int entry = number - list.windowCount;
  if (args.selected != nullptr) {
    entry = args.selected[int64_t{list.row} * args.selectedWidth + entry];
    if (entry < 0) return {nullptr, nullptr};
  }
  return {nullptr, args.entries.row(list.at.slot, entry)};
}

/// e^(a − b) where b may be the maximum of nothing.
SLUICE_DEVICE float expBelow(float a, float b) { return a == -INFINITY ? 0.0f : expf(a - b); }

/// Puts the next part behind those before it. Written out, so that whoever does it gets the same bits.
SLUICE_DEVICE void join(float& value, float factor, float other, float otherFactor) {
  value = fmaf(value, factor, __fmul_rn(other, otherFactor));
}

/// Floats that a part of a head takes: its values, maximum and sum.
SLUICE_DEVICE int partStride(const AttentionArgs& args) { return (args.head + 3) / 4 * 4 + 4; }

SLUICE_DEVICE float* partAt(const AttentionArgs& args, int row, int h, int number) {
  return args.parts + ((int64_t{row} * args.heads + h) * partsMax + number) * partStride(args);
}

SLUICE_DEVICE void keepWindow(const AttentionArgs& args) {
  for (int row = warpOf(); row < args.rowCount; row += attentionThreads / 32) {
    const BatchRow at = args.rows[row];
    if (args.window.overwritten(at)) continue;
    args.layout.write(args.window.row(at.slot, at.position), args.keys + int64_t{row} * args.head);
  }
}

}  // namespace sluice
