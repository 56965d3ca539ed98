#pragma once

#include <array>
#include <cstdint>
#include <vector>

namespace sluice {

/// The tables of sines made last. A step turns queries and keys of the same positions in every layer,
/// by one of two sets of frequencies: each table is made once a step, not once an op.
class RotationTables {
 public:
  struct Table {
    std::vector<float> frequencies;
    std::vector<int32_t> positions;
    std::vector<double> values;
  };

  /// The table of these, or null.
  const Table* find(const std::vector<float>& frequencies,
                    const std::vector<int32_t>& positions) const {
    for (const Table& table : tables_) {
      if (table.positions == positions && table.frequencies == frequencies) return &table;
    }
    return nullptr;
  }

  /// Takes the place of the one made longest ago.
  Table& replace() {
    next_ = (next_ + 1) % tables_.size();
    return tables_[next_];
  }

 private:
  std::array<Table, 2> tables_;
  size_t next_ = 0;
};

}  // namespace sluice
