#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "buffers.h"

namespace sluice {

/// Memory for one op's intermediates: taken piece by piece, given back all at once, kept for the
/// next op. Pieces stay where they are until `reset`. Under a memory checker each piece is a block of
/// its own, filled with what reads as NaN, so that nothing beyond a piece and nothing unwritten is
/// used unseen.
class Scratch {
 public:
  template <typename T>
  T* take(int64_t count) {
    return reinterpret_cast<T*>(takeBytes(static_cast<size_t>(count) * sizeof(T)));
  }

  void reset() {
    if constexpr (checked) {
      blocks_.clear();
    } else if (blocks_.size() > 1) {
      size_t total = 0;
      for (const Block& block : blocks_) total += block.bytes();
      blocks_.clear();
      blocks_.emplace_back(total);
    }
    used_ = 0;
  }

 private:
  std::byte* takeBytes(size_t bytes) {
    if constexpr (checked) {
      blocks_.emplace_back(bytes);
      return static_cast<std::byte*>(std::memset(blocks_.back().data(), 0xff, bytes));
    }
    const size_t rounded = (bytes + 63) / 64 * 64;
    if (blocks_.empty() || used_ + rounded > blocks_.back().bytes()) {
      blocks_.emplace_back(rounded > firstBytes ? rounded : firstBytes);
      used_ = 0;
    }
    std::byte* piece = blocks_.back().data() + used_;
    used_ += rounded;
    return piece;
  }

#if defined(__SANITIZE_ADDRESS__)
  static constexpr bool checked = true;
#else
  static constexpr bool checked = false;
#endif
  static constexpr size_t firstBytes = size_t{2} << 20;
  std::vector<Block> blocks_;
  /// Bytes taken of the last block.
  size_t used_ = 0;
};

}  // namespace sluice
