#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

#include "op.h"

namespace sluice {

/// A row of `Batch.rows`: absolute position, slot in the cache, and the positions its segment starts
/// at and ends before. Rows of a segment are neighbours in ascending position.
struct BatchRow {
  int32_t position;
  int32_t slot;
  int32_t start;
  int32_t end;
};

/// Tokens whose compressed entries share a page.
constexpr int64_t pageTokens = 256;

/// Entries complete for a query at `position`.
inline int64_t visibleEntries(int64_t position, int64_t ratio) { return (position + 1) / ratio; }

class BatchRows {
 public:
  explicit BatchRows(const Tensor& rows)
      : rows_(rows.as<const BatchRow>()), count_(rows.shape[0]) {}

  int64_t count() const { return count_; }
  const BatchRow& operator[](int64_t row) const { return rows_[row]; }

  /// Kernels follow positions and slots to addresses without looking again.
  void check(int64_t slots) const {
    for (int64_t row = 0; row < count_; row++) {
      const BatchRow& at = rows_[row];
      const bool inSegment = at.start >= 0 && at.start <= at.position && at.position < at.end;
      if (inSegment && at.slot >= 0 && at.slot < slots && at.position - at.start <= row) continue;
      throw OpError("out_of_range", "row " + std::to_string(row) + " (position " +
                                        std::to_string(at.position) + ", slot " +
                                        std::to_string(at.slot) + ", segment " +
                                        std::to_string(at.start) + "…" + std::to_string(at.end) +
                                        ") does not fit " + std::to_string(slots) + " slots");
    }
  }

 private:
  const BatchRow* rows_;
  int64_t count_;
};

/// Entries of any sequence, `[pages, entries a page, width]` through `[slots, pages a sequence]`.
class EntryPages {
 public:
  EntryPages(const Tensor& entries, const Tensor& pages)
      : entries_(entries.data),
        table_(pages.as<const int32_t>()),
        pageCount_(entries.shape[0]),
        perPage_(entries.shape[1]),
        rowBytes_(entries.shape[2] * bitsOf(entries.dtype) / 8),
        tableWidth_(pages.shape[1]) {}

  /// The bytes of an entry; null where the sequence has no such page.
  std::byte* row(int64_t slot, int64_t entry) const {
    const int64_t logical = entry / perPage_;
    const int64_t page = logical < tableWidth_ ? table_[slot * tableWidth_ + logical] : -1;
    if (page < 0 || page >= pageCount_) return nullptr;
    return entries_ + (page * perPage_ + entry % perPage_) * rowBytes_;
  }

  /// The same, of entries in fp32.
  float* find(int64_t slot, int64_t entry) const {
    return reinterpret_cast<float*>(row(slot, entry));
  }

  /// That `count` entries of `slot` all have their page.
  void check(int64_t slot, int64_t count) const {
    for (int64_t entry = 0; entry < count; entry += perPage_) {
      if (row(slot, entry) == nullptr) throw missing(slot, entry);
    }
  }

  static OpError missing(int64_t slot, int64_t entry) {
    return OpError("out_of_range", "slot " + std::to_string(slot) + " has no page for entry " +
                                       std::to_string(entry));
  }

 private:
  std::byte* entries_;
  const int32_t* table_;
  int64_t pageCount_;
  int64_t perPage_;
  int64_t rowBytes_;
  int64_t tableWidth_;
};

/// Checks the pages of all entries that rows of the batch see. Rows of one slot share most of them,
/// so only a slot's longest list is walked.
inline void checkVisible(const BatchRows& rows, const EntryPages& entries, int64_t ratio) {
  for (int64_t row = 0; row < rows.count(); row++) {
    const bool last = row + 1 == rows.count() || rows[row + 1].slot != rows[row].slot ||
                      rows[row + 1].position < rows[row].position;
    if (last) entries.check(rows[row].slot, visibleEntries(rows[row].position, ratio));
  }
}

/// Where a segment's row of a ring `[slots, ring, width]` by position lies.
struct Ring {
  std::byte* data;
  int64_t rows;
  int64_t width;
  int64_t rowBytes;

  explicit Ring(const Tensor& ring)
      : data(ring.data),
        rows(ring.shape[1]),
        width(ring.shape[2]),
        rowBytes(ring.shape[2] * bitsOf(ring.dtype) / 8) {}

  std::byte* row(int64_t slot, int64_t position) const {
    return data + (slot * rows + position % rows) * rowBytes;
  }

  /// The same, of rows in fp32.
  float* at(int64_t slot, int64_t position) const {
    return reinterpret_cast<float*>(row(slot, position));
  }

  /// Whether a later row of its segment takes the same place.
  bool overwritten(const BatchRow& at) const { return at.position + rows < at.end; }
};

}  // namespace sluice
