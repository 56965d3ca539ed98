#pragma once

#include "platform.h"

namespace sluice {

/// A row of `Batch.rows`.
struct BatchRow {
  int position;
  int slot;
  int start;
  int end;
};

constexpr int pageTokens = 256;

/// Entries complete for a query at `position`.
SLUICE_DEVICE int visibleEntries(int position, int ratio) { return (position + 1) / ratio; }

/// Finds cached rows of `rowBytes` bytes of any sequence, `[pages, perPage]`, through the page table.
struct EntryPages {
  uint8_t* entries;
  const int* table;
  int64_t rowBytes;
  int tableWidth;
  int perPage;

  /// Null where the sequence has no such page.
  SLUICE_DEVICE uint8_t* row(int slot, int entry) const {
    const int logical = entry / perPage;
    const int page = logical < tableWidth ? table[int64_t{slot} * tableWidth + logical] : -1;
    if (page < 0) return nullptr;
    return entries + (int64_t{page} * perPage + entry % perPage) * rowBytes;
  }
};

/// Rows of a ring `[slots, rows]` by absolute position.
struct Ring {
  uint8_t* data;
  int64_t rowBytes;
  int rows;
  int reserved;

  SLUICE_DEVICE uint8_t* row(int slot, int position) const {
    return data + (int64_t{slot} * rows + position % rows) * rowBytes;
  }

  /// Whether a later row of its segment takes the same place.
  SLUICE_DEVICE bool overwritten(const BatchRow& at) const { return at.position + rows < at.end; }
};

}  // namespace sluice
